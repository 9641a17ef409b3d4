"""The command ``diff``: two copies, records or git revisions side by side, number by number."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers import settings
from helpers.grade import packages
from helpers.grade.cleaning import clean
from helpers.grade.formats import lenient_console
from helpers.grade.submission import RECORD_LIMIT, Submission, Unreadable
from helpers.results import deliverables, tables
from helpers.results.records import Record

ASIDE = ("profile", "function", "config", "budget", "dataset", "seeds", "source", "arrays", "environment", "seconds")
CUT = 60  # characters of a value that is no number


@dataclass(frozen=True)
class Difference:
    """One thing in which two records of a run differ.

    Attributes:
        run: its id.
        what: a metric, or a field of the record.
        first, second: as texts, a dash where it is not there.
        by: second minus first, as a text; empty for what is no number.
        deviations: the difference in standard deviations over the seeds, as a text; empty where there are none.
    """

    run: str
    what: str
    first: str
    second: str
    by: str = ""
    deviations: str = ""


def register(commands) -> None:
    """Add the command ``diff``."""
    command = commands.add_parser("diff", help=diff.__doc__)
    for name in ("first", "second"):
        command.add_argument(name, help="a folder, zip, record or git revision")
    command.set_defaults(function=diff, default_profile="full")


def diff(arguments) -> int:
    """Set the numbers of two copies, records or git revisions side by side; the exit status is 1 where they differ."""
    lenient_console()
    with tempfile.TemporaryDirectory(prefix="diff-") as folder:
        both = []
        for number, name in enumerate((arguments.first, arguments.second)):
            into = Path(folder) / str(number)
            into.mkdir()
            both.append(records_of(name, into))
        only = [(run_id, side) for side, other in ((0, 1), (1, 0)) for run_id in both[side] if run_id not in both[other]]
        found = [difference for run_id in both[0] if run_id in both[1]
                 for difference in differences(run_id, both[0][run_id], both[1][run_id])]
    if found:
        tables.show(["run", "what", clean(arguments.first, 40), clean(arguments.second, 40), "difference", "deviations"],
                    [[clean(getattr(one, name), 60) for name in ("run", "what", "first", "second", "by", "deviations")]
                     for one in found])
    for run_id, side in only:
        print(f"{run_id}: only in {clean((arguments.first, arguments.second)[side], 60)}")
    same = sum(run_id in both[1] for run_id in both[0]) - len({one.run for one in found})
    print(f"{same} runs alike, {len({one.run for one in found})} differ, {len(only)} on one side only")
    return 1 if found or only else 0


def records_of(name: str, into: Path) -> dict[str, Record | str]:
    """The records of a folder, zip, record or git revision by run; a text where one cannot be read.

    Args:
        name: what was asked for.
        into: an empty folder for what has to be unpacked.

    Raises:
        Unreadable: it is none of them.
    """
    place = Path(name)
    if place.is_file() and place.suffix == ".json":
        (into / "results").mkdir()
        (into / "results" / place.name).write_bytes(place.read_bytes()[: RECORD_LIMIT + 1])
        return _all(Submission(into, into, search=False), [place.stem])
    if place.exists():
        return _all(packages.open_copy(place, into), deliverables.run_ids())
    return _all(_revision(name, into), deliverables.run_ids())


def _all(copy: Submission, run_ids: Iterable[str]) -> dict[str, Record | str]:
    found: dict[str, Record | str] = {}
    for run_id in run_ids:
        try:
            record = copy.record(run_id)
        except Unreadable as error:
            found[run_id] = str(error)
            continue
        if record is not None:
            found[run_id] = record
    return found


def _revision(name: str, into: Path) -> Submission:
    """The records of a git revision of this suite, written into a folder."""
    if name.startswith("-") or _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") is None:
        raise Unreadable(f"{name} is no folder, zip, record or revision")
    listed = (_git("ls-tree", "-r", "--name-only", name, "results/") or b"").decode("utf-8", "replace").splitlines()
    (into / "results").mkdir()
    for path in listed:
        if path.endswith(".json") and path.count("/") == 1:
            (into / path).write_bytes(_git("show", f"{name}:{path}") or b"")
    return Submission(into, into, search=False)


def _git(*words: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *words], cwd=settings.PROJECT_ROOT, capture_output=True, check=False)
    except OSError as error:
        raise Unreadable("git is not installed, and no folder or record has that name") from error
    return done.stdout if done.returncode == 0 else None


def differences(run_id: str, first: Record | str, second: Record | str) -> Iterator[Difference]:
    """In what two records of a run differ: its metrics first, then the circumstances."""
    if isinstance(first, str) or isinstance(second, str):
        if first != second:
            yield Difference(run_id, "record", *(one[:CUT] if isinstance(one, str) else "readable" for one in (first, second)))
        return
    for metric in dict.fromkeys([*first.metrics, *second.metrics]):
        values = [record.metrics.get(metric) for record in (first, second)]
        spreads = [record.spread.get(metric, {}) for record in (first, second)]
        if values[0] == values[1] and spreads[0] == spreads[1]:
            continue
        shown = [tables.with_spread(value, spread) for value, spread in zip(values, spreads, strict=True)]
        if None in values:
            yield Difference(run_id, metric, *shown)
            continue
        by = values[1] - values[0]
        deviation = max(spread.get("std", 0.0) for spread in spreads)
        yield Difference(run_id, metric, *shown, f"{by:+.4g}", f"{by / deviation:+.1f}" if deviation > 0 else "")
    for name in ASIDE:
        yield from _circumstances(run_id, name, first.content.get(name), second.content.get(name))


def _circumstances(run_id: str, name: str, first: object, second: object) -> Iterator[Difference]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in dict.fromkeys([*first, *second]):
            if first.get(key) != second.get(key):
                yield Difference(run_id, f"{name}.{key}", *(str(side.get(key, "-"))[:CUT] for side in (first, second)))
    elif first != second:
        yield Difference(run_id, name, str(first)[:CUT], str(second)[:CUT])
