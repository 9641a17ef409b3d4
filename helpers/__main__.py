"""``python -m helpers``: build, check and look at the suite from the command line."""

from __future__ import annotations

import argparse
import os
import sys
import time

from helpers import notebooks, records, settings, tables


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
    """List every run the sheets ask for: recorded, partial or missing, and its numbers beside the sheet's."""
    rows = []
    for asked in tables.deliverables()["run"]:
        record = records.load(asked["id"])
        if record is None:
            rows.append([asked["id"], "missing", "", "", "", ""])
            continue
        state = records.state(record)
        for name, facts in asked.get("metrics", {}).items() or [("-", {})]:
            values = (record.metrics.get(name), facts.get("sheet"), facts.get("floor"))
            rows.append([asked["id"], state, name, *map(tables.number, values)])
    tables.show(["run", "state", "metric", "ours", "sheet", "bound"], rows)
    return 0


def main() -> int:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    parser.add_argument("--profile", choices=settings.PROFILES, help="overrides SUITE_PROFILE")
    commands = parser.add_subparsers(required=True, metavar="command")
    for function in (build, check, status):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(function=function)
        if function is not status:
            command.add_argument("notebook", nargs="*", help="names; all by default")
    arguments = parser.parse_args()
    if arguments.profile:
        os.environ["SUITE_PROFILE"] = arguments.profile
    try:
        return arguments.function(arguments)
    except (settings.SettingError, notebooks.NotebookError, records.RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
