"""A run's curves for the page: its arrays as named lines over updates, with what no model can pass as a level.

Arrays have no names for their columns, so this table has: per array what its columns are, and against what they are drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from helpers import plotting
from helpers.publish.site.assets import rounded
from helpers.results import tables
from helpers.results.records import Record

TERMS = {1: ("prior loss",), 2: ("VQ-VAE loss", "squared error"), 3: ("-ELBO", "recon", "KL"),
         4: ("bound", "recon", "KL", "KL to a standard normal"), 5: ("-ELBO", "recon", "KL", "KL of z1", "KL of z2")}
AUTO_ENCODER = ("objective", "squared error", "KL")  # of the runs that weigh a squared error against a KL
SQUARED = ("mit_p2_sgvb", "mit_p3_analytic", "mit_p4_")
SPLITS = ("train", "validation", "test")
POINTS = 250  # of a curve over minibatches, each the mean of a group
KINDS = ("train", "test", "valid", "course", "sheet_valid")  # arrays KIND_terms: minibatches, then evaluations
SPOKEN = {"valid": "validation", "course": "test, the course's setting", "sheet_valid": "validation, the sheet's setting"}


@dataclass
class Panel:
    """One picture of curves.

    Attributes:
        title: what is drawn.
        unit: of the vertical axis.
        across: what the horizontal axis counts.
        series: label, term (lines of one term are shown and hidden together), x, y, and whether it is pale.
        levels: label and value of what is drawn as a horizontal line.
    """

    title: str
    unit: str
    across: str = "updates"
    series: list[dict] = field(default_factory=list)
    levels: list[dict] = field(default_factory=list)

    def add(self, label: str, x: np.ndarray, y: np.ndarray, *, term: str = "", pale: bool = False) -> None:
        """Add one line; ``x`` and ``y`` have one length."""
        self.series.append({"label": label, "term": term or label, "x": rounded(x), "y": rounded(y), "pale": pale})

    def level(self, label: str, value: float | None) -> None:
        """Add a horizontal line where the value is known."""
        if value is not None and np.isfinite(value):
            self.levels.append({"label": f"{label}: {tables.number(float(value))}", "value": float(value)})

    def content(self) -> dict:
        """What the script draws; ``focus`` is the range in which the curves live after their first twentieth."""
        values = [value for line in self.series for value in line["y"][len(line["y"]) // 20 :] if value is not None]
        low, high = np.percentile(values, [0.5, 99.5]) if values else (0.0, 1.0)
        levels = [level["value"] for level in self.levels if low - (high - low) <= level["value"] <= high + (high - low)]
        low, high = min([low, *levels]), max([high, *levels])
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return {"title": self.title, "unit": self.unit, "across": self.across, "series": self.series, "levels": self.levels,
                "focus": rounded([low - margin, high + margin])}


def panels(record: Record, entry: dict) -> list[dict]:
    """All curves of a record, ready for the page; none where its arrays hold none.

    Args:
        record: with its arrays.
        entry: of ``deliverables.toml``, for bounds and the sheet's numbers.
    """
    found = [*_terms(record, entry), *_looks(record, entry), *_stages(record, entry), *_flows(record, entry),
             *_seeds(record), *_gan(record), *_others(record)]
    return [panel.content() for panel in found if panel.series]


def term_names(record: Record, number: int) -> tuple[str, ...]:
    """What the columns of a run's terms are."""
    names = AUTO_ENCODER if record.id.startswith(SQUARED) and number == 3 else TERMS.get(number, ())
    return names if len(names) == number else tuple(f"term {index + 1}" for index in range(number))


def unit_of(record: Record) -> str:
    """The unit of a run's terms."""
    if record.id.startswith(SQUARED):
        return "squared error; nats"
    return "bits per dimension" if any(name.endswith("_bpd") for name in record.metrics) and "neg_elbo" not in record.metrics \
        else "nats per example"


def known(panel: Panel, entry: dict, *metrics: str) -> Panel:
    """Draw the true bound and the sheet's number of the first metric that has either."""
    for metric in metrics:
        facts = entry.get("metrics", {}).get(metric, {})
        for name, label in (("bound", "true bound"), ("sheet", "the sheet's number")):
            panel.level(label, facts.get(name))
        if panel.levels:
            break
    return panel


def minibatches(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over groups of minibatches, (P,) and (P, ...)."""
    return plotting.smoothed(values, POINTS)


def _terms(record: Record, entry: dict) -> Iterator[Panel]:
    """``train_terms`` (steps, T) beside ``test_terms``, ``valid_terms``, ... (E, T)."""
    arrays = record.arrays
    there = [kind for kind in KINDS if np.ndim(arrays.get(f"{kind}_terms")) == 2]
    if not there or "looks" in arrays:  # then they are drawn with the looks
        return
    names = term_names(record, arrays[f"{there[0]}_terms"].shape[1])
    panel = Panel("Terms of the objective", unit_of(record))
    for kind in there:
        values, steps = arrays[f"{kind}_terms"], arrays.get("test_steps", arrays.get("steps"))
        if kind == "train":
            steps, values = minibatches(values)
        if steps is None or len(steps) != len(values):
            continue
        for name, column in zip(names, values.T, strict=False):
            spoken = "minibatches" if kind == "train" else SPOKEN.get(kind, kind)
            panel.add(f"{name}, {spoken}", steps, column, term=name, pale=kind == "train")
    if "true_nll" in arrays:
        panel.level("true density, test", float(np.ravel(arrays["true_nll"])[-1]))
    else:
        known(panel, entry, "neg_elbo", "valid_neg_elbo", "neg_elbo_bpd")
    yield panel


def _looks(record: Record, entry: dict) -> Iterator[Panel]:
    """``looks*`` (E, 3 splits, 4 terms) of the image models, one picture a variant."""
    for key in [key for key in record.arrays if key.startswith("looks")]:
        suffix = key.removeprefix("looks")
        looks, steps = record.arrays[key], record.arrays.get(f"steps{suffix}")
        if looks.ndim != 3 or steps is None or len(steps) != len(looks):
            continue
        panel = Panel("Bound and terms" + (f": {suffix.strip('_').replace('_', ' ')}" if suffix else ""), "bits per dimension")
        names = term_names(record, looks.shape[2])
        train = record.arrays.get(f"train_terms{suffix}")
        if train is not None:
            x, means = minibatches(train)
            panel.add("bound, minibatches", x, means[:, 0], term="bound", pale=True)
        for term, name in enumerate(names):
            for split, spoken in enumerate(SPLITS):
                if split == 2 or term == 0:
                    panel.add(f"{name}, {spoken}", steps, looks[:, split, term], term=name)
        yield known(panel, entry, "test_bpd")


def _stages(record: Record, entry: dict) -> Iterator[Panel]:
    """The two stages of a VQ-VAE: ``vqvae_*`` and ``prior_*``."""
    units = {"vqvae": "squared error, images in [-1, 1]", "prior": "nats per token"}
    for stage, unit in units.items():
        train, steps = record.arrays.get(f"{stage}_train"), record.arrays.get(f"{stage}_steps")
        if train is None or steps is None:
            continue
        panel, (x, means) = Panel({"vqvae": "VQ-VAE", "prior": "Prior over the codes"}[stage], unit), minibatches(train)
        for index, name in enumerate(term_names(record, train.shape[1])):
            panel.add(f"{name}, minibatches", x, means[:, index], term=name, pale=True)
            for kind, spoken in (("test", "test"), ("valid", "validation")):
                if f"{stage}_{kind}" in record.arrays:
                    panel.add(f"{name}, {spoken}", steps, record.arrays[f"{stage}_{kind}"][:, index], term=name)
        if stage == "prior" and "codebook_perplexity" in record.metrics:
            panel.level("log perplexity of the codes", float(np.log(record.metrics["codebook_perplexity"])))
        yield known(panel, entry, f"{stage}_loss")


def _flows(record: Record, entry: dict) -> Iterator[Panel]:
    """Planar flows: ``test_nll`` and ``constant_test_nll`` (E, S), and ``curve_*`` (P, S), one line a seed."""
    arrays = record.arrays
    if "test_nll" in arrays:
        panel = Panel("Held-out negative log-likelihood, one line a seed", "nats per point")
        for key, label in (("test_nll", "rate falling to zero"), ("constant_test_nll", "the sheet's constant rate")):
            for seed, column in enumerate(arrays[key].T if key in arrays else ()):
                panel.add(f"{label}, seed {seed + 1}", arrays["test_steps"], column, term=label)
        panel.level("entropy of the data", float(arrays["entropy"]))
        yield panel
    curves = [key for key in arrays if key.startswith("curve_")]
    if curves:
        panel = Panel("Loss against the energy, mean over the seeds", "nats", "share of the training, %")
        for key in curves:
            label = re.sub(r"^k(\d+)$", r"k = \1", key.removeprefix("curve_").replace("_", " "))
            panel.add(label, 100 * (np.arange(len(arrays[key])) + 0.5) / len(arrays[key]), arrays[key].mean(1))
        yield known(panel, entry, "loss_k32", "loss_k8", "loss_k2")


def _seeds(record: Record) -> Iterator[Panel]:
    """``valid*`` (E, T, S) and ``*_curve`` (E, S): stacks of seeds, drawn as their mean, least and greatest."""
    arrays = record.arrays
    panel = Panel("Over the seeds: mean, least and greatest", unit_of(record) if "test_curve" not in arrays else "squared error")
    for key, values in arrays.items():
        if values.ndim == 3 and "valid" in key and len(values) == len(arrays.get("steps", ())):
            values = values[:, 0]
        elif not (key in ("test_curve", "course_curve") and values.ndim == 2):
            continue
        label = {"valid": "validation", "elbo_trained_valid": "validation, trained on the ELBO", "test_curve": "test",
                 "course_curve": "test, the course's setting"}.get(key, f"validation, flow of length {key[6:]}")
        panel.add(label, arrays["steps"], values.mean(1))
        if values.shape[1] > 1:
            for name, line in (("least", values.min(1)), ("greatest", values.max(1))):
                panel.add(f"{label}, {name}", arrays["steps"], line, term=label, pale=True)
    yield panel


def _gan(record: Record) -> Iterator[Panel]:
    """A GAN's evaluations (E, M), named in the record's facts, and what its critic saw (P, 5)."""
    arrays, names = record.arrays, record["facts"].get("evaluated", [])
    if "evaluations" not in arrays:
        return
    for title, unit, chosen in (("Fréchet distance", "distance", lambda name: name.startswith("fid")),
                                ("Inception score", "score", lambda name: name.startswith("inception")),
                                ("Metric on held-out images", "", lambda name: name in ("jsd_test", "w1_test"))):
        panel = Panel(title, unit or ("nats" if record["config"].get("metric") == "jsd" else "distance of scores"))
        for name, column in zip(names, arrays["evaluations"].T, strict=False):
            if chosen(name):
                panel.add(name.replace("_", " "), arrays["evaluation_steps"], column)
        if unit == "" and "terms" in arrays:
            middles = (np.arange(len(arrays["terms"])) + 0.5) * float(arrays["terms_every"])
            group = max(1, len(middles) // POINTS)
            panel.add("on training batches and the live generator", *(plotting.smoothed(part, len(middles) // group)[1]
                      for part in (middles, arrays["terms"][:, 0])), pale=True)
        yield panel


def _others(record: Record) -> Iterator[Panel]:
    """Tori, the small classifier, the Dirac games, and bounds against the number of importance samples."""
    arrays = record.arrays
    loss = arrays.get("loss")
    if loss is not None:
        panel = Panel("Loss in training", "squared error; nats" if loss.ndim == 2 else "nats")
        for name, column in zip(term_names(record, 3) if loss.ndim == 2 else ("cross-entropy",), np.atleast_2d(loss.T),
                                strict=False):
            panel.add(name, 10 * np.arange(len(column)), column)  # every tenth step is kept
        yield panel
    if "alternating_radius" in arrays:
        games = list(record["facts"].get("verdicts", {}))
        radius = 10.0 ** arrays["alternating_radius"].astype(np.float64).mean(-1)
        for title, first in (("jsd", 0), ("w1", 1)):
            panel = Panel(f"Distance to the equilibrium, geometric mean over starts: {title.upper()}", "radius", "steps")
            live = [name for name in games if name.startswith(title)][:5]
            for index, name in enumerate(live):
                panel.add(name, 25 * np.arange(len(radius)), radius[:, 5 * first + index])
            yield panel
    for counts, pattern in (("counts", "bounds"), ("iwae_sizes", "iwae_bounds")):
        panel = Panel("Bound on log p(x) against importance samples K", "nats per example", "importance samples K")
        for key, values in arrays.items():
            if key.endswith(pattern) or key.startswith(f"{pattern}_"):
                axis = next((axis for axis in range(values.ndim) if values.shape[axis] == len(arrays.get(counts, ()))), None)
                if axis is not None and key != "bound_errors":
                    rows = np.atleast_2d(np.moveaxis(values, axis, -1)).reshape(-1, values.shape[axis])
                    panel.add(f"{key.replace('_', ' ')}, mean", arrays[counts], rows.mean(0))
        yield panel
