"""Whether what a record says of a run holds together: small checks, each with the sentence that it gives.

A program can forge every number; these checks find what does not fit, and ask for no trust in the copy. Each takes a
:class:`Case` and gives sentences: those of :data:`FAULTS` fail the run, those of :data:`DOUBTS` leave it to a person, in part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from helpers.grade import origin, pictures, reference, relations
from helpers.grade.case import Case
from helpers.grade.submission import Submission
from helpers.results import deliverables
from helpers.work.seeds import pooled

MOST_SENTENCES = 12
NOISE_OF_A_KL = 0.02  # nats, or bits per dimension
DIMENSIONS = (2, 28 * 28, 3 * 32 * 32)  # of the plane, of a digit, of a colour image


def totals_are_sums(case: Case) -> Iterable[str]:
    """-ELBO is reconstruction plus KL, in nats and in bits, and a KL is the sum of its levels."""
    theirs = case.facts.get("record", {}).get("metrics", {})
    for total, parts in _sums(case.record.metrics):
        if total in theirs and set(parts) <= theirs.keys() and not _adds_up(theirs, total, parts):
            continue  # another kind of total that has such names
        if not _adds_up(case.record.metrics, total, parts):
            values = " + ".join(f"{case.record.metrics[part]:.6g}" for part in parts)
            yield f"{total} = {case.record.metrics[total]:.6g} is not {' + '.join(parts)} = {values}"


def _sums(metrics: Mapping[str, float]) -> Iterable[tuple[str, list[str]]]:
    for total in metrics:
        options = [[f"{total}_z1", f"{total}_z2"]]
        if "neg_elbo" in total:
            options.append([total.replace("neg_elbo", part) for part in ("recon", "kl")])
        if total.endswith("bpd"):
            options.append([f"{total.removesuffix('bpd')}{part}_bpd" for part in ("recon", "kl")])
        yield from ((total, parts) for parts in options if set(parts) <= metrics.keys())


def _adds_up(metrics: Mapping[str, float], total: str, parts: list[str]) -> bool:
    scale = max(1e-3, *(abs(metrics[name]) for name in (total, *parts)))
    return abs(metrics[total] - sum(metrics[part] for part in parts)) <= 1e-4 * scale


def bits_are_nats(case: Case) -> Iterable[str]:
    """A bound in bits per dimension is the same bound in nats, with the dimensions and the constant of the suite's own record."""
    theirs = case.facts.get("record", {}).get("metrics", {})
    for name, value in case.record.metrics.items():
        bits = case.record.metrics.get(f"{name}_bpd")
        if bits is None or f"{name}_bpd" not in theirs or name not in theirs:
            continue
        for dimensions in DIMENSIONS:
            nats = dimensions * math.log(2)
            constant = theirs[f"{name}_bpd"] - theirs[name] / nats
            known = abs(constant - round(constant)) < 1e-5 and abs(constant) < 9
            if known and abs(bits - value / nats - round(constant)) > 1e-4:
                yield f"{name}_bpd = {bits:.6g} is not {name} = {value:.6g} in bits per dimension"


def divergences_are_positive(case: Case) -> Iterable[str]:
    """No KL divergence is below zero, but for the noise of an estimate."""
    for name, value in case.record.metrics.items():
        if re.match(r"kl(_|$)", name) and value < -NOISE_OF_A_KL:
            yield f"{name} = {value:.6g}: no KL divergence is below zero (look at its sign)"


def spreads_are_possible(case: Case) -> Iterable[str]:
    """The mean lies between the seeds, and the deviation is one that their number, least and greatest allow."""
    for name, value in case.record.metrics.items():
        spread = case.record.spread[name]
        least, most, number, deviation = (spread[part] for part in ("min", "max", "n", "std"))
        slack = 1e-6 * max(1e-9, abs(least), abs(most))
        width = most - least
        if number < 1 or number != int(number) or number > max(1, len(case.record["seeds"])):
            yield f"{name} is said to be over {number:g} seeds, and the record has {len(case.record['seeds'])}"
        elif not least - slack <= value <= most + slack:
            yield f"{name} = {value:.6g} does not lie between its own smallest and largest seed"
        elif number == 1 and (abs(deviation) > slack or width > slack):
            yield f"{name} is of one seed and has a spread"
        elif number > 1:
            highest = width / 2 * math.sqrt(number / (number - 1))
            lowest = width / math.sqrt(2 * (number - 1))
            if not lowest - 1e-4 * width - slack <= deviation <= highest + 1e-4 * width + slack:
                yield f"{name}: no {number:g} seeds between {least:.6g} and {most:.6g} have the deviation {deviation:.3g}"


def metrics_are_those_of_the_arrays(case: Case) -> Iterable[str]:
    """Mean and spread over seeds, and the ends of curves, are what the arrays hold.

    Small profiles evaluate their curves on other images than their metrics: there the ends of curves are not asked for.
    """
    if case.arrays is None:
        return
    own = reference.own_part(case.record)
    for relation in case.facts.get("relations", ()):
        kind, metric, name, index, sign = relation
        if case.smaller and kind != "seeds" and index and index[0] == -1:
            continue
        sentence = relations.broken((kind, metric, name, tuple(index), sign), own["metrics"], own["spread"], case.arrays)
        if sentence:
            yield sentence


def repeats_are_pooled(case: Case) -> Iterable[str]:
    """Mean and spread of a run that was repeated are those of its repetitions."""
    parts = list((case.record.content.get("repeats") or {}).values())
    for name, value in case.record.metrics.items() if parts else ():
        whole = pooled([part["metrics"][name] for part in parts], [part["spread"][name] for part in parts])
        found = {"mean": value, **case.record.spread[name]}
        scale = max(1e-12, abs(value))
        if any(abs(whole[key] - found[key]) > 1e-6 * scale for key in whole):
            yield f"mean and spread of {name} are not those of its {len(parts)} repetitions"


def arrays_are_those_needed(case: Case) -> Iterable[str]:
    """The arrays that the figures are drawn from are there, of the kind and shape that the run gives, and no noise.

    What a small profile draws after a few updates may look like noise: it is not asked.
    """
    needed = case.facts.get("arrays", {})
    if case.arrays is None:
        return
    theirs = case.facts.get("record", {})
    same_budget = case.same_setting and theirs.get("budget") == case.record["budget"]
    for name, (kind, shape) in needed.items():
        array = case.arrays.get(name)
        if array is None:
            yield f"its arrays lack {name}"
        elif array.dtype.kind != kind or array.ndim != len(shape):
            yield f"{name} is {array.dtype} with {array.ndim} axes, where the run gives {len(shape)} of another kind"[:200]
        elif same_budget and theirs.get("complete") and list(array.shape) != list(shape):
            yield f"{name} has the shape {array.shape}, where the run gives {tuple(shape)}"
        elif array.size > 8 and array.dtype.kind in "fiu" and kind in "fu" and _is_constant(array):
            yield f"{name} is the same number {array.size:,} times"
        elif array.dtype.kind == "u" and array.dtype.itemsize == 1 and not case.smaller and _is_noise(array):
            yield f"{name} is noise: its neighbouring pixels have nothing to do with each other"


def _is_constant(array: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(array.min() == array.max())


def _is_noise(array: np.ndarray) -> bool:
    """Whether pictures (N, H, W, 3) or (N, H, W) with sides of 28 or 32 have no correlation between neighbouring pixels."""
    if not (array.ndim >= 3 and {array.shape[1]} & {28, 32} and array.shape[1] == array.shape[2]):
        return False
    pixels = array[:20].astype(np.float64)
    left, right = pixels[:, :, :-1].ravel(), pixels[:, :, 1:].ravel()
    if left.std() == 0 or right.std() == 0:
        return False
    return abs(float(np.corrcoef(left, right)[0, 1])) < 0.05 and left.std() > 60  # the deviation of even noise is 74


def budget_is_real(case: Case) -> Iterable[str]:
    """The budget was planned as the suite plans it, and the curves are as long as what was done."""
    budget, theirs = case.record["budget"], case.facts.get("record")
    done, planned, unit = budget["done"], budget["planned"], budget["unit"]
    if done > planned:
        yield f"{done:,} {unit[:40]} were done of {planned:,}"
    if case.same_setting and _same_data(case) and (planned, unit) != (theirs["budget"]["planned"], theirs["budget"]["unit"]):
        yield (f"its budget is {planned:,} {unit[:40]}, and this configuration takes "
               f"{theirs['budget']['planned']:,} {theirs['budget']['unit']}")
    for name in case.facts.get("as_long_as_done", ()):
        rows = len(case.arrays[name]) if case.arrays and name in case.arrays and case.arrays[name].ndim else None
        if rows is not None and rows != done:
            yield f"{name} has {rows:,} rows, and {done:,} {unit[:40]} are said to be done"


def _same_data(case: Case) -> bool:
    return case.facts["record"]["sizes"] == (case.record["dataset"] or {}).get("sizes")


def arrays_are_its_own(case: Case) -> Iterable[str]:
    """No other record of the copy has the same arrays."""
    sharing = case.copy.once(("sharing",), lambda: _sharing(case.copy)) if case.copy else {}
    others = [other for other in sharing.get(case.record["arrays"]["sha256"], ()) if other != case.record.id]
    if others:
        yield f"its arrays are those of {', '.join(others[:3])} too"


def _sharing(copy: Submission) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for run_id in deliverables.run_ids():
        try:
            record = copy.record(run_id)
        except ValueError:
            continue
        if record is not None:
            found.setdefault(record["arrays"]["sha256"], []).append(run_id)
    return found


def figures_are_pictures(case: Case) -> Iterable[str]:
    """Every figure is there, is the one that the record names, decodes, and is neither blank nor another one's."""
    yield from pictures.complaints(case.copy, case.entry["figures"], case.record["figures"]) if case.copy else ()


Check = Callable[[Case], Iterable[str]]
FAULTS: tuple[Check, ...] = (
    totals_are_sums, bits_are_nats, divergences_are_positive, spreads_are_possible, repeats_are_pooled,
    metrics_are_those_of_the_arrays, arrays_are_those_needed, budget_is_real, origin.declared_as_it_is,
    origin.data_are_named_truly, origin.origin_is_stated, origin.rests_on_what_is_there, arrays_are_its_own,
    figures_are_pictures,
)
DOUBTS: tuple[Check, ...] = (origin.setting_is_the_sheets, origin.data_are_known)


def sentences(checks: Iterable[Check], case: Case) -> list[str]:
    """What the checks say of a case, at most so many sentences."""
    found = [sentence for check in checks for sentence in check(case)]
    return found if len(found) <= MOST_SENTENCES else [*found[:MOST_SENTENCES], f"and {len(found) - MOST_SENTENCES} more faults"]
