"""The grade: every run, written answer and notebook that the sheets ask for, marked from what is saved.

Nothing is trained and nothing of the copy is run: records, arrays, figures and executed notebooks are read and compared with
each other, with ``deliverables.toml`` and with the suite's own facts (:mod:`helpers.grade.reference`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from helpers.grade import evidence, reference, tasks, written
from helpers.grade.arrays import ArraysError, read_arrays
from helpers.grade.submission import ARRAYS_LIMIT, Submission, TooSlow, Unreadable
from helpers.results import deliverables, tables, verdicts
from helpers.results.records import Record
from helpers.results.verdicts import Verdict

STATUSES = ("pass", "part", "partial", "fail", "missing", "manual")
WEIGHTS = {"run": 5.0, "answer": 2.0, "notebook": 1.0}  # where the sheet gives no points
SHARE = {"pass": 1.0, "part": 0.75, "partial": 0.5, "fail": 0.0, "missing": 0.0}
LIMITS = {"past the bound": "bound", "short of the sheet": "sheet", "short of the target": "target"}


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
        status: pass, part (what was asked is reached, on part of the data), partial (reduced budget or stand-in, short of what
            was asked on part of the data), fail, missing (its functions may earn a share) or manual (a person marks it).
        reasons: why it is not a pass, or what to know of one; for a manual item, what a person has to look at.
        evidence: the judged metrics.
        file: where the evidence is.
        share: of the points, where the status does not say it.
        origin: a digest of what only one training gives, to find a record that was handed in twice.
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
    share: float | None = None
    origin: str = ""

    @property
    def score(self) -> float | None:
        """Points earned, None for what a person marks."""
        if self.status == "manual":
            return None
        return self.points * (SHARE[self.status] if self.share is None else self.share)

    @property
    def label(self) -> str:
        """A name that is unique among the items."""
        return self.name if self.kind == "run" else f"{self.kind}:{self.name}"


@dataclass(frozen=True)
class Marked:
    """What marking one entry found, before it is an :class:`Item`."""

    status: str
    reasons: tuple[str, ...] = ()
    evidence: tuple[Verdict, ...] = ()
    file: str = ""
    share: float | None = None
    origin: str = ""


def plan(sheets: Collection[str] = ()) -> list[Item]:
    """Every item in the order of the sheets, then their notebooks, not marked yet.

    Args:
        sheets: short names of those that count; all by default.
    """
    order = [name for name in deliverables.sheets() if name in sheets or not sheets]
    entries = [("run", entry, entry["question"]) for entry in deliverables.asked_runs()]
    entries += [("answer", entry, entry["text"]) for entry in deliverables.answers()]
    entries = sorted((item for item in entries if item[1]["sheet"] in order), key=lambda item: order.index(item[1]["sheet"]))
    entries += [("notebook", {"id": name}, "the executed notebook") for name in reference.notebooks(order)]
    return [Item(kind, entry["id"], entry.get("sheet", ""), question, float(entry.get("points", WEIGHTS[kind])),
                 "points" not in entry, "fail", ("not marked",)) for kind, entry, question in entries]


def sheets_named(text: str | None) -> list[str]:
    """The sheets in a list of short names with commas between them; none for no text, which means all.

    Raises:
        Unreadable: there is no such sheet; the message names those that there are.
    """
    names = [name.strip() for name in text.split(",")] if text is not None else []
    if unknown := [name for name in names if name not in deliverables.sheets()]:
        raise Unreadable(f"there is no sheet {', '.join(map(repr, unknown))}; the sheets are {', '.join(deliverables.sheets())}")
    return names


def mark(copy: Submission, facts: Mapping | None = None, sheets: Collection[str] = ()) -> list[Item]:
    """Mark a copy of the suite.

    Args:
        copy: the submission.
        facts: from :func:`helpers.grade.reference.facts`; those of this suite by default.
        sheets: as in :func:`plan`.
    """
    only = [item.label for item in plan(sheets)]
    return list(mark_each(copy, reference.facts() if facts is None else facts, only=only))


def mark_each(copy: Submission, facts: Mapping, guard: Callable[[], AbstractContextManager] = nullcontext,
              only: Sequence[str] = ()) -> Iterator[Item]:
    """The items one after the other, so that those already marked are known when something goes wrong later.

    Args:
        copy: the submission.
        facts: from :func:`helpers.grade.reference.facts`.
        guard: a context in which each item is marked; it may raise :class:`TooSlow`.
        only: labels of the items to mark; all by default.
    """
    functions = {"run": _mark_run, "answer": _mark_answer, "notebook": _mark_notebook}
    for item in plan():
        if only and item.label not in only:
            continue
        try:
            with guard():
                found = functions[item.kind](item.name, copy, facts)
        except Unreadable as error:
            found = Marked("fail", (str(error),))
        except TooSlow as error:
            found = Marked("fail", (str(error) or "it takes too long to read",))
        except MemoryError:
            found = Marked("fail", ("it needs more memory than marking may take",))
        except Exception as error:  # a hostile file must not stop the marking of the others
            found = Marked("fail", (f"could not be marked: {type(error).__name__}: {str(error)[:200]}",))
        yield replace(item, status=found.status, reasons=found.reasons, evidence=found.evidence, file=found.file,
                      share=found.share, origin=found.origin)


def passed(items: Iterable[Item]) -> bool:
    """Whether nothing is left to do but what a person marks."""
    return all(item.status in ("pass", "manual") for item in items)


def _mark_run(run_id: str, copy: Submission, facts: Mapping) -> Marked:
    entry, file = deliverables.entry(run_id), f"results/{run_id}.json"
    record = copy.record(run_id)
    if record is None:
        judged = tuple(verdicts.judge(entry, None))
        share, reasons = tasks.credit(run_id, entry["notebook"], copy, facts)
        failed, _ = tasks.failures(run_id, entry["notebook"], copy, facts)
        return Marked("missing", (written.absent(copy, file), *failed, *reasons), judged, "", share or None)
    judged = tuple(verdicts.judge(entry, record))
    case, unreadable = _case(entry, record, copy, facts)
    remarks, stale = written.code_of(record, copy)
    failed, changed = tasks.failures(run_id, entry["notebook"], copy, facts)
    remarks = [*remarks, *changed]
    wrong = [_sentence(verdict) for verdict in judged if verdict.passed is False]
    wrong += verdicts.out_of_order(run_id, copy.record)
    wrong += [*_wrong_source(entry, record), *stale, *unreadable]
    wrong += evidence.sentences(evidence.FAULTS, case)
    wrong += written.misprinted(entry, record, written.printed_numbers(entry["notebook"], copy))
    if "verdicts" in entry:
        found = record["facts"].get("verdicts")
        found = found if isinstance(found, dict) else {}
        wrong += [f"{name}: {str(found.get(name, 'no verdict'))[:40]} where theory says {verdict}"
                  for name, verdict in entry["verdicts"].items() if found.get(name) != verdict]
    partial = [record.remark] if record.remark else []
    partial += [f"{verdict.metric} is {verdict.word}" for verdict in judged if verdict.word.startswith("measured as")]
    partial += evidence.sentences(evidence.DOUBTS, case)
    found = Marked("fail", (*failed, *wrong, *partial, *changed), judged, copy.place(file),
                   origin=reference.origin(record.content))
    if failed and not wrong:  # as without its record: handing it in costs nothing
        return replace(found, share=tasks.credit(run_id, entry["notebook"], copy, facts)[0] or None)
    if failed or wrong:
        return found
    measured = [verdict for verdict in judged if verdict.word.endswith(verdicts.ON_PART)]
    if partial and (measured or partial != [record.remark] or record.reduced):
        reached = partial == [record.remark] and measured and all(verdict.on_part for verdict in measured)
        return replace(found, status="part" if reached else "partial", reasons=(*partial, *remarks))
    if any(verdict.passed for verdict in judged) or "verdicts" in entry:
        return replace(found, status="pass", reasons=tuple(remarks))
    look = f"no number to judge: look at {', '.join(entry['figures'])}"
    return replace(found, status="manual", reasons=(*partial, look, *remarks))


def _case(entry: dict, record: Record, copy: Submission, facts: Mapping) -> tuple[evidence.Case, list[str]]:
    """The run as the checks see it, and what is wrong with its file of arrays."""
    name = f"results/{record.id}.npz"
    path = copy.file(name, ARRAYS_LIMIT)
    arrays, wrong = None, []
    if path is None or copy.digest(name, ARRAYS_LIMIT) != record["arrays"]["sha256"]:
        wrong.append(f"{name} is missing or not the one that the record names")
    else:
        try:
            arrays = read_arrays(path)
        except ArraysError as error:
            wrong.append(f"{name}: {error}")
    return evidence.Case(entry, record, arrays, facts["runs"].get(record.id, {}), facts["datasets"], copy), wrong


def _sentence(verdict: Verdict) -> str:
    limit = LIMITS.get(verdict.word)
    known = f" ({limit} {tables.number(verdict.facts[limit])})" if limit in verdict.facts else ""
    return f"{verdict.metric} = {tables.number(verdict.value)} is {verdict.word}{known}"


def _wrong_source(entry: dict, record: Record) -> Iterable[str]:
    """What does not fit between a record and the notebook and data that it should come from."""
    if record["notebook"] != entry["notebook"]:
        yield f"the record is of notebook {record['notebook'][:60]!r}, not {entry['notebook']}"
    wrong = verdicts.wrong_data(entry, record)
    if wrong:
        yield wrong


def _mark_answer(answer_id: str, copy: Submission, facts: Mapping) -> Marked:
    entry = next(entry for entry in deliverables.answers() if entry["id"] == answer_id)
    status, reasons, file = written.answer(entry, copy, facts.get("prose", {}).get(entry["notebook"], ()))
    return Marked(status, tuple(reasons), (), file)


def _mark_notebook(name: str, copy: Submission, facts: Mapping) -> Marked:
    status, reasons, file = written.notebook(name, copy)
    ran = facts.get("ran", {}).get(name)
    if ran and status != "missing":
        status, reasons = "fail" if ran["faults"] else status, [*ran["faults"], *reasons, ran["said"]]
    return Marked(status, tuple(reasons), (), file)
