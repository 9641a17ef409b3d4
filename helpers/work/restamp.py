"""A record keeps its number when a change of the code provably keeps it: ``python -m helpers restamp RUN... --since REV``.

The code of a revision, in a temporary worktree, and the present code start the run from the same seed. The first updates at the
record's own configuration, and where the run rests on no other the whole run at the smoke profile, must agree to the bit: loss
terms, weights, outcome. Only then is the present digest written into the record, and beside it what was compared.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from helpers import settings
from helpers.files import write_together
from helpers.results import records
from helpers.results.digests import source_digest
from helpers.results.records import Record
from helpers.work.definitions import declaration, source_path
from helpers.work.runs import expand

UPDATES = 10
PROBE = Path(__file__).with_name("probe.py")


class RestampError(RuntimeError):
    """A record cannot be restamped; it is as it was."""

    explained = True


def register(commands) -> None:
    """Add the command ``restamp``."""
    command = commands.add_parser("restamp", help=restamp.__doc__.splitlines()[0], description=__doc__)
    command.add_argument("run", nargs="+", help="ids; * and ? are allowed")
    command.add_argument("--since", required=True, metavar="REV", help="the revision whose code made the record")
    command.add_argument("--updates", type=int, default=UPDATES, metavar="K", help=f"updates to compare, {UPDATES} by default")
    command.set_defaults(function=restamp, default_profile="full")


def restamp(arguments: argparse.Namespace) -> int:
    """Give records the present code's digest where old and new code agree to the bit."""
    refused = 0
    with worktree(arguments.since) as (old, revision):
        for run_id in expand(arguments.run):
            record = records.load(run_id)
            if record is None or record["source"] == present_digest(record):
                print(f"{run_id}: {'no record' if record is None else 'of the present code already'}", flush=True)
                continue
            try:
                print(f"{run_id}: restamped, {restamp_one(record, old, revision, arguments.updates)}", flush=True)
            except RestampError as error:
                print(f"{run_id}: NOT restamped: {error}", flush=True)
                refused += 1
    return 1 if refused else 0


def restamp_one(record: Record, old: Path, revision: str, updates: int) -> str:
    """Compare old and new code of one record and write the new digest; returns what was compared, in words.

    Args:
        record: whose digest is not that of the present code.
        old: folder of the old tree.
        revision: its commit.
        updates: to compare at the record's own configuration.

    Raises:
        RestampError: the record is not of the old code, or the two differ; the record is as it was.
    """
    text = (old / "notebooks" / f"{record['notebook']}.py").read_text(encoding="utf-8")
    if old_digest(record["function"], text, old) != record["source"]:
        raise RestampError(f"it is not of the code of {revision[:9]}: name the revision whose code made it")
    declared = declaration(record.id)
    question = {"id": record.id, "notebook": record["notebook"], "function": record["function"], "seed": record["seed"],
                "config": record["config"], "needs": list(declared.needs), "updates": updates}
    words = [compare(question, old, "full", f"the first {updates} updates")]
    if not declared.needs:
        whole = question | {"config": declared.config("smoke"), "updates": None}
        words.append(compare(whole, old, "smoke", "the whole run at smoke"))
    entry = {"from": record["source"], "since": revision, "updates": updates, "smoke": not declared.needs,
             "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    record.content["restamped"] = [*record.content.get("restamped", []), entry]
    record.content["source"] = present_digest(record)
    write_together({record.path: records.json_bytes(record.content)})
    return " and ".join(words) + " agree to the bit"


def compare(question: dict, old: Path, profile: str, what: str) -> str:
    """Ask both trees; returns ``what`` where their answers agree.

    Raises:
        RestampError: they differ, or one of them failed.
    """
    before, after = (answer(question, tree, profile) for tree in (old, settings.PROJECT_ROOT))
    if before != after:
        parts = sorted({key for one, two in zip(before, after, strict=False) for key in one if one[key] != two.get(key)})
        raise RestampError(f"{what}: old and new code differ in {', '.join(parts) or 'how often they train'}")
    return what


def answer(question: dict, tree: Path, profile: str) -> list[dict]:
    """The digests that :mod:`helpers.work.probe` finds in a tree.

    Raises:
        RestampError: the run failed there.
    """
    with tempfile.TemporaryDirectory() as output:
        environment = os.environ | {"PYTHONPATH": str(tree), "SUITE_PROFILE": profile, "SUITE_DATA": str(settings.data_folder()),
                                    "SUITE_OUTPUT": output, "SUITE_PROGRESS": "off", "SUITE_DEVICE": "cpu"}
        if profile == "full":  # needed runs are read from the tree's own records; nothing is written
            environment["SUITE_OUTPUT"] = str(tree)
        for name in ("SUITE_RETRAIN", "SUITE_MINUTES"):
            environment.pop(name, None)
        done = subprocess.run([sys.executable, str(PROBE)], cwd=tree, env=environment, input=json.dumps(question),
                              encoding="utf-8", capture_output=True, check=False)
    if done.returncode:
        which = "present" if tree == settings.PROJECT_ROOT else "old"
        raise RestampError(f"the run fails with the {which} code: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def present_digest(record: Record) -> str | None:
    """The digest that the present code would give a record; None where its function has gone."""
    try:
        return source_digest(record["function"], source_path(record["notebook"]).read_text(encoding="utf-8"))
    except KeyError:
        return None


def old_digest(function: str, notebook_source: str, tree: Path) -> str:
    """The digest of a function in another tree, by that tree's own rules."""
    code = ("import sys\ntry:\n    from helpers.results.digests import source_digest\nexcept ImportError:\n"
            "    from helpers.digests import source_digest\nprint(source_digest(sys.argv[1], sys.stdin.read()))")
    done = subprocess.run([sys.executable, "-c", code, function], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)},
                          input=notebook_source, encoding="utf-8", capture_output=True, check=False)
    return done.stdout.strip()


@contextmanager
def worktree(revision: str):
    """A temporary worktree of a revision: its folder and its commit.

    Raises:
        RestampError: there is no such revision, or no git.
    """
    def git(*words: str) -> str:
        command = ["git", "-C", str(settings.PROJECT_ROOT), *words]
        done = subprocess.run(command, encoding="utf-8", capture_output=True, check=False)
        if done.returncode:
            raise RestampError(f"git {words[0]} {revision}: {done.stderr.strip()}")
        return done.stdout.strip()

    commit = git("rev-parse", "--verify", f"{revision}^{{commit}}")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "old"
        git("worktree", "add", "--detach", str(folder), commit)
        try:
            yield folder, commit
        finally:
            git("worktree", "remove", "--force", str(folder))
