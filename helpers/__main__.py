"""``python -m helpers``: build, train, check, report, grade and look at the suite from the command line.

A command stands beside what it does: its module registers its arguments and the function that carries it out.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from helpers import settings
from helpers.files import print_anywhere

COMMANDS = {  # only the module of the command asked for is imported: the grade runs where there is neither torch nor matplotlib
    "build": "helpers.publish.notebooks", "check": "helpers.publish.notebooks", "train": "helpers.work.runs",
    "full": "helpers.publish.planning", "status": "helpers.publish.planning", "restamp": "helpers.work.restamp",
    "weights": "helpers.work.weights", "bundle": "helpers.work.bundle", "bring": "helpers.work.bring",
    "sweep": "helpers.work.sweeps", "repack": "helpers.work.repack",
    "report": "helpers.publish.report", "readme": "helpers.publish.readme", "site": "helpers.publish.site.pages",
    "colab": "helpers.publish.stamping", "grade": "helpers.grade.command", "diff": "helpers.grade.diff",
    "gradescope": "helpers.grade.gradescope", "release": "helpers.grade.release", "check-run": "helpers.grade.check_run",
}


def parser_for(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that is among the words; of all commands where none is."""
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=settings.PROFILES, help="overrides SUITE_PROFILE")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    ahead = argparse.ArgumentParser(add_help=False)  # a profile is called as a command is: full
    ahead.add_argument("--profile")
    asked = next((COMMANDS[word] for word in ahead.parse_known_args(words)[1] if word in COMMANDS), None)
    for module in [asked] if asked else dict.fromkeys(COMMANDS.values()):
        importlib.import_module(module).register(commands)
    return parser


def end_as_interrupted() -> None:
    """Let a request to end (SIGTERM) and a closed terminal (SIGHUP) do what Ctrl-C does: children are told, too."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: what is being written is put in order
    raise KeyboardInterrupt


def _console_refuses() -> OSError | None:
    """What the console answers to one more line: nothing where it takes it, else the error; no more is sent there then."""
    try:
        print(flush=True)
    except OSError as refusal:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return refusal
    return None


def main() -> int:
    """Parse the command line and run one command; its exit status is 2 where the message names what to mend."""
    print_anywhere()
    end_as_interrupted()
    try:
        arguments = parser_for(sys.argv[1:]).parse_args()
        if arguments.profile:
            os.environ["SUITE_PROFILE"] = arguments.profile
        elif default := getattr(arguments, "default_profile", None):  # of commands that read what is saved, or train by name
            os.environ.setdefault("SUITE_PROFILE", default)
        status = arguments.function(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the checkpoints", file=sys.stderr)
        return 130
    except Exception as error:
        if getattr(type(error), "explained", False):
            print(f"error: {error}", file=sys.stderr)
            return 2
        refusal = _console_refuses() if isinstance(error, OSError) else None
        if refusal is None:
            raise  # another pipe broke, another file could not be written: that is a fault
        if isinstance(refusal, BrokenPipeError):
            return 141  # the reader has read enough, as head has: the status of SIGPIPE
        print(f"error: the output could not be written where it goes: {refusal.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
