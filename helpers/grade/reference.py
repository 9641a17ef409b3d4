"""What the course's own suite says of every run: the facts that a copy is compared with.

They come from the sources (function and configuration of each run) and, as far as they are there, from the records (arrays,
budgets, data sets, and where the arrays hold the metrics). ``reference.json`` holds them for a grader that has no copy of
the suite beside it, such as Gradescope's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from helpers import settings
from helpers.data import datasets
from helpers.grade import declared, handout, relations, tasks, written
from helpers.grade.arrays import ArraysError, read_arrays
from helpers.grade.declared import UNKNOWN, Declared
from helpers.grade.submission import Submission, Unreadable
from helpers.results import deliverables
from helpers.results.records import Record

FILE = "reference.json"
HIDDEN = "\x00unknown"  # UNKNOWN in JSON


def facts(root: Path = settings.PROJECT_ROOT) -> dict:
    """The facts of a suite in a folder.

    Returns:
        ``runs``: id -> notebook, function, configs (by profile), and, where there is a record, ``record`` (config, profile,
        budget, number of values a metric, seconds), ``arrays`` (name -> kind and shape), ``as_long_as_done`` (arrays with one
        row a step done) and ``relations``.
        ``datasets``: name -> known forms, each with digest and sizes.
        ``prose``: notebook -> digests of the texts that are given in it.
        ``checks``: notebook -> what its check cells are about, see :mod:`helpers.grade.tasks`.
    """
    if (root / FILE).is_file():
        return read(root / FILE)
    sources = {name: _text(root / "notebooks" / f"{name}.py") for name in notebooks()}
    uses = {name: tasks.uses_of(text) for name, text in sources.items()}
    stated = {name: declared.runs(text) for name, text in sources.items()}
    runs: dict[str, dict] = {}
    found: dict[tuple, list] = {}
    forms: dict[str, list] = {}
    for entry in (*deliverables.asked_runs(), *deliverables.supporting_runs()):
        run_id, notebook = entry["id"], entry["notebook"]
        mine = stated.get(notebook, {}).get(run_id, Declared(None, {}))
        record = read_record(root, run_id)
        function = mine.function or (record["function"] if record else None)
        runs[run_id] = {"notebook": notebook, "function": mine.function, "configs": mine.configs,
                        "functions": tasks.functions_of(function, uses.get(notebook, {}))}
        if record is None:
            continue
        arrays = _arrays(record.path.with_suffix(".npz"))
        runs[run_id] |= _of_record(record, arrays)
        candidates = relations.candidates(own_part(record), arrays)
        family = notebook, record["function"], tuple(record.metrics)  # runs of a family keep their arrays alike
        found.setdefault(family, []).append((run_id, record, candidates))
        _note_data(record, forms)
    for same in found.values():
        common = relations.common([relation for _, _, relation in same], [record.metrics for _, record, _ in same])
        for run_id, _, _ in same:
            runs[run_id]["relations"] = common
    return {"runs": runs, "datasets": forms,
            "prose": {name: written.prose_of(text, _handed_out(name, text)) for name, text in sources.items()},
            "checks": {name: tasks.checks_of(text, _handed_out(name, text)) for name, text in sources.items()}}


def _handed_out(notebook: str, source: str) -> str:
    """A source with the changes of the student edition; empty where they are not of this source."""
    try:
        return handout.with_plain_definitions(notebook, source)
    except handout.HandoutError:
        return ""


def notebooks(sheets: Collection[str] = ()) -> list[str]:
    """The notebooks that the runs of some sheets are in; of all by default."""
    return sorted({entry["notebook"] for entry in deliverables.asked_runs() if not sheets or entry["sheet"] in sheets})


def _of_record(record: Record, arrays: dict[str, np.ndarray]) -> dict:
    done = record["budget"]["done"]
    return {
        "record": {"function": record["function"], "config": record["config"], "profile": record["profile"],
                   "budget": record["budget"], "complete": record.complete, "seconds": record["seconds"],
                   "seeds": len(record["seeds"]), "n": {name: spread["n"] for name, spread in record.spread.items()},
                   "metrics": record.metrics, "data": (record["dataset"] or {}).get("name"),
                   "sizes": (record["dataset"] or {}).get("sizes"), "origin": origin(record.content)},
        "arrays": {name: [array.dtype.kind, list(array.shape)] for name, array in arrays.items()},
        "as_long_as_done": [name for name, array in arrays.items() if done > 20 and array.shape[:1] == (done,)],
    }


def _note_data(record: Record, forms: dict[str, list]) -> None:
    """Add the form of the record's data set to the known ones; sets cut by the small profiles have no known form."""
    data = record["dataset"]
    if not data or record["profile"] != "full" or record["config"].get("limit"):
        return
    form = {name: data.get(name) for name in ("digest", "sizes", "stand_in", "stands_for", "note")}
    known = forms.setdefault(data["name"], [])
    if form not in known:
        known.append(form)


def sizes_of(name: str) -> dict[str, int] | None:
    """The sizes of a known image set by its name, None for others."""
    known = datasets.KNOWN.get(name)
    return None if known is None else dict(known.sizes)


def origin(content: Mapping) -> str:
    """A digest of what only one training gives: its arrays, its numbers and its time to the millisecond."""
    parts = content["arrays"]["sha256"], content["seconds"], sorted(content["metrics"].items())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def read_record(root: Path, run_id: str) -> Record | None:
    """The record of a run in a folder, None where there is none that can be used."""
    try:
        return Submission(root, root, search=False).record(run_id)
    except Unreadable:
        return None


def own_part(record: Record) -> Mapping:
    """Metrics and spread as the arrays of a record hold them: those of its own root, where it was repeated from others."""
    return (record.content.get("repeats") or {}).get(str(record["seed"]), record.content)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path)
    except (OSError, ArraysError):
        return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def to_json(content: dict) -> str:
    """The facts as the text of ``reference.json``."""
    def hide(value: object) -> object:
        if value is UNKNOWN:
            return HIDDEN
        if isinstance(value, dict):
            return {name: hide(inner) for name, inner in value.items()}
        return [hide(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    return json.dumps(hide(content), indent=1, sort_keys=True) + "\n"


def read(path: Path) -> dict:
    """The facts in a ``reference.json``."""
    def show(value: object) -> object:
        if value == HIDDEN:
            return UNKNOWN
        if isinstance(value, dict):
            return {name: show(inner) for name, inner in value.items()}
        return [show(inner) for inner in value] if isinstance(value, list) else value

    return show(json.loads(path.read_text(encoding="utf-8")))
