"""The grade in the forms that people and programs read: console, Gradescope's results.json, CSV and JUnit XML."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from helpers.files import write_together
from helpers.grade.marking import STATUSES, Item
from helpers.results import tables, verdicts
from helpers.results.verdicts import Verdict

KNOWN = ("sheet", "target", "bound")
WIDTH = 110  # characters of a reason on the console
NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def evidence(item: Item) -> list[str]:
    """One line a judged metric: value, sheet, target, bound, verdict."""
    lines = []
    for verdict in item.evidence:
        known = ", ".join(_known(verdict))
        lines.append(f"{verdict.metric}: {verdict.measured}" + (f" ({known})" if known else "") + f", {verdict.word}")
    return lines


def totals(items: Sequence[Item]) -> str:
    """One line: how many items of each status, and the points."""
    counts = ", ".join(f"{sum(item.status == status for item in items)} {status}" for status in STATUSES)
    by_machine = [item for item in items if item.score is not None]
    earned, possible = sum(item.score for item in by_machine), sum(item.points for item in by_machine)
    by_hand = sum(item.points for item in items) - possible
    return f"{counts}; {earned:g} of {possible:g} points, and {by_hand:g} that a person gives"


def show(items: Sequence[Item]) -> None:
    """Print the grade as a table, reasons below their items."""
    rows = []
    for item in items:
        score = "-" if item.score is None else f"{item.score:g}"
        rows.append([item.status, item.label, f"{score}/{item.points:g}" + "*" * item.weighted, _headline(item), item.file])
        rows += [["", "", "", _clean(reason)[:WIDTH], ""] for reason in item.reasons]
    tables.show(["status", "item", "points", "evidence", "file"], rows)
    print("* a weight: the sheet gives no points")
    print(totals(items))


def _headline(item: Item) -> str:
    first = verdicts.headline(list(item.evidence))
    if first is None:
        return ""
    return f"{first.metric} {first.measured}" + "".join(f" ({known})" for known in _known(first)[:1])


def _known(verdict: Verdict) -> list[str]:
    return [f"{name} {tables.number(verdict.facts[name])}" for name in KNOWN if name in verdict.facts]


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", NOT_IN_XML.sub("?", text))


def write_gradescope(items: Sequence[Item], path: Path) -> None:
    """Gradescope's ``results.json``: one test an item; what a person marks has no score."""
    tests = []
    for number, item in enumerate(items, 1):
        test = {"name": f"{item.label}: {item.question}", "number": str(number), "max_score": item.points,
                "visibility": "visible",
                "output": "\n".join([f"status: {item.status}", *map(_clean, item.reasons), *evidence(item)]),
                "tags": [item.kind, item.status, *([item.sheet] if item.sheet else [])],
                "extra_data": {"file": item.file, "points_are": "a weight" if item.weighted else "the sheet's"}}
        if item.score is None:
            del test["max_score"]
        else:
            test |= {"score": item.score, "status": "passed" if item.status == "pass" else "failed"}
        tests.append(test)
    content = {"output": totals(items), "visibility": "visible", "stdout_visibility": "hidden", "tests": tests}
    _write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_csv(items: Sequence[Item], path: Path) -> None:
    """One line a metric, or an item where it has none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["item", "kind", "sheet", "question", "status", "points", "weight", "score", "reasons", "file",
                     "metric", "value", "std", "n", "sheet_value", "target", "bound", "verdict"])
    for item in items:
        start = [item.label, item.kind, item.sheet, item.question, item.status, f"{item.points:g}",
                 "yes" if item.weighted else "no", "" if item.score is None else f"{item.score:g}",
                 "; ".join(map(_clean, item.reasons)), item.file]
        for verdict in item.evidence or [None]:
            if verdict is None:
                writer.writerow([*start, *[""] * 8])
                continue
            numbers = [verdict.value, verdict.spread.get("std"), verdict.spread.get("n"),
                       *(verdict.facts.get(name) for name in KNOWN)]
            writer.writerow([*start, verdict.metric, *("" if value is None else repr(value) for value in numbers), verdict.word])
    _write(path, text.getvalue())


def write_junit(items: Sequence[Item], path: Path) -> None:
    """JUnit XML: what is not a pass is a failure of its status, what a person marks is skipped."""
    failed = [item for item in items if item.status in ("part", "partial", "fail", "missing")]
    by_hand = [item for item in items if item.status == "manual"]
    suite = ElementTree.Element("testsuite", name="grade", tests=str(len(items)), failures=str(len(failed)), errors="0",
                                skipped=str(len(by_hand)))
    for item in items:
        case = ElementTree.SubElement(suite, "testcase", classname=item.sheet or item.kind, name=item.label, time="0")
        reasons = [_clean(reason) for reason in item.reasons]
        if item.status == "manual":
            ElementTree.SubElement(case, "skipped", message="; ".join(reasons))
        elif item.status != "pass":
            ElementTree.SubElement(case, "failure", type=item.status, message="; ".join(reasons)).text = "\n".join(evidence(item))
    ElementTree.indent(suite)
    _write(path, '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_together({path: text.encode("utf-8", "replace")})


WRITERS: dict[str, Callable[[Sequence[Item], Path], None]] = {
    "gradescope": write_gradescope, "csv": write_csv, "junit": write_junit,
}
