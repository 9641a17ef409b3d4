"""The report: generated numbers, figures made ready for print, and LaTeX.

``report.tex`` is written by hand and holds no measured number; :mod:`helpers.publish.latex` writes those from the records. All
files made on the way are under ``build/<profile>/report/``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from io import BytesIO
from pathlib import Path

from helpers import settings
from helpers.files import file_digest, write_together
from helpers.publish import latex
from helpers.results import deliverables, records
from helpers.results.records import Record

TEXT_WIDTH = 6.54  # inches, of report.tex
PIXELS_AN_INCH = 150  # in print
COLOURS = 96  # of a plot in print, edges of letters included
QUALITY = 76  # of a photograph in print
WHITE_OF_A_PLOT = 0.6  # share of white pixels
SECONDS = 300  # a LaTeX run that takes longer is stuck
INSTALL = "sudo apt-get install -y latexmk lmodern texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended"


class ReportError(RuntimeError):
    """The report cannot be built."""

    explained = True  # the message says what to mend: the command line shows it alone


def build_folder() -> Path:
    """Where the generated numbers, the prepared figures and LaTeX's own files go."""
    output = settings.output_folder()
    return (settings.PROJECT_ROOT / "build" / "full" if output == settings.PROJECT_ROOT else output) / "report"


def find(run_id: str) -> Record | None:
    """The record of a run in the profile in force."""
    return records.load(run_id)


def is_stale(record: Record) -> bool:
    """Whether the code that a record came from, or a run that it rests on, has changed since."""
    return records.state(record) == "stale"


def usable_figures() -> tuple[dict[str, Path], dict[str, str]]:
    """Figures that are there and are those that their records name; and for each of the others the reason why not."""
    folder, usable, gaps = settings.output_folder() / "figures", {}, {}
    for entry in (*deliverables.asked_runs(), *deliverables.supporting_runs()):
        record, asked = find(entry["id"]), entry.get("figures", [])
        named = {} if record is None else record["figures"]
        for name in [*asked, *(name for name in named if name not in asked)]:
            path = folder / name
            if record is None:
                gaps[name] = "no record yet"
            elif not path.exists():
                gaps[name] = "the figure is missing"
            elif file_digest(path) != named.get(name):
                gaps[name] = "not the figure that the record names"
            else:
                usable[name] = path
    return usable, {name: reason for name, reason in gaps.items() if name not in usable}


def shown_widths(text: str) -> dict[str, float]:
    r"""Figure -> the greatest width, in shares of the text's, at which a LaTeX source shows it by one of its own macros."""
    found: dict[str, float] = {}
    single = re.findall(r"\\(?:extra)?fig(?:ure)?\{([\w.]+)\}\{(\d*\.?\d*)\\textwidth\}", text)
    pairs = re.findall(r"\\(?:extra)?pair(?:\[(\.\d+)\])?\{([\w.]+)\}\{([\w.]+)\}", text)
    sides = [(name, width or "0.495") for width, *pair in pairs for name in pair]
    for name, width in (*single, *sides):
        found[name] = max(found.get(name, 0.0), float(width or 1))
    return found


def prepare(figure: Path, folder: Path, width: float = 1.0) -> Path:
    """A figure for print, made once for each content and width: without transparency, and small.

    A plot, most of it white paper, becomes a PNG of few colours; pictures become a JPEG where that is smaller.

    Args:
        figure: a PNG.
        folder: where the prepared file goes.
        width: at which it is shown, in shares of the text's width.
    """
    from PIL import Image

    most = round(width * TEXT_WIDTH * PIXELS_AN_INCH)
    stem = f"{figure.stem}-{file_digest(figure)[:12]}-{most}"
    done = [path for path in (folder / f"{stem}.png", folder / f"{stem}.jpg") if path.exists()]
    if done:
        return done[0]
    with Image.open(figure) as image:
        image = image.convert("RGBA")
        paper = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    white = paper.convert("L").histogram()[255] / (paper.width * paper.height)
    if paper.width > most:
        paper = paper.resize((most, round(paper.height * most / paper.width)), Image.Resampling.LANCZOS)
    packed = {"png": BytesIO(), "jpg": BytesIO()}
    # By the colours there are and not by how often: a thin line keeps its own, or a legend would lie.
    few = paper.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(packed["png"], format="png", optimize=True)
    paper.save(packed["jpg"], format="jpeg", quality=QUALITY)
    suffix = "png" if white > WHITE_OF_A_PLOT else min(packed, key=lambda name: packed[name].tell())
    prepared = folder / f"{stem}.{suffix}"
    write_together({prepared: packed[suffix].getvalue()})
    return prepared


def write_numbers() -> Path:
    """Write ``numbers.tex``, and for full the prepared figures; returns the file's path."""
    folder = build_folder()
    usable, gaps = usable_figures()
    mentioned = (settings.PROJECT_ROOT / "report.tex").read_text(encoding="utf-8")
    widths = shown_widths(mentioned)
    kept = settings.profile() == "full"  # what small profiles draw is looked at once, and need not be small
    prepared = {name: prepare(path, folder / "figures", widths.get(name, 0.8)) if kept else path for name, path in usable.items()}
    for leftover in set((folder / "figures").glob("*.*")) - set(prepared.values()):
        leftover.unlink()
    paths = {name: Path(os.path.relpath(path, folder)).as_posix() for name, path in prepared.items()}
    path = folder / "numbers.tex"
    everything = (*deliverables.asked_runs(), *deliverables.supporting_runs())
    owners: dict[str, list[str]] = {}
    for entry in everything:
        for name in () if (record := find(entry["id"])) is None else record["figures"]:
            if name in paths:
                owners.setdefault(name, []).append(entry["id"])
    asked = {entry["id"] for entry in deliverables.asked_runs()}
    further = {name: run_ids[0] for name, run_ids in owners.items() if run_ids[0] in asked and name not in mentioned}
    appendix = latex.code_appendix(settings.PROJECT_ROOT / "notebooks")
    generated = latex.numbers(find, is_stale, paths, gaps, further, owners)
    write_together({folder / "code.tex": appendix.encode(), path: generated.encode()})
    return path


def build() -> tuple[Path, list[str]]:
    """Build the PDF of the profile in force: ``report.pdf`` of the project for full, under its output folder for others.

    Returns:
        Its path and LaTeX's complaints: boxes that are too wide, references that lead nowhere.

    Raises:
        ReportError: there is no LaTeX (the message has the command that installs it), or it failed.
    """
    if shutil.which("latexmk") is None:
        raise ReportError(f"there is no latexmk here; on Debian and Ubuntu: {INSTALL}")
    folder = write_numbers().parent
    for name in ("report.tex", "references.bib"):
        shutil.copyfile(settings.PROJECT_ROOT / name, folder / name)
    # No date, no path and no random identifier in the PDF: the same records give the same bytes.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"}
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ReportError(f"LaTeX was still running after {SECONDS} s; its log is {folder / 'report.log'}") from error
    log = (folder / "report.log").read_text(encoding="utf-8", errors="replace") if (folder / "report.log").exists() else ""
    if done.returncode:
        errors = re.findall(r"^(?:!|.*:\d+:) .*(?:\n.*){0,3}", log, flags=re.M)[:3]
        raise ReportError("LaTeX failed:\n" + ("\n".join(errors) or done.stdout.decode(errors="replace")[-1500:]))
    target = settings.output_folder() / "report.pdf"
    write_together({target: (folder / "report.pdf").read_bytes()})
    return target, complaints(log)


def complaints(log: str) -> list[str]:
    """What a reader would stumble over, from LaTeX's log: references that lead nowhere, boxes too wide by 3 pt or more."""
    lines = re.findall(r"^.*(?:LaTeX Warning: (?:Reference|Citation|There were undefined)|Missing character).*$", log, flags=re.M)
    boxes = [line for line, width in re.findall(r"^(Overfull \\hbox \((\d+)\.\d+pt.*)$", log, flags=re.M) if int(width) >= 3]
    return lines + boxes


def register(commands) -> None:
    """Add the command ``report``."""
    commands.add_parser("report", help=report.__doc__).set_defaults(function=report, default_profile="full")


def report(arguments) -> int:
    """Build the report from the records alone: report.pdf."""
    started = time.perf_counter()
    path, found = build()
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {time.perf_counter() - started:.0f} s", *found, sep="\n    ")
    return 1 if found else 0
