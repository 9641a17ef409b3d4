"""Ray for runs of a second: what a task costs beside a process of its own for each run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version

from benchmarks.common import row, time_alternating
from helpers import settings
from helpers.work import cluster

RUN = "q1_a_dset1"  # at the smallest profile: about a second of training
ROOTS = 8


def measure(repetitions: int) -> list[dict]:
    """Rows: a start of Ray with its runs, and further runs on the same Ray, against one process after another.

    Each side trains the same runs, from the same roots, and writes the same records.
    """
    kept = {name: os.environ.get(name) for name in ("SUITE_PROFILE", "SUITE_OUTPUT", "SUITE_PROGRESS", "OMP_NUM_THREADS")}
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        os.environ |= {"SUITE_PROFILE": "smoke", "SUITE_OUTPUT": folder, "SUITE_PROGRESS": "off", "OMP_NUM_THREADS": "1"}
        try:
            rows = [_compared("its start and end included", with_start=True, repetitions=repetitions),
                    _compared("Ray at work already", with_start=False, repetitions=repetitions)]
        finally:
            for name, value in kept.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
    return rows


def _compared(remark: str, *, with_start: bool, repetitions: int) -> dict:
    import ray

    if not with_start:
        ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        address = None if with_start else ray.get_runtime_context().gcs_address
        ours, theirs = time_alternating(lambda: _on_ray(address), _one_by_one, repetitions=min(repetitions, 3))
    finally:
        ray.shutdown()
    return row(f"{RUN} at smoke from {ROOTS} roots on Ray, {os.cpu_count()} cores, {remark}", "one process after another",
               ROOTS / ours, ROOTS / theirs, "runs/s", peer_version=f"Ray {version('ray')}")


def _on_ray(address: str | None) -> None:
    jobs = cluster.train([RUN], address=address, roots=ROOTS, again=True)
    assert all(job.state == "done" for job in jobs), jobs


def _one_by_one() -> None:
    command = [sys.executable, "-m", "helpers", "--profile", "smoke", "train", RUN, "--again", "--root"]
    for root in range(ROOTS):
        subprocess.run([*command, str(root)], cwd=settings.PROJECT_ROOT, check=True, stdout=subprocess.DEVNULL)
