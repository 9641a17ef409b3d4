"""Notebooks: build the executed copy, check what is saved (their definitions: :mod:`helpers.work.definitions`).

``notebooks/N_name.py`` (jupytext's percent format) is the source; ``N_name.ipynb`` is built from it by executing it in a
clean kernel, and carries a stamp that tells later what it was built from.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from helpers import settings
from helpers.files import write_together
from helpers.publish import kernels, percent
from helpers.work.definitions import FOLDER, NotebookError, definitions, names, source_path

__all__ = ["FOLDER", "Check", "NotebookError", "build", "check", "definitions", "names", "source_path"]

MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|mnt)/\w")  # /content is the same on every Colab
PROFILE = re.compile(rf"^profile: ({'|'.join(settings.PROFILES)})\b", re.MULTILINE)  # a line of every first cell
RAN = re.compile(r"^run to its end, code ([0-9a-f]{12})$", re.MULTILINE)  # the last cell's line
COPIES = r"(?:Copy of )*{}(?: ?\(\d+\)| copy(?: \d+)?| - Copy|-Copy\d+)*\.ipynb"  # what Drive, browsers and desktops call copies
# From the longest to the shortest at the quick profile.
LONGEST = ("3_vae_images", "1_vae_2d", "4_vqvae", "2_vae_mnist", "6_gan_critics", "5_planar_flows")
METADATA = {
    "accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []},  # Colab opens it on a GPU
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "jupytext": {"cell_metadata_filter": "tags,-all", "notebook_metadata_filter": "-all"},  # what saving it in Jupyter adds
}


def build(name: str) -> Path:
    """Execute one notebook, see :func:`build_all`; the path of the executed one."""
    return next(build_all([name]))


def build_all(wanted: Iterable[str], jobs: int = 1) -> Iterator[Path]:
    """Execute notebooks in clean kernels under the profile in force and save them with their outputs and stamp.

    A notebook trains what has no record. What ``SUITE_RETRAIN`` names is trained by ``full`` and by the script, and loaded here.

    Args:
        wanted: names, begun in this order.
        jobs: how many are executed at once.

    Yields:
        The path of each executed notebook as it ends, under the profile's output folder.

    Raises:
        NotebookError: cells failed, or kernels died, said once the other notebooks have ended; a notebook as far as it came is
            kept under ``build/failed/`` and the saved one is left as it was.
    """
    changed = {"SUITE_PROFILE": settings.profile(), "SUITE_PROGRESS": "off", "SUITE_RETRAIN": "", "PYTHONHASHSEED": "0"}
    made = {kernels.client(_read(name), FOLDER): name for name in wanted}
    kills, failures = kernels.kills(), []
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        for client, error in kernels.execute(made, jobs):
            if error is None:
                target = settings.output_folder() / "notebooks" / f"{made[client]}.ipynb"
                write_together({target: _file(client.nb)})
                yield target
            else:
                failures.append((_failure(client, made[client], error, kills), error))
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    if failures:
        raise NotebookError("\n".join(message for message, _ in failures)) from failures[0][1]


def _read(name: str):
    """The notebook of a source, as nbformat holds it, with its stamp."""
    import jupytext

    text = percent.read(source_path(name))
    notebook = jupytext.reads(text, fmt="py:percent")
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:03d}"  # random by default: the same source gives the same file
    notebook.metadata = type(notebook.metadata)({
        **METADATA, "suite": {"source": percent.digest(text), "profile": settings.profile(), **settings.environment()},
    })
    return notebook


def _failure(client, name: str, error: BaseException, kills: int | None) -> str:
    """What ended a notebook, in words, once it is kept as far as it came; what is no fault of its own is raised."""
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    if not isinstance(error, (CellExecutionError, DeadKernelError)):
        raise error
    write_together({settings.PROJECT_ROOT / "build" / "failed" / f"{name}.ipynb": _file(client.nb)})
    if isinstance(error, CellExecutionError):
        return f"{name} failed (kept in build/failed/{name}.ipynb):\n{error}"
    status = getattr(client.process, "returncode", None)
    return f"{kernels.death(name, client.nb, client.cell_begun, status, kills)} (kept in build/failed/{name}.ipynb)"


def _file(notebook) -> bytes:
    """The bytes of a notebook as Jupyter itself writes them, so that opening and saving it changes nothing.

    What is printed comes in one piece or in several, as time will have it: neighbours are joined, and the same run gives the
    same file.
    """
    import nbformat

    for cell in notebook.cells:
        joined = []
        for output in cell.get("outputs", []):
            before = joined[-1] if joined else {}
            if output["output_type"] == before.get("output_type") == "stream" and output["name"] == before["name"]:
                before["text"] += output["text"]
            else:
                joined.append(output)
        if "outputs" in cell:
            cell["outputs"] = joined
    return (nbformat.writes(notebook).rstrip("\n") + "\n").encode()


@dataclass(frozen=True)
class Check:
    """What :func:`check` found of one saved notebook: a state, the reasons for it, and the profile it was run with."""

    name: str
    state: str  # fresh, stale, hollow, failed or missing
    reasons: tuple[str, ...] = ()
    profile: str | None = field(default=None, compare=False)


def saved_path(name: str, folder: Path) -> Path:
    """Where a notebook is saved: ``name.ipynb``, or the only file there that a browser or Drive named as a copy of it.

    Raises:
        NotebookError: there is no ``name.ipynb`` and there are several copies.
    """
    path = folder / f"{name}.ipynb"
    if path.exists() or not folder.is_dir():
        return path
    copies = sorted(other for other in folder.iterdir() if re.fullmatch(COPIES.format(re.escape(name)), other.name))
    if len(copies) > 1:
        raise NotebookError(f"{', '.join(copy.name for copy in copies)}: which one counts? Name it {path.name}")
    return copies[0] if copies else path


def check(name: str, folder: Path | None = None, sources: Path | None = None) -> Check:
    """Whether a saved notebook is what its source would give, offline and without running anything.

    Args:
        name: of the notebook, without suffix.
        folder: where the ``.ipynb`` lies (default: the project's ``notebooks/``).
        sources: where the ``.py`` lies (default: the project's ``notebooks/``).

    ``missing``: not there or not a notebook. ``failed``: a cell ended in an error, wrote to stderr or shows a path of
    the machine it ran on. ``hollow``: a cell was not run, or not in order. ``stale``: its code is not that of the source, the
    source has changed since, or it was run again with another profile than it was built with.
    """
    try:
        path = saved_path(name, folder or FOLDER)
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        cells = [cell for cell in content["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
        outputs = [[_output(output) for output in cell["outputs"]] for cell in cells]
        counts = [cell["execution_count"] for cell in cells]
        code = ["".join(cell["source"]) for cell in cells]
        stamp = dict(content["metadata"].get("suite", {}))
    except FileNotFoundError:
        return Check(name, "missing", (f"{name}.ipynb is not there",))
    except NotebookError as error:
        return Check(name, "missing", (str(error),))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Check(name, "missing", (f"{path.name} is not a notebook: {error!r}",))
    printed = "\n".join(text for cell_outputs in outputs for kind, text in cell_outputs if kind == "stdout")
    profiles = sorted({*PROFILE.findall(printed)} or {stamp.get("profile")} - {None})
    profile = profiles[0] if len(profiles) == 1 else None
    if reasons := tuple(dict.fromkeys(_faults(outputs))):
        return Check(name, "failed", reasons, profile)
    first = counts[0] if counts else None  # a cell that was run and removed, as one that mounts a Drive, leaves no gap
    if not isinstance(first, int) or counts != list(range(first, first + len(cells))):
        return Check(name, "hollow", ("its cells were not run from top to bottom in one go",), profile)
    if not any(outputs):
        return Check(name, "hollow", ("it has no outputs",), profile)
    reasons = tuple(_outdated(code, printed, stamp, profiles, (sources or FOLDER) / f"{name}.py"))
    return Check(name, "stale" if reasons else "fresh", reasons, profile)


def _faults(outputs: list[list[tuple[str, str]]]) -> Iterator[str]:
    """What no output of a notebook that is handed in should hold."""
    for number, cell_outputs in enumerate(outputs, 1):
        for kind, text in cell_outputs:
            if kind in ("error", "stderr"):
                yield f"code cell {number} {'ends in an error' if kind == 'error' else 'writes to stderr'}"
            elif MACHINE_PATH.search(text):
                yield f"code cell {number} shows a path of the machine it ran on"


def _outdated(code: list[str], printed: str, stamp: dict, profiles: list[str], source: Path) -> Iterator[str]:
    """Why a saved notebook is not one of this source and of the profile that its stamp names."""
    built = stamp.get("profile")
    if others := [name for name in profiles if built is not None and name != built]:
        yield (f"it was built with the {built} profile and run again with {' and '.join(others)}, so its outputs are of that: "
               f"run it again with SUITE_PROFILE={built}, or build it")
        return
    try:
        text = percent.read(source)
    except OSError:
        yield f"its source {source.name} is not there"
        return
    same_source = stamp.get("source") == percent.digest(text)
    if apart := percent.differences(code, percent.code(text)):
        who = "was edited after it was built" if same_source else f"and {source.name} are not of one version"
        yield f"the notebook {who}: {'; '.join(apart)}"
    elif not same_source and RAN.findall(printed)[-1:] != [percent.code_digest(code)]:
        yield f"{source.name} has changed since it was built"


def _output(output: dict) -> tuple[str, str]:
    """Kind and text of a cell's output."""
    if output["output_type"] == "stream":
        return output["name"], "".join(output["text"])
    if output["output_type"] == "error":
        return "error", ""
    return "data", "".join("".join(value) for key, value in output["data"].items() if key.startswith("text/"))


def register(commands) -> None:
    """Add the commands ``build`` and ``check``."""
    for name, function in (("build", build_command), ("check", check_command)):
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("notebook", nargs="*", help="names; all by default")
        command.set_defaults(function=function)
        if name == "build":
            command.add_argument("--jobs", type=int, help="how many at once; by default two where there is no GPU, else one")


def build_command(arguments) -> int:
    """Execute notebooks and save them with their outputs."""
    wanted = arguments.notebook or longest_first()
    jobs = arguments.jobs if arguments.jobs is not None else default_jobs()
    if jobs < 1:
        raise NotebookError(f"--jobs {jobs} builds nothing; expected 1 or more")
    if jobs > 1:
        share_cores(min(jobs, len(wanted)))
    started = time.perf_counter()
    for path in build_all(wanted, jobs):
        seconds, size = time.perf_counter() - started, path.stat().st_size / 2**20
        print(f"{path.stem}: built after {seconds:.0f} s, {size:.1f} MiB", flush=True)
    return 0


def longest_first() -> list[str]:
    """All notebooks, those first that take long: so that the last ones to end, end together."""
    return sorted(names(), key=lambda name: LONGEST.index(name) if name in LONGEST else -1)  # a new one may be the longest


def default_jobs() -> int:
    """How many notebooks to build at once: the small models leave a second core idle, a GPU is for one."""
    import torch

    return 2 if settings.device().type == "cpu" and torch.get_num_threads() > 1 else 1


def share_cores(jobs: int) -> None:
    """Give each of several kernels its share of the cores."""
    import torch

    threads = max(1, torch.get_num_threads() // jobs)
    torch.set_num_threads(threads)  # for the stamp
    os.environ["OMP_NUM_THREADS"] = str(threads)


def check_command(arguments) -> int:
    """Tell fresh notebooks from stale, hollow, failed and missing ones."""
    found = [check(name, settings.output_folder() / "notebooks") for name in arguments.notebook or names()]
    for result in found:
        print(f"{result.name}: {result.state}" + "".join(f"\n    {reason}" for reason in result.reasons))
    return 0 if all(result.state == "fresh" for result in found) else 1
