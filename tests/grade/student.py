"""A student who writes what the course's own suite has: the bodies of a release's tasks, put back."""

from collections.abc import Collection
from pathlib import Path

from helpers.grade import handout
from helpers.results import deliverables


def solve(released: str, source: str, notebook: str, only: Collection[str] = ()) -> str:
    """A released notebook's text with the bodies of its source.

    Args:
        released: the text that a student got.
        source: the suite's own.
        notebook: its name.
        only: ids of the tasks that are solved; all by default.
    """
    theirs, ours = released.split("\n"), source.split("\n")
    there, here = handout.definitions(released), handout.definitions(source)
    names = [name for task in deliverables.tasks(notebook) if not only or task["id"] in only
             for written in task["names"] for name in handout.functions(written, there)]
    for name in sorted(names, key=lambda name: -there[name].lineno):
        first, last = handout.body_lines(there[name], theirs)
        begin, end = handout.body_lines(here[name], ours)
        theirs[first:last] = ours[begin:end]
    return "\n".join(theirs)


def solve_in(folder: Path, notebook: str, only: Collection[str] = ()) -> str:
    """Solve a notebook in a release's folder; returns the text."""
    path = folder / "notebooks" / f"{notebook}.py"
    source = (handout.CHANGES.parents[3] / "notebooks" / f"{notebook}.py").read_text(encoding="utf-8")
    solved = solve(path.read_text(encoding="utf-8"), source, notebook, only)
    path.write_text(solved, encoding="utf-8")
    return solved
