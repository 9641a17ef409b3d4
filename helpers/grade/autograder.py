"""What the packed autograder does with a submission, as its ``autograder.json`` says.

That file names the sheets that are marked and, where the course chose so, the notebooks that are run again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from helpers import settings
from helpers.grade import formats, limits, packages, reference, rerun
from helpers.grade.submission import PARSING_ERRORS, TooSlow

SETTINGS = "autograder.json"
SECONDS = 60  # for opening a submission, before anything of it is run


def to_json(sheets: Collection[str], job: rerun.Job | None) -> str:
    """The text of ``autograder.json``."""
    return json.dumps({"sheets": list(sheets), "run": job and asdict(job)}, indent=1) + "\n"


def grade(place: Path, results: Path, root: Path = settings.PROJECT_ROOT) -> None:
    """Mark a submission and write Gradescope's ``results.json``.

    Args:
        place: what was handed in.
        results: where ``results.json`` is written.
        root: folder of ``autograder.json`` and ``reference.json``.
    """
    chosen = json.loads((root / SETTINGS).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="autograder-") as folder:
        facts, note = root / reference.FILE, "no code of the submission was run"
        if chosen["run"]:
            ran, note = _ran(place, Path(folder), rerun.Job(**chosen["run"]))
            known = reference.read(facts) | {"ran": ran}
            facts = Path(folder) / reference.FILE
            facts.write_text(reference.to_json(known), encoding="utf-8")
        formats.write_gradescope(limits.mark(place, facts, sheets=chosen["sheets"]), results, note)


def _ran(place: Path, folder: Path, job: rerun.Job) -> tuple[dict[str, dict], str]:
    """What running a submission found, and a sentence on it."""
    try:
        with limits.alarm(SECONDS):
            copy = packages.open_copy(place, folder)
            for name in job.checks:
                copy.cells(name)
    except (TooSlow, *PARSING_ERRORS) as error:
        return {}, f"no notebook was run: {str(error)[:200] or type(error).__name__}"
    return rerun.run(copy, job)


if __name__ == "__main__":
    grade(Path(sys.argv[1]), Path(sys.argv[2]))
