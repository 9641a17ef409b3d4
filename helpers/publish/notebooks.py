"""Notebooks: build the executed copy, check what is saved (their definitions: :mod:`helpers.work.definitions`).

``notebooks/N_name.py`` (jupytext's percent format) is the source; ``N_name.ipynb`` is built from it by executing it in a
clean kernel, and carries a stamp that tells later what it was built from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from helpers import settings
from helpers.files import write_together
from helpers.work.definitions import FOLDER, NotebookError, definitions, names, source_path

__all__ = ["FOLDER", "Check", "NotebookError", "build", "check", "definitions", "names", "source_path"]

MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|content|mnt)/\w")


def build(name: str) -> Path:
    """Execute a notebook in a clean kernel under the profile in force and save it with its outputs and stamp.

    It trains what has no record. What ``SUITE_RETRAIN`` names is trained by ``full`` and by the script, and loaded here.

    Returns:
        The path of the executed notebook, under the profile's output folder.

    Raises:
        NotebookError: a cell failed; the notebook as far as it came is kept under ``build/failed/`` and the saved one
            is left as it was.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    path = source_path(name)
    notebook = jupytext.read(path)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:03d}"  # random by default: the same source gives the same file
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["suite"] = {"source": _text_digest(path), "profile": settings.profile(), **settings.environment()}
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}},
                            record_timing=False, extra_arguments=["--log-level=ERROR"])  # no remarks on how kernels connect
    changed = {"SUITE_PROFILE": settings.profile(), "SUITE_PROGRESS": "off", "SUITE_RETRAIN": "", "PYTHONHASHSEED": "0"}
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        client.execute()
    except CellExecutionError as error:
        failed = settings.PROJECT_ROOT / "build" / "failed" / f"{name}.ipynb"
        write_together({failed: nbformat.writes(notebook).encode()})
        raise NotebookError(f"{name} failed (kept in build/failed/{name}.ipynb):\n{error}") from error
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    notebook.metadata.pop("jupytext", None)
    target = settings.output_folder() / "notebooks" / f"{name}.ipynb"
    write_together({target: nbformat.writes(notebook).encode()})
    return target


@dataclass(frozen=True)
class Check:
    """What :func:`check` found of one saved notebook: a state and the reasons for it."""

    name: str
    state: str  # fresh, stale, hollow, failed or missing
    reasons: tuple[str, ...] = ()


def check(name: str, folder: Path | None = None, sources: Path | None = None) -> Check:
    """Whether a saved notebook is what its source would give, offline and without running anything.

    Args:
        name: of the notebook, without suffix.
        folder: where the ``.ipynb`` lies (default: the project's ``notebooks/``).
        sources: where the ``.py`` lies (default: the project's ``notebooks/``).

    ``missing``: not there or not a notebook. ``failed``: a cell ended in an error, wrote to stderr or shows a path of
    the machine it ran on. ``hollow``: a cell was not run, or not in order. ``stale``: the source has changed since.
    """
    path = (folder or FOLDER) / f"{name}.ipynb"
    try:
        content = json.loads(path.read_text())
        cells = [cell for cell in content["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
        outputs = [[_output(output) for output in cell["outputs"]] for cell in cells]
        counts = [cell["execution_count"] for cell in cells]
        stamp = content["metadata"].get("suite", {}).get("source")
    except FileNotFoundError:
        return Check(name, "missing", (f"{path.name} is not there",))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Check(name, "missing", (f"{path.name} is not a notebook: {error!r}",))
    reasons = []
    for number, cell_outputs in enumerate(outputs, 1):
        for kind, text in cell_outputs:
            if kind in ("error", "stderr"):
                reasons.append(f"code cell {number} {'ends in an error' if kind == 'error' else 'writes to stderr'}")
            elif MACHINE_PATH.search(text):
                reasons.append(f"code cell {number} shows a path of the machine it ran on")
    if reasons:
        return Check(name, "failed", tuple(dict.fromkeys(reasons)))
    if counts != list(range(1, len(cells) + 1)):
        return Check(name, "hollow", ("its cells were not run from top to bottom in one go",))
    if not any(outputs):
        return Check(name, "hollow", ("it has no outputs",))
    source = (sources or FOLDER) / f"{name}.py"
    if not source.is_file():
        return Check(name, "stale", (f"its source {name}.py is not there",))
    if stamp != _text_digest(source):
        return Check(name, "stale", (f"{name}.py has changed since it was built",))
    return Check(name, "fresh")


def _output(output: dict) -> tuple[str, str]:
    """Kind and text of a cell's output."""
    if output["output_type"] == "stream":
        return output["name"], "".join(output["text"])
    if output["output_type"] == "error":
        return "error", ""
    return "data", "".join("".join(value) for key, value in output["data"].items() if key.startswith("text/"))


def _text_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def register(commands) -> None:
    """Add the commands ``build`` and ``check``."""
    for name, function in (("build", build_command), ("check", check_command)):
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("notebook", nargs="*", help="names; all by default")
        command.set_defaults(function=function)


def build_command(arguments) -> int:
    """Execute notebooks and save them with their outputs."""
    for name in arguments.notebook or names():
        started = time.perf_counter()
        path = build(name)
        print(f"{name}: built in {time.perf_counter() - started:.0f} s, {path.stat().st_size / 2**20:.1f} MiB", flush=True)
    return 0


def check_command(arguments) -> int:
    """Tell fresh notebooks from stale, hollow, failed and missing ones."""
    found = [check(name, settings.output_folder() / "notebooks") for name in arguments.notebook or names()]
    for result in found:
        print(f"{result.name}: {result.state}" + "".join(f"\n    {reason}" for reason in result.reasons))
    return 0 if all(result.state == "fresh" for result in found) else 1
