"""Running the notebooks of a submission once more, small: the one place where the grade runs what a student wrote.

It is asked for, never done by default. Their cells, and the course's own checks where the notebook no longer has them, are run
by a child (:mod:`helpers.grade.running`) as :mod:`helpers.grade.isolation` allows, in a folder of its own that holds nothing
of the marks. A program can tell the child what it likes, so what comes back only takes points away or names a fault.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers import settings
from helpers.grade import cells as notebook_cells
from helpers.grade import isolation, running, tasks
from helpers.grade.cells import Cell
from helpers.grade.isolation import Isolation, NotIsolated
from helpers.grade.submission import PARSING_ERRORS, Submission
from helpers.work.definitions import defines

NEEDED = "import matplotlib, numpy, torch"  # what every notebook begins with: without it, none is to blame
MOST_SAID = 2**20  # bytes that are read of what a child says
SHOWN = 4  # errors of a notebook that are told
SECONDS, MEGABYTES = 300.0, 4096


@dataclass(frozen=True)
class Job:
    """What is to be run.

    Attributes:
        checks: notebook -> the course's own checks of it, see :func:`helpers.grade.tasks.texts_of`; these notebooks are run.
        helpers: files of ``helpers`` that the notebooks need, relative to the suite.
        seconds: for each notebook.
        megabytes: of memory of each process, 2^20 bytes each.
        whole: every cell at the smoke profile; otherwise definitions and checks alone.
    """

    checks: Mapping[str, Sequence[Mapping]]
    helpers: Sequence[str]
    seconds: float = SECONDS
    megabytes: int = MEGABYTES
    whole: bool = True


def run(copy: Submission, job: Job, tries: Sequence[Sequence[str]] | None = None) -> tuple[dict[str, dict], str]:
    """Run notebooks of a copy.

    Args:
        copy: the submission.
        job: what is to be run.
        tries: as in :func:`helpers.grade.isolation.best`.

    Returns:
        Notebook -> ``checks`` (form of a check -> its error, or nothing), ``faults`` and ``said`` (sentences), for the
        notebooks that were run; and a sentence on how, or why none was.
    """
    try:
        kept = isolation.best(tries)
    except NotIsolated as error:
        return {}, f"no notebook was run: {error}"
    found, unable = {}, []
    for name, checks in job.checks.items():
        try:
            cells = copy.cells(name) or notebook_cells.of_source(copy.source(name) or "")
        except PARSING_ERRORS:
            continue  # said at the notebook
        if not any(cell.kind == "code" and cell.source.strip() for cell in cells):
            continue
        outcome = _run_one(name, cells, checks, job, kept)
        if isinstance(outcome, str):
            unable.append(f"{name} could not be run: {outcome}")
        else:
            found[name] = outcome
    what = "every cell at smoke" if job.whole else "definitions and checks"
    how = (f"run again ({what}) {kept.said}; at most {job.seconds:g} seconds a notebook and {job.megabytes} MB a process: "
           f"{', '.join(found) or 'none'}")
    return found, "; ".join([how, *unable])


def _run_one(name: str, cells: Sequence[Cell], checks: Sequence[Mapping], job: Job, kept: Isolation) -> dict | str:
    """The outcome of one notebook, or why it could not be run here."""
    texts, forms = [NEEDED], {}
    for cell in cells:
        text = notebook_cells.without_magics(cell.source) if cell.kind == "code" else ""
        if job.whole:
            forms[len(texts)] = tasks.form_of(cell)
        texts.append(text if job.whole else _definitions_in(text))
    own, wanted = len(texts), {tasks.form_of(Cell("code", check["text"])): check for check in checks}
    for form, check in wanted.items():
        if form not in forms.values():
            forms[len(texts)] = form
            texts.append(check["text"])
    errors, ending = _child(name, texts, job, kept)
    if 0 not in errors or errors[0]:
        return errors.get(0) or ending or "it did not start"
    outcome = {form: errors[number] for number, form in forms.items()
               if number in errors and form in wanted and not _lacks_a_result(errors[number], wanted[form]["names"])}
    faults = [f"code cell {_code_number(cells, number)} ends in {error}" for number, error in errors.items()
              if error and number < own and forms.get(number) not in wanted]
    faults = faults[:SHOWN] + [f"and {len(faults) - SHOWN} more cells end in an error"] * (len(faults) > SHOWN)
    failing = sum(map(bool, outcome.values()))
    faults += [f"{failing} of its {len(outcome)} checks fail"] * bool(failing)
    if ending:
        last = max(errors)
        where = f"code cell {_code_number(cells, last + 1)}" if last + 1 < own else "a check"
        faults.append(f"it was ended in {where}: {ending}")
    said = f"{kept.said}, {'every cell at smoke' if job.whole else 'definitions and checks'}"
    return {"checks": outcome, "faults": [f"run again: {fault}" for fault in faults], "said": f"run again {said}"}


def _lacks_a_result(error: str, names: Sequence[str]) -> bool:
    """Whether a check could not be made for lack of what another cell trains or reads: no task is to blame."""
    missing = re.match(r"NameError: name '(\w+)' is not defined", error)
    return bool(missing) and missing[1] not in names


def _definitions_in(text: str) -> str:
    try:
        return "\n".join(ast.unparse(node) for node in ast.parse(text).body if defines(node))
    except PARSING_ERRORS:
        return text  # the child says why


def _code_number(cells: Sequence[Cell], number: int) -> int:
    """The number of a cell among the code cells, as people count; the first text is none of the notebook's."""
    return sum(cell.kind == "code" for cell in cells[:number])


def _child(name: str, texts: Sequence[str], job: Job, kept: Isolation) -> tuple[dict[int, str], str]:
    """Number of a text -> its error or nothing, for those that were run; and why the child did not come to its end."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder, tempfile.TemporaryFile() as lines:
        work = Path(folder)
        environment = _furnish(work, name, texts, job, kept)
        child = subprocess.Popen([*kept.words, sys.executable, "-I", "-B", "running.py"], cwd=work, env=environment,
                                 stdin=subprocess.PIPE, stdout=lines, stderr=subprocess.DEVNULL, start_new_session=True)
        asked = {"name": name, "cells": list(texts), "seconds": job.seconds, "megabytes": job.megabytes}
        ending = ""
        try:
            child.communicate(json.dumps(asked).encode(), timeout=job.seconds)
        except subprocess.TimeoutExpired:
            ending = f"it takes more than {job.seconds:g} seconds"
        finally:
            _end(child)
        if not ending and child.returncode:
            ending = f"its process ended early (status {child.returncode}), as one does that is out of time or memory"
        lines.seek(0)
        return _errors(lines.read(MOST_SAID), len(texts), job), ending


def _furnish(work: Path, name: str, texts: Sequence[str], job: Job, kept: Isolation) -> dict[str, str]:
    """Fill the child's folder; returns its environment."""
    for relative in (*job.helpers, "deliverables.toml"):
        (work / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(settings.PROJECT_ROOT / relative, work / relative)
    shutil.copyfile(running.__file__, work / "running.py")
    (work / "notebooks").mkdir()
    source = "".join(f"# %%\n{text}\n\n" for text in texts)
    (work / "notebooks" / f"{name}.py").write_text(source, encoding="utf-8", errors="replace")
    own = work / "own"  # the only place where it may write
    own.mkdir()
    for path in (work, *work.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if kept.user != os.getuid():
        os.chown(own, kept.user, kept.user)
    places = {key: str(own) for key in ("HOME", "TMPDIR", "SUITE_OUTPUT", "SUITE_DATA", "MPLCONFIGDIR", "XDG_CACHE_HOME")}
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    return {**places, **threads, "PATH": os.environ.get("PATH", os.defpath), "SUITE_PROFILE": "smoke", "SUITE_PROGRESS": "off",
            "SUITE_DEVICE": "cpu", "MPLBACKEND": "agg", "LANG": "C.UTF-8"}


def _end(child: subprocess.Popen) -> None:
    """End a child with all of its group; in a space of their own, the others end with it."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        child.kill()
    child.wait()


def _errors(said: bytes, number: int, job: Job) -> dict[int, str]:
    """What a child said of each text; other lines than those it should write are passed over."""
    found: dict[int, str] = {}
    for line in said.decode("utf-8", "replace").split("\n"):
        try:
            content = json.loads(line)
            cell, error = content["cell"], str(content["error"])[: running.LONGEST]
        except PARSING_ERRORS:
            continue
        if isinstance(cell, int) and not isinstance(cell, bool) and 0 <= cell < number:
            short = "MemoryError" in error or "allocate memory" in error
            found[cell] = f"{error} (it may take {job.megabytes} MB)" if short else error
    return found
