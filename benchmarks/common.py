"""Timing two sides of a comparison fairly: in one process, in turn, with a warm-up, and by medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


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


def row(what: str, peer: str, ours: float, theirs: float, unit: str, *, peer_version: str = "", aim: float | None = None) -> dict:
    """One line of the table: rates of both sides (higher is faster) and their ratio.

    Args:
        what: what was timed, with its sizes.
        peer: whom against.
        ours, theirs: rates, in ``unit``.
        aim: the ratio that is aimed at, if any.
    """
    return {"what": what, "peer": peer, "peer_version": peer_version, "ours": ours, "theirs": theirs, "unit": unit,
            "ratio": ours / theirs, "aim": aim}
