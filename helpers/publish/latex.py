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

from helpers.publish import provenance
from helpers.publish.tex import define, escape, plain, row, typeset
from helpers.publish.wording import metric, number, with_spread
from helpers.results import deliverables, tables, verdicts
from helpers.results.records import Record
from helpers.results.verdicts import Verdict

TERMS = ("neg_elbo", "recon", "kl")  # rows of the arrays of a final loss


def flat(content: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    """Names and numbers or texts of nested dicts, joined by dots."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, str, bool)):
            yield f"{prefix}{key}", value


def remark(record: Record, stale: bool) -> str:
    """What must be said beside every number of a record; empty for a full budget on the sheet's data."""
    return "; ".join(part for part in (record.remark, "stale: the code has changed since" if stale else "") if part)


def word(verdict: Verdict) -> str:
    """A verdict in colour."""
    colours = {True: "good", False: "bad", None: "plain"}
    short = verdict.word.replace(f", {verdicts.ON_PART}", " (part)")
    short = "under another name" if short.startswith("measured as") else short
    return rf"\textcolor{{{colours[verdict.passed]}}}{{{escape(short)}}}"


def known(verdict: Verdict) -> list[str]:
    """The sheet's number, the target and the bound of a metric, as cells of a table."""
    return [typeset(number(verdict.facts[name])) if name in verdict.facts else "--" for name in tables.KNOWN]


def run_macros(entry: dict, record: Record | None, stale: bool) -> list[str]:
    """All definitions of one run."""
    run_id = entry["id"]
    lines = []
    for asked, facts in entry.get("metrics", {}).items():
        lines += [define(name, run_id, asked, text=typeset(number(facts[name]))) for name in tables.KNOWN if name in facts]
    judged = verdicts.judge(entry, record)
    if stale:
        judged = [replace(verdict, word="stale", passed=None) if verdict.passed else verdict for verdict in judged]
    mark = rf"\flag{{{run_id}}}" if record is not None and remark(record, stale) else ""
    lines += [define("rows", run_id, text=_result_rows(entry, record, judged, stale)),
              define("summary", run_id, text=_summary_rows(entry, judged, mark))]
    if "verdicts" in entry:
        lines.append(define("verdicts", run_id, text=_verdict_rows(entry["verdicts"], record)))
    if record is None:
        return lines
    about = {"record": "yes", "budget": record.describe(), "seeds": len(record["seeds"]), "remark": remark(record, stale),
             "shownseed": record["seeds"][record.content.get("shown", 0)] if record["seeds"] else ""}
    lines += [define(kind, run_id, text=escape(text)) for kind, text in about.items()]
    if record["profile"] == "full":
        lines += [define("full", run_id, text="yes")] + ([] if record.complete else [define("cut", run_id, text="yes")])
    lines += [define("mark", run_id, text=mark)] if mark else []
    for verdict in judged:
        if verdict.value is None:
            continue
        value, _, deviation = typeset(with_spread(verdict.value, verdict.spread)).partition(r" $\pm$ ")
        lines += [define("number", run_id, verdict.metric, text=repr(float(verdict.value))),
                  define("val", run_id, verdict.metric, text=value + mark),
                  define("spread", run_id, verdict.metric, text=rf"\,$\pm$\,{deviation}" if deviation else "")]
    lines += [define("config", run_id, name, text=plain(value)) for name, value in flat(record["config"])]
    lines += [define("facts", run_id, name, text=plain(value, digits=4) + mark) for name, value in flat(record["facts"])]
    return lines + [define("array", run_id, name, text=typeset(number(value)) + mark) for name, value in means(record)]


def means(record: Record) -> Iterable[tuple[str, float]]:
    """Means over the seeds of the arrays that the report quotes, by name; the terms of a final loss each by its own."""
    if not record.arrays_path().exists():
        return
    arrays = record.arrays
    for name in ("final_train", "final_test"):
        if name in arrays:
            yield from ((f"{name}.{term}", float(values.mean())) for term, values in zip(TERMS, arrays[name], strict=True))
    if "not_annealed_loss" in arrays:
        yield "not_annealed_loss", float(arrays["not_annealed_loss"].mean())


def _result_rows(entry: dict, record: Record | None, judged: list[Verdict], stale: bool) -> str:
    """A block of a table of results: the run, what must be said of it, then one row a metric."""
    said = r"\gap{no record yet}" if record is None else remark(record, stale) and row("remarked", escape(remark(record, stale)))
    source = "" if record is None else row("source", entry["id"])
    shown = [verdict for verdict in judged if "verdicts" not in entry or not verdict.metric.startswith("final_radius_")]
    rows = (row("metricline", escape(metric(verdict.metric)), _ours(verdict), *known(verdict),
                "--" if record is None else word(verdict)) for verdict in shown)
    return row("runline", escape(entry.get("title", entry["id"])), said, source) + "".join(rows)


def _ours(verdict: Verdict) -> str:
    return "--" if verdict.value is None else typeset(with_spread(verdict.value, verdict.spread))


def _summary_rows(entry: dict, judged: list[Verdict], mark: str) -> str:
    """Rows of the first table: a run's judged metrics, or the run alone where it has none."""
    shown = [verdict for verdict in judged if "better" in verdict.facts]
    rows = []
    for index, verdict in enumerate(shown):
        name = escape(entry.get("title", entry["id"])) if index == 0 else ""
        state = r"\gap{no record}" if verdict.word == "no record yet" else word(verdict)
        ours = _ours(verdict) + mark * (verdict.value is not None)
        rows.append(row("summaryline", name, escape(metric(verdict.metric)), ours, *known(verdict), state))
    return "".join(rows)


def _verdict_rows(expected: dict[str, str], record: Record | None) -> str:
    """The Dirac runs, two in a row: expected and found verdict, and the radius at the end with its spread over the seeds."""
    found, cells = record["facts"].get("verdicts", {}) if record else {}, []
    ratios = _averaging(record) if record else {}
    for name, verdict in expected.items():
        ours, radius = found.get(name), f"final_radius_{name}"
        shown = rf"\textcolor{{{'good' if ours == verdict else 'bad'}}}{{{escape(ours)}}}" if ours else r"\gap{no record}"
        value = record.metrics.get(radius) if record else None
        size = "--" if value is None else typeset(with_spread(value, record.spread[radius]) if value > 1e-3 else number(value))
        kind, _, number_of = name.partition("_")
        drawn_in = typeset(_short(ratios[name])) if name in ratios else "--"
        cells.append(f"{kind.upper()} {number_of}&{escape(verdict)}&{shown}&{size}&{drawn_in}")
    half = (len(cells) + 1) // 2
    return "".join(rf"{left}&{right}\\" for left, right in zip_longest(cells[:half], cells[half:], fillvalue="&&&&"))


def _averaging(record: Record) -> dict[str, float]:
    """Dirac run with an averaged generator -> the largest averaged parameter of the last steps over the live one."""
    if not record.arrays_path().exists() or "last_amplitude" not in record.arrays:
        return {}
    live, averaged = record.arrays["last_amplitude"].mean(-1)  # (runs,) each
    return {name: float(averaged[index] / live[index]) for index, name in enumerate(record["facts"]["verdicts"])
            if averaged[index] != live[index]}


def _short(ratio: float) -> str:
    return "above one" if ratio > 1 else f"{ratio:.2g}"


def on_part(record: Record) -> bool:
    """Whether all that must be said of a record is that it saw a part of the sheet's data."""
    return bool(record.part) and record.remark == f"on part of the data: {record.part}"


def code_appendix(folder: Path) -> str:
    """The functions that the sheets name, from the notebooks' sources in ``folder``, without docstrings, as listings."""
    lines = []
    for entry in deliverables.content()["code"]:
        tree = ast.parse((folder / f"{entry['notebook']}.py").read_text(encoding="utf-8"))
        there = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        lines.append(rf"\subsection*{{Notebook {entry['notebook'].partition('_')[0]}}}")
        for name in entry["names"]:
            for node in ast.walk(there[name]):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) and len(node.body) > 1:
                    node.body = node.body[1:]
            text = re.sub(r"[^\x00-\x7f]", "?", ast.unparse(there[name]))
            lines += [r"\begin{lstlisting}", text, r"\end{lstlisting}"]
    return "\n".join(lines) + "\n"


def _remarks(found: dict[str, Record | None], is_stale: Callable[[Record], bool]) -> list[str]:
    """A number for each different remark, so that a caption says once what several of its runs share."""
    said = {run_id: remark(record, is_stale(record)) for run_id, record in found.items() if record is not None}
    texts = sorted({text for text in said.values() if text})
    return [*(define("remarkno", run_id, text=str(texts.index(text))) for run_id, text in said.items() if text),
            *(define("remarktext", str(index), text=escape(text)) for index, text in enumerate(texts))]


def _picture(name: str, run_id: str) -> str:
    """What a figure's name says that its run does not: ``train plot``."""
    return name.removesuffix(".png").removeprefix(run_id).strip("_").replace("_", " ")


def numbers(find: Callable[[str], Record | None], is_stale: Callable[[Record], bool], figures: dict[str, str],
            gaps: dict[str, str], further: dict[str, str], owners: dict[str, list[str]]) -> str:
    """The generated file.

    Args:
        find: gives the record of a run, or None.
        is_stale: tells whether the code that a record came from has changed since.
        figures: name of a usable figure -> path for LaTeX.
        gaps: name of a figure asked for that cannot be used -> reason.
        further: usable figures that ``report.tex`` does not mention -> the run that they belong to.
        owners: every usable figure -> the runs that it is drawn from.
    """
    entries = deliverables.asked_runs()
    lines = ["% Generated from results/ by python -m helpers report: not to be edited."]
    found = {entry["id"]: find(entry["id"]) for entry in entries}
    supporting = {entry["id"]: find(entry["id"]) for entry in deliverables.supporting_runs()}
    named = {entry["id"]: entry.get("title") or entry["text"] for entry in (*entries, *deliverables.supporting_runs())}
    for entry in (*entries, *deliverables.supporting_runs()):
        record = (found | supporting)[entry["id"]]
        lines += run_macros(entry, record, record is not None and is_stale(record))
    lines += [define("fig", name, text=path) for name, path in figures.items()]
    lines += [define("nofig", name, text=escape(reason)) for name, reason in gaps.items()]
    for sheet in deliverables.sheets():
        ids = [entry["id"] for entry in entries if entry["sheet"] == sheet]
        lines.append(define("summaryof", sheet, text="".join(rf"\csname summary/{run_id}\endcsname" for run_id in ids)))
    lines += _remarks(found | supporting, is_stale)
    lines += provenance.macros((*entries, *deliverables.supporting_runs()), (found | supporting).get, owners)
    shown = "".join(row("extrafigure", name, r".8\textwidth", f"{escape(named[run])}: {escape(_picture(name, run))}.")
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
