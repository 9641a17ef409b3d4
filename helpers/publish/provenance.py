r"""Where each number of the report comes from: one numbered row a run in the appendix, and links to it from figures and tables.

``\source{id}`` is a link to the run's row; where the repository has an address, also to the record and to the declaration of the
run in its notebook, at the commit that the report was built from.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from functools import cache

from helpers import settings
from helpers.publish import percent, planning, stamping
from helpers.publish.tex import code, define, escape, row
from helpers.results.records import Record


def macros(entries: Sequence[dict], find: Callable[[str], Record | None], figures: dict[str, list[str]]) -> list[str]:
    """Definitions of the links, the owners of figures, and the appendix.

    Args:
        entries: the runs in the order in which they are numbered.
        find: gives the record of a run, or None.
        figures: name of a figure -> the runs that it is drawn from.
    """
    lines, rows, sets = [], [], {}
    for number, entry in enumerate(entries, 1):
        run_id, record = entry["id"], find(entry["id"])
        if record is None:
            continue
        source = rf"\hyperlink{{run:{run_id}}}{{run~{number}}}" + links(entry, record["function"])
        lines += [define("runno", run_id, text=str(number)), define("source", run_id, text=source)]
        rows.append(row("provenanceline", run_id, str(number), code(run_id), *how(record), where(entry, record["function"])))
        if record["dataset"]:
            sets[record["dataset"]["name"]] = record["dataset"]
    for name, run_ids in figures.items():
        said = [run_id for run_id in run_ids if find(run_id).remark]
        lines.append(define("figruns", name, text=",".join(run_ids)))
        lines += [define("figmark", name, text=rf"\flag{{{run_id}}}") for run_id in said[:1]]
    lines.append(rf"\def\provenancerows{{{''.join(rows)}}}")
    lines.append(rf"\def\datarows{{{''.join(_data(name, sets[name]) for name in sorted(sets))}}}")
    return lines


def how(record: Record) -> tuple[str, ...]:
    """Seeds, budget, time, device and data of a record, each as a cell."""
    budget, dataset = record["budget"], record["dataset"]
    spent = "" if record.complete else f"{budget['done']:,} of "
    device = record["environment"]["device"].partition(",")[0].removeprefix("NVIDIA ")
    return (str(len(record["seeds"])), escape(f"{spent}{budget['planned']:,} {budget['unit']}"),
            escape(planning.duration(record["seconds"])), escape(device), code(dataset["name"]) if dataset else "--")


def where(entry: dict, function: str) -> str:
    """The notebook and the cell of a run."""
    cell = place(entry, function)[0]
    return f"{entry['notebook'].partition('_')[0]}, cell {cell}" if cell else entry["notebook"].partition("_")[0]


def place(entry: dict, function: str) -> tuple[int, int]:
    """Cell (from 1) and line of a notebook's source where a run is declared by name, or else its function; zeros for none."""
    named, defined = lines_of(entry["notebook"])
    return named.get(entry["id"]) or defined.get(function, (0, 0))


@cache
def lines_of(notebook: str) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """Cell and line of each entry of a dict, ``"name": ...``, and of each function of a notebook's source."""
    text = percent.read(settings.PROJECT_ROOT / "notebooks" / f"{notebook}.py")
    named: dict[str, tuple[int, int]] = {}
    defined: dict[str, tuple[int, int]] = {}
    cell = 0
    for number, line in enumerate(text.splitlines(), 1):
        cell += line.startswith("# %%")
        if entry := re.search(r'"(\w+)": run\(', line):
            named.setdefault(entry[1], (cell, number))
        if definition := re.match(r"def (\w+)\(", line):
            defined.setdefault(definition[1], (cell, number))
    return named, defined


def links(entry: dict, function: str) -> str:
    """Links to the record and to the run's place in its notebook; empty where the repository has no address."""
    repository = stamping.setting()
    if not repository:
        return ""
    base, run_id, notebook = f"{stamping.GITHUB}{repository}/blob/{commit()}", entry["id"], entry["notebook"]
    line = place(entry, function)[1] or 1
    return (rf" (\href{{{base}/results/{run_id}.json}}{{record}}, "
            rf"\href{{{base}/notebooks/{notebook}.py\#L{line}}}{{notebook}})")


@cache
def commit() -> str:
    """The commit at hand, or the main branch where there is no git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=settings.PROJECT_ROOT, capture_output=True,
                              encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return "main"
    return done.stdout.strip()


def _data(name: str, dataset: dict) -> str:
    """A row on a data set: name, sizes, what has to be said of it."""
    sizes = ", ".join(f"{size:,} {split}" for split, size in (dataset.get("sizes") or {}).items())
    stand_in = f"a stand-in for {dataset['stands_for']}" if dataset["stand_in"] else ""
    said = "; ".join(part for part in (stand_in, dataset.get("note") or "") if part)
    return row("dataline", code(name), escape(sizes), escape(said))
