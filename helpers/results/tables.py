"""The tables that notebooks, report and README share: a run's numbers beside the sheet's and the known bound."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from functools import cache

from helpers.settings import PROJECT_ROOT


@cache
def deliverables() -> dict:
    """What the sheets ask for, from ``deliverables.toml``."""
    return tomllib.loads((PROJECT_ROOT / "deliverables.toml").read_text())


def asked(run_id: str) -> dict:
    """The entry of a run in ``deliverables.toml``.

    Raises:
        KeyError: there is no such run.
    """
    for entry in deliverables()["run"]:
        if entry["id"] == run_id:
            return entry
    raise KeyError(f"deliverables.toml has no run {run_id!r}")


def sheet_epochs(run_id: str) -> int | None:
    """The epochs that the sheet or its course trains a run for, where ``deliverables.toml`` says so."""
    return next((entry.get("epochs") for entry in deliverables()["run"] if entry["id"] == run_id), None)


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table, with a power of ten where the digits would show too little of it; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if value == 0 or abs(value) >= 10 ** (1 - digits) else f"{value:.1e}"


def show(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show a table: rendered in a notebook, as aligned text elsewhere."""
    rows = [[str(cell) for cell in row] for row in rows]
    try:
        from IPython import get_ipython
        from IPython.display import Markdown, display
    except ImportError:
        get_ipython = lambda: None  # noqa: E731
    if get_ipython() is not None:
        lines = ["| " + " | ".join(row) + " |" for row in [list(header), ["---"] * len(header), *rows]]
        display(Markdown("\n".join(lines)))
        return
    widths = [max(len(row[column]) for row in [list(header), *rows]) for column in range(len(header))]
    for row in [list(header), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_results(*records) -> None:
    """The metrics of records, mean and spread over seeds, beside the sheet's number, the target and the bound."""
    rows = []
    for record in records:
        wanted = asked(record.id).get("metrics", {})
        for name, value in record.metrics.items():
            facts, spread = wanted.get(name, {}), record.spread[name]
            ours = number(value) + (f" ± {number(spread['std'])}" if spread["n"] > 1 else "")
            rows.append([record.id, name, ours, str(spread["n"]), number(facts.get("sheet")), number(facts.get("target")),
                         number(facts.get("floor")), record.remark or "full budget"])
    show(["run", "metric", "ours", "seeds", "sheet", "target", "bound", "budget and data"], rows)
