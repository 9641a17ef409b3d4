"""Records: what a run found, kept in ``results/`` so that figures, report and grade need no training.

``results/<id>.json`` holds the numbers, ``results/<id>.npz`` the arrays behind the figures; both are written atomically, the
JSON last, by :mod:`helpers.suite`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np

from helpers import settings
from helpers.files import file_digest, write_together
from helpers.results import deliverables, fields, packing
from helpers.results.digests import source_digest

ON_PART = "on part of the data"  # real data of the sheet's set, less of it: said beside every number, as a verdict of its own


class RecordError(RuntimeError):
    """A record cannot be read, or must not be written."""

    explained = True  # the message says what to mend: the command line shows it alone


class Record:
    """A run's record: attribute access to its JSON, arrays read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.is_file():  # opening a pipe would wait for ever
                raise ValueError("it is not a file")
            self.content = json.loads(path.read_text(encoding="utf-8-sig"))
            if complaint := fields.complaint(self.content):
                raise ValueError(complaint)
        except (ValueError, OSError, RecursionError) as error:
            raise RecordError(f"{path} is not a readable record ({error}); move it away, or train it again with "
                              f"python -m helpers train {path.stem} --again") from error
        self.id, self.metrics, self.spread = (self.content[key] for key in ("id", "metrics", "spread"))

    def __getitem__(self, key: str):
        return self.content[key]

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays saved beside the record; their digest is checked."""
        return packing.unpack(self.arrays_path())

    def arrays_path(self) -> Path:
        """Where the arrays are.

        Raises:
            RecordError: they are not there, or not the ones that the record names.
        """
        path, expected = self.path.with_suffix(".npz"), self.content["arrays"]["sha256"]
        if not path.is_file() or file_digest(path) != expected:
            raise RecordError(f"{path} is missing or not the file that {self.path.name} names (sha256 {expected}): bring it "
                              f"back, or train it again with python -m helpers train {self.id} --again")
        return path

    @property
    def complete(self) -> bool:
        """Whether the whole planned budget was spent."""
        return self.content["budget"]["done"] >= self.content["budget"]["planned"]

    @property
    def part(self) -> str:
        """The part of the published set that this record is on, such as ``SVHN, 7,999 training images``; empty for a whole."""
        dataset = self.content["dataset"] or {}
        return f"{dataset['name'].upper()}, {dataset['part']}" if dataset.get("part") else ""

    @property
    def remark(self) -> str:
        """What must be said beside every number of this record: a part of the data, or what :attr:`reduced` says."""
        return "; ".join(filter(None, [f"{ON_PART}: {self.part}" if self.part else "", self.reduced]))

    @property
    def reduced(self) -> str:
        """What makes the numbers no answer to the sheet: a stand-in, a cut budget, a small profile."""
        budget, dataset = self.content["budget"], self.content["dataset"] or {}
        parts = []
        if dataset.get("stand_in"):
            parts.append(f"on {dataset['name']}, a stand-in for {dataset['stands_for']}")
        if not self.complete:
            parts.append(f"{budget['done']:,} of {budget['planned']:,} {budget['unit']}")
        epochs, theirs = self.content["config"].get("epochs"), deliverables.sheet_epochs(self.id)
        if self.content["profile"] == "full" and epochs and theirs and epochs < theirs:
            parts.append(f"{epochs} epochs, the sheet {theirs}")
        if self.content["profile"] != "full":
            parts.append(f"{self.content['profile']} profile")
        return "; ".join(parts)

    def describe(self) -> str:
        """One line: how the numbers came about."""
        budget, seeds = self.content["budget"], self.content["seeds"]
        return (f"{self.content['profile']} profile, {len(seeds)} seed{'s' * (len(seeds) != 1)}, "
                f"{budget['done']:,} of {budget['planned']:,} {budget['unit']}, {self.content['seconds']:.0f} s on "
                f"{self.content['environment']['device']}")


def load(run_id: str, results: Path | None = None) -> Record | None:
    """The record of a run, or None where there is none.

    Raises:
        RecordError: it cannot be used, or is that of another run.
    """
    path = (results or settings.output_folder() / "results") / f"{run_id}.json"
    if not path.exists():
        return None
    record = Record(path)
    if record.id != run_id:
        raise RecordError(f"{path} is the record of {record.id[:60]!r}: give it that name, or move it away")
    return record


def required(run_id: str, needed: str) -> Record:
    """The record that a run rests on.

    Raises:
        RecordError: it is not there yet.
    """
    record = load(needed)
    if record is None:
        raise RecordError(f"{run_id} rests on {needed}, which has no record yet; first: python -m helpers train {needed}")
    return record


def version(path: Path) -> int | None:
    """What tells one file at a path from the next: the time when it was written; None where there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def write(path: Path, content: dict, outcome, packed_weights: bytes = b"") -> Record:
    """Write a record, its arrays and its weights: all of them or none, the JSON last.

    Args:
        path: of the JSON file.
        content: id, notebook, function, config, profile, seed, source, rests_on.
        outcome: a :class:`helpers.suite.Outcome`.
        packed_weights: from :func:`helpers.results.weights.pack`.

    Raises:
        RecordError: a metric is not finite, or an array holds Python objects; nothing was written.
    """
    from helpers.results import weights

    done, planned, unit = outcome.budget
    values = {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in outcome.values.items()}
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise RecordError(f"{content['id']}: metric {name} is not finite: {value.tolist()}; nothing was written")
    arrays = {name: np.asarray(value) for name, value in outcome.arrays.items()}
    objects = [name for name, value in arrays.items() if value.dtype.hasobject]
    if objects:
        raise RecordError(f"{content['id']}: arrays {objects} hold Python objects; records hold numbers only")
    packed = packing.pack(packing.kept(content["id"], arrays))
    files = {path.with_suffix(".npz"): packed}
    named = {}
    if packed_weights:
        files[weights.place(path, packed_weights)] = packed_weights
        named = {"sha256": hashlib.sha256(packed_weights).hexdigest(), "bytes": len(packed_weights)}
    content = {
        **content, "dataset": outcome.dataset, "budget": {"done": done, "planned": planned, "unit": unit},
        "seeds": list(outcome.seeds), "shown": outcome.shown,
        "metrics": {name: float(value.mean()) for name, value in values.items()},
        "spread": {name: spread_of(value) for name, value in values.items()}, "facts": outcome.facts, "figures": {},
        "arrays": {"sha256": hashlib.sha256(packed).hexdigest()}, "weights": named,
        "environment": settings.environment(), "seconds": round(outcome.seconds, 3),
    }
    write_together({**files, path: json_bytes(content)})
    if (small := path.with_suffix(".safetensors")) not in files:
        small.unlink(missing_ok=True)  # of the record that was here before
    return Record(path)


def spread_of(value: np.ndarray) -> dict:
    """Standard deviation, least, greatest and number of the values of a metric, (S,)."""
    deviation = float(value.std(ddof=1)) if value.size > 1 else 0.0
    return {"std": deviation, "min": float(value.min()), "max": float(value.max()), "n": int(value.size)}


def json_bytes(content: dict) -> bytes:
    """A record as the bytes of its file."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _digest(dataset: dict | None) -> str | None:
    return (dataset or {}).get("digest")


def longer(path: Path, budget: tuple, identical: dict, dataset: dict | None = None) -> Record | None:
    """The record at ``path``, if it is identical in the given fields, on the same data, and came further than ``budget``."""
    try:
        there = Record(path) if path.exists() else None
        if there is not None:
            there.arrays_path()
    except RecordError:
        return None  # damaged: replaced
    same = there and all(there[key] == value for key, value in identical.items())
    same = same and _digest(there["dataset"]) == _digest(dataset)
    return there if same and there["budget"]["unit"] == budget[2] and there["budget"]["done"] > budget[0] else None


def rests_on_another(record: Record) -> bool:
    """Whether a run that the record rests on has been trained again, or has gone, since."""
    for run_id, sha256 in (record.content.get("rests_on") or {}).items():
        try:
            there = load(run_id, next((folder for folder in record.path.parents if folder.name == "results"), None))
        except RecordError:
            return True
        if there is None or there["arrays"]["sha256"] != sha256:
            return True
    return False


def state(record: Record) -> str:
    """``recorded``, ``partial`` (budget not spent) or ``stale`` (the code or a run that it rests on has changed since)."""
    path = settings.PROJECT_ROOT / "notebooks" / f"{record['notebook']}.py"
    try:
        current = source_digest(record["function"], path.read_text(encoding="utf-8-sig"))
    except (OSError, KeyError, SyntaxError):
        current = None
    if current != record["source"] or rests_on_another(record):
        return "stale"
    return "recorded" if record.complete else "partial"


def describe_arrays(name: str, **splits: np.ndarray) -> dict:
    """What a record says of a generated data set: name, sizes, and a digest over its splits."""
    digest = hashlib.sha256()
    for split, array in sorted(splits.items()):
        digest.update(f"{split} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    sizes = {split: len(array) for split, array in splits.items()}
    return {"name": name, "digest": digest.hexdigest(), "sizes": sizes, "stand_in": False, "stands_for": None, "note": "",
            "part": ""}
