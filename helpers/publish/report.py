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
from pathlib import Path

from helpers import settings
from helpers.files import file_digest, write_atomically, write_together
from helpers.publish import latex
from helpers.results import deliverables, records
from helpers.results.records import Record

MAXIMUM_WIDTH = 820  # pixels, 130 per printed inch across the page
COLOURS = 64  # of a plot in print, edges of letters included
WHITE_OF_A_PLOT = 0.3  # share of white pixels
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


def prepare(figure: Path, folder: Path) -> Path:
    """A figure for print, made once for each content: without transparency, no wider than print needs, and small.

    A plot, most of it white paper, becomes a PNG of few colours; a picture that is full of pixels a JPEG.
    """
    from PIL import Image

    stem = f"{figure.stem}-{file_digest(figure)[:12]}"
    done = [path for path in (folder / f"{stem}.png", folder / f"{stem}.jpg") if path.exists()]
    if done:
        return done[0]
    with Image.open(figure) as image:
        image = image.convert("RGBA")
        paper = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    white = paper.convert("L").histogram()[255] / (paper.width * paper.height)
    if paper.width > MAXIMUM_WIDTH:
        paper = paper.resize((MAXIMUM_WIDTH, round(paper.height * MAXIMUM_WIDTH / paper.width)), Image.Resampling.LANCZOS)
    if white > WHITE_OF_A_PLOT:
        paper, suffix, options = paper.quantize(COLOURS, dither=Image.Dither.NONE), "png", {"format": "png", "optimize": True}
    else:
        suffix, options = "jpg", {"format": "jpeg", "quality": 68, "optimize": True}
    prepared = folder / f"{stem}.{suffix}"
    write_atomically(prepared, lambda stream: paper.save(stream, **options))
    return prepared


def write_numbers() -> Path:
    """Write ``numbers.tex`` and the prepared figures; returns the file's path."""
    folder = build_folder()
    usable, gaps = usable_figures()
    prepared = {name: prepare(path, folder / "figures") for name, path in usable.items()}
    for leftover in set((folder / "figures").glob("*.*")) - set(prepared.values()):
        leftover.unlink()
    paths = {name: path.relative_to(folder).as_posix() for name, path in prepared.items()}
    path = folder / "numbers.tex"
    mentioned = (settings.PROJECT_ROOT / "report.tex").read_text(encoding="utf-8")
    further = {name: entry["id"] for entry in deliverables.asked_runs() if (record := find(entry["id"])) is not None
               for name in record["figures"] if name in paths and name not in mentioned}
    appendix = latex.code_appendix(settings.PROJECT_ROOT / "notebooks")
    write_together({folder / "code.tex": appendix.encode(), path: latex.numbers(find, is_stale, paths, gaps, further).encode()})
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
