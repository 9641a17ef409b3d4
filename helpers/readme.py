"""The README's table of results, generated between two markers from the records."""

from __future__ import annotations

from pathlib import Path

from helpers import records, settings, tables, verdicts
from helpers.files import write_together

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def table() -> str:
    """One row a recorded run, with its headline metric: the first that the sheet reports, else the first that is judged."""
    lines = ["| run | metric | ours | sheet | target | bound | verdict |", "|---|---|---:|---:|---:|---:|---|"]
    missing = []
    for entry in verdicts.asked_runs():
        record = records.load(entry["id"], settings.PROJECT_ROOT / "results")
        if record is None:
            missing.append(f"`{entry['id']}`")
            continue
        verdict = verdicts.headline(verdicts.judge(entry, record))
        if verdict is None:
            continue
        word = f"{verdict.word}: {record.remark}" if record.remark else verdict.word
        known = " | ".join(tables.number(verdict.facts.get(name)) for name in ("sheet", "target", "floor"))
        lines.append(f"| `{entry['id']}` | {verdict.metric} | {verdict.measured} | {known} | {word} |")
    if missing:
        lines += ["", f"No record yet: {', '.join(missing)}."]
    return "\n".join(lines)


def update(check: bool = False, path: Path | None = None) -> bool:
    """Bring the table up to date, or only look.

    Args:
        check: change nothing.
        path: of the README; the project's by default.

    Returns:
        Whether it was stale.

    Raises:
        ValueError: the README has no pair of markers.
    """
    path = path or settings.PROJECT_ROOT / "README.md"
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path.name} needs {BEGIN} and, below it, {END}, once each")
    before, rest = text.split(BEGIN)
    new = f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"
    if new != text and not check:
        write_together({path: new.encode()})
    return new != text
