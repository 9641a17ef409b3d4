"""The grade: a class of a hundred whole submissions, two at a time against one by one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.common import row, time_alternating
from helpers import settings
from helpers.grade.classes import mark_class, students

STUDENTS = 100
PARTS = ("notebooks", "results", "figures")  # of the suite, with every record: the largest submission that is possible
JOBS = 2


def measure(repetitions: int) -> list[dict]:
    """One row: submissions a second with two jobs and with one. Each class is marked once: its size is what is averaged over."""
    with tempfile.TemporaryDirectory(prefix="class-", dir=settings.PROJECT_ROOT / "build") as folder:
        base, passes = Path(folder), iter(range(1000))
        for number in range(STUDENTS):
            for part in PARTS:
                target = base / "class" / f"student {number:03}" / part
                shutil.copytree(settings.PROJECT_ROOT / part, target, copy_function=os.link)
        everyone = students(base / "class")

        def marked(jobs: int) -> None:
            parts = base / f"parts {next(passes)}"  # a new folder, so that nothing counts as marked before
            done = sum(1 for _ in mark_class(everyone, settings.PROJECT_ROOT, parts, jobs))
            assert done == STUDENTS

        two, one = time_alternating(lambda: marked(JOBS), lambda: marked(1), repetitions=1, warm_up=0)
    return [row(f"a class of {STUDENTS} whole submissions, {JOBS} at a time", "one by one", STUDENTS / two, STUDENTS / one,
                "submissions/s")]
