"""What is done and what is left of the suite, how long it will take, and doing it within a given time.

``python -m helpers status`` shows every run; ``python -m helpers full`` trains what is missing, notebook by notebook, and
builds the notebooks. A run that was interrupted has a checkpoint and goes on from it; nothing else need be remembered.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from helpers import locks, settings
from helpers.publish import kernels, notebooks
from helpers.results import deliverables, rates, records, tables

PATIENCE_SECONDS = 20.0  # with a child that was interrupted, before it is told again


@dataclass(frozen=True)
class Task:
    """One run that the sheets ask for.

    Attributes:
        notebook, run_id: where it is and what it is called.
        record: its record, or None.
        state: recorded, partial (its budget was cut), stale (the code has changed since), begun (a checkpoint and no record),
            unreadable (its record is damaged) or missing.
        seconds_left: estimate of the training that is left, or None where nothing was measured that tells.
        measured_on: the device whose rate that is, where it is of another kind than this machine's.
        damage: what is wrong with its record, and how to mend it.
    """

    notebook: str
    run_id: str
    record: records.Record | None
    state: str
    seconds_left: float | None
    measured_on: str = ""
    damage: str = ""

    @property
    def budget(self) -> str:
        """Budget spent of the budget planned."""
        if self.record is None:
            return ""
        budget = self.record["budget"]
        share = "" if self.record.complete else f"{budget['done']:,} of "
        return f"{share}{budget['planned']:,} {budget['unit']}"

    @property
    def left(self) -> str:
        """The estimate in words."""
        if self.seconds_left is None:
            return "not measured"
        if self.seconds_left < 0.5:
            return ""
        return f"about {duration(self.seconds_left)}" + (f" on {self.measured_on}" if self.measured_on else "")


def duration(seconds: float) -> str:
    """Seconds as a reader says them: ``40 s``, ``12 min``, ``3.5 h``, ``4 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} days"


def tasks() -> list[Task]:
    """Every run that the sheets ask for, in the order of the notebooks."""
    asked = sorted(deliverables.asked_runs(), key=lambda entry: entry["notebook"])
    found = []
    for entry in asked:
        record, damage = _whole(entry["id"])
        task = _task(entry, record)
        found.append(replace(task, state="unreadable", damage=damage) if damage else task)
    return found


def _whole(run_id: str) -> tuple[records.Record | None, str]:
    """The record of a run, or None, and the damage, a sentence where it or its arrays are there and cannot be used."""
    try:
        if (record := records.load(run_id)) is not None:
            record.arrays_path()
        return record, ""
    except records.RecordError as error:
        return None, str(error)


def _task(entry: dict, record: records.Record | None) -> Task:
    run_id = entry["id"]
    begun = any(settings.checkpoint_folder().glob(f"{run_id}-*.pt"))
    if record is not None:
        spent = record["seconds"] if begun or record.complete else 0.0  # a cut run goes on from its checkpoint or begins anew
        device = record["environment"]["device"]
        return Task(entry["notebook"], run_id, record, records.state(record), _whole_seconds(record) - spent, _elsewhere(device))
    state, rate = "begun" if begun else "missing", rates.of(run_id, settings.environment()["device"])
    if rate is None:
        return Task(entry["notebook"], run_id, None, state, None)
    return Task(entry["notebook"], run_id, None, state, rate.seconds, _elsewhere(rate.card))


def _elsewhere(device: str) -> str:
    """The name of a device that a time was measured on; empty where this machine's is of that kind."""
    here = settings.environment()["device"]
    both_cpus = device.startswith("CPU") and here.startswith("CPU")
    return "" if both_cpus or device == here else device.partition(",")[0]


def _whole_seconds(record: records.Record) -> float:
    """What the whole budget takes at the rate that was measured."""
    budget = record["budget"]
    return record["seconds"] * budget["planned"] / max(1, budget["done"])


def status_rows(found: Iterable[Task]) -> Iterator[list[str]]:
    """Rows of the table of all runs: run, state, budget, training left, metric, ours, the sheet's, the target, the bound."""
    asked = {entry["id"]: entry.get("metrics", {}) for entry in deliverables.asked_runs()}
    for task in found:
        metrics = asked[task.run_id] if task.record else {}
        head = [task.run_id, task.state, task.budget, task.left]
        for name, facts in metrics.items() or [("", {})]:
            ours = task.record.metrics.get(name) if task.record else None
            yield [*head, name, *map(tables.number, (ours, facts.get("sheet"), facts.get("target"), facts.get("bound")))]
            head = ["", "", "", ""]


def left_to_do(more: bool) -> dict[str, list[Task]]:
    """Notebook -> its runs without a record or asked for by name; with ``more`` also those whose budget was cut.

    A record of the drawn house numbers counts as none where ``SUITE_HOUSE_NUMBERS`` asks for the photographs.

    Raises:
        SettingError: ``SUITE_RETRAIN`` names a run that there is not.
    """
    wanted = ("missing", "begun", "unreadable", *(("partial",) if more else ()))
    found, everything = {name: [] for name in notebooks.names()}, [*tasks(), *_supporting()]
    if unknown := settings.unknown_retrain(task.run_id for task in everything):
        raise settings.SettingError(f"SUITE_RETRAIN names no run with {', '.join(unknown)}; make status lists the runs")
    for task in everything:
        drawn = task.record is not None and (task.record["dataset"] or {}).get("stands_for") == settings.house_numbers()
        if (task.state in wanted or drawn or settings.asked_again(task.run_id)) and task.notebook in found:
            found[task.notebook].append(task)
    return found


def _supporting() -> Iterator[Task]:
    """Recorded runs that no sheet asks for and others rest upon, such as the classifier behind a distance."""
    for entry in deliverables.supporting_runs():  # another file there is nobody's record and stops nothing
        record, damage = _whole(entry["id"])
        if record is not None or damage:
            state = "unreadable" if damage else "supporting"
            yield Task(entry["notebook"], entry["id"], record, state, None if damage else 0.0, damage=damage)


def train_and_build(*, minutes: float | None = None, more: bool = False) -> bool:
    """Train what is left, then build each notebook whose saved copy is not fresh.

    Args:
        minutes: stop after so many, at a checkpoint that is at most a minute old; the same command goes on from there.
        more: go on with runs whose budget was cut, too.

    Returns:
        Whether everything was reached.

    Raises:
        NotebookError: a notebook's script or cell failed.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    plan = left_to_do(more)
    stale = {name for name in plan if notebooks.check(name, settings.output_folder() / "notebooks").state != "fresh"}
    todo = {name: found for name, found in plan.items() if found or name in stale}
    if not todo:
        print("every run has a record and every notebook is fresh: nothing to do")
        return True
    tables.show(["notebook", "run", "state", "budget", "training left"],
                [[task.notebook, task.run_id, task.state, task.budget, task.left] for found in todo.values() for task in found]
                + [[name, "", "to be built", "", ""] for name in todo])
    for name, found in todo.items():
        if found and not _train(name, [task.run_id for task in found], deadline):
            print(f"{minutes:g} minutes are over in {name}: the same command goes on from its checkpoints")
            return False
        if deadline is not None and time.monotonic() > deadline:
            print(f"{minutes:g} minutes are over before {name} was built: the same command goes on")
            return False
        started = time.monotonic()
        path = notebooks.build(name)
        print(f"{name}: built in {duration(time.monotonic() - started)}, {path.stat().st_size / 2**20:.1f} MiB", flush=True)
    return True


def training_command(asked: list[str]) -> list[str]:
    """The words that train runs by their names, with this Python."""
    return [sys.executable, "-m", "helpers", "--profile", settings.profile(), "train", *asked]


def _train(name: str, asked: list[str], deadline: float | None) -> bool:
    """Train a notebook's runs in a process of its own, with its progress on the terminal; whether it came to its end in time."""
    words, kills = training_command(asked), kernels.kills()
    process = subprocess.Popen(words, cwd=settings.PROJECT_ROOT, start_new_session=True,  # Ctrl-C reaches it once: from here
                               preexec_fn=_heed_interrupts if os.name == "posix" else None)
    try:
        status = process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _interrupt(process)
        return False
    except KeyboardInterrupt:
        _interrupt(process)
        raise
    if status in kernels.KILLED or status < 0:
        raise notebooks.NotebookError(f"the training of {name}: {kernels.cause_of(status, kills)}. Its checkpoints are kept")
    if status:
        raise notebooks.NotebookError(f"the training of {name} ended with status {status}; its message is above, its checkpoints "
                                      "are kept")
    return True


def _heed_interrupts() -> None:
    """In a child: a script that starts the suite in the background has it ignore interrupts, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(process: subprocess.Popen) -> None:
    """What Ctrl-C does, again where it was not heard (an import or a destructor can swallow it), and after a minute the rest."""
    for _ in range(3):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
            return
    process.kill()
    process.wait()
    locks.remove_of(process.pid, settings.checkpoint_folder())


def register(commands) -> None:
    """Add the commands ``status`` and ``full``."""
    commands.add_parser("status", help=status.__doc__).set_defaults(function=status)
    command = commands.add_parser("full", help=full.__doc__)
    command.add_argument("--minutes", type=float, help="stop after so many; the same command goes on")
    command.add_argument("--more", action="store_true", help="go on with runs whose budget was cut, too")
    command.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS",
                         help="train on Ray: this machine's cores and GPUs, or the cluster at an address")
    command.add_argument("--seeds", type=int, default=1, metavar="N", help="with --ray: from N roots of random numbers")
    command.set_defaults(function=full)


def status(arguments) -> int:
    """List every run the sheets ask for: its state, its budget, what is left, and its numbers beside the sheet's."""
    tables.show(["run", "state", "budget", "training left", "metric", "ours", *tables.KNOWN], status_rows(found := tasks()))
    for task in (*found, *_supporting()):
        if task.damage:
            print(f"{task.run_id}: {task.damage}")
    return 0


def full(arguments) -> int:
    """Train every run that has no record (going on from checkpoints) and build the notebooks."""
    if not arguments.profile:
        os.environ["SUITE_PROFILE"] = "full"
    if arguments.ray and not train_on_ray(None if arguments.ray == "local" else arguments.ray, arguments.more, arguments.seeds):
        return 1
    return 0 if train_and_build(minutes=arguments.minutes, more=arguments.more) else 1


def train_on_ray(address: str | None, more: bool, roots: int) -> bool:
    """Train what is left on Ray; whether every run came to its end."""
    from helpers.work import cluster, runs

    wanted = [task.run_id for found in left_to_do(more).values() for task in found]
    if roots > 1:  # every run that has fewer
        wanted = deliverables.run_ids()
    jobs = cluster.train(runs.in_order(wanted), address=address, roots=roots)
    failed = [job for job in jobs if job.state != "done"]
    for job in failed:
        print(f"{job.name}: {job.state}, {job.note}")
    return not failed
