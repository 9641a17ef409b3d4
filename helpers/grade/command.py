"""The command ``grade``: mark this suite, or a copy of it, and write the marks in the forms asked for."""

from __future__ import annotations

from pathlib import Path

from helpers.grade import formats, marking
from helpers.grade.submission import Submission


def register(commands) -> None:
    """Add the command ``grade``."""
    command = commands.add_parser("grade", help=grade.__doc__)
    command.add_argument("folder", nargs="?", help="another copy of the suite; this one by default")
    for name in formats.WRITERS:
        command.add_argument(f"--{name}", metavar="FILE", help=f"write the grade as {name} too")
    command.set_defaults(function=grade, default_profile="full")


def grade(arguments) -> int:
    """Mark the saved results, figures, notebooks and answers of this suite, or of a copy of it."""
    copy = Submission.of(Path(arguments.folder)) if arguments.folder else Submission.this_suite()
    items = marking.mark(copy)
    formats.show(items)
    for name, write in formats.WRITERS.items():
        if getattr(arguments, name):
            write(items, Path(getattr(arguments, name)))
    return 0 if marking.passed(items) else 1
