"""One run from several roots of its random numbers: ``python -m helpers train ID --seeds N``.

The run's own record comes from root 0. The others are kept as ``results/seeds/<root>/<id>.json``, numbers alone; its record then
holds mean, deviation and number over all roots, and what each root gave.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers import settings
from helpers.files import write_together
from helpers.results import records
from helpers.results.records import Record

SAME = ("config", "profile", "source", "rests_on")  # what a repetition shares; a field may be empty in one and missing in another


def folder(root: int) -> Path:
    """Where the records from a root other than 0 are kept."""
    return settings.output_folder() / "results" / "seeds" / str(root)


def repetitions(record: Record) -> list[Record]:
    """The records of the same run, code and budget from other roots, in the order of the roots."""
    found = []
    for path in sorted(folder(0).parent.glob(f"*/{record.id}.json"), key=lambda path: int(path.parent.name)):
        other = Record(path)
        same = all((other.content.get(key) or None) == (record.content.get(key) or None) for key in SAME)
        if same and other["budget"] == record["budget"] and other["seed"] != record["seed"]:
            found.append(other)
    return found


def merge(run_id: str) -> Record | None:
    """Write mean and spread over all roots into the record of a run; returns it, or None where there is none.

    The record keeps what each root gave as ``repeats``: root -> metrics, spread, seeds. Merging again changes nothing.
    """
    record = records.load(run_id)
    if record is None:
        return None
    own = record.content.get("repeats", {}).get(str(record["seed"])) or _part(record)
    others = {str(other["seed"]): _part(other) for other in repetitions(record)}
    parts = {str(record["seed"]): own, **others}
    content = {key: value for key, value in record.content.items() if key != "repeats"} | own
    if others:
        content["repeats"] = parts
        content["seeds"] = [seed for part in parts.values() for seed in part["seeds"]]
        content["spread"] = {name: pooled([part["metrics"][name] for part in parts.values()],
                                          [part["spread"][name] for part in parts.values()]) for name in own["metrics"]}
        content["metrics"] = {name: content["spread"][name].pop("mean") for name in own["metrics"]}
    if content != record.content:
        write_together({record.path: records.json_bytes(content)})
    return Record(record.path)


def _part(record: Record) -> dict:
    return {"metrics": record.metrics, "spread": record.spread, "seeds": record["seeds"]}


def pooled(means: list[float], spreads: list[dict]) -> dict:
    """Mean, standard deviation, least, greatest and number of all values of several groups.

    Args:
        means: of the groups.
        spreads: std (with n - 1 in the denominator), min, max and n of each.
    """
    numbers, deviations = (np.array([spread[key] for spread in spreads], dtype=float) for key in ("n", "std"))
    total, centres = numbers.sum(), np.array(means)
    mean = float(numbers @ centres / total)
    squares = ((numbers - 1) * deviations**2).sum() + (numbers * (centres - mean) ** 2).sum()
    return {"mean": mean, "std": float(np.sqrt(squares / (total - 1))) if total > 1 else 0.0,
            "min": min(spread["min"] for spread in spreads), "max": max(spread["max"] for spread in spreads), "n": int(total)}
