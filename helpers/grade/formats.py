"""The grade in the forms that people and programs read: console, CSV and Gradescope's results.json.

Whatever a student wrote is cleaned and cut on its way (:mod:`helpers.grade.cleaning`).
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from helpers.files import write_together
from helpers.grade.cleaning import cell, clean
from helpers.grade.marking import STATUSES, Item
from helpers.results import tables, verdicts
from helpers.results.tables import KNOWN
from helpers.results.verdicts import Verdict

WIDTH = 110  # characters of a reason on the console
MOST_REASONS, MOST_EVIDENCE = 20, 30
COLUMNS = ("item", "kind", "sheet", "question", "status", "points", "weight", "score", "reasons", "file")


def evidence(item: Item) -> list[str]:
    """One line a judged metric: value, sheet, target, bound, verdict."""
    lines = []
    for verdict in item.evidence[:MOST_EVIDENCE]:
        known = ", ".join(_known(verdict))
        lines.append(clean(f"{verdict.metric}: {verdict.measured}" + (f" ({known})" if known else "") + f", {verdict.word}"))
    if len(item.evidence) > MOST_EVIDENCE:
        lines.append(f"and {len(item.evidence) - MOST_EVIDENCE} more metrics")
    return lines


def reasons(item: Item) -> list[str]:
    """The reasons of an item, cleaned and cut."""
    found = [clean(reason) for reason in item.reasons[:MOST_REASONS]]
    return found + [f"and {len(item.reasons) - MOST_REASONS} more"] * (len(item.reasons) > MOST_REASONS)


def points(items: Iterable[Item]) -> tuple[float, float, float]:
    """Points earned, points that a machine gives, points that a person gives."""
    items = list(items)
    by_machine = [item for item in items if item.score is not None]
    earned, possible = sum(item.score for item in by_machine), sum(item.points for item in by_machine)
    return earned, possible, sum(item.points for item in items) - possible


def totals(items: Sequence[Item]) -> str:
    """One line: how many items of each status, and the points."""
    counts = ", ".join(f"{sum(item.status == status for item in items)} {status}" for status in STATUSES)
    earned, possible, by_hand = points(items)
    return f"{counts}; {earned:g} of {possible:g} points, and {by_hand:g} that a person gives"


def show(items: Sequence[Item]) -> None:
    """Print the grade as a table, reasons below their items; a console without some character shows another one."""
    lenient_console()
    rows = []
    for item in items:
        score = "-" if item.score is None else f"{item.score:g}"
        rows.append([item.status, item.label, f"{score}/{item.points:g}" + "*" * item.weighted, clean(_headline(item), WIDTH),
                     clean(item.file, WIDTH)])
        rows += [["", "", "", clean(reason, WIDTH), ""] for reason in reasons(item)]
    tables.show(["status", "item", "points", "evidence", "file"], rows)
    print("* a weight: the sheet gives no points")
    print(totals(items))


def lenient_console() -> None:
    """Let the console show another sign for one that it does not have."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def _headline(item: Item) -> str:
    first = verdicts.headline(list(item.evidence))
    if first is None:
        return ""
    return f"{first.metric} {first.measured}" + "".join(f" ({known})" for known in _known(first)[:1])


def _known(verdict: Verdict) -> list[str]:
    return [f"{name} {tables.number(verdict.facts[name])}" for name in KNOWN if name in verdict.facts]


def leaderboard(items: Iterable[Item]) -> list[dict]:
    """The numbers that copies are compared by: the headline of every run that passes, better ones first."""
    board = []
    for item in items:
        first = verdicts.headline(list(item.evidence)) if item.kind == "run" and item.status == "pass" else None
        if first is not None:
            order = {"order": "asc"} if first.facts["better"] == "lower" else {}
            board.append({"name": f"{item.name} {first.metric}", "value": round(first.value, 6), **order})
    return board


def write_gradescope(items: Sequence[Item], path: Path, note: str = "") -> None:
    """Gradescope's ``results.json``: one test an item; what a person marks has no score. ``note`` stands below the totals."""
    tests = []
    for number, item in enumerate(items, 1):
        test = {"name": clean(f"{item.label}: {item.question}"), "number": str(number), "max_score": item.points,
                "visibility": "visible", "output": "\n".join([f"status: {item.status}", *reasons(item), *evidence(item)]),
                "output_format": "text", "tags": [item.kind, item.status, *([item.sheet] if item.sheet else [])],
                "extra_data": {"file": clean(item.file), "points_are": "a weight" if item.weighted else "the sheet's"}}
        if item.score is None:
            del test["max_score"]
        else:
            test |= {"score": item.score, "status": "passed" if item.status == "pass" else "failed"}
        tests.append(test)
    said = "\n".join(filter(None, [totals(items), clean(note, 1000)]))
    content = {"score": points(items)[0], "output": said, "output_format": "text", "visibility": "visible",
               "stdout_visibility": "hidden", "tests": tests, "leaderboard": leaderboard(items)}
    write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def row(item: Item) -> list[str]:
    """An item as the cells of :data:`COLUMNS`."""
    return [item.label, item.kind, item.sheet, cell(item.question), item.status, f"{item.points:g}",
            "yes" if item.weighted else "no", "" if item.score is None else f"{item.score:g}",
            cell("; ".join(reasons(item)), 1000), cell(item.file)]


def write_csv(items: Sequence[Item], path: Path) -> None:
    """One line a metric, or an item where it has none."""
    lines = [[*COLUMNS, "metric", "value", "std", "n", "sheet_value", *KNOWN[1:], "verdict"]]
    for item in items:
        start = row(item)
        for verdict in item.evidence[:MOST_EVIDENCE] or [None]:
            if verdict is None:
                lines.append([*start, *[""] * 8])
                continue
            numbers = [verdict.value, verdict.spread.get("std"), verdict.spread.get("n"),
                       *(verdict.facts.get(name) for name in KNOWN)]
            lines.append([*start, cell(verdict.metric), *("" if value is None else repr(value) for value in numbers),
                          cell(verdict.word)])
    write(path, csv_text(lines))


def csv_text(lines: Iterable[Sequence[object]]) -> str:
    """Lines as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write(path: Path, text: str) -> None:
    """Write a text file as UTF-8, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_together({path: text.encode("utf-8", "replace")})


WRITERS: dict[str, Callable[[Sequence[Item], Path], None]] = {"gradescope": write_gradescope, "csv": write_csv}
