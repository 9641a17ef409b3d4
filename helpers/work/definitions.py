"""The definitions of the notebooks, loaded without running their experiments, and the runs that they declare.

``notebooks/N_name.py`` (jupytext's percent format) is plain Python: its imports, functions, classes, constants (UPPER_CASE) and
declarations of runs (``RUNS |= ...``) are enough to train a run.
"""

from __future__ import annotations

import ast
import linecache
import sys
import types
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import settings
from helpers.results import deliverables

if TYPE_CHECKING:  # the grade reads this module where there is no matplotlib
    from helpers.suite import Declared

FOLDER = settings.PROJECT_ROOT / "notebooks"


class NotebookError(RuntimeError):
    """A notebook does not exist, or a cell of it failed."""

    explained = True  # the message says what to mend: the command line shows it alone


class UnknownRun(ValueError):
    """No notebook declares a run of that name."""

    explained = True  # the message says what to mend: the command line shows it alone


def names() -> list[str]:
    """The notebooks of the suite, in order."""
    return sorted(path.stem for path in FOLDER.glob("[0-9]_*.py"))


def source_path(name: str) -> Path:
    """The source file of a notebook.

    Raises:
        NotebookError: there is none; the message lists those that there are.
    """
    path = FOLDER / f"{name}.py"
    if not path.exists():
        raise NotebookError(f"there is no notebook {name!r}; the notebooks are {', '.join(names())}")
    return path


def definitions(name: str) -> types.ModuleType:
    """Load a notebook's imports, functions, classes, constants (UPPER_CASE) and declared runs, without its experiments."""
    path = source_path(name)
    tree = ast.parse(path.read_text(encoding="utf-8-sig"), filename=str(path))
    tree.body = [node for node in tree.body if defines(node)]
    module = types.ModuleType(f"notebook_{name}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickling look their module up
    linecache.checkcache(str(path))
    exec(compile(tree, str(path), "exec"), module.__dict__)
    return module


def defines(node: ast.stmt) -> bool:
    """Whether a top-level statement is an import, a function, a class, a constant or a declaration of runs."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)):
        return True
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return all(isinstance(target, ast.Name) and target.id.isupper() for target in targets)
    return False


@cache
def declared(notebook: str, profile: str) -> dict[str, Declared]:
    """The runs that a notebook declares, by id; ``profile`` is the one in force, since constants may depend on it."""
    return dict(definitions(notebook).RUNS)


def notebook_of(run_id: str) -> str:
    """The notebook that declares a run.

    Raises:
        UnknownRun: none does; the message names the nearest ids.
    """
    try:
        return deliverables.entry(run_id)["notebook"]
    except KeyError:
        raise UnknownRun(f"there is no run {run_id!r}{deliverables.nearest(run_id)}; make status lists the runs") from None


def declaration(run_id: str) -> Declared:
    """The declaration of a run in the notebook that has it.

    Raises:
        UnknownRun: no notebook declares it.
    """
    notebook = notebook_of(run_id)
    runs = declared(notebook, settings.profile())
    if run_id not in runs:
        raise UnknownRun(f"deliverables.toml has {run_id}, and RUNS of notebooks/{notebook}.py has not")
    return runs[run_id]
