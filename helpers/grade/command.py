"""The command ``grade``: mark this suite, a copy of it or a class of copies, and write the marks in the forms asked for."""

from __future__ import annotations

from pathlib import Path

from helpers import settings
from helpers.grade import classes, formats, limits, marking
from helpers.grade.submission import Submission, Unreadable
from helpers.results import deliverables


def register(commands) -> None:
    """Add the command ``grade``."""
    command = commands.add_parser("grade", help=grade.__doc__)
    command.add_argument("folder", nargs="?", help="another copy of the suite: a folder, zip or notebook; this one by default")
    command.add_argument("--class", dest="class_folder", metavar="FOLDER", help="mark every folder, zip and notebook in it")
    command.add_argument("--sheet", metavar="NAME,...", help=f"of {', '.join(deliverables.sheets())}; all by default")
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="copies of a class that are marked at a time")
    command.add_argument("--reference", metavar="FILE", help="mark against reference.json or another suite's folder")
    command.add_argument("--html", metavar="PATH", help="write the feedback page (for a class: a folder of pages)")
    for name in formats.WRITERS:
        command.add_argument(f"--{name}", metavar="FILE", help=f"write the grade as {name} too")
    command.set_defaults(function=grade, default_profile="full")


def grade(arguments) -> int:
    """Mark the saved results, figures, notebooks and answers of this suite, of a copy of it, or of a class."""
    facts = Path(arguments.reference) if arguments.reference else settings.PROJECT_ROOT
    if not facts.exists():
        raise Unreadable(f"{facts} is not there")
    sheets = marking.sheets_named(arguments.sheet)
    if arguments.class_folder:
        return classes.grade_class(arguments, facts, sheets)
    page = Path(arguments.html) if arguments.html else None
    if arguments.folder:
        place = Path(arguments.folder)
        _refuse_its_own_helpers(place)
        if not place.exists():
            raise Unreadable(f"{place} is not there")
        items = limits.mark(place, facts, page=page, sheets=sheets)
    else:
        items = marking.mark(Submission.this_suite(), sheets=sheets)
    for name, write in formats.WRITERS.items():
        if getattr(arguments, name):
            write(items, Path(getattr(arguments, name)))
    if page and not arguments.folder:
        from helpers.grade import pages

        pages.write_page(items, Submission.this_suite(), page)
    formats.show(items)
    return 0 if marking.passed(items) else 1


def _refuse_its_own_helpers(place: Path) -> None:
    """Refuse to mark the folder that this very program was read from: what is marked must not do the marking."""
    place = place.resolve()
    if settings.PROJECT_ROOT.resolve().is_relative_to(place):
        raise Unreadable(
            f"{place} holds the helpers that would mark it: go to the course's own suite and run python -m helpers grade {place} "
            "there (without a folder, the command marks the suite it belongs to)")
