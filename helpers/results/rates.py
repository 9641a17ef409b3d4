"""What ``python -m benchmarks rates`` measured on cards: updates a second and peak memory of the main runs."""

from __future__ import annotations

import json
from dataclasses import dataclass

from helpers import settings


@dataclass(frozen=True)
class Rate:
    """One run on one card.

    Attributes:
        run_id, card: which.
        updates_per_second: of its training.
        planned: updates of its whole budget, all its stages.
        peak_megabytes: of the card's memory, 2^20 bytes each.
    """

    run_id: str
    card: str
    updates_per_second: float
    planned: int
    peak_megabytes: float

    @property
    def seconds(self) -> float:
        """What the whole budget takes."""
        return self.planned / self.updates_per_second


def measured() -> list[Rate]:
    """Every rate that was measured, by the names of cards and runs."""
    found = []
    for path in sorted((settings.PROJECT_ROOT / "benchmarks" / "results").glob("rates_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found += [Rate(row["run"], content["machine"]["device"], row["updates_per_second"], row["planned"], row["peak_megabytes"])
                  for row in content["rows"]]
    return sorted(found, key=lambda rate: (rate.card, rate.run_id))


def of(run_id: str, device: str = "") -> Rate | None:
    """The rate of a run: on the device of that name if it was measured there, else on any card; None where on none."""
    theirs = [rate for rate in measured() if rate.run_id == run_id]
    return next((rate for rate in theirs if rate.card == device), theirs[0] if theirs else None)
