"""Single runs by their ids, with no notebook around them: ``python -m helpers train ID...``.

This is the unit of work: for ``full``, which trains what is missing, for a GPU node, for a cluster. Several runs can be trained
to one equal number of updates, so that they can be compared.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import time
from collections.abc import Sequence

from helpers import settings
from helpers.results import deliverables, records
from helpers.results.records import Record, RecordError
from helpers.suite import Suite
from helpers.work import memory, seeds
from helpers.work.definitions import UnknownRun, declaration, notebook_of

PROBE_SECONDS = 20.0  # of training, to measure a rate before an even share of time is planned


def register(commands) -> None:
    """Add the command ``train``."""
    command = commands.add_parser("train", help=train.__doc__.splitlines()[0], description=train.__doc__)
    command.add_argument("run", nargs="+", help="ids; * and ? are allowed, 'cifar10_*'")
    command.add_argument("--again", action="store_true", help="train although there is a record of the present code")
    command.add_argument("--updates", type=int, metavar="N", help="stop at a checkpoint after N updates")
    command.add_argument("--minutes", type=float, metavar="M", help="time of each run; with --even, of all together")
    command.add_argument("--even", action="store_true", help="share --minutes so that all runs end at equal updates")
    command.add_argument("--seeds", type=int, default=1, metavar="N", help="train from N roots of random numbers")
    command.add_argument("--root", type=int, metavar="R", help="train from this root alone, into results/seeds/")
    command.set_defaults(function=train, default_profile="full")


def train(arguments: argparse.Namespace) -> int:
    """Train runs by their ids; a run whose budget was cut goes on, one that has a record of the present code is left."""
    run_ids = in_order(expand(arguments.run))
    memory.check(run_ids)
    if arguments.even:
        return train_evenly(run_ids, arguments.minutes)
    if arguments.minutes:
        os.environ["SUITE_MINUTES"] = str(arguments.minutes)
    roots = range(arguments.seeds) if arguments.root is None else [arguments.root]
    elsewhere: list[str] = []  # what another process is training comes last, and so does what rests on it
    for run_id in run_ids:
        asked = {"again": arguments.again, "updates": arguments.updates, "wait": False}
        rests_on_it = set(declaration(run_id).needs) & set(elsewhere)
        if rests_on_it or None in [train_one(run_id, root=root, **asked) for root in roots]:
            elsewhere.append(run_id)
        else:
            seeds.merge(run_id)
    for run_id in elsewhere:
        for root in roots:
            train_one(run_id, updates=arguments.updates, root=root)
        seeds.merge(run_id)
    return 0


def expand(patterns: Sequence[str]) -> list[str]:
    """The ids that patterns name, each once.

    Raises:
        UnknownRun: a pattern names no run; the message names the nearest ids.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matching = fnmatch.filter(deliverables.run_ids(), pattern)
        if not matching:
            notebook_of(pattern)  # says which are near
        found |= dict.fromkeys(matching)
    return list(found)


def in_order(run_ids: Sequence[str]) -> list[str]:
    """The ids with those first that others need; a needed run without a record is added."""
    ordered: dict[str, None] = {}

    def add(run_id: str, asked: bool) -> None:
        for needed in declaration(run_id).needs:
            add(needed, needed in run_ids)
        if asked or records.load(run_id) is None:
            ordered[run_id] = None

    for run_id in run_ids:
        add(run_id, True)
    return list(ordered)


def suite_of(run_id: str, **options) -> Suite:
    """The suite of the notebook that declares a run, with this run alone.

    Raises:
        UnknownRun: no notebook declares it.
    """
    return Suite(notebook_of(run_id), {run_id: declaration(run_id)}, **options)


def train_one(run_id: str, *, again: bool = False, updates: int | None = None, root: int = 0, wait: bool = True) -> Record | None:
    """Train a run or go on with it, unless it has a complete record of the present code.

    Args:
        run_id: its id.
        again: train it all the same.
        updates: stop after so many, at a checkpoint.
        root: of the random numbers; from others than 0 the record goes to ``results/seeds/``.
        wait: for a process that is training it; else there is no record yet, and None.
    """
    folder = seeds.folder(root) if root else None
    try:
        record = records.load(run_id, folder)
        if record is not None:
            record.arrays_path()
    except RecordError:
        record, again = None, True  # damaged: replaced, since it was asked for by name
    stale = record is not None and records.state(record) == "stale"
    suite = suite_of(run_id, results=folder, bare=True) if root else suite_of(run_id)
    return suite.run(run_id, seed=root, again=again or stale, more=True, asked=True, stop_after=updates, wait=wait)


def train_evenly(run_ids: Sequence[str], minutes: float | None) -> int:
    """Train several runs to one equal number of updates that all of them reach within a time.

    Each is trained for a moment first, which measures its rate; then each goes on to the number that the time allows. A run that
    is already further is left where it is.

    Raises:
        SettingError: no time was given.
    """
    if not minutes:
        raise settings.SettingError("--even shares a time among runs: say how long with --minutes")
    started, rates, done = time.monotonic(), {}, {}
    for run_id in run_ids:
        os.environ["SUITE_MINUTES"] = str(PROBE_SECONDS / 60 + _minutes_spent(run_id))
        before = records.load(run_id)
        record = train_one(run_id)
        updates, seconds = record["budget"]["done"], record["seconds"]
        if before is not None and before["budget"]["done"] < updates:
            updates, seconds = updates - before["budget"]["done"], seconds - before["seconds"]
        rates[run_id], done[run_id] = max(updates, 1) / max(seconds, 1e-9), record["budget"]["done"]
    os.environ.pop("SUITE_MINUTES")
    target = equal_updates(rates, done, 60 * minutes - (time.monotonic() - started))
    measured = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
    print(f"rates in updates a second: {measured}; all go to {target:,} updates")
    for run_id in run_ids:
        train_one(run_id, updates=target)
    return 0


def equal_updates(rates: dict[str, float], done: dict[str, int], seconds: float) -> int:
    """The largest number of updates that all runs reach within ``seconds``, one after the other, each at its rate."""
    low, high = 0, 1 << 40
    while low < high:
        middle = (low + high + 1) // 2
        needed = sum(max(0, middle - done[name]) / rate for name, rate in rates.items())
        low, high = (middle, high) if needed <= max(seconds, 0.0) else (low, middle - 1)
    return low


def _minutes_spent(run_id: str) -> float:
    record = records.load(run_id)
    return 0.0 if record is None else record["seconds"] / 60


__all__ = ["UnknownRun", "equal_updates", "expand", "in_order", "register", "suite_of", "train", "train_evenly", "train_one"]
