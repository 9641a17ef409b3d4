"""Learning-rate factors as functions of the step: nothing to save, nothing to resume."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi


def one_cycle(steps: int, *, warm_up: float = 0.3, start: float = 0.04, end: float = 1e-4) -> Callable[[int], float]:
    """Learning-rate factor that rises from ``start`` to 1 over a share ``warm_up`` of the steps, then falls to ``end``.

    Both parts are half cosines. References: Smith and Topin, super-convergence, arXiv:1708.07120.
    """
    peak = max(1, round(warm_up * steps))

    def factor(step: int) -> float:
        low, place = (start, 1 - step / peak) if step < peak else (end, (step - peak) / max(1, steps - peak))
        return low + (1 - low) * 0.5 * (1 + cos(pi * min(place, 1.0)))

    return factor


def cosine(steps: int, *, warm_up_steps: int = 0, end: float = 0.0) -> Callable[[int], float]:
    """Learning-rate factor: a linear warm-up, then a half cosine from 1 to ``end``. References: arXiv:1608.03983."""

    def factor(step: int) -> float:
        if step < warm_up_steps:
            return (step + 1) / warm_up_steps
        place = min(1.0, (step - warm_up_steps) / max(1, steps - warm_up_steps))
        return end + (1 - end) * 0.5 * (1 + cos(pi * place))

    return factor
