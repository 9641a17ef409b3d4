r"""The numbers of the report: one generated LaTeX file, from the records and from nothing else.

``report.tex`` asks for a number by run and metric, ``\val{q1_a_dset1}{neg_elbo}``. What has no record expands to a visible
gap. The macros that look these names up are defined in ``report.tex``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from helpers.results import deliverables, tables, verdicts
from helpers.results.records import Record
from helpers.results.verdicts import Verdict

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$",
           "–": "--", "—": "---", "<": r"\textless{}", ">": r"\textgreater{}"} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def escape(text: object) -> str:
    """A text with LaTeX's special characters made harmless; characters that the fonts lack become question marks."""
    return "".join(SPECIAL.get(sign, sign if sign.isascii() else "?") for sign in str(text))


def code(text: str) -> str:
    """A name in typewriter type, which may break after an underscore."""
    return r"\texttt{" + escape(text).replace(r"\_", r"\_\allowbreak{}") + "}"


def plain(value: object, digits: int = 10) -> str:
    """A value of a configuration for prose: whole numbers with thin spaces, others as short as they are exact."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return escape(value)
    if float(value).is_integer() and abs(value) >= 1:
        return f"{int(value):,}".replace(",", r"\,")
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return mantissa if not exponent else rf"\ensuremath{{{mantissa}\times10^{{{int(exponent)}}}}}".replace(r"1\times", "")


def define(kind: str, *names: str, text: str) -> str:
    r"""One definition, found again by ``\lookup{kind}{name/...}``."""
    return rf"\expandafter\def\csname {kind}/{'/'.join(names)}\endcsname{{{text}}}"


def flat(content: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    """Names and numbers or texts of nested dicts, joined by dots."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, str, bool)):
            yield f"{prefix}{key}", value


def dataset_line(record: Record) -> str:
    """Name of the data set and what has to be said of it."""
    dataset = record["dataset"]
    if dataset is None:
        return "no data"
    sizes = ", ".join(f"{size:,} {split}" for split, size in (dataset.get("sizes") or {}).items())
    stand_in = f", a stand-in for {dataset['stands_for']}" if dataset["stand_in"] else ""
    note = f"; {dataset['note']}" if dataset.get("note") else ""
    return f"{dataset['name']}{stand_in} ({sizes}){note}"


def remark(record: Record, stale: bool) -> str:
    """What must be said beside every number of a record; empty for a full budget on the sheet's data."""
    return "; ".join(part for part in (record.remark, "stale: the code has changed since" if stale else "") if part)


def word(verdict: Verdict) -> str:
    """A verdict in colour."""
    colours = {True: "good", False: "bad", None: "plain"}
    short = "under another name" if verdict.word.startswith("measured as") else verdict.word.replace(verdicts.ON_PART, "(part)")
    return rf"\textcolor{{{colours[verdict.passed]}}}{{{escape(short)}}}"


def known(verdict: Verdict) -> list[str]:
    """The sheet's number, the target and the bound of a metric, as cells of a table."""
    return [tables.number(verdict.facts[name]) if name in verdict.facts else "--" for name in tables.KNOWN]


def row(command: str, *cells: str) -> str:
    """A LaTeX command with its arguments."""
    return f"\\{command}" + "".join(f"{{{cell}}}" for cell in cells)


def run_macros(entry: dict, record: Record | None, stale: bool) -> list[str]:
    """All definitions of one run."""
    run_id = entry["id"]
    lines = []
    for metric, facts in entry.get("metrics", {}).items():
        for name in tables.KNOWN:
            if name in facts:
                lines.append(define(name, run_id, metric, text=tables.number(facts[name])))
    judged = verdicts.judge(entry, record)
    if stale:
        judged = [replace(verdict, word="stale", passed=None) if verdict.passed else verdict for verdict in judged]
    mark = rf"\flag{{{run_id}}}" if record is not None and remark(record, stale) else ""
    lines += [define("rows", run_id, text=_result_rows(entry, record, judged, stale)),
              define("summary", run_id, text=_summary_rows(entry, judged, mark))]
    if "verdicts" in entry:
        found = record["facts"].get("verdicts", {}) if record else {}
        lines.append(define("verdicts", run_id, text=_verdict_rows(entry["verdicts"], found)))
    if record is None:
        return lines
    about = {"record": "yes", "budget": record.describe(), "seeds": len(record["seeds"]), "remark": remark(record, stale)}
    lines += [define(kind, run_id, text=escape(text)) for kind, text in about.items()]
    if record["profile"] == "full":
        lines += [define("full", run_id, text="yes")] + ([] if record.complete else [define("cut", run_id, text="yes")])
    lines += [define("mark", run_id, text=mark)] if mark else []
    for verdict in judged:
        if verdict.value is None:
            continue
        deviation = tables.number(verdict.spread["std"]) if verdict.spread["n"] > 1 else ""
        lines += [define("number", run_id, verdict.metric, text=repr(float(verdict.value))),
                  define("val", run_id, verdict.metric, text=tables.number(verdict.value) + mark),
                  define("spread", run_id, verdict.metric, text=rf"\,$\pm$\,{deviation}" if deviation else "")]
    lines += [define("config", run_id, name, text=plain(value)) for name, value in flat(record["config"])]
    lines += [define("facts", run_id, name, text=plain(value, digits=4) + mark) for name, value in flat(record["facts"])]
    return lines


def _result_rows(entry: dict, record: Record | None, judged: list[Verdict], stale: bool) -> str:
    """A block of a table of results: the run, how its numbers came about, then one row a metric."""
    name = entry["id"], code(entry["id"])
    if record is None:
        rows = (row("metricline", code(verdict.metric), "--", *known(verdict), "--") for verdict in judged)
        return row("runline", *name, "", r"\gap{no record yet}") + "".join(rows)
    said = remark(record, stale)
    made = escape(f"{record.describe()}; {dataset_line(record)}")
    head = row("runline", *name, row("remarked", escape(said)) if said else "", made)
    rows = (row("metricline", code(verdict.metric), escape(verdict.measured), *known(verdict), word(verdict))
            for verdict in judged)
    return head + "".join(rows)


def _summary_rows(entry: dict, judged: list[Verdict], mark: str) -> str:
    """Rows of the first table: a run's judged metrics, or the run alone where it has none."""
    shown = [verdict for verdict in judged if "better" in verdict.facts]
    rows = []
    for index, verdict in enumerate(shown):
        name = code(entry["id"]) if index == 0 else ""
        state = r"\gap{no record}" if verdict.word == "no record yet" else word(verdict)
        ours = "--" if verdict.value is None else escape(verdict.measured) + mark
        rows.append(row("summaryline", name, code(verdict.metric), ours, *known(verdict), state))
    return "".join(rows)


def _verdict_rows(expected: dict[str, str], found: dict[str, str]) -> str:
    """The Dirac runs, two in a row: expected and found verdict."""
    cells = []
    for name, verdict in expected.items():
        ours = found.get(name)
        shown = rf"\textcolor{{{'good' if ours == verdict else 'bad'}}}{{{escape(ours)}}}" if ours else r"\gap{no record}"
        cells.append(f"{code(name)}&{escape(verdict)}&{shown}")
    half = (len(cells) + 1) // 2
    return "".join(rf"{left}&{right}\\" for left, right in zip_longest(cells[:half], cells[half:], fillvalue="&&"))


def on_part(record: Record) -> bool:
    """Whether all that must be said of a record is that it saw a part of the sheet's data."""
    return bool(record.part) and record.remark == f"on part of the data: {record.part}"


def code_appendix(folder: Path) -> str:
    """The functions that the sheets name, from the notebooks' sources in ``folder``, without docstrings, as listings."""
    lines = []
    for entry in deliverables.content()["code"]:
        tree = ast.parse((folder / f"{entry['notebook']}.py").read_text(encoding="utf-8"))
        there = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        lines.append(rf"\subsection*{{Notebook {escape(entry['notebook'])}}}")
        for name in entry["names"]:
            for node in ast.walk(there[name]):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) and len(node.body) > 1:
                    node.body = node.body[1:]
            text = re.sub(r"[^\x00-\x7f]", "?", ast.unparse(there[name]))
            lines += [r"\begin{lstlisting}", text, r"\end{lstlisting}"]
    return "\n".join(lines) + "\n"


def numbers(find: Callable[[str], Record | None], is_stale: Callable[[Record], bool], figures: dict[str, str],
            gaps: dict[str, str], further: dict[str, str]) -> str:
    """The generated file.

    Args:
        find: gives the record of a run, or None.
        is_stale: tells whether the code that a record came from has changed since.
        figures: name of a usable figure -> path for LaTeX.
        gaps: name of a figure asked for that cannot be used -> reason.
        further: usable figures that ``report.tex`` does not mention -> the run that they belong to.
    """
    entries = deliverables.asked_runs()
    lines = ["% Generated from results/ by python -m helpers report: not to be edited."]
    found = {entry["id"]: find(entry["id"]) for entry in entries}
    supporting = {entry["id"]: find(entry["id"]) for entry in deliverables.supporting_runs()}
    for entry in (*entries, *deliverables.supporting_runs()):
        record = (found | supporting)[entry["id"]]
        lines += run_macros(entry, record, record is not None and is_stale(record))
    lines += [define("fig", name, text=path) for name, path in figures.items()]
    lines += [define("nofig", name, text=escape(reason)) for name, reason in gaps.items()]
    for sheet in deliverables.sheets():
        ids = [entry["id"] for entry in entries if entry["sheet"] == sheet]
        lines.append(define("summaryof", sheet, text="".join(rf"\csname summary/{run_id}\endcsname" for run_id in ids)))
    shown = "".join(row("extrafigure", name, r".8\textwidth", f"{code(name)}, from {code(run)}.")
                    for name, run in further.items())
    lines.append(r"\def\furtherfigures{" + (r"\section{Further figures}" + shown if shown else "") + "}")
    recorded = [record for record in found.values() if record is not None]
    lines += [rf"\def\recordedruns{{{len(recorded)}}}\def\askedruns{{{len(entries)}}}",
              rf"\def\remarkedruns{{{sum(bool(record.remark) for record in recorded)}}}",
              rf"\def\completeruns{{{sum(not record.remark for record in recorded)}}}",
              rf"\def\partruns{{{sum(on_part(record) for record in recorded)}}}",
              rf"\def\cutruns{{{sum(bool(record.remark) and not on_part(record) for record in recorded)}}}",
              rf"\def\missingruns{{{len(entries) - len(recorded)}}}",
              rf"\def\totalhours{{{sum(record['seconds'] for record in recorded) / 3600:.1f}}}"]
    return re.sub(r"[^\x00-\x7f]", "?", "\n".join(lines)) + "\n"
