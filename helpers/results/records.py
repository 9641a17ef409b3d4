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
from helpers.files import file_digest
from helpers.results import tables
from helpers.results.digests import source_digest


class RecordError(RuntimeError):
    """A record cannot be read, or must not be written."""


class Record:
    """A run's record: attribute access to its JSON, arrays read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.content = json.loads(path.read_text())
            self.id, self.metrics, self.spread = (self.content[key] for key in ("id", "metrics", "spread"))
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{path} is not a readable record ({error}); move it away, or train it again with "
                              f"SUITE_RETRAIN={path.stem}") from error

    def __getitem__(self, key: str):
        return self.content[key]

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays saved beside the record; their digest is checked."""
        arrays_path = self.path.with_suffix(".npz")
        expected = self.content["arrays"]["sha256"]
        if not arrays_path.exists() or file_digest(arrays_path) != expected:
            raise RecordError(f"{arrays_path} is missing or not the file that {self.path.name} names (sha256 {expected})")
        with np.load(arrays_path, allow_pickle=False) as content:
            return dict(content)

    @property
    def complete(self) -> bool:
        """Whether the whole planned budget was spent."""
        return self.content["budget"]["done"] >= self.content["budget"]["planned"]

    @property
    def remark(self) -> str:
        """What must be said beside every number of this record: a stand-in, a cut budget, a small profile."""
        budget, dataset = self.content["budget"], self.content["dataset"] or {}
        parts = []
        if dataset.get("stand_in"):
            parts.append(f"on {dataset['name']}, a stand-in for {dataset['stands_for']}")
        if not self.complete:
            parts.append(f"{budget['done']:,} of {budget['planned']:,} {budget['unit']}")
        epochs, theirs = self.content["config"].get("epochs"), tables.sheet_epochs(self.id)
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
    """The record of a run, or None where there is none."""
    path = (results or settings.output_folder() / "results") / f"{run_id}.json"
    return Record(path) if path.exists() else None


def state(record: Record) -> str:
    """``recorded``, ``partial`` (budget not spent) or ``stale`` (the code it came from has changed)."""
    path = settings.PROJECT_ROOT / "notebooks" / f"{record['notebook']}.py"
    function = record["function"]
    try:
        current = source_digest(function, path.read_text())
    except (OSError, KeyError, SyntaxError):
        current = None
    if current != record["source"]:
        return "stale"
    return "recorded" if record.complete else "partial"


def describe_arrays(name: str, **splits: np.ndarray) -> dict:
    """What a record says of a generated data set: name, sizes, and a digest over its splits."""
    digest = hashlib.sha256()
    for split, array in sorted(splits.items()):
        digest.update(f"{split} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    sizes = {split: len(array) for split, array in splits.items()}
    return {"name": name, "digest": digest.hexdigest(), "sizes": sizes, "stand_in": False, "stands_for": None, "note": ""}
