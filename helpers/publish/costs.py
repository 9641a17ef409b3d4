"""What a choice of the first cell costs here: the time of a notebook's runs, from what was measured."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass

from helpers import settings
from helpers.publish.planning import duration
from helpers.results import deliverables, records
from helpers.results.records import Record
from helpers.work.definitions import declared

MEASURED = settings.PROJECT_ROOT / "benchmarks" / "results"
NOTHING, MISSING, LONG, EVERYTHING = "nothing", "what is missing", "long runs too", "everything"
CHOICES = (NOTHING, MISSING, LONG, EVERYTHING)


@dataclass(frozen=True)
class Cost:
    """What a choice trains and how long that takes.

    Attributes:
        runs: ids of what is trained.
        seconds: estimate, without the runs of which nothing was measured that tells.
        unknown: how many those are.
    """

    runs: tuple[str, ...] = ()
    seconds: float = 0.0
    unknown: int = 0

    @property
    def text(self) -> str:
        """In words."""
        if not self.runs:
            return "no training"
        number = f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"
        if self.unknown == len(self.runs):
            return f"{number}, not measured yet"
        return f"{number}, about {duration(self.seconds)}" + (f" and {self.unknown} not measured yet" if self.unknown else "")


def of(notebook: str, choice: str, minutes: float = 0.0) -> Cost:
    """The cost of a choice for a notebook, under the profile and on the device in force.

    Args:
        notebook: its name.
        choice: one of ``CHOICES``.
        minutes: at most so many a run; 0 for no limit.
    """
    there = _records(notebook)
    if choice == NOTHING:
        return Cost()
    wanted = [run_id for run_id, record in there.items() if choice == EVERYTHING or record is None
              or (choice == LONG and not record.complete)]
    if choice == MISSING and wanted and not minutes and settings.profile() == "full" and settings.device().type == "cpu":
        runs = declared(notebook, "full")  # hours on a CPU are not spent unasked
        wanted = [run_id for run_id in wanted if run_id in runs and not runs[run_id].long]
    estimates = [_seconds(run_id, there[run_id], len(there), notebook) for run_id in wanted]
    if minutes:  # a run that takes longer stops then, at a checkpoint
        estimates = [60 * minutes if seconds is None else min(60 * minutes, seconds) for seconds in estimates]
    known = [seconds for seconds in estimates if seconds is not None]
    return Cost(tuple(wanted), float(sum(known)), len(estimates) - len(known))


def without_record(notebook: str) -> list[str]:
    """The runs that sheets ask a notebook for and that have no record under the profile in force."""
    return [entry["id"] for entry in deliverables.asked_runs() if entry["notebook"] == notebook and _load(entry["id"]) is None]


def _records(notebook: str) -> dict[str, Record | None]:
    entries = (*deliverables.asked_runs(), *deliverables.supporting_runs())
    return {entry["id"]: _load(entry["id"]) for entry in entries if entry["notebook"] == notebook}


def _load(run_id: str) -> Record | None:
    try:
        return records.load(run_id)
    except records.RecordError:
        return None  # unreadable: trained when asked for


def _seconds(run_id: str, record: Record | None, number: int, notebook: str) -> float | None:
    """Of one run: at the rate of its own record, of the full profile's record in git, or as its share of the notebook."""
    if record is None and settings.profile() == "full":
        try:
            record = records.load(run_id, settings.PROJECT_ROOT / "results")
        except records.RecordError:
            record = None
    if record is not None:
        budget, theirs = record["budget"], record["environment"]["device"]
        return _here(record["seconds"] * budget["planned"] / max(1, budget["done"]), theirs.startswith("CPU"))
    path = MEASURED / "notebooks.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    measured = next((row["seconds"] for row in rows if (row["notebook"], row["profile"]) == (notebook, settings.profile())), None)
    return None if measured is None else _here(measured / number, True)


def _here(seconds: float, on_cpu: bool) -> float | None:
    """A time that was measured on a CPU, or on a GPU, as it is on the device in force; None where no measurement relates them."""
    here_cpu = settings.device().type == "cpu"
    if on_cpu == here_cpu:
        return seconds
    share = gpu_share()
    return None if share is None else seconds * share if on_cpu else seconds / share


def gpu_share() -> float | None:
    """The part of a CPU's training time that a T4 should take, the median of the main models; None where none was measured."""
    path = MEASURED / "loop_shares.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    shares = []
    for row in rows:
        record = records.load(row["run"], settings.PROJECT_ROOT / "results")
        if record is not None and record["environment"]["device"].startswith("CPU") and record["budget"]["unit"] == "steps":
            shares.append(60 * row["t4_minutes"] * row["steps_per_second"] / record["budget"]["planned"])
    return statistics.median(shares) if shares else None
