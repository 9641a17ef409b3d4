"""The tables that notebooks, report and README share: a run's numbers beside the sheet's and the known bound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from helpers.results import deliverables

KNOWN = ("sheet", "target", "bound")  # what a metric is set beside, in the order of every table


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table, with a power of ten where the digits would show too little of it; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if value == 0 or abs(value) >= 10 ** (1 - digits) else f"{value:.1e}"


def with_spread(value: float | None, spread: dict, digits: int = 4) -> str:
    """Mean and standard deviation over seeds, ``4.4182 ± 0.0014``; the value alone for one seed, a dash for none."""
    return number(value, digits) + (f" ± {number(spread['std'], digits)}" if spread.get("n", 1) > 1 else "")


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
        wanted = deliverables.entry(record.id).get("metrics", {})
        for name, value in record.metrics.items():
            facts, spread = wanted.get(name, {}), record.spread[name]
            rows.append([record.id, name, with_spread(value, spread), str(spread["n"]), *map(number, map(facts.get, KNOWN)),
                         record.remark or "full budget"])
    show(["run", "metric", "ours", "seeds", "sheet", "target", "bound", "budget and data"], rows)
