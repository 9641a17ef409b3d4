"""What a notebook opens and closes with: its questions in one line each, and how its runs were trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from helpers.results import tables
from helpers.results.records import Record, load


@dataclass(frozen=True)
class Question:
    """A question of a sheet, for the list at the top of a notebook.

    Attributes:
        asked: what the sheet asks, in one line.
        heading: of the section that answers it, without the number signs; the list links to it.
        name: the headline number in words, with its unit; empty for a proof, which has none.
        run: id of the record that the number is in.
        metric: its name there.
    """

    asked: str
    heading: str
    name: str = ""
    run: str = ""
    metric: str = ""


def significant(value: float, deviation: float | None = None, digits: int = 4) -> str:
    """A number with so many significant digits, and its deviation with as many decimals: ``0.03737 ± 0.00059``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}" + ("" if deviation is None else f" ± {deviation:.{decimals}f}")


def headline(question: Question) -> str:
    """The number that answers a question, from its record, with what must be said of it; a dash for a proof."""
    if not question.run:
        return "-"
    record = load(question.run)
    if record is None:
        return f"{question.name}: not trained yet"
    spread = record.spread[question.metric]
    number = significant(record.metrics[question.metric], spread["std"] if spread["n"] > 1 else None)
    return f"{question.name}: {number}" + (f" ({record.remark})" if record.remark else "")


def show_questions(questions: Iterable[Question], *, again: bool = False) -> None:
    """Show a notebook's questions as a table: what is asked, where it is answered (a link), the headline number.

    Args:
        questions: in the order of the notebook.
        again: after the last run, so that a notebook whose runs had no records yet gets its numbers: in a notebook the first
            table is drawn over.
    """
    header = ["question", "answered in", "headline number"]
    rows = [[question.asked, question.heading, headline(question)] for question in questions]
    try:
        from IPython import get_ipython
        from IPython.display import Markdown, display, update_display
    except ImportError:
        get_ipython = lambda: None  # noqa: E731
    if get_ipython() is None:
        return tables.show(header, rows)
    linked = [[asked, f"[{heading}](#{heading.replace(' ', '-')})", number] for asked, heading, number in rows]
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *linked]]
    table = Markdown("\n".join(lines))
    return update_display(table, display_id="questions") if again else display(table, display_id="questions")


def show_training(*records: Record) -> None:
    """Show how runs were trained: seeds, budget, time and device."""
    rows = []
    for record in records:
        budget, seconds = record["budget"], record["seconds"]
        rate = budget["done"] / seconds if seconds else math.nan
        rows.append([record.id, str(len(record["seeds"])), f"{budget['done']:,} of {budget['planned']:,} {budget['unit']}",
                     f"{seconds:,.0f}", f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}".replace("nan", "-"),
                     record["environment"]["device"]])
    tables.show(["run", "seeds", "trained for", "seconds", "a second", "device"], rows)
