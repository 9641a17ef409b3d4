"""The grade: every run, written answer and notebook that the sheets ask for, marked from what is saved.

Nothing is trained and nothing of the copy is run: records, figures and executed notebooks are read and compared with each
other and with ``deliverables.toml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from helpers.grade.submission import ARRAYS_LIMIT, FIGURE_LIMIT, Submission, Unreadable
from helpers.publish import notebooks
from helpers.results import deliverables, tables, verdicts
from helpers.results.records import Record
from helpers.results.verdicts import Verdict

STATUSES = ("pass", "part", "partial", "fail", "missing", "manual")
WEIGHTS = {"run": 5.0, "answer": 2.0, "notebook": 1.0}  # where the sheet gives no points
SHARE = {"pass": 1.0, "part": 0.75, "partial": 0.5, "fail": 0.0, "missing": 0.0}
WORDS_OF_AN_ANSWER = 15
PLACEHOLDER = re.compile(
    r"\b(your (answer|text|derivation|proof)|answer here|write (it|here|your)|to be written|lorem ipsum)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """One marked thing.

    Attributes:
        kind: "run", "answer" or "notebook".
        name: run id, answer id or notebook name.
        sheet: key in ``deliverables.toml``; empty for notebooks.
        question: as the sheet numbers it, or the answer's text.
        points: the sheet's, or a weight.
        weighted: whether ``points`` is a weight because the sheet gives none.
        status: pass, part (what was asked is reached, on part of the data), partial (reduced budget or stand-in, or short of
            what was asked on part of the data), fail, missing or manual (a person marks it).
        reasons: why it is not a pass; for a manual item, what a person has to look at.
        evidence: the judged metrics.
        file: where the evidence is.
    """

    kind: str
    name: str
    sheet: str
    question: str
    points: float
    weighted: bool
    status: str
    reasons: tuple[str, ...] = ()
    evidence: tuple[Verdict, ...] = ()
    file: str = ""

    @property
    def score(self) -> float | None:
        """Points earned, None for what a person marks."""
        return None if self.status == "manual" else self.points * SHARE[self.status]

    @property
    def label(self) -> str:
        """A name that is unique among the items."""
        return self.name if self.kind == "run" else f"{self.kind}:{self.name}"


def mark(copy: Submission) -> list[Item]:
    """Mark a copy of the suite: runs and answers in the order of the sheets, then the notebooks."""
    content = deliverables.content()
    items = [_guarded("run", entry, copy, _mark_run) for entry in deliverables.asked_runs()]
    items += [_guarded("answer", {**entry, "question": entry["text"]}, copy, _mark_answer) for entry in content["answer"]]
    names = sorted({entry["notebook"] for entry in content["run"]})
    sheets = list(content["sheets"])
    items.sort(key=lambda item: sheets.index(item.sheet))
    books = [{"id": name, "question": "the executed notebook"} for name in names]
    return items + [_guarded("notebook", entry, copy, _mark_notebook) for entry in books]


def passed(items: Iterable[Item]) -> bool:
    """Whether nothing is left to do but what a person marks."""
    return all(item.status in ("pass", "manual") for item in items)


def _guarded(kind: str, entry: dict, copy: Submission, function: Callable[[dict, Submission], tuple]) -> Item:
    """Mark one entry; whatever is wrong with the copy fails the item and never the grade."""
    try:
        status, reasons, evidence, file = function(entry, copy)
    except Unreadable as error:
        status, reasons, evidence, file = "fail", [str(error)], [], ""
    except Exception as error:  # a hostile file must not stop the marking of the others
        status, reasons, evidence, file = "fail", [f"could not be marked: {type(error).__name__}: {str(error)[:200]}"], [], ""
    return Item(kind, entry["id"], entry.get("sheet", ""), entry["question"], float(entry.get("points", WEIGHTS[kind])),
                "points" not in entry, status, tuple(reasons), tuple(evidence), file)


def _mark_run(entry: dict, copy: Submission) -> tuple:
    record, file = copy.record(entry["id"]), f"results/{entry['id']}.json"
    if record is None:
        return "missing", [f"{file} is not there"], verdicts.judge(entry, None), ""
    judged = verdicts.judge(entry, record)
    wrong = [_sentence(verdict) for verdict in judged if verdict.passed is False]
    wrong += verdicts.out_of_order(entry["id"], copy.record)
    wrong += [*_wrong_source(entry, record, copy), *_wrong_files(entry, record, copy)]
    wrong += _misprinted(entry, record, _printed_numbers(entry["notebook"], copy))
    partial = [record.remark] if record.remark else []
    partial += [f"{verdict.metric} is {verdict.word}" for verdict in judged if verdict.word.startswith("measured as")]
    if "verdicts" in entry:
        found = record["facts"].get("verdicts", {})
        wrong += [f"{name}: {found.get(name, 'no verdict')} where theory says {verdict}"
                  for name, verdict in entry["verdicts"].items() if found.get(name) != verdict]
    if wrong:
        return "fail", wrong + partial, judged, file
    measured = [verdict for verdict in judged if verdict.word.endswith(verdicts.ON_PART)]
    if partial and (measured or partial != [record.remark] or record.reduced):
        reached = partial == [record.remark] and measured and all(verdict.on_part for verdict in measured)
        return "part" if reached else "partial", partial, judged, file
    if any(verdict.passed for verdict in judged) or "verdicts" in entry:
        return "pass", [], judged, file
    return "manual", [*partial, f"no number to judge: look at {', '.join(entry['figures'])}"], judged, file


def _sentence(verdict: Verdict) -> str:
    limit = {"past the bound": "bound", "short of the sheet": "sheet", "short of the target": "target"}.get(verdict.word)
    known = f" ({limit} {tables.number(verdict.facts[limit])})" if limit else ""
    return f"{verdict.metric} = {tables.number(verdict.value)} is {verdict.word}{known}"


def _wrong_source(entry: dict, record: Record, copy: Submission) -> Iterable[str]:
    """What does not fit between a record and the code and data that it should come from."""
    if record["notebook"] != entry["notebook"]:
        yield f"the record is of notebook {record['notebook'][:60]!r}, not {entry['notebook']}"
    elif copy.is_stale(record):
        yield "stale: the code that the record came from has changed since"
    wrong = verdicts.wrong_data(entry, record)
    if wrong:
        yield wrong


def _wrong_files(entry: dict, record: Record, copy: Submission) -> Iterable[str]:
    """Arrays and figures that are missing or not those that the record names."""
    if copy.digest(f"results/{entry['id']}.npz", ARRAYS_LIMIT) != record["arrays"]["sha256"]:
        yield f"results/{entry['id']}.npz is missing or not the one that the record names"
    for name in entry["figures"]:
        try:
            digest = copy.digest(f"figures/{name}", FIGURE_LIMIT)
        except Unreadable as error:
            yield str(error)
            continue
        if digest is None:
            yield f"figures/{name} is missing"
        elif digest != record["figures"].get(name):
            yield f"figures/{name} is not the one that the record names"


def _mark_answer(entry: dict, copy: Submission) -> tuple:
    file = f"notebooks/{entry['notebook']}.ipynb"
    if copy.file(file, 2**40) is None:
        return "missing", [f"{file} is not there"], [], ""
    tag = f"answer:{entry['id']}"
    cells = [cell for cell in copy.cells(entry["notebook"]) if cell.kind == "markdown" and tag in cell.tags]
    if not cells:
        return "missing", [f"{file} has no Markdown cell with the tag {tag}"], [], file
    text = "\n".join(cell.source for cell in cells)
    if not is_answered(text, entry["text"]):
        return "fail", [f"unanswered: the cell {tag} is empty or unchanged"], [], file
    return "manual", [f"answered in {len(text.split())} words; a person marks the text"], [], file


def is_answered(text: str, question: str = "") -> bool:
    """Whether the text of an answer's cell says something beyond its heading, the question and a placeholder."""
    lines = [line for line in text.replace(question, "").splitlines()
             if not line.lstrip().startswith("#") and not re.match(r"\s*\*\*[^*]*\*\*\s*$", line)]
    body = re.sub(r"<!--.*?(-->|$)", "", "\n".join(lines), flags=re.S)
    words = re.findall(r"\w+", body)
    return len(words) >= WORDS_OF_AN_ANSWER and not (PLACEHOLDER.search(body) and len(words) < 3 * WORDS_OF_AN_ANSWER)


def _mark_notebook(entry: dict, copy: Submission) -> tuple:
    name, file = entry["id"], f"notebooks/{entry['id']}.ipynb"
    if copy.file(file, 2**40) is None:
        return "missing", [f"{file} is not there"], [], ""
    copy.cells(name), copy.source(name)  # refuse what is too large, lies elsewhere or is not a notebook
    found = notebooks.check(name, copy.root / "notebooks", copy.source_root / "notebooks")
    reasons = [] if found.state == "fresh" else [f"{found.state}: {reason}" for reason in found.reasons]
    reasons += _wrong_prints(name, copy)
    if reasons:
        return "fail", reasons, [], file
    profile = copy.stamp(name).get("profile")
    return ("pass", [], [], file) if profile == "full" else ("partial", [f"built with the {str(profile)[:60]} profile"], [], file)


def _printed_numbers(notebook: str, copy: Submission) -> dict[tuple[str, str], str]:
    """What a saved notebook's tables of results show; nothing where it cannot be read, which its own item says."""
    printed = {}
    try:
        for cell in copy.cells(notebook):
            for text in cell.displayed:
                printed.update(_rows_of_results(text))
    except Unreadable:
        return {}
    return printed


def _misprinted(entry: dict, record: Record, printed: dict[tuple[str, str], str]) -> list[str]:
    """Metrics of a run that its notebook prints otherwise than the record has them."""
    wrong = []
    for metric in entry.get("metrics", {}):
        shown = printed.get((entry["id"], metric))
        if shown is None or metric not in record.metrics:
            continue
        ours = Verdict(metric, record.metrics[metric], record.spread[metric]).measured
        if shown != ours:
            wrong.append(f"{metric} of {entry['id']}: the notebook prints {shown[:40]}, the record has {ours}")
    return wrong


def _wrong_prints(name: str, copy: Submission) -> list[str]:
    """Numbers in a notebook's tables of results that are missing, or not those of the records."""
    printed, wrong = _printed_numbers(name, copy), []
    for entry in (entry for entry in deliverables.asked_runs() if entry["notebook"] == name):
        try:
            record = copy.record(entry["id"])
        except Unreadable:
            continue  # said at the run
        if record is not None:
            asked = [metric for metric in entry.get("metrics", {}) if metric in record.metrics]
            wrong += [f"no table shows {metric} of {entry['id']}" for metric in asked if (entry["id"], metric) not in printed]
            wrong += _misprinted(entry, record, printed)
    return wrong


def _rows_of_results(text: str) -> dict[tuple[str, str], str]:
    """Run and metric -> number as printed, of every table with the columns run, metric and ours."""
    rows, columns = {}, None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if {"run", "metric", "ours"} <= set(cells):
            columns = [cells.index(name) for name in ("run", "metric", "ours")]
        elif columns and len(cells) > max(columns):
            run, metric, ours = (cells[column] for column in columns)
            rows[run, metric] = ours
    return rows
