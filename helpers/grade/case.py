"""One run of a copy as the checks of :mod:`helpers.grade.evidence` and :mod:`helpers.grade.origin` see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from helpers.grade.submission import Submission
from helpers.results import deliverables
from helpers.results.records import Record


@dataclass(frozen=True)
class Case:
    """One run of a copy, with what it is compared with.

    Attributes:
        entry: of the run in ``deliverables.toml``.
        record: of the copy.
        arrays: of the copy; None where they cannot be used, which is said elsewhere.
        facts: of the run in the reference, see :func:`helpers.grade.reference.facts`.
        forms: name of a data set -> its known forms.
        copy: the submission.
    """

    entry: Mapping
    record: Record
    arrays: Mapping[str, np.ndarray] | None
    facts: Mapping = field(default_factory=dict)
    forms: Mapping[str, list] = field(default_factory=dict)
    copy: Submission | None = None

    @property
    def same_setting(self) -> bool:
        """Whether the reference's record was made with the same function, configuration and profile."""
        theirs = self.facts.get("record")
        return bool(theirs) and all(theirs[name] == self.record[name] for name in ("function", "config", "profile"))

    @property
    def smaller(self) -> bool:
        """Whether it was made with another profile than the reference's record: on less data, and evaluated on less."""
        theirs = self.facts.get("record")
        return bool(theirs) and theirs["profile"] != self.record["profile"]

    @property
    def known_ids(self) -> list[str]:
        """The ids of all runs of the suite."""
        return deliverables.run_ids()
