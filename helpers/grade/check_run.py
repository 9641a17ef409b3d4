"""The command ``check-run``: the grader's own items for one run, before it is handed in."""

from __future__ import annotations

from helpers.grade import marking
from helpers.grade.submission import Submission, Unreadable
from helpers.results import deliverables, tables


def register(commands) -> None:
    """Add the command ``check-run``."""
    command = commands.add_parser("check-run", help=check_run.__doc__)
    command.add_argument("run", nargs="+", metavar="ID", help="of a run that a sheet asks for")
    command.set_defaults(function=check_run, default_profile="full")


def check_run(arguments) -> int:
    """Say of a run what the grader would say of what is saved here, in plain words."""
    asked = [entry["id"] for entry in deliverables.asked_runs()]
    for name in arguments.run:
        if name not in asked:
            raise Unreadable(f"no sheet asks for a run {name!r}{deliverables.nearest(name)}")
    facts = marking.reference.facts()
    items = list(marking.mark_each(Submission.this_suite(), facts, only=arguments.run))
    for item in items:
        print("\n".join(in_words(item)))
    return 0 if marking.passed(items) else 1


def in_words(item: marking.Item) -> list[str]:
    """A marked item as lines of text."""
    said = item.status if item.score is None else f"{item.status}, {item.score:g} of {item.points:g} points"
    lines = [f"{item.name} ({item.question}): {said}{', a weight: the sheet gives no points' if item.weighted else ''}"]
    for verdict in item.evidence:
        facts = [f"{name} {tables.number(verdict.facts[name])}" for name in ("sheet", "target", "bound") if name in verdict.facts]
        lines.append(f"  {verdict.metric}: {verdict.measured}, {verdict.word}" + (f" ({', '.join(facts)})" if facts else ""))
    return [*lines, *(f"  {reason}" for reason in item.reasons)]
