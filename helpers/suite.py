"""What a notebook opens: its suite of runs, declared as data, each loaded from its record or trained.

A notebook declares its runs in ``RUNS``, see :func:`run`, opens its :class:`Suite` once and asks for each with
:meth:`Suite.run`, which loads the record if there is one, else trains (going on from a checkpoint if there is one) and writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from helpers import locks, plotting, settings
from helpers.data import datasets
from helpers.files import file_digest, remove_left_overs, write_together
from helpers.locks import Lock
from helpers.results import deliverables, records, verdicts, weights
from helpers.results.digests import source_digest
from helpers.results.records import Record, RecordError
from helpers.results.sources import read_source


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
        weights: what was trained, by name: a module, or a flat dict of tensors.
    """

    values: Mapping[str, float | Sequence[float]]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    dataset: dict | None = None
    budget: tuple[float, float, str] = (1, 1, "evaluation")
    seeds: Sequence[int] = (0,)
    shown: int = 0
    seconds: float = 0.0
    facts: dict = field(default_factory=dict)
    weights: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Declared:
    """A run as a notebook declares it, made by :func:`run`."""

    function: Callable[..., Outcome]
    configs: Mapping[str, dict]  # by profile
    long: bool
    needs: tuple[str, ...]
    cores: int
    gpu: float
    memory_gb: float

    def config(self, profile: str) -> dict:
        """The configuration of a profile, as a record holds it."""
        return json.loads(json.dumps(self.configs[profile]))


def run(function: Callable[..., Outcome], *, full: Mapping | None = None, quick: Mapping | None = None,
        smoke: Mapping | None = None, long: bool = False, needs: Sequence[str] = (), cores: int = 1, gpu: float = 0.1,
        memory_gb: float = 2.0) -> Declared:
    """Declare a run.

    Args:
        function: ``function(run, **config) -> Outcome``, a top-level function of the notebook.
        full: the sheet's setting, json-able.
        quick: what differs from it in the quick profile.
        smoke: what differs from quick in the smoke profile.
        long: hours on a CPU: there it is trained only when asked for by name or within a time budget.
        needs: ids of the runs whose records this one rests on; a change of theirs ages it.
        cores, gpu, memory_gb: what one training needs: CPU cores, share of a GPU, GiB of memory.

    Raises:
        TypeError: a smaller profile has a key that the full one has not.
    """
    whole = dict(full or {})
    for name, part in (("quick", quick), ("smoke", smoke)):
        if unknown := set(part or {}) - set(whole):
            raise TypeError(f"{function.__name__}: {name} sets {', '.join(sorted(unknown))}, which full does not have")
    middle = whole | dict(quick or {})
    configs = {"full": whole, "quick": middle, "smoke": middle | dict(smoke or {})}
    return Declared(function, configs, long, tuple(needs), cores, gpu, memory_gb)


@dataclass(frozen=True)
class Run:
    """What a run's function is given beside its configuration."""

    id: str
    seed: int
    fingerprint: str
    time_budget: float | None
    stop_after: int | None = None
    needs: tuple[str, ...] = ()

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
        """What :func:`helpers.train.training.fit` needs of a run: seed, checkpoint, label, budgets of time and steps."""
        label = self.id if stage == "model" else f"{self.id}, {stage}"
        return {"seed": self.seed_for(f"noise of {stage}"), "checkpoint": self.checkpoint(stage), "label": label,
                "time_budget": self.time_budget, "stop_after": self.stop_after}

    def needed(self, run_id: str) -> Record:
        """The record of a run that this one was declared to need.

        Raises:
            RecordError: it was not declared, or has no record yet.
        """
        if run_id not in self.needs:
            raise RecordError(f"{self.id} uses {run_id} and does not declare it: add it to needs=... in RUNS")
        return records.required(self.id, run_id)


class Suite:
    """The runs of one notebook.

    Args:
        notebook: its name without suffix, for example ``"1_vae_2d"``.
        runs: id -> :class:`Declared`; the notebook may add to it later.
        results: folder of the records; by default ``results/`` of the profile's output folder.
        bare: records hold numbers alone, no arrays and no weights.
    """

    def __init__(self, notebook: str, runs: Mapping[str, Declared] | None = None, results: Path | None = None,
                 bare: bool = False) -> None:
        self.bare = bare
        self.notebook, self.profile, self.runs = notebook, settings.profile(), {} if runs is None else runs
        self.source_path = settings.PROJECT_ROOT / "notebooks" / f"{notebook}.py"
        self.results, self.figures = results or settings.output_folder() / "results", settings.output_folder() / "figures"
        for folder in (self.results, self.figures, settings.checkpoint_folder()):
            remove_left_overs(folder)

    def declared(self, run_id: str) -> Declared:
        """The declaration of a run.

        Raises:
            KeyError: the notebook declares no such run; the message names the nearest ones.
        """
        if run_id not in self.runs:
            raise KeyError(f"{self.notebook} declares no run {run_id!r}{deliverables.nearest(run_id)}")
        return self.runs[run_id]

    def run(self, run_id: str, *, seed: int = 0, again: bool = False, more: bool = False, asked: bool = False,
            stop_after: int | None = None, wait: bool = True) -> Record | None:
        """Load the record of a run, or make it; a run that another process is training is left to that.

        Args:
            run_id: a key of ``RUNS``.
            seed: root of all the run's random numbers.
            again: train although there is a record.
            more: go on where the record's budget was cut.
            asked: it was asked for by name, so that a long run is trained on a CPU too.
            stop_after: steps after which a training stops at a checkpoint, see :func:`helpers.train.training.fit`.
            wait: where another process trains it, train the notebook's other runs meanwhile, then wait for its record.

        Returns:
            The record; None, after a sentence, for a long run that has none and that nobody granted a CPU's hours, and for one
            that another process is training, where this one does not ``wait``.

        Raises:
            KeyError: the notebook declares no such run.
            RecordError: a needed run has no record, or a larger profile's record would be overwritten.
        """
        declared = self.declared(run_id)
        config, source = declared.config(self.profile), source_digest(declared.function.__name__, read_source(self.source_path))
        path, lock = self.results / f"{run_id}.json", Lock(settings.checkpoint_folder() / f"{run_id}-{seed}.lock")
        before = records.version(path)
        again = again or settings.asked_again(run_id)
        if path.exists() and not again:
            record = Record(path)
            same = (record["config"], record["profile"], record["seed"]) == (config, self.profile, seed)
            if same and not (more and not record.complete):
                changed = record["source"] != source or records.rests_on_another(record)
                print(f"{run_id}: recorded, {record.describe()}{' (STALE: the code has changed since)' if changed else ''}")
                return record
        if not (asked or again or more or self._granted(declared)):
            print(f"{run_id}: not recorded yet, and without a GPU not trained unasked; to train it on this machine: "
                  f"python -m helpers train {run_id}, or for at most 90 minutes, going on later: --minutes 90")
            return None
        self._refuse_smaller(path)
        identical = {"config": config, "profile": self.profile, "seed": seed, "source": source}
        try:
            if not locks.take_turn(lock, run_id, (lambda: self._train_others(run_id)) if wait else None):
                return None
            there = records.load(run_id, self.results) if records.version(path) != before else None
            if there is not None and all(there[key] == value for key, value in identical.items()):
                print(f"{run_id}: recorded by another process, {there.describe()}")
                return there
            return self._train(run_id, declared, path, identical, stop_after)
        finally:
            lock.release()

    def _train_others(self, run_id: str) -> None:
        """Train, while another process has a run, what has no record, needs none that is missing and nobody trains."""
        for other, declared in self.runs.items():
            there = [(self.results / f"{name}.json").exists() for name in (other, *declared.needs)]
            if other != run_id and not there[0] and all(there[1:]) and self._granted(declared):
                self.run(other, wait=False)

    def _train(self, run_id: str, declared: Declared, path: Path, identical: dict, stop_after: int | None) -> Record:
        """Make the record of a run: ``identical`` are the fields that another record of the same training would have, too."""
        config, seed = identical["config"], identical["seed"]
        rests_on = {needed: records.required(run_id, needed)["arrays"]["sha256"] for needed in declared.needs}
        part = datasets.part_at_hand(config.get("dataset"))  # a training on part of the data never goes on with the whole
        further = [rests_on] * bool(rests_on) + [part] * bool(part)
        identity = json.dumps([run_id, config, self.profile, seed, identical["source"], *further], sort_keys=True)
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        given = Run(run_id, seed, fingerprint, settings.time_budget_seconds(), stop_after, declared.needs)
        outcome = declared.function(given, **config)
        if self.bare:
            outcome = replace(outcome, arrays={}, weights={})
        if longer := records.longer(path, outcome.budget, identical, outcome.dataset):
            print(f"{run_id}: ended at {outcome.budget[0]:,}, and the record there came further: it stays, {longer.describe()}")
            return longer
        content = {"id": run_id, "notebook": self.notebook, "function": declared.function.__name__, **identical,
                   "rests_on": rests_on}
        record = records.write(path, content, outcome, weights.pack(outcome.weights))
        if record.complete:
            for left_over in settings.checkpoint_folder().glob(f"{run_id}-*-{fingerprint[:12]}.pt"):
                left_over.unlink()
        print(f"{run_id}: done, {record.describe()}")
        return record

    def weights(self, run_id: str) -> dict[str, dict] | None:
        """The trained weights of a recorded run: name -> state dict of float32 tensors; None where they are not here.

        Raises:
            RecordError: the file there is not the one that the record names.
        """
        record = records.load(run_id, self.results)
        return None if record is None else weights.find(record)

    def check(self, run_id: str) -> None:
        """Print the grader's verdict on a run in plain words, from its record alone, before it is handed in."""
        function, record = self.declared(run_id).function.__name__, records.load(run_id, self.results)
        source = source_digest(function, read_source(self.source_path))
        print(*verdicts.in_words(run_id, record, source), sep="\n")

    def figure(self, figure, name: str, *drawn_from: Record) -> None:
        """Save a figure under ``figures/``, show it in the notebook, and note its digest in the records behind it."""
        path = self.figures / name
        for record in drawn_from:
            if record["profile"] != self.profile:
                raise RecordError(f"{record.path} is of the {record['profile']} profile, this notebook runs {self.profile}")
        plotting.save(figure, path)
        digest = file_digest(path)
        for record in drawn_from:
            if record.content["figures"].get(name) == digest:
                continue
            with locks.waiting(settings.checkpoint_folder() / f"{record.id}-figures.lock"):
                there = Record(record.path)  # another process may have trained the run again since it was read here
                if there["arrays"] != record["arrays"]:
                    raise RecordError(f"{record.path} is not the record that {name} was drawn from: run the notebook again")
                record.content["figures"] = {**there["figures"], name: digest}
                write_together({record.path: records.json_bytes(record.content)})

    def _granted(self, declared: Declared) -> bool:
        """Whether a run is trained here without being asked for by name."""
        quick = not declared.long or self.profile != "full"
        return quick or settings.time_budget_seconds() is not None or settings.device().type != "cpu"

    def _refuse_smaller(self, path: Path) -> None:
        if path.exists() and not path.is_file():
            raise RecordError(f"{path} is not a file, and a record is to be written there: move it away")
        try:
            there = Record(path).content.get("profile") if path.exists() else None
        except RecordError:
            return  # an unreadable record is replaced when its run is asked for by name
        if there in settings.PROFILES and settings.PROFILES.index(there) > settings.PROFILES.index(self.profile):
            raise RecordError(f"{path} is a record of the {there} profile; the {self.profile} profile does not overwrite it")
