"""What a number is worth: each metric beside the sheet's number, the target and the bound, in one word.

Report, README and grade judge with the same rules. ``deliverables.toml`` has the facts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from helpers.results import deliverables, records, tables
from helpers.results.records import ON_PART, Record, RecordError


@dataclass(frozen=True)
class Verdict:
    """One metric of one run, judged.

    Attributes:
        metric: its name.
        value: mean over the seeds, None where there is none.
        spread: std, min, max, n over the seeds.
        facts: sheet, target, bound (slack, suspect) and better, as far as ``deliverables.toml`` has them.
        word: the judgement.
        passed: True or False where it could be judged, None where it is only reported or cannot be compared; a number that
            reaches what was asked on part of the data is no pass: its word says so.
    """

    metric: str
    value: float | None
    spread: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    word: str = "reported"
    passed: bool | None = None

    @property
    def on_part(self) -> bool:
        """Whether it reaches what was asked, on part of the data."""
        return self.word.endswith(f"reached, {ON_PART}")

    @property
    def measured(self) -> str:
        """Mean and spread as a text, a dash where there is none."""
        return tables.with_spread(self.value, self.spread)


def judge(entry: dict, record: Record | None) -> list[Verdict]:
    """Judge the metrics of a run: those asked for first, then the others that the record has."""
    asked = entry.get("metrics", {})
    if record is None:
        return [Verdict(name, None, facts=facts, word="no record yet") for name, facts in asked.items()]
    names = [*asked, *(name for name in record.metrics if name not in asked)]
    return [_judge(name, asked.get(name, {}), record) for name in names]


def headline(judged: list[Verdict]) -> Verdict | None:
    """The metric that stands for a run: the first with a sheet's number, else with a target, else that is judged at all."""
    measured = [verdict for verdict in judged if verdict.value is not None]
    return next((verdict for fact in ("sheet", "target", "better") for verdict in measured
                 if "better" in verdict.facts and fact in verdict.facts), None)


def _judge(name: str, facts: dict, record: Record) -> Verdict:
    value = record.metrics.get(name)
    if value is None:
        others = [other for other in record.metrics if other.startswith(f"{name}_")]
        return Verdict(name, None, facts=facts, word=f"measured as {', '.join(others)}" if others else "not measured",
                       passed=None if others else False)
    word, passed = _word(value, facts, record)
    return Verdict(name, value, record.spread[name], facts, word, passed)


def _word(value: float, facts: dict, record: Record) -> tuple[str, bool | None]:
    if "better" not in facts:
        return "reported", None
    sign = 1 if facts["better"] == "lower" else -1

    def at_least(limit: float) -> bool:
        return sign * value <= sign * limit

    stand_in = bool((record["dataset"] or {}).get("stand_in"))
    # The entropies behind the bounds are those of the data that the sheet names.
    limit = facts.get("suspect", facts["bound"] - sign * facts.get("slack", 0.0) if "bound" in facts else None)
    if limit is not None and not stand_in and sign * value < sign * limit:
        return "past the bound", False
    if record.reduced:
        return "partial", None
    reached = "target" in facts and sign * round(value, _decimals(facts["target"])) <= sign * facts["target"]
    if record.part:  # beside the sheet's number, and neither a pass nor a failure
        name = "target" if reached else "sheet" if "sheet" in facts and at_least(facts["sheet"]) else ""
        missed = next((f"short of the {fact}, " for fact in ("sheet", "target") if fact in facts), "")
        return (f"{name} reached, " if name else missed) + ON_PART, None
    if reached:
        return "target reached", True
    if "sheet" in facts:
        return ("sheet reached", True) if at_least(facts["sheet"]) else ("short of the sheet", False)
    return ("short of the target", False) if "target" in facts else ("reported", None)


def _decimals(target: float) -> int:
    """The decimals that a target is stated with: an aim of 1.03 is met by what rounds to 1.03."""
    return max(0, -Decimal(repr(target)).as_tuple().exponent)


def out_of_order(run_id: str, find: Callable[[str], Record | None]) -> list[str]:
    """Metrics of a run that exceed one that they must not exceed, as sentences; ``find`` gives records by id."""
    found = []
    for rule in deliverables.order_of(run_id):
        metric, other_run, other_metric = rule["metric"], rule["at_most"]["run"], rule["at_most"]["metric"]
        records = find(run_id), find(other_run)
        if None in records or any(record.reduced for record in records):
            continue  # another budget or a stand-in: not comparable
        if len({(record["dataset"] or {}).get("digest") for record in records}) > 1:
            continue  # other data
        value, limit = records[0].metrics.get(metric, -math.inf), records[1].metrics.get(other_metric, math.inf)
        if value > limit:
            found.append(f"{metric} {tables.number(value)} exceeds {other_metric} of {other_run}, {tables.number(limit)}")
    return found


def wrong_data(entry: dict, record: Record) -> str | None:
    """A sentence where a record is neither on the data set asked for nor on a stand-in that says so."""
    wanted = entry.get("dataset", "").split(",")[0]
    dataset = record["dataset"] or {}
    if wanted not in deliverables.published_sets() or dataset.get("name") == wanted:
        return None
    if dataset.get("stand_in") and dataset.get("stands_for") == wanted:
        return None
    return f"made on {dataset.get('name', 'no data set')}, not on {wanted} or a stand-in that says so"


def in_words(run_id: str, record: Record | None, source: str) -> list[str]:
    """What is to be said of one run before it is handed in, from its record alone: lines of plain words, the verdict last.

    Args:
        run_id: asked for by a sheet, or supporting.
        record: None where there is none.
        source: digest of the code as it is now.
    """
    entry = deliverables.entry(run_id)
    title = f"{run_id} ({entry.get('question', 'no sheet asks for it')})"
    if record is None:
        return [f"{title}: no record yet, it counts as missing; suite.run({run_id!r}) makes one"]
    judged, wrong = judge(entry, record), []
    lines = [f"{title}: {record.describe()}"]
    for verdict in judged:
        facts = [f"{name} {tables.number(verdict.facts[name])}" for name in ("sheet", "target", "bound") if name in verdict.facts]
        beside = f" ({', '.join(facts)})" if facts else ""
        lines.append(f"  {verdict.metric}: {verdict.measured}, {verdict.word}{beside}")
        wrong += [f"{verdict.metric} is {verdict.word}"] * (verdict.passed is False)
    wrong += out_of_order(run_id, lambda other: records.load(other, record.path.parent))
    wrong += filter(None, [wrong_data(entry, record)])
    if record["source"] != source or records.rests_on_another(record):
        wrong.append(f"the code has changed since: suite.run({run_id!r}, again=True)")
    try:
        wrong += ["it has no arrays"] * (not record.arrays)
    except RecordError as error:
        wrong.append(str(error))
    lacking = [name for name in entry.get("figures", ()) if name not in record["figures"]]
    wrong += [f"not drawn yet: {', '.join(lacking)}"] * bool(lacking)
    lines += [f"  to be said beside each number: {record.remark}"] * bool(record.remark)
    lines += [f"  to mend: {sentence}" for sentence in wrong]
    return [*lines, f"  {_all_in_all(judged, record, wrong)}"]


def _all_in_all(judged: list[Verdict], record: Record, wrong: list[str]) -> str:
    if wrong:
        return "as it is, it would not pass"
    if record.remark:
        return "it would count in part: the remark above says why"
    if any(verdict.passed for verdict in judged):
        return "it would pass"
    return "nothing here is judged by a number: a person looks at it"
