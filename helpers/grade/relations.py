"""Where the arrays of a run hold its metrics: found in the records of the suite, asked of every copy.

Three kinds, from strict to loose: ``seeds`` (mean, deviation, least and greatest of a row over the seeds are the metric's),
``value`` (an entry is the metric), ``end`` (the last row of a test curve is the metric but for the noise of evaluating again).
A relation is kept where most records of the same function have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

EXACT, LOOSE = 1e-6, 0.03
MOST_COLUMNS, MOST_VALUES = 64, 2_000_000
NO_TEST_CURVE = frozenset({"train", "data", "noise", "samples", "true", "loss"})  # words in the names of other arrays
SMALLEST, SMALLEST_AT_THE_END = 1e-6, 1e-3  # below them, a number is found by chance
Relation = tuple[str, str, str, tuple, float]  # kind, metric, array, index (None for the seeds' axis), sign


def candidates(record: Mapping, arrays: Mapping[str, np.ndarray]) -> list[Relation]:
    """Every relation that one record has."""
    found = []
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not 0 < array.size <= MOST_VALUES or array.dtype.itemsize < 4:
            continue
        values = array.astype(np.float64)
        for metric, value in record["metrics"].items():
            spread = record["spread"][metric]
            if spread["n"] > 1 and max(abs(spread["min"]), abs(spread["max"])) > SMALLEST:
                found += [("seeds", metric, name, *place) for place in _rows(values, value, spread)]
            elif spread["n"] == 1:
                found += [("value", metric, name, *place) for place in _entries(values, value)]
        if array.ndim > 1 and array.dtype.kind == "f" and name != "terms" and not NO_TEST_CURVE & set(name.split("_")):
            found += _ends(name, values, record)
    return found


def _rows(values: np.ndarray, mean: float, spread: Mapping) -> Iterable[tuple]:
    """Where a row over the seeds has this mean and spread."""
    for axis, size in enumerate(values.shape):
        if size != spread["n"]:
            continue
        rows = np.moveaxis(values, axis, -1)
        near = np.isclose(rows.min(-1), spread["min"], rtol=1e-5, atol=1e-12)
        for index in np.argwhere(near)[:50]:
            row = rows[tuple(index)]
            for sign in (1.0, -1.0):
                if fits_seeds(row, sign, mean, spread):
                    yield _from_the_end(index, [*values.shape[:axis], *values.shape[axis + 1 :]], axis), sign
        near = np.isclose(-rows.max(-1), spread["min"], rtol=1e-5, atol=1e-12)
        for index in np.argwhere(near)[:50]:
            if fits_seeds(rows[tuple(index)], -1.0, mean, spread):
                yield _from_the_end(index, [*values.shape[:axis], *values.shape[axis + 1 :]], axis), -1.0


def _from_the_end(index: np.ndarray, sizes: list[int], axis: int | None) -> tuple:
    """An index with last places counted from the end, and None at the axis of the seeds."""
    places: list = [int(place) - size if place == size - 1 else int(place) for place, size in zip(index, sizes, strict=True)]
    if axis is not None:
        places.insert(axis, None)
    return tuple(places)


def _entries(values: np.ndarray, value: float) -> Iterable[tuple]:
    """Where the last row of an array, or a small array, has this value."""
    if value == round(value) and values.ndim < 2:
        return  # a whole number is found by chance
    last = values[-1:] if values.ndim > 1 else values
    for sign in (1.0, -1.0):
        if last.size <= MOST_COLUMNS:
            for index in np.argwhere(np.isclose(sign * last, value, rtol=EXACT, atol=0)):
                yield _from_the_end(index, list(last.shape), None), sign
        if values.ndim == 2 and values.size <= MOST_COLUMNS and values.shape[1] > 1:
            for row in np.flatnonzero(np.isclose(sign * values, value, rtol=EXACT, atol=0).any(axis=1)):
                yield (int(row) - len(values) if row == len(values) - 1 else int(row), None), sign  # the seed that was kept


def _ends(name: str, values: np.ndarray, record: Mapping) -> Iterable[Relation]:
    """Where the last row of a curve is near a metric: of one seed, or of several where the curve is a test's by its name."""
    last = values[-1]
    if last.size > MOST_COLUMNS or len(values) < 3:
        return
    for metric, value in record["metrics"].items():
        tested = name.startswith(("test_", "valid_")) and not metric.startswith("train")
        if abs(value) < SMALLEST_AT_THE_END or not (record["spread"][metric]["n"] == 1 or tested):
            continue
        for index in np.argwhere(np.abs(last - value) <= LOOSE * abs(value)):
            yield "end", metric, name, (-1, *map(int, index)), 1.0


def common(found: list[list[Relation]], metrics: list[Iterable[str]]) -> list[Relation]:
    """The relations that most records of a function have, those of a metric in one array once, loose ones only where there
    is no strict one.

    Args:
        found: the candidates of each record.
        metrics: the metrics of each record.
    """
    counts = Counter(relation for relations in found for relation in set(relations))
    having = Counter(metric for names in metrics for metric in names)
    kept: dict[tuple, Relation] = {}
    for relation, count in sorted(counts.items(), key=lambda item: (-item[1], -_shared_words(item[0]), str(item[0]))):
        kind, metric, array, *_ = relation
        if 2 * count <= having[metric]:
            continue
        key = (metric, array) if kind != "end" else (metric,)
        kept.setdefault((kind != "end", *key), relation)
    strict = {relation[1] for relation in kept.values() if relation[0] != "end"}
    return sorted(relation for relation in kept.values() if relation[0] != "end" or relation[1] not in strict)


def _shared_words(relation: Relation) -> int:
    return len(set(relation[1].split("_")) & set(relation[2].split("_")))


def fits_seeds(row: np.ndarray, sign: float, mean: float, spread: Mapping, tolerance: float = 1e-5) -> bool:
    """Whether values over the seeds have a metric's mean, deviation, least and greatest."""
    row = sign * np.asarray(row, dtype=np.float64)
    scale = max(abs(mean), float(np.abs(row).max(initial=0)), 1e-12)
    deviation = float(row.std(ddof=1)) if row.size > 1 else 0.0
    pairs = [(row.mean(), mean), (row.min(), spread["min"]), (row.max(), spread["max"]), (deviation, spread["std"])]
    return all(abs(one - other) <= tolerance * scale for one, other in pairs)


def broken(relation: Relation, metrics: Mapping, spreads: Mapping, arrays: Mapping[str, np.ndarray]) -> str | None:
    """A sentence where a copy does not have a relation; None where it has, or where one of its sides is not there."""
    kind, metric, name, index, sign = relation
    if metric not in metrics or name not in arrays:
        return None
    values, value = np.asarray(arrays[name], dtype=np.float64), metrics[metric]
    place = tuple(slice(None) if part is None else part for part in index)
    try:
        there = sign * (values[place] if place else values)
        # A training may keep its best state and not its last: any row of the curve will do.
        rows = sign * values[(slice(None), *place[1:])] if index and index[0] == -1 and values.ndim > 1 else there
    except IndexError:
        return f"{name} has no place for {metric}"
    if kind == "seeds":
        if not fits_seeds(there, 1.0, value, spreads[metric]):
            return f"mean and spread of {metric} are not those of the {np.size(there)} seeds in {name}"
    elif kind == "value":
        if not np.isclose(rows, value, rtol=1e-5, atol=1e-12).any():
            return f"{metric} = {value:.6g} is not what {name} ends with, {_shown(there)}"
    else:
        slack = LOOSE * max(abs(value), SMALLEST_AT_THE_END)
        if not (rows.min() - slack <= value <= rows.max() + slack):
            return f"{metric} = {value:.6g} is not on its own curve {name}, which ends with {_shown(there)}"
    return None


def _shown(values: np.ndarray) -> str:
    flat = np.ravel(values)
    return f"{flat[0]:.6g}" if flat.size == 1 else f"one of {flat.size} values"
