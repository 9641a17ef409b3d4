"""``python -m helpers``: build, check and look at the suite from the command line."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from helpers import settings
from helpers.publish import notebooks, planning
from helpers.results import records, tables


def build(arguments: argparse.Namespace) -> int:
    """Execute notebooks and save them with their outputs."""
    for name in arguments.notebook or notebooks.names():
        started = time.perf_counter()
        path = notebooks.build(name)
        print(f"{name}: built in {time.perf_counter() - started:.0f} s, {path.stat().st_size / 2**20:.1f} MiB", flush=True)
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Tell fresh notebooks from stale, hollow, failed and missing ones."""
    found = [notebooks.check(name, settings.output_folder() / "notebooks") for name in arguments.notebook or notebooks.names()]
    for result in found:
        print(f"{result.name}: {result.state}" + "".join(f"\n    {reason}" for reason in result.reasons))
    return 0 if all(result.state == "fresh" for result in found) else 1


def status(arguments: argparse.Namespace) -> int:
    """List every run the sheets ask for: its state, its budget, what is left, and its numbers beside the sheet's."""
    tables.show(["run", "state", "budget", "training left", "metric", "ours", "sheet", "target", "bound"], planning.status_rows())
    return 0


def full(arguments: argparse.Namespace) -> int:
    """Train every run that has no record (going on from checkpoints) and build the notebooks."""
    return 0 if planning.train_and_build(minutes=arguments.minutes, more=arguments.more) else 1


def report(arguments: argparse.Namespace) -> int:
    """Build the report from the records alone: report.pdf."""
    from helpers.publish import report as builder

    started = time.perf_counter()
    try:
        path, complaints = builder.build()
    except builder.ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {time.perf_counter() - started:.0f} s", *complaints, sep="\n    ")
    return 1 if complaints else 0


def readme(arguments: argparse.Namespace) -> int:
    """Write the table of results into README.md, or only check it."""
    from helpers.publish import readme as table

    if not table.update(check=arguments.check):
        return 0
    print("README.md: its table of results " + ("is stale: run python -m helpers readme" if arguments.check else "was written"))
    return int(arguments.check)


def grade(arguments: argparse.Namespace) -> int:
    """Mark the saved results, figures, notebooks and answers of this suite, or of a copy of it."""
    from helpers.grade import formats, marking
    from helpers.grade.submission import Submission, Unreadable

    try:
        copy = Submission.of(Path(arguments.folder)) if arguments.folder else Submission.this_suite()
    except Unreadable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    items = marking.mark(copy)
    formats.show(items)
    for name, write in formats.WRITERS.items():
        if getattr(arguments, name):
            write(items, Path(getattr(arguments, name)))
    return 0 if marking.passed(items) else 1


def gradescope(arguments: argparse.Namespace) -> int:
    """Pack the grade as an autograder for Gradescope."""
    from helpers.grade import gradescope

    path = gradescope.pack(Path(arguments.output) if arguments.output else settings.PROJECT_ROOT / "build" / "autograder.zip")
    print(f"{path}: {path.stat().st_size / 2**10:.0f} KiB")
    return 0


def colab(arguments: argparse.Namespace) -> int:
    """Write the repository's address into badges and first cells, or check that it is the same everywhere."""
    from helpers.publish import stamping

    if arguments.repository is not None:
        stamping.checked(arguments.repository)
    if arguments.write or arguments.repository is not None:
        changed = stamping.stamp(stamping.setting() if arguments.repository is None else arguments.repository)
        print(*(f"stamped {name}" for name in changed), sep="\n", end="\n" * bool(changed))
    print(f"repository: {stamping.setting() or 'none; make colab REPO=owner/name sets it'}")
    found = stamping.complaints()
    print(*found or ["first cells and badges agree with it"], sep="\n")
    return 1 if found and not (arguments.write or arguments.repository) else 0


def _arguments_of(function: Callable, command: argparse.ArgumentParser) -> None:
    if function in (build, check):
        command.add_argument("notebook", nargs="*", help="names; all by default")
    elif function is full:
        command.add_argument("--minutes", type=float, help="stop after so many; the same command goes on")
        command.add_argument("--more", action="store_true", help="go on with runs whose budget was cut, too")
    elif function is colab:
        command.add_argument("--repository", metavar="OWNER/NAME", help="on GitHub; without it, nothing is changed")
        command.add_argument("--write", action="store_true", help="write the present setting again, as for a new notebook")
    elif function is readme:
        command.add_argument("--check", action="store_true", help="change nothing; exit status 1 where it is stale")
    elif function is grade:
        command.add_argument("folder", nargs="?", help="another copy of the suite; this one by default")
        for name in ("gradescope", "csv", "junit"):
            command.add_argument(f"--{name}", metavar="FILE", help=f"write the grade as {name} too")
    elif function is gradescope:
        command.add_argument("--output", metavar="FILE", help="build/autograder.zip by default")


def main() -> int:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    parser.add_argument("--profile", choices=settings.PROFILES, help="overrides SUITE_PROFILE")
    commands = parser.add_subparsers(required=True, metavar="command")
    for function in (build, check, status, full, report, readme, grade, gradescope, colab):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(function=function)
        _arguments_of(function, command)
    arguments = parser.parse_args()
    if arguments.profile:
        os.environ["SUITE_PROFILE"] = arguments.profile
    elif arguments.function is full:
        os.environ["SUITE_PROFILE"] = "full"
    elif arguments.function in (report, readme, grade, gradescope):
        os.environ.setdefault("SUITE_PROFILE", "full")  # they read what is saved; a GPU is not asked for
    try:
        return arguments.function(arguments)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the checkpoints", file=sys.stderr)
        return 130
    except (settings.SettingError, notebooks.NotebookError, records.RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
