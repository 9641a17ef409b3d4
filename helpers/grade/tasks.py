"""Credit for work without its result: the tasks that a run rests on, each with the checks that its notebook makes of it.

A check is a code cell of the suite's source that asserts something of a function. In a copy it counts where the cell stands
unchanged, was run, did not end in an error, and the function is written. Nothing is run to find out.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from helpers.grade import cells as notebook_cells
from helpers.grade.cells import Cell
from helpers.grade.submission import PARSING_ERRORS, Submission
from helpers.results import deliverables
from helpers.results.digests import canonical

PASSED, NOT_RUN, CHANGED = "passed", "not run", "changed"
MOST = 0.5  # of a run's points, for all of its tasks without its record


def checks_of(source: str, handed_out: str = "") -> list[dict]:
    """The checks of a notebook's source: the functions that each is about, and the form of its cell.

    Args:
        source: the suite's own.
        handed_out: as students get it, where some checks have another form.
    """
    found, others = _checks(source), _checks(handed_out) if handed_out else []
    if len(found) == len(others):
        for check, other in zip(found, others, strict=True):
            check["handed_out"] = other["form"]
    return found


def _checks(source: str) -> list[dict]:
    cells = notebook_cells.of_source(source)
    defined = set(notebook_cells.code(cells).definitions)
    found = []
    for cell in cells:
        body = _body(cell.source) if cell.kind == "code" else []
        plain = [node for node in body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        if any(isinstance(inner, ast.Assert) for node in plain for inner in ast.walk(node)):
            names = {inner.id for node in plain for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            found.append({"names": sorted(names & defined), "form": form_of(cell)})
    return found


def texts_of(source: str) -> list[dict]:
    """The ``text`` of every check of a notebook's source, and the ``names`` of the functions that it is about."""
    names = {check["form"]: check["names"] for check in _checks(source)}
    cells = [cell for cell in notebook_cells.of_source(source) if cell.kind == "code" and form_of(cell) in names]
    return [{"text": cell.source, "names": names[form_of(cell)]} for cell in cells]


def form_of(cell: Cell) -> str:
    """A digest of what a cell does, apart from what it defines, comments and layout."""
    return _form(cell.source if cell.kind == "code" else "")


@lru_cache(maxsize=4096)  # a cell is asked for with each run that rests on its check
def _form(text: str) -> str:
    plain = [node for node in _body(text) if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return hashlib.sha256("\n".join(map(canonical, plain)).encode()).hexdigest()[:16]


def uses_of(source: str) -> dict[str, set[str]]:
    """The functions and classes of a notebook's source -> the others of them that each names."""
    try:
        nodes = [node for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    except PARSING_ERRORS:
        return {}
    defined = {node.name for node in nodes}
    return {node.name: {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} & defined for node in nodes}


def functions_of(function: str | None, uses: Mapping[str, set[str]]) -> list[str]:
    """The functions and classes that a run's function reaches, from :func:`uses_of` its notebook."""
    found, waiting = set(), [function]
    while waiting:
        for name in uses.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return sorted(found - {function})


def credit(run_id: str, notebook: str, copy: Submission, facts: Mapping) -> tuple[float, list[str]]:
    """The share of a run's points that its functions earn without a record, and a sentence on what was found."""
    asked, tasks = _asked(run_id, notebook, facts), deliverables.tasks(notebook)
    if not asked:
        return 0.0, []
    written = copy.once(("written", notebook), lambda: _written(copy, notebook))
    failed = {name for check, said in _outcomes(notebook, copy, facts) if said != PASSED for name in check["names"]}
    done = sorted(name for name in asked if name in written and name not in failed)
    if not done:
        return 0.0, []
    if not tasks:
        sentence = f"{len(done)} of {len(asked)} of its functions pass their checks: {', '.join(done[:8])}"
        return MOST * len(done) / len(asked), [sentence]
    return _by_task(tasks, asked, set(done))


def failures(run_id: str, notebook: str, copy: Submission, facts: Mapping) -> tuple[list[str], list[str]]:
    """What is wrong with the checks of the tasks that a run rests on, as far as these are written.

    Returns:
        Sentences on checks that ended in an error, and on those that the notebook no longer has as they were handed out.
    """
    asked = _asked(run_id, notebook, facts) & copy.once(("written", notebook), lambda: _written(copy, notebook))
    failed, changed = [], []
    for check, said in _outcomes(notebook, copy, facts) if asked else ():
        names = sorted(set(check["names"]) & asked)
        if names and said == CHANGED:
            changed.append(f"the notebook has no check as it was handed out of {_named(names, notebook)}")
        elif names and said not in (PASSED, NOT_RUN):
            failed.append(f"the check fails{said}; it is of {_named(names, notebook)}")
    return failed, changed


def _asked(run_id: str, notebook: str, facts: Mapping) -> set[str]:
    """The functions and classes that a run reaches, that have a check, and that a student writes."""
    checked = {name for check in facts.get("checks", {}).get(notebook, ()) for name in check["names"]}
    asked = set(facts["runs"].get(run_id, {}).get("functions", ())) & checked
    tasks = deliverables.tasks(notebook)  # what is given is no student's work
    return asked & {name.split(".")[0] for task in tasks for name in task["names"]} if tasks else asked


def _named(names: Sequence[str], notebook: str) -> str:
    """The tasks that functions and classes belong to, and these as far as no task is called so."""
    tasks = [task["id"] for task in deliverables.tasks(notebook) if {name.split(".")[0] for name in task["names"]} & set(names)]
    others = ", ".join(name for name in names if name not in tasks)
    return f"task {', '.join(tasks)}{f' ({others})' if others else ''}" if tasks else others


def _outcomes(notebook: str, copy: Submission, facts: Mapping) -> list[tuple[dict, str]]:
    """Every check of a notebook with what became of it: one of the words above, or how it failed."""
    saved: dict[str, str] = {}
    for cell in copy.cells(notebook):
        if cell.kind == "code":
            errors = [text for kind, text in cell.outputs if kind == "error"]
            saved[form_of(cell)] = NOT_RUN if cell.count is None else f": {errors[0]}" if errors else PASSED
    again = facts.get("ran", {}).get(notebook, {}).get("checks", {})  # form -> error, from :mod:`helpers.grade.rerun`
    found = []
    for check in facts.get("checks", {}).get(notebook, ()):
        forms = [form for form in (check["form"], check.get("handed_out")) if form]
        said = next((saved[form] for form in forms if form in saved), CHANGED if saved else NOT_RUN)
        error = next((again[form] for form in forms if form in again), "")
        found.append((check, f" when it is run: {error}" if error else said))
    return found


def _by_task(tasks: Sequence[Mapping], asked: set[str], done: set[str]) -> tuple[float, list[str]]:
    """The share of the tasks that a run rests on and that have a check, by their points, and a sentence."""
    earned, all_points, names, number = 0.0, 0.0, [], 0
    for task in tasks:
        checked = {name.split(".")[0] for name in task["names"]} & asked
        if not checked:
            continue
        number, all_points = number + 1, all_points + task["points"]
        if checked <= done:
            earned += task["points"]
            names.append(task["id"])
    if not names:
        return 0.0, []
    return MOST * earned / all_points, [f"{len(names)} of {number} of its tasks pass their checks: {', '.join(names[:8])}"]


def _written(copy: Submission, notebook: str) -> set[str]:
    """The functions and classes of a notebook, saved or else its source, that have a body."""
    code = copy.code(notebook, saved=True) or copy.code(notebook, saved=False)
    tree = ast.parse(code.text if code else "")
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not _is_empty(node)}


def _is_empty(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether a definition does nothing: only a docstring, ``pass``, ``...``, a constant, or a task that is still to do."""
    raised = [inner.exc for inner in ast.walk(node) if isinstance(inner, ast.Raise) and inner.exc is not None]
    names = {inner.id for exception in raised for inner in ast.walk(exception) if isinstance(inner, ast.Name)}
    if "NotImplementedError" in names:
        return True
    values = [inner.value if isinstance(inner, (ast.Expr, ast.Return)) else inner for inner in node.body]
    return all(value is None or isinstance(value, (ast.Pass, ast.Constant)) for value in values)


def _body(text: str) -> list[ast.stmt]:
    try:
        return ast.parse(notebook_cells.without_magics(text)).body
    except PARSING_ERRORS:
        return []

