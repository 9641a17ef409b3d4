"""Where things are and how much work to do: folders, profiles, device. Everything else asks here.

Environment variables (all optional; relative folders are within the project):

======================= ==========================================================================================
``SUITE_PROFILE``       ``smoke``, ``quick`` or ``full``; by default ``full`` with a GPU and ``quick`` without
``SUITE_DATA``          folder of downloads and decoded caches; by default ``data/`` in the project
``SUITE_OUTPUT``        folder that gets ``results/``, ``figures/`` and ``notebooks/``; by default the project
                        for ``full`` and ``build/<profile>/`` for the smaller profiles
``SUITE_INCEPTION``     file with the Inception weights of torch-fidelity, where they are not in its cache
``SUITE_DEVICE``        ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; by default a GPU where there is one
``SUITE_HOUSE_NUMBERS`` ``svhn``, the photographs (the default of ``full``), or ``street_digits``, drawn in their place (that
                        of the smaller profiles, which need no download)
``SUITE_RETRAIN``       run ids (comma separated, ``*`` allowed) to train although a record exists
``SUITE_MINUTES``       time budget of one run, over all sittings of its training; a run that hits it stops at a
                        checkpoint and its record says so
``SUITE_PROGRESS``      ``off`` turns progress bars off
======================= ==========================================================================================
"""

from __future__ import annotations

import ctypes
import fnmatch
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

if os.environ.get("SUITE_INCEPTION", "").startswith("~"):  # a notebook reads it as it is
    os.environ["SUITE_INCEPTION"] = os.path.expanduser(os.environ["SUITE_INCEPTION"])

PROJECT_ROOT = Path(__file__).resolve().parent.parent
HOUSE_NUMBERS = ("street_digits", "svhn")
PROFILES = ("smoke", "quick", "full")  # from smallest to largest; a smaller one never overwrites a larger one's results


class SettingError(ValueError):
    """A setting has a value that is not among the known ones."""

    explained = True  # the message says what to mend: the command line shows it alone


def cuda_is_available() -> bool:
    """Whether PyTorch can be imported and sees a GPU (the grade runs where there is no PyTorch)."""
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def profile() -> str:
    """The profile in force: ``smoke`` (seconds), ``quick`` (CPU minutes, no downloads) or ``full`` (the sheets' budgets)."""
    name = os.environ.get("SUITE_PROFILE") or ("full" if cuda_is_available() else "quick")
    if name not in PROFILES:
        raise SettingError(f"SUITE_PROFILE={name!r} is unknown; the profiles are {', '.join(PROFILES)}")
    return name


def data_folder() -> Path:
    """Folder of downloads and decoded caches."""
    return named_path("SUITE_DATA") or PROJECT_ROOT / "data"


def named_path(variable: str) -> Path | None:
    """The path that an environment variable names (``~`` is the home folder, a relative one is within the project), or None."""
    text = os.environ.get(variable)
    return PROJECT_ROOT / Path(text).expanduser() if text else None


def output_folder() -> Path:
    """Folder that holds ``results/``, ``figures/`` and executed ``notebooks/`` of the profile in force."""
    if (chosen := named_path("SUITE_OUTPUT")) is not None:
        return chosen
    return PROJECT_ROOT if profile() == "full" else PROJECT_ROOT / "build" / profile()


def checkpoint_folder() -> Path:
    """Folder of checkpoints (never in git): on the same disk as the outputs, apart from them."""
    return (PROJECT_ROOT if output_folder() == PROJECT_ROOT else output_folder()) / "build" / "checkpoints"


def time_budget_seconds() -> float | None:
    """Seconds that one run may train, all its sittings together, or None for no limit."""
    text = os.environ.get("SUITE_MINUTES")
    if not text:
        return None
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not minutes > 0:
        raise SettingError(f"SUITE_MINUTES={text!r} is not a positive number of minutes")
    return 60.0 * minutes


def device():
    """The ``torch.device`` to train on."""
    import torch

    apple = torch.backends.mps.is_available()
    name = os.environ.get("SUITE_DEVICE") or ("cuda" if torch.cuda.is_available() else "mps" if apple else "cpu")
    known = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())] + ["mps"] * apple
    if name not in known and not (name == "cuda" and len(known) > 1):
        raise SettingError(f"SUITE_DEVICE={name!r} is not on this machine; the devices are {', '.join(known)}")
    return torch.device(name)


def environment() -> dict:
    """Versions and device of this process, for records and notebooks."""
    import numpy as np
    import torch

    chosen = device()
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "device": name}


def house_numbers() -> str:
    """The data set of the questions that ask for SVHN: at ``full`` the photographs, else drawn ones, which need no download."""
    name = os.environ.get("SUITE_HOUSE_NUMBERS") or ("svhn" if profile() == "full" else "street_digits")
    if name not in HOUSE_NUMBERS:
        raise SettingError(f"SUITE_HOUSE_NUMBERS={name!r} is unknown; the house numbers are {', '.join(HOUSE_NUMBERS)}")
    return name


def asked_again(run_id: str) -> bool:
    """Whether a run is to be trained although it has a record."""
    return any(fnmatch.fnmatch(run_id, pattern) for pattern in _retrain())


def unknown_retrain(run_ids: Iterable[str]) -> list[str]:
    """The patterns of ``SUITE_RETRAIN`` that none of the given runs matches."""
    run_ids = list(run_ids)
    return [pattern for pattern in _retrain() if not fnmatch.filter(run_ids, pattern)]


def _retrain() -> list[str]:
    return [pattern.strip() for pattern in os.environ.get("SUITE_RETRAIN", "").split(",") if pattern.strip()]


def show_progress() -> bool:
    """Whether progress bars are drawn: in a terminal or a live notebook, unless turned off."""
    return os.environ.get("SUITE_PROGRESS", "on") != "off" and (sys.stdout.isatty() or "ipykernel" in sys.modules)


def half_precision(device) -> str:
    """The precision in which convolutions of a device are quickest: "bfloat16", "float16" on older GPUs, or "float32".

    Args:
        device: a ``torch.device``.
    """
    import torch

    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    quick = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bfloat16" if quick else "float32"


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks for the next step instead of handing them back to the system.

    A training step frees and asks for the same activations again and again; handed back, each page is faulted in anew,
    which costs a CPU half of its time on models of medium size. Does nothing where the C library is another one.
    """
    if sys.platform != "linux":
        return
    try:
        library = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
        library.mallopt(mmap_threshold, 1 << 30)
        library.mallopt(trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        return
