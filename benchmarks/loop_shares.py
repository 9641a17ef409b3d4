"""Where the time of a training step goes, on the main model of each notebook: model, optimiser, data, the loop itself.

Each run function is started as its notebook starts it (the recorded configuration, the real data) and stopped after a few
seconds of training. What is timed: the optimiser between PyTorch's step hooks, the data inside ``Batches.at``, the model
(forward, loss, backward, averages) as what is left of the update, the loop as what is left of ``fit``. On the CPU nothing
runs behind our back, so wall-clock times add up.

Beside it, an estimate for a card that is not here, a T4 (Colab's free GPU: 65 Tflop/s in half precision, 8.1 in single, 15 GiB):
the operations of one step are counted, and its floating-point operations; a step takes the longer of 8 microseconds a launch
and of a quarter of the peak rate. Memory is what a step allocates at most, with weights, optimiser and resident data.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress

import torch
from torch import Tensor
from torch.optim import optimizer as optimizers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import peak_megabytes
from helpers import settings
from helpers.data import datasets
from helpers.publish import notebooks
from helpers.results import records
from helpers.suite import Run
from helpers.train import training

MAIN_RUNS = ("q1_a_dset1", "mila_p1_vae", "q2_a_dset2", "q3_dset2", "mila_p3_data_arcs_k32", "cifar10_jsd_1")


T4_RATES = {"float32": 8.1e12 / 4, "half": 65e12 / 4}  # operations a second, a quarter of the card's peak
LAUNCH_SECONDS = 8e-6


class OperationCount(TorchDispatchMode):
    """Counts the operations that reach the device: a GPU launches about one kernel for each."""

    number = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.number += 1
        return function(*arguments, **(options or {}))


class Enough(Exception):
    """Raised in place of what a run function does after its training."""


def measure(seconds: float = 10.0) -> list[dict]:
    """A row for each main run that can be started here: shares of model, optimiser, data and loop, and steps a second."""
    rows = []
    for run_id in MAIN_RUNS:
        record = records.load(run_id, settings.PROJECT_ROOT / "results")
        if record is None:
            print(f"{run_id}: not recorded, so its configuration is not known")
            continue
        try:
            rows.append({"run": run_id, "notebook": record["notebook"], **shares(record, seconds)})
        except (datasets.DataError, records.RecordError, ImportError) as error:
            print(f"{run_id}: {error}")
    return rows


def shares(record: records.Record, seconds: float) -> dict:
    """Train a run for some seconds and say where they went."""
    notebook, spent, found = notebooks.definitions(record["notebook"]), Counter(), {}
    run = Run(record.id, record["seed"], "not saved", None)

    def timed(name: str, function):
        def call(*arguments, **options):
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - started

        return call

    def fit(update, batches, **options):
        update_type = type(update)
        warm_up = {"steps": min(options["steps"], 20), "seed": options["seed"]}
        training.fit(update, batches, **warm_up)
        original_call, original_at = update_type.__call__, batches.at
        update_type.__call__, batches.at = timed("update", original_call), timed("data", original_at)
        hooks = [optimizers.register_optimizer_step_pre_hook(lambda *_: spent.subtract({"optimiser": time.perf_counter()})),
                 optimizers.register_optimizer_step_post_hook(lambda *_: spent.update({"optimiser": time.perf_counter()}))]
        try:
            history = timed("fit", training.fit)(update, batches, steps=options["steps"], seed=options["seed"],
                                                 time_budget=seconds)
        finally:
            update_type.__call__, batches.at = original_call, original_at
            for hook in hooks:
                hook.remove()
        found["steps_per_second"] = history.done / spent["fit"]
        found.update(cost_of_a_step(update, batches, options["steps"]))
        raise Enough

    notebook.fit = fit
    with suppress(Enough):
        getattr(notebook, record["function"])(run, **record["config"])
    whole = spent["fit"]
    parts = {"optimiser": spent["optimiser"], "data": spent["data"], "model": spent["update"] - spent["optimiser"]}
    parts["loop"] = whole - sum(parts.values())
    return found | {name: value / whole for name, value in parts.items()}


def cost_of_a_step(update, batches: training.Batches, steps: int) -> dict:
    """Operations, floating-point operations and memory of one step, and what they say of a T4."""
    noise = torch.Generator(batches.tensors[0].device).manual_seed(0)
    with OperationCount() as operations, FlopCounterMode(display=False) as flops:
        update(batches.at(0), 0, noise)
    resident = 2 * sum(tensor.nbytes for tensor in batches.tensors) + sum(map(_bytes, update.state_dict().values()))
    memory = peak_megabytes(lambda: update(batches.at(0), 0, noise))[0] + resident / 2**20
    half = getattr(update, "half_type", None) is not None or hasattr(update, "half")
    seconds = max(LAUNCH_SECONDS * operations.number, flops.get_total_flops() / T4_RATES["half" if half else "float32"])
    return {"operations": operations.number, "gigaflop": flops.get_total_flops() / 1e9, "memory_megabytes": memory,
            "t4_minutes": steps * seconds / 60}


def _bytes(state) -> int:
    """Memory of the tensors somewhere in a state."""
    if isinstance(state, Tensor):
        return state.nbytes
    children = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(map(_bytes, children))
