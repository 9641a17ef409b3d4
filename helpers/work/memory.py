"""Whether a card has the memory that runs need, asked before any of them is trained."""

from __future__ import annotations

from collections.abc import Sequence

from helpers import settings
from helpers.results import rates
from helpers.work.definitions import declaration

CONTEXT = 512.0  # MiB: CUDA's own share of a process, beside its tensors
RESERVE = 1.25  # on what was measured: other cards choose other kernels, and the allocator keeps blocks


def needed(run_id: str) -> tuple[float, str]:
    """MiB of a card that a run needs, and how that is known."""
    rate = rates.of(run_id)
    if rate is not None:
        return RESERVE * rate.peak_megabytes + CONTEXT, f"measured on {rate.card}"
    return 1024 * declaration(run_id).memory_gb, "declared in RUNS"


def check(run_ids: Sequence[str]) -> None:
    """Say before anything is trained that the card's memory is too small for a run. On a CPU there is nothing to say.

    Raises:
        SettingError: for the first run that does not fit, with what it needs, what is free and what to do.
    """
    device = settings.device()
    if device.type != "cuda":
        return
    import torch

    free, whole = (size / 2**20 for size in torch.cuda.mem_get_info(device))
    for run_id in run_ids:
        wanted, source = needed(run_id)
        if wanted > free:
            name = torch.cuda.get_device_name(device)
            remedy = "train on a larger card" if wanted > whole else "end what else uses it"
            raise settings.SettingError(f"{run_id} needs about {wanted:,.0f} MiB of the GPU's memory ({source}), and {free:,.0f} "
                                        f"of {whole:,.0f} MiB of {name} are free: {remedy}, or set SUITE_DEVICE=cpu")
