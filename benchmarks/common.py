"""Timing two sides of a comparison fairly: in one process, in turn, with a warm-up, and by medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def time_alternating(ours: Callable[[], object], theirs: Callable[[], object], repetitions: int,
                     warm_up: int = 1) -> tuple[float, float]:
    """Median seconds of each side; the sides take turns, so that a busy moment of the machine hits both.

    Args:
        ours, theirs: do the same amount of work when called.
        repetitions: timed calls of each.
        warm_up: calls of each that are not timed.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for repetition in range(-warm_up, repetitions):
        for side, times in zip((ours, theirs), seconds, strict=True):
            started = time.perf_counter()
            side()
            if repetition >= 0:
                times.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def peak_megabytes(*calls: Callable[[], object]) -> list[float]:
    """For each call, the most memory (MiB) that the tensors it made held at one time; what was there before is not counted."""
    peaks = []
    for call in calls:
        if torch.cuda.is_available():
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            call()
            peaks.append((torch.cuda.max_memory_allocated() - before) / 2**20)
            continue
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            call()
        events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
        live = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            live += event.nbytes()
            peak = max(peak, live)
        peaks.append(peak / 2**20)
    return peaks


def row(what: str, peer: str, ours: float, theirs: float, unit: str, *, peer_version: str = "", aim: float | None = None,
        peaks: list[float] | None = None) -> dict:
    """One line of the table: rates of both sides (higher is faster) and their ratio.

    Args:
        what: what was timed, with its sizes.
        peer: whom against.
        ours, theirs: rates, in ``unit``.
        aim: the ratio that is aimed at, if any.
        peaks: memory of both sides, from :func:`peak_megabytes`.
    """
    return {"what": what, "peer": peer, "peer_version": peer_version, "ours": ours, "theirs": theirs, "unit": unit,
            "ratio": ours / theirs, "aim": aim, "peak_megabytes": peaks}
