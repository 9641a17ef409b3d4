"""The table of results and a page a run; and the command that builds the whole site.

Everything comes from the records, figures and notebooks of the profile in force: nothing is trained, nothing is fetched.
"""

from __future__ import annotations

import ast
import time
from pathlib import Path

from helpers import settings
from helpers.publish.site import curves, flows, gans, latent, notebooks, speed
from helpers.publish.site.assets import Site, figures_of, highlighted
from helpers.results import deliverables, records, verdicts
from helpers.results.records import Record, RecordError

BEST = ("b19_2b_samples.png", "q3_dset1_samples.png", "mila_p3_layers.png", "mit_p3_analytic_grid.png", "dirac_overview.png",
        "cifar10_comparison.png", "haifa_q1_samples.png", "mit_p4_toroidal_interpolation.png", "q2_a_dset1_samples.png")
SHOWN = 6  # pictures at the top
SHEETS = {"berkeley24": "Berkeley CS294-158, spring 2024, homework 2",
          "berkeley19": "Berkeley CS294-158, spring 2019, homework 3",
          "haifa24": "Haifa, deep generative models, spring 2024, exercise 5", "mit24": "MIT 6.S978, fall 2024, problem set 1",
          "mila20": "UdeM and Mila, 2020, assignment 3, practical part"}


def default_folder() -> Path:
    """Where the site goes: ``build/site/`` of the project, or of the output folder of a smaller profile."""
    output = settings.output_folder()
    return (output / "build" if output == settings.PROJECT_ROOT else output) / "site"


def build(folder: Path | None = None) -> Path:
    """Write the site.

    Args:
        folder: of the pages; by default that of the profile in force.

    Returns:
        Path of its first page.

    Raises:
        SiteError: the folder holds something else, or the pages are larger than the site may be.
    """
    site = Site(folder or default_folder())
    runs = [run_facts(entry, site) for entry in (*deliverables.asked_runs(), *deliverables.supporting_runs())]
    cells = notebooks.write(site)
    for run in runs:
        if run["record"] is not None:
            write_run(site, run, cells)
    recorded = {run["id"]: run["record"] for run in runs if run["record"] is not None}
    flows.write(site, recorded)
    gans.write(site, recorded)
    latent.write(site, recorded)
    speed.write(site)
    pictures = {figure["name"]: figure | {"run": run["id"]} for run in runs for figure in run["figures"] if "address" in figure}
    site.write("index.html", "index.html", runs=runs, notebooks=notebooks.titles(), said=said_first(runs),
               best=[pictures[name] for name in BEST if name in pictures][:SHOWN], sheets=SHEETS)
    site.write("licences.html", "licences.html",
               licences={name: (site.folder / "assets" / f"LICENSE.{name}").read_text(encoding="utf-8")
                         for name in ("uPlot", "MathJax")})
    site.finish()
    return site.folder / "index.html"


def run_facts(entry: dict, site: Site) -> dict:
    """What index and page say of a run: its entry, its record or None, the verdicts, its state and its figures."""
    record = load(entry["id"])
    judged = verdicts.judge(entry, record)
    state = "missing" if record is None else records.state(record)
    headline = verdicts.headline(judged) or (next((one for one in judged if one.value is not None), None))
    return {"id": entry["id"], "entry": entry, "record": record, "judged": judged, "headline": headline, "state": state,
            "figures": [] if record is None else figures_of(record, site)}


def load(run_id: str) -> Record | None:
    """The record of a run in the profile in force; a broken one stops the build with its name."""
    return records.load(run_id)


def said_first(runs: list[dict]) -> dict:
    """What a reader must know before the table: how many runs are there, and which are missing, partial, stale or remarked."""
    asked = [run for run in runs if "sheet" in run["entry"]]
    return {
        "asked": len(asked), "recorded": sum(run["record"] is not None for run in asked),
        "missing": [run["id"] for run in runs if run["record"] is None],
        "remarked": [(run["id"], run["record"].remark) for run in runs if run["record"] is not None and run["record"].remark],
        "stale": [run["id"] for run in runs if run["state"] == "stale"],
        "gaps": [(run["id"], figure["name"], figure["gap"]) for run in runs for figure in run["figures"] if "gap" in figure],
        "hours": sum(run["record"]["seconds"] for run in runs if run["record"] is not None) / 3600,
    }


def write_run(site: Site, run: dict, cells: dict[str, str]) -> None:
    """Write the page of one recorded run.

    Args:
        site: that it belongs to.
        run: from :func:`run_facts`.
        cells: address of a notebook's cell by run id, from :func:`helpers.publish.site.notebooks.write`.
    """
    record = run["record"]
    try:
        drawn, gap = curves.panels(record, run["entry"]), ""
    except RecordError as error:
        drawn, gap = [], str(error)
    site.write(f"runs/{run['id']}.html", "run.html", run=run, record=record, panels=drawn, gap=gap, cell=cells.get(run["id"]),
               definition=highlighted(definition(record)), weights=record.content.get("weights") or {})


def definition(record: Record) -> str:
    """The source text of the function that a record came from, as its notebook has it today; empty where it is gone."""
    path = settings.PROJECT_ROOT / "notebooks" / f"{Path(record['notebook']).name}.py"
    try:
        text = path.read_text(encoding="utf-8-sig")
        nodes = ast.parse(text).body
    except (OSError, SyntaxError):
        return ""
    found = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == record["function"]]
    return ast.get_source_segment(text, found[-1]) or "" if found else ""


def register(commands) -> None:
    """Add the command ``site``."""
    command = commands.add_parser("site", help=write_site.__doc__)
    command.add_argument("--folder", type=Path, help="where to, instead of build/site/")
    command.set_defaults(function=write_site, default_profile="full")


def write_site(arguments) -> int:
    """Write the site from records, figures and notebooks: build/site/index.html, opens without a server."""
    started = time.perf_counter()
    first = build(arguments.folder)
    files = [path for path in first.parent.rglob("*") if path.is_file()]
    print(f"{first}: {len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:.1f} MiB, "
          f"{time.perf_counter() - started:.0f} s")
    if (settings.output_folder() / "report.pdf").exists() and not (first.parent / "report.pdf").exists():
        print("report.pdf did not fit beside the pages: they do not link to it")
    return 0
