"""Updates a second and peak memory of the main runs on the device at hand: ``python -m benchmarks rates``.

Each run is started as ``python -m helpers train`` starts it, at the sheet's setting, trained for a moment that is not timed
(kernels are chosen, graphs are recorded), then for some seconds that are. The card's name stands in the file's name;
``make status`` estimates from these rates where a run has no record of its own.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import torch

from benchmarks.common import peak_megabytes
from helpers import settings
from helpers.suite import Run
from helpers.train import training
from helpers.work import definitions

MAIN_RUNS = ("q1_a_dset1", "b19_1b", "mit_p3_analytic", "haifa_q1", "mila_p1_vae", "mila_p3_flow_posterior", "q2_a_dset2",
             "q2_b_dset2", "b19_2a", "b19_2b", "b19_3_bonus", "q3_dset2", "mila_p3_data_arcs_k32", "cifar10_smallnet",
             "cifar10_jsd_1", "cifar10_jsd_2", "cifar10_jsd_3", "cifar10_w1_2", "cifar10_w1_3")
WARM_UP = 30  # steps


class Enough(Exception):
    """Raised in place of what a run function does after its training."""


def measure(seconds: float = 3.0, run_ids: tuple[str, ...] = MAIN_RUNS) -> list[dict]:
    """A row for each run that can be started here: updates a second, seconds of the whole, peak memory in MiB."""
    rows = []
    for run_id in run_ids:
        started = time.perf_counter()
        try:
            rows.append({"run": run_id, **rate(run_id, seconds)})
        except Exception as error:  # one that cannot be measured does not cost the others
            print(f"{run_id}: {type(error).__name__}: {error}", flush=True)
            continue
        row = rows[-1]
        print(f"{run_id}: {row['updates_per_second']:.4g} updates/s, {row['planned']:,} in all, {row['peak_megabytes']:.0f} MiB; "
              f"measured in {time.perf_counter() - started:.1f} s", flush=True)
    return rows


def rate(run_id: str, seconds: float) -> dict:
    """Train a run's first stage for some seconds; updates a second, planned updates and peak memory."""
    declared, found = definitions.declaration(run_id), {}
    module = sys.modules[declared.function.__module__]

    def fit(update, batches, *, steps: int, seed: int, **options) -> None:
        training.fit(update, batches, steps=min(steps, WARM_UP), seed=seed)
        peak = peak_megabytes(lambda: update(batches.at(0), 0, torch.Generator(batches.tensors[0].device).manual_seed(0)))[0]
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        history = training.fit(update, batches, steps=steps, seed=seed, time_budget=seconds)
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        found.update(updates_per_second=history.done / history.seconds, planned=steps, peak_megabytes=peak)
        raise Enough

    original, module.fit = module.fit, fit
    run = Run(run_id, 0, "not saved", None, needs=declared.needs)
    try:
        with suppress(Enough):
            declared.function(run, **declared.config(settings.profile()))
    finally:
        module.fit = original
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found
