"""Credit for work without its result: the tasks that a run rests on, each with the checks that its notebook makes of it.

A check is a code cell of the suite's source that asserts something of a function. In a copy it counts where the cell stands
unchanged, was run, did not end in an error, and the function is written. Nothing is run to find out.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from helpers.grade import cells as notebook_cells
from helpers.grade.cells import Cell
from helpers.grade.submission import PARSING_ERRORS, Submission
from helpers.results import deliverables
from helpers.results.digests import canonical

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
        body = _body(cell)
        plain = [node for node in body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        if any(isinstance(inner, ast.Assert) for node in plain for inner in ast.walk(node)):
            names = {inner.id for node in plain for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            found.append({"names": sorted(names & defined), "form": _form(plain)})
    return found


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
    reaches = facts["runs"].get(run_id, {}).get("functions", ())
    checks = facts.get("checks", {}).get(notebook, ())
    asked = set(reaches) & {name for check in checks for name in check["names"]}
    tasks = deliverables.tasks(notebook)
    if tasks:  # what is given is no student's work
        asked &= {name.split(".")[0] for task in tasks for name in task["names"]}
    if not asked:
        return 0.0, []
    ran = {_form(_plain(cell)) for cell in copy.cells(notebook) if _ran_well(cell)}
    written = copy.once(("written", notebook), lambda: _written(copy, notebook))
    failed = {name for check in checks if not {check["form"], check.get("handed_out")} & ran for name in check["names"]}
    done = sorted(name for name in asked if name in written and name not in failed)
    if not done:
        return 0.0, []
    if not tasks:
        sentence = f"{len(done)} of {len(asked)} of its functions pass their checks: {', '.join(done[:8])}"
        return MOST * len(done) / len(asked), [sentence]
    return _by_task(tasks, asked, set(done))


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
    """The functions and classes of a saved notebook that have a body."""
    code = copy.code(notebook, saved=True)
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


def _ran_well(cell: Cell) -> bool:
    return cell.kind == "code" and cell.count is not None and not any(kind == "error" for kind, _ in cell.outputs)


def _body(cell: Cell) -> list[ast.stmt]:
    try:
        return ast.parse(notebook_cells.without_magics(cell.source)).body if cell.kind == "code" else []
    except PARSING_ERRORS:
        return []


def _plain(cell: Cell) -> list[ast.stmt]:
    return [node for node in _body(cell) if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def _form(nodes: Iterable[ast.stmt]) -> str:
    return hashlib.sha256("\n".join(map(canonical, nodes)).encode()).hexdigest()[:16]
