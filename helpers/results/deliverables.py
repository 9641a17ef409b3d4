"""What the sheets ask for: the one reader of ``deliverables.toml``.

Every run, supporting run, answer and known bound stands there; nothing else opens the file.
"""

from __future__ import annotations

import difflib
import tomllib
from functools import cache

from helpers.settings import PROJECT_ROOT


@cache
def content() -> dict:
    """The whole file, parsed."""
    return tomllib.loads((PROJECT_ROOT / "deliverables.toml").read_text(encoding="utf-8"))


def asked_runs() -> list[dict]:
    """Every run that a sheet asks for, in the order of the file: id, notebook, sheet, question, figures, metrics, ..."""
    return list(content()["run"])


def supporting_runs() -> list[dict]:
    """Every run that no sheet asks for and others rest upon or stand beside: id, notebook, text."""
    return list(content().get("support", []))


def run_ids() -> list[str]:
    """The ids of all runs, asked for or supporting."""
    return [entry["id"] for entry in (*asked_runs(), *supporting_runs())]


def entry(run_id: str) -> dict:
    """The entry of a run, asked for or supporting.

    Raises:
        KeyError: there is no such run; the message names the nearest ones.
    """
    for found in (*asked_runs(), *supporting_runs()):
        if found["id"] == run_id:
            return found
    raise KeyError(f"deliverables.toml has no run {run_id!r}{nearest(run_id)}")


def nearest(run_id: str) -> str:
    """The end of a sentence that names the runs most like an unknown one; empty where none is like it."""
    close = difflib.get_close_matches(run_id, run_ids(), n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(close)}" if close else ""


def answers() -> list[dict]:
    """Every written answer that a sheet asks for: id, sheet, notebook, text, points."""
    return list(content()["answer"])


def tasks(notebook: str | None = None) -> list[dict]:
    """What a student writes, in all notebooks or in one: id, sheet, notebook, names of definitions, points, statement."""
    return [entry for entry in content().get("task", []) if notebook in (None, entry["notebook"])]


def sheets() -> list[str]:
    """The short names of the sheets."""
    return list(content()["sheets"])


def published_sets() -> tuple[str, ...]:
    """The published data sets that runs ask for by name."""
    return tuple(content()["data"]["published"])


def order_of(run_id: str) -> list[dict]:
    """Rules on metrics of a run that must not exceed another one: metric, and ``at_most`` with run and metric."""
    return [rule for rule in content().get("order", []) if rule["run"] == run_id]


def sheet_epochs(run_id: str) -> int | None:
    """The epochs that the sheet or its course trains a run for, where the file says so."""
    return next((found.get("epochs") for found in asked_runs() if found["id"] == run_id), None)


def pictures_kept(run_id: str) -> list[str] | None:
    """The arrays of pictures that a run's record keeps, by name; None for all, as of every run whose figures are asked for."""
    return next((found.get("pictures") for found in supporting_runs() if found["id"] == run_id), None)
