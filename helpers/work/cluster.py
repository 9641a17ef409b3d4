"""The plan on Ray: every run one task, on this machine's cores and cards or on a cluster's.

A task trains one run from one root, with no notebook around it, in a process of its own, and hands its record, arrays and weights
back; the driver alone writes ``results/``. A run waits for those that it rests on. A lost worker is tried again; a real error
ends its run and those that need it, and the others go on. What has come back stays, so the same command goes on after an
interruption.

Checkpoints lie where ``SUITE_OUTPUT`` points if that is set (a folder that all nodes share); else in the node's own temporary
folder, and a run whose node is lost starts again. References: Ray Core, https://docs.ray.io/en/latest/ray-core/walkthrough.html
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers import settings
from helpers.files import write_together
from helpers.results import records
from helpers.work import seeds, sweeps
from helpers.work.definitions import declaration

RETRIES = 3  # of a task whose worker or node was lost
REFRESH_SECONDS = 2.0
NOT_SHIPPED = ["/.git", "/.venv", "/build", "/data", "/figures", "/results", "*.ipynb", "/report.pdf", "__pycache__"]
PASSED_ON = ("SUITE_DATA", "SUITE_HOUSE_NUMBERS", "SUITE_INCEPTION", "SUITE_MINUTES")


class ClusterError(RuntimeError):
    """Ray is not here, or no cluster answers."""

    explained = True


@dataclass
class Job:
    """One training: a run from one root.

    Attributes:
        run_id, root: which.
        state: waiting, running, done, failed or held back (a run that it rests on has failed).
        node, started, seconds: where and when it ran.
        note: the last line of a failure, or what was recorded.
        needs: runs that must be recorded first.
        changes: of the run's configuration, for a sweep.
    """

    run_id: str
    root: int = 0
    state: str = "waiting"
    node: str = ""
    started: float = 0.0
    seconds: float = 0.0
    note: str = ""
    needs: tuple[str, ...] = ()
    changes: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run, the root where it is not the first, and what differs from its configuration."""
        changed = "".join(f", {key}={value}" for key, value in self.changes.items())
        return self.run_id + (f" from root {self.root}" if self.root else "") + changed

    @property
    def folder(self) -> Path:
        """Where the driver keeps its record."""
        if self.changes:
            return sweeps.place_of(self.run_id, self.changes)
        return seeds.folder(self.root) if self.root else settings.output_folder() / "results"


def connect(address: str | None):
    """Start Ray on this machine, or join a cluster; returns the module.

    Raises:
        ClusterError: Ray is not installed, or nobody answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError("Ray is not installed: pip install -r requirements-cluster.txt") from error
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None and not answers(address):  # Ray itself would try for minutes
        raise ClusterError(f"no Ray cluster could be used at {address}: nobody answers there")
    shipped = {"working_dir": str(settings.PROJECT_ROOT), "excludes": NOT_SHIPPED}
    try:
        context = ray.init(address=address, runtime_env=shipped, log_to_driver=False, logging_level="error",
                           ignore_reinit_error=True)
    except Exception as error:  # of a node that does not begin in time Ray raises no narrower one
        where, said = address or "this machine", str(error).strip() or type(error).__name__
        raise ClusterError(f"no Ray cluster could be used at {where}: {said.splitlines()[0]}") from error
    print(f"Ray: {len(ray.nodes())} node{'s' * (len(ray.nodes()) != 1)}, "
          f"{ray.cluster_resources().get('CPU', 0):g} cores, {ray.cluster_resources().get('GPU', 0):g} GPUs; "
          f"dashboard {context.dashboard_url or 'off'}", flush=True)
    return ray


def answers(address: str, seconds: float = 5.0) -> bool:
    """Whether something listens at ``host:port`` or ``ray://host:port``; other words, such as auto, are left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return True
    try:
        with socket.create_connection((host, int(port)), timeout=seconds):
            return True
    except OSError:
        return False


def train_there(run_id: str, root: int, changes: dict, needed: dict[str, bytes], profile: str, environment: dict[str, str],
                shared: str, again: bool, updates: int | None) -> dict:
    """On a worker: train one run in a folder of its own and return its files. It runs in a process that then ends.

    Args:
        run_id, root, changes: which training, see :class:`Job`.
        needed: name -> content of the records, with their arrays, that it rests on.
        profile: of the suite.
        environment: settings of the driver that a worker must share.
        shared: folder that all nodes share, or empty.
        again, updates: see :func:`helpers.work.runs.train_one`.

    Returns:
        files (suffix -> content), node, seconds.
    """
    import tempfile

    base = Path(shared or tempfile.gettempdir()) / "suite-on-ray" / f"{run_id}-{root}-{sweeps.slug_of(changes)}"
    os.environ.update(environment | {"SUITE_PROFILE": profile, "SUITE_OUTPUT": str(base), "SUITE_PROGRESS": "off"})
    started, results = time.perf_counter(), base / "results"
    write_together({results / name: content for name, content in needed.items()})
    for leftover in (path for path in base.rglob(f"{run_id}.*") if path.parent.name != "checkpoints"):  # of an earlier attempt
        leftover.unlink()

    from helpers.work import runs

    record = (sweeps.train_setting(run_id, changes, updates) if changes
              else runs.train_one(run_id, again=again, updates=updates, root=root))
    files = {path.suffix: path.read_bytes() for path in record.path.parent.glob(f"{run_id}.*")}
    return {"files": files, "node": socket.gethostname(), "seconds": time.perf_counter() - started}


def train(run_ids: Sequence[str], *, address: str | None = None, roots: int = 1, again: bool = False,
          updates: int | None = None) -> list[Job]:
    """Train runs on Ray and write their records here.

    Args:
        run_ids: in an order in which needed runs come first, see :func:`helpers.work.runs.in_order`.
        address: of a cluster; by default a Ray of this machine's own.
        roots: of the random numbers, for mean and spread.
        again, updates: see :func:`helpers.work.runs.train_one`.

    Returns:
        One job for each run and root, with its state.

    Raises:
        ClusterError: there is no Ray.
    """
    jobs = [Job(run_id, root, needs=declaration(run_id).needs) for run_id in run_ids for root in range(roots)]
    return carry_out(jobs, address=address, again=again, updates=updates)


def carry_out(jobs: list[Job], *, address: str | None = None, again: bool = False, updates: int | None = None) -> list[Job]:
    """Train jobs on Ray, see :func:`train`; returns them with their states."""
    ray = connect(address)
    remote = ray.remote(max_calls=1, max_retries=RETRIES)(train_there)
    running: dict = {}
    shown = Table(jobs)
    try:
        while any(job.state in ("waiting", "running") for job in jobs):
            for job in jobs:
                if job.state == "waiting" and ready(job, jobs):
                    running[start(ray, remote, job, again, updates)] = job
            finished, _ = ray.wait(list(running), timeout=REFRESH_SECONDS) if running else ([], [])
            for reference in finished:
                finish(ray, reference, running.pop(reference))
            shown.draw(ray)
    except KeyboardInterrupt:
        for reference in running:
            ray.cancel(reference, force=True)
        raise
    finally:
        shown.draw(ray, last=True)
        if address is None:
            ray.shutdown()
    return jobs


def ready(job: Job, jobs: Sequence[Job]) -> bool:
    """Whether all that a job rests on is recorded; a job that rests on a failed one is held back."""
    for needed in job.needs:
        states = [other.state for other in jobs if other.run_id == needed and other.root == 0]
        if any(state in ("failed", "held back") for state in states):
            job.state, job.note = "held back", f"rests on {needed}, which failed"
            return False
        if any(state != "done" for state in states):
            return False
    return True


def start(ray, remote, job: Job, again: bool, updates: int | None):
    """Hand a job to Ray with the resources that its run declares; returns its reference."""
    declared = declaration(job.run_id)
    folder = settings.output_folder() / "results"
    needed = {path.name: path.read_bytes() for name in declared.needs for path in folder.glob(f"{name}.*")}
    resources = {"num_cpus": declared.cores, "memory": int(declared.memory_gb * 2**30)}
    if ray.cluster_resources().get("GPU", 0):
        resources["num_gpus"] = declared.gpu
    environment = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    if "SUITE_DATA" not in environment:
        environment["SUITE_DATA"] = str(settings.data_folder())
    shared = os.environ.get("SUITE_OUTPUT", "") and str(settings.output_folder().resolve())
    job.state, job.started = "running", time.monotonic()
    return remote.options(name=job.name, **resources).remote(
        job.run_id, job.root, job.changes, needed, settings.profile(), environment, shared, again, updates)


def finish(ray, reference, job: Job) -> None:
    """Take a job's record over, or note why it failed; on the driver, which alone writes results."""
    try:
        back = ray.get(reference)
    except Exception as error:  # whatever a run raises is its own end, not that of the others
        text = str(getattr(error, "cause", None) or error).strip()
        job.state, job.note = "failed", text.splitlines()[-1][:200] if text else type(error).__name__
        return
    folder = job.folder
    files = dict(sorted(back["files"].items(), key=lambda item: item[0] == ".json"))  # the record comes last
    write_together({folder / f"{job.run_id}{suffix}": content for suffix, content in files.items()})
    if not job.changes:
        seeds.merge(job.run_id)
    record = records.load(job.run_id, folder)
    job.state, job.node, job.seconds, job.note = "done", back["node"], back["seconds"], record.describe()


class Table:
    """Runs by state: one live table in a terminal, a line an event elsewhere."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs, self.told, self.height, self.live = jobs, {}, 0, sys.stdout.isatty()
        self.started = time.monotonic()

    def draw(self, ray, last: bool = False) -> None:
        """Show what has changed."""
        changed = [job for job in self.jobs if self.told.get(job.name) != job.state]
        self.told |= {job.name: job.state for job in changed}
        if not self.live:
            for job in changed:
                told = [job.state, job.node and f"on {job.node}", job.note]
                print(f"{job.name}: {', '.join(filter(None, told))}", flush=True)
            if last:
                print(self.summary(), flush=True)
            return
        shown = [job for job in self.jobs if job.state != "done"][:20]
        lines = [self.summary(), *(f"  {job.name:<40} {job.state:<10} {self.age(job):>8} {job.note[:60]}" for job in shown)]
        print(f"\x1b[{self.height}F\x1b[J" * bool(self.height) + "\n".join(lines), flush=True)
        self.height = 0 if last else len(lines)

    def age(self, job: Job) -> str:
        """How long a job has been running."""
        return f"{time.monotonic() - job.started:.0f} s" if job.state == "running" else ""

    def summary(self) -> str:
        """Numbers of jobs by state, rate, and an estimate of the time left."""
        states = [job.state for job in self.jobs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        done, elapsed = states.count("done"), time.monotonic() - self.started
        left = states.count("waiting") + states.count("running")
        rest = f"; {3600 * done / elapsed:.3g} an hour, about {left * elapsed / done / 60:.0f} min left" if done and left else ""
        return f"{counts}{rest}"
