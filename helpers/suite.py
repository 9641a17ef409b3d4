"""What a notebook opens: its suite of runs, each loaded from its record or trained.

A notebook opens its :class:`Suite` once and starts each run with :meth:`Suite.run`, which loads the record if there is
one, else trains (going on from a checkpoint if there is one) and writes it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helpers import plotting, settings
from helpers.files import file_digest, write_together
from helpers.results.digests import read_source, source_digest
from helpers.results.records import Record, RecordError, load


@dataclass
class Outcome:
    """What the function of a run returns.

    Attributes:
        values: per metric one number, or one a seed; the record gets their mean and spread.
        arrays: everything the figures need, as numpy arrays of numbers.
        dataset: ``Dataset.describe()`` or a dict with name, digest, sizes, stand_in; None where there is no data.
        budget: (done, planned, unit), for example (7810, 7810, "steps").
        seeds: one a member; metrics given per seed are in this order.
        shown: index of the seed whose arrays are drawn.
        seconds: of training.
        facts: further json-able statements, for example {"selection": "lowest reconstruction error"}.
    """

    values: Mapping[str, float | Sequence[float]]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    dataset: dict | None = None
    budget: tuple[float, float, str] = (1, 1, "evaluation")
    seeds: Sequence[int] = (0,)
    shown: int = 0
    seconds: float = 0.0
    facts: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a run's function is given beside its configuration."""

    id: str
    seed: int
    fingerprint: str
    time_budget: float | None

    def seed_for(self, purpose: str) -> int:
        """A seed of its own for each purpose (data order, initialisation, noise), from the one root of the run."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{purpose}".encode()).digest()[:4], "big")

    def seeds(self, number: int) -> list[int]:
        """Seeds of the members of a stack."""
        return [self.seed_for(f"member {index}") for index in range(number)]

    def checkpoint(self, stage: str = "model"):
        """Where a stage of this run is saved; another configuration has another file."""
        from helpers.train.checkpoints import Checkpoint

        name = f"{self.id}-{stage}-{self.fingerprint[:12]}.pt".replace(" ", "_")
        return Checkpoint(settings.checkpoint_folder() / name, self.fingerprint)

    def training(self, stage: str = "model") -> dict:
        """What :func:`helpers.train.training.fit` needs of a run: seed, checkpoint, label, time budget."""
        label = self.id if stage == "model" else f"{self.id}, {stage}"
        return {"seed": self.seed_for(f"noise of {stage}"), "checkpoint": self.checkpoint(stage), "label": label,
                "time_budget": self.time_budget}


class Suite:
    """The runs of one notebook.

    Args:
        notebook: its name without suffix, for example ``"1_vae_2d"``.
    """

    def __init__(self, notebook: str) -> None:
        self.notebook, self.profile = notebook, settings.profile()
        self.source_path = settings.PROJECT_ROOT / "notebooks" / f"{notebook}.py"
        self.results, self.figures = (settings.output_folder() / name for name in ("results", "figures"))

    def run(self, run_id: str, function: Callable[..., Outcome], config: Mapping | None = None, *, seed: int = 0) -> Record:
        """Load the record of a run, or make it.

        Args:
            run_id: the id in ``deliverables.toml``.
            function: ``function(run, **config) -> Outcome``, a top-level function of the notebook.
            config: json-able arguments; a record with another configuration is another run and is replaced.
            seed: root of all the run's random numbers.
        """
        config = json.loads(json.dumps(dict(config or {})))
        source = source_digest(function.__name__, read_source(self.source_path))
        path = self.results / f"{run_id}.json"
        if path.exists() and not settings.asked_again(run_id):
            record = Record(path)
            if (record["config"], record["profile"], record["seed"]) == (config, self.profile, seed):
                stale = "" if record["source"] == source else " (STALE: the code has changed since)"
                print(f"{run_id}: recorded, {record.describe()}{stale}")
                return record
        self._refuse_smaller(path)
        identity = json.dumps([run_id, config, self.profile, seed, source], sort_keys=True)
        run = Run(run_id, seed, hashlib.sha256(identity.encode()).hexdigest(), settings.time_budget_seconds())
        outcome = function(run, **config)
        if longer := _longer(path, outcome.budget, (config, self.profile, seed, source)):
            print(f"{run_id}: ended at {outcome.budget[0]:,}, and the record there came further: it stays, {longer.describe()}")
            return longer
        record = self._write(path, run, config, function.__name__, source, outcome)
        if record.complete:
            for left_over in settings.checkpoint_folder().glob(f"{run_id}-*-{run.fingerprint[:12]}.pt"):
                left_over.unlink()
        print(f"{run_id}: done, {record.describe()}")
        return record

    def attempt(self, run_id: str, function: Callable[..., Outcome], config: Mapping | None = None, *,
                serves: Iterable[str] = ()) -> Record | None:
        """The record of a long run as :meth:`run` gives it; or None, and a sentence, where nobody granted it a CPU's hours.

        It is made on a GPU, under the small profiles, within ``SUITE_MINUTES``, or when ``SUITE_RETRAIN`` names it or one of the
        runs that it ``serves``.
        """
        there, wanted = load(run_id), (json.loads(json.dumps(dict(config or {}))), self.profile)
        recorded = there is not None and (there["config"], there["profile"]) == wanted
        granted = settings.time_budget_seconds() is not None or any(map(settings.asked_again, (run_id, *serves)))
        if recorded or granted or self.profile != "full" or settings.device().type == "cuda":
            return self.run(run_id, function, config)
        print(f"{run_id}: not recorded yet, and without a GPU not trained unasked; to give it 90 minutes of this CPU: "
              f"SUITE_PROFILE=full SUITE_MINUTES=90 python notebooks/{self.notebook}.py")
        return None

    def figure(self, figure, name: str, *records: Record) -> None:
        """Save a figure under ``figures/``, show it in the notebook, and note its digest in the records behind it."""
        path = self.figures / name
        for record in records:
            if record["profile"] != self.profile:
                raise RecordError(f"{record.path} is of the {record['profile']} profile, this notebook runs {self.profile}")
        plotting.save(figure, path)
        digest = file_digest(path)
        for record in records:
            if record.content["figures"].get(name) == digest:
                continue
            there = Record(record.path)  # another process may have trained the run again since it was read here
            if there["arrays"] != record["arrays"]:
                raise RecordError(f"{record.path} is another record than the one {name} was drawn from: run the notebook again")
            record.content["figures"] = {**there["figures"], name: digest}
            write_together({record.path: _json_bytes(record.content)})

    def _refuse_smaller(self, path: Path) -> None:
        try:
            there = Record(path).content.get("profile") if path.exists() else None
        except RecordError:
            return  # an unreadable record is replaced when its run is asked for by name
        if there in settings.PROFILES and settings.PROFILES.index(there) > settings.PROFILES.index(self.profile):
            raise RecordError(f"{path} is a record of the {there} profile; the {self.profile} profile does not overwrite it")

    def _write(self, path: Path, run: Run, config: dict, function: str, source: str, outcome: Outcome) -> Record:
        done, planned, unit = outcome.budget
        values = {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in outcome.values.items()}
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise RecordError(f"{run.id}: metric {name} is not finite: {value.tolist()}; nothing was written")
        arrays = {name: np.asarray(value) for name, value in outcome.arrays.items()}
        objects = [name for name, value in arrays.items() if value.dtype.hasobject]
        if objects:
            raise RecordError(f"{run.id}: arrays {objects} hold Python objects; records hold numbers only")
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)
        content = {
            "id": run.id, "notebook": self.notebook, "function": function, "profile": self.profile,
            "dataset": outcome.dataset, "config": config,
            "budget": {"done": done, "planned": planned, "unit": unit}, "seed": run.seed, "seeds": list(outcome.seeds),
            "shown": outcome.shown, "metrics": {name: float(value.mean()) for name, value in values.items()},
            "spread": {name: _spread(value) for name, value in values.items()}, "facts": outcome.facts, "figures": {},
            "arrays": {"sha256": hashlib.sha256(packed.getvalue()).hexdigest()}, "source": source,
            "environment": settings.environment(), "seconds": round(outcome.seconds, 3),
        }
        write_together({path.with_suffix(".npz"): packed.getvalue(), path: _json_bytes(content)})
        return Record(path)


def _spread(value: np.ndarray) -> dict:
    deviation = float(value.std(ddof=1)) if value.size > 1 else 0.0
    return {"std": deviation, "min": float(value.min()), "max": float(value.max()), "n": int(value.size)}


def _json_bytes(content: dict) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _longer(path: Path, budget: tuple, identity: tuple) -> Record | None:
    """The record at ``path``, if it is of the same configuration, profile, seed and code and came further than ``budget``."""
    try:
        there = Record(path) if path.exists() else None
    except RecordError:
        return None  # unreadable: replaced
    same = there and tuple(there[key] for key in ("config", "profile", "seed", "source")) == identity
    return there if same and there["budget"]["unit"] == budget[2] and there["budget"]["done"] > budget[0] else None
