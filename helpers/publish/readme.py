"""The generated tables of README.md and of the pages under docs/: results, speed, cost; from the records and the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from helpers import settings
from helpers.files import write_together
from helpers.publish import cost, wording
from helpers.results import deliverables, records, tables, verdicts

SHEETS = {"berkeley24": "Berkeley 2024", "berkeley19": "Berkeley 2019", "haifa24": "Haifa 2024", "mit24": "MIT 2024",
          "mila20": "Mila 2020"}
SHARES, RATES = "loop_shares", "rates"  # the benchmarks that compare nobody


def speed_table() -> str:
    """One row a comparison of ``benchmarks/results/``, medians of both sides in one run."""
    lines = ["| what | peer | ours | theirs | unit | ratio | aim | peak MiB |", "|---|---|---:|---:|---|---:|---:|---:|"]
    machines: dict[str, list[str]] = {}
    for path in sorted((settings.PROJECT_ROOT / "benchmarks" / "results").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["benchmark"] in (SHARES, RATES):
            continue
        machine = content["machine"]
        often = f"medians of {content['repetitions']}" if content["repetitions"] > 1 else "one timing each"
        where = f"{machine['processor']}, {machine['device']}, torch {machine['torch']}, {often}"
        machines.setdefault(where, []).append(content["benchmark"])
        for row in content["rows"]:
            aim = "-" if row.get("aim") is None else f"{row['aim']:g}"
            lines.append(f"| {row['what']} | {row['peer']} {row['peer_version']} | {row['ours']:.4g} | {row['theirs']:.4g} "
                         f"| {row['unit']} | {row['ratio']:.2f} | {aim} | {_peaks(row.get('peak_megabytes'))} |")
    lines += [*shares_table(), *rates_table()]
    said = [f"{where} ({', '.join(names)})" for where, names in machines.items()]
    return "\n".join([*lines, "", f"Machines: {'; '.join(said) or 'none yet'}."])


def _peaks(megabytes: list[float] | None) -> str:
    """Peak memory of tensors, ours / theirs."""
    return "-" if megabytes is None else " / ".join(f"{value:.3g}" for value in megabytes)


def shares_table() -> list[str]:
    """Lines that say where the time of a training step goes on each notebook's main model; none where it was not measured."""
    path = settings.PROJECT_ROOT / "benchmarks" / "results" / f"{SHARES}.json"
    if not path.exists():
        return []
    parts = ("model", "optimiser", "data", "loop")
    lines = ["", "Where the time of a training step goes, on main models of the notebooks; its memory; and what its training",
             "should take on a T4, an estimate from counted operations (how: `benchmarks/loop_shares.py`):", "",
             "| run | steps/s | model | optimiser | data | loop | memory MiB | T4 minutes, estimated |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        cells = [f"`{row['run']}`", f"{row['steps_per_second']:.3g}", *(f"{row[part]:.1%}" for part in parts),
                 f"{row['memory_megabytes']:.0f}", f"{row['t4_minutes']:.2g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "The optimiser's work is the same for each weight whatever the batch, so its share is largest where few",
            "examples share many weights."]


def rates_table() -> list[str]:
    """Lines with updates a second and memory of the main runs, one table a device; none where nothing was measured."""
    lines = []
    for path in sorted((settings.PROJECT_ROOT / "benchmarks" / "results").glob(f"{RATES}_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        lines += ["", f"Measured on {content['machine']['device']}, torch {content['machine']['torch']}, one run at a time:", "",
                  "| run | updates/s | updates of the first stage | minutes for them | peak MiB |", "|---|---:|---:|---:|---:|"]
        for row in content["rows"]:
            minutes = row["planned"] / row["updates_per_second"] / 60
            lines.append(f"| `{row['run']}` | {row['updates_per_second']:.4g} | {row['planned']:,} | {minutes:.2g} | "
                         f"{row['peak_megabytes']:.0f} |")
    return lines


def table() -> str:
    """One row a recorded run, with its headline metric: the first that the sheet reports, else the first that is judged."""
    lines = ["| run | metric | ours | seeds | sheet | target | bound | verdict |", "|---|---|---:|---:|---:|---:|---:|---|"]
    missing, alone = [], []
    for entry in deliverables.asked_runs():
        record = records.load(entry["id"], settings.PROJECT_ROOT / "results")
        if record is None:
            missing.append(f"`{entry['id']}`")
            continue
        verdict = verdicts.headline(verdicts.judge(entry, record))
        if verdict is None:
            alone.append(f"`{entry['id']}`" + (f" ({record.remark})" if record.remark else ""))
            continue
        said = record.part if verdict.word.endswith(verdicts.ON_PART) else record.remark  # the word has said the rest
        word = f"{verdict.word}: {said}" if said else verdict.word
        known = " | ".join(tables.number(verdict.facts.get(name)) for name in tables.KNOWN)
        ours = f"{verdict.metric} | {verdict.measured} | {_seeds(record, verdict)}"
        lines.append(f"| `{entry['id']}` | {ours} | {known} | {word} |")
    if alone:
        lines += ["", f"Recorded, with no number of the sheet's kind to set beside it: {', '.join(alone)}."]
    if missing:
        lines += ["", f"No record yet: {', '.join(missing)}."]
    return "\n".join(lines)


def short_table() -> str:
    """The runs whose number the sheet reports too, and how many runs reach what they aim at."""
    lines = ["| sheet | question | result | ours | seeds | theirs | verdict |", "|---|---|---|---:|---:|---:|---|"]
    judged, reached = 0, 0
    for entry in deliverables.asked_runs():
        record = records.load(entry["id"], settings.PROJECT_ROOT / "results")
        verdict = None if record is None else verdicts.headline(verdicts.judge(entry, record))
        if verdict is None:
            continue
        judged += bool({"sheet", "target"} & verdict.facts.keys())  # a bound alone is no aim
        reached += verdict.word.startswith(("target reached", "sheet reached"))
        if "sheet" in verdict.facts and verdict.value is not None:
            ours, theirs = wording.with_spread(verdict.value, verdict.spread), wording.number(verdict.facts["sheet"])
            result = f"{wording.metric(verdict.metric)} | {ours} | {_seeds(record, verdict)}"
            lines.append(f"| {SHEETS[entry['sheet']]} | {entry['title']} | {result} | {theirs} | {verdict.word} |")
    return "\n".join([*lines, "", f"{reached} of {judged} runs with an aim reach it."])


def _seeds(record: records.Record, verdict: verdicts.Verdict) -> str:
    """Over how many seeds a judged number is a mean."""
    return str(record.spread.get(verdict.metric, {}).get("n", "-"))


PAGES: dict[str, dict[str, Callable[[], str]]] = {  # page -> marker -> what stands between its two marks
    "README.md": {"results": short_table},
    "docs/results.md": {"results": table},
    "docs/speed.md": {"speed": speed_table},
    "docs/cost.md": {"cost": cost.table},
}


def update(check: bool = False, root: Path | None = None) -> list[str]:
    """Bring the tables up to date, or only look.

    Args:
        check: change nothing.
        root: of the pages; the project's by default.

    Returns:
        The pages whose tables were stale.

    Raises:
        ValueError: a page lacks a pair of marks.
    """
    changed = {}
    for name, marks in PAGES.items():
        path = (root or settings.PROJECT_ROOT) / name
        text = new = path.read_text(encoding="utf-8")
        for mark, content in marks.items():
            new = _between(new, f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->", content(), name)
        if new != text:
            changed[path] = (name, new)
    if not check:
        write_together({path: new.encode() for path, (_, new) in changed.items()})
    return [name for name, _ in changed.values()]


def _between(text: str, begin: str, end: str, content: str, name: str) -> str:
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{name} needs {begin} and, below it, {end}, once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def register(commands) -> None:
    """Add the command ``readme``."""
    command = commands.add_parser("readme", help=readme.__doc__)
    command.add_argument("--check", action="store_true", help="change nothing; exit status 1 where it is stale")
    command.set_defaults(function=readme, default_profile="full")


def readme(arguments) -> int:
    """Write the tables of README.md and docs/ from the records and benchmarks, or only check them."""
    changed = update(check=arguments.check)
    for name in changed:
        print(f"{name}: its table " + ("is stale: run python -m helpers readme" if arguments.check else "was written"))
    if not changed:
        print("every table is that of the records")
    return int(arguments.check and bool(changed))
