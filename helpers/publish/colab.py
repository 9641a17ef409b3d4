"""On a Colab runtime: install what it lacks, keep results on a mounted Drive, pack them for download. Elsewhere: nothing.

The first cell of a notebook calls :func:`prepare`, the last one :func:`pack`. Nothing is written to stderr and no absolute
path is printed, so that a notebook run on Colab can be handed in as it is.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from helpers import settings
from helpers.files import write_atomically, write_together

DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts the user's Drive when the user asks it to
NOT_NEEDED = {"jupyter", "jupytext", "nbclient"}  # they open and build notebooks; a Colab runtime has one open


def on_colab() -> bool:
    """Whether this process is a Colab runtime."""
    return "google.colab" in sys.modules


def prepare() -> None:
    """On Colab, install what is missing and choose where results go; say both. Elsewhere do nothing.

    With Drive mounted, results, figures and checkpoints go to a folder of the suite's name there, which first gets the records
    that the suite has and it lacks: after a disconnect the same cell finds them again, and a run goes on from its checkpoint.
    Mounting is left to the user, and a ``SUITE_OUTPUT`` that the user has set is respected.

    Raises:
        RuntimeError: a package could not be installed; the message holds what pip said.
    """
    if not on_colab():
        return
    kind = "a clone" if (settings.PROJECT_ROOT / ".git").exists() else "an uploaded copy"
    print(f"the suite: {kind}, {_shown(settings.PROJECT_ROOT)}")
    install(missing())
    _choose_output()


def missing() -> list[str]:
    """The lines of ``requirements.txt`` whose package a notebook needs and is not installed, whatever its version."""
    return [line for name, line in _requirements().items() if name not in NOT_NEEDED and _version(name) is None]


def install(lines: list[str]) -> None:
    """Install packages with pip; what ``requirements.txt`` names and is there (torch above all) keeps its version.

    Args:
        lines: requirements, for example ``["torch-fidelity>=0.3"]``.

    Raises:
        RuntimeError: pip failed, for example because a package insists on another torch.
    """
    if not lines:
        return
    print(f"installing {', '.join(lines)}")
    there = [f"{name}=={_version(name)}\n" for name in _requirements() if _version(name)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as constraints:
        constraints.writelines(there)
        constraints.flush()
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--constraint", constraints.name]
        result = subprocess.run([*pip, *lines], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
                                errors="replace", check=False)
    if result.returncode:
        raise RuntimeError(f"pip could not install {', '.join(lines)}:\n{result.stdout.strip()}")
    importlib.invalidate_caches()


def pack() -> None:
    """On Colab, write one zip of ``results/`` and ``figures/`` and say how to download it; elsewhere do nothing."""
    if not on_colab():
        return
    output = settings.output_folder()
    files = [path for name in ("results", "figures") for path in sorted((output / name).glob("[!.]*")) if path.is_file()]

    def write(stream) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for path in files:
                archive.write(path, path.relative_to(output))

    target = output / "results.zip"
    write_atomically(target, write)
    print(f"{len(files)} results and figures, {target.stat().st_size / 2**20:.1f} MiB: {_shown(target)}\n"
          f"to download: from google.colab import files; files.download({_shown(target)!r})")


def _requirements() -> dict[str, str]:
    """Package -> its line in ``requirements.txt``."""
    text = (settings.PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8")
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {re.split(r"[<>=!~\[ ]", line)[0]: line for line in lines if line}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _choose_output() -> None:
    kept = DRIVE / settings.PROJECT_ROOT.name
    chosen = os.environ.get("SUITE_OUTPUT")
    if chosen and not Path(chosen).is_relative_to(kept):
        print(f"results, figures and checkpoints: {_shown(Path(chosen))}")
        return
    os.environ.pop("SUITE_OUTPUT", None)  # chosen by an earlier call, perhaps for another profile
    local = settings.output_folder()
    if local.is_relative_to(DRIVE.resolve()):
        print(f"results, figures and checkpoints: {_shown(local)}, on Drive")
    elif DRIVE.is_dir():
        target = kept / local.relative_to(settings.PROJECT_ROOT)
        brought = _bring_records(local, target)
        os.environ["SUITE_OUTPUT"] = str(target)
        print(f"results, figures and checkpoints: {_shown(target)}, on Drive ({brought} records brought there)")
    else:
        print(f"results, figures and checkpoints: {_shown(local)}, gone with this runtime; to keep them, mount Drive and run "
              "the notebook from its first cell")


def _bring_records(source: Path, target: Path) -> int:
    """Copy the records that ``target`` lacks, with their arrays and figures; returns their number. Overwrites no record."""
    records = [path for path in sorted((source / "results").glob("*.json")) if not (target / "results" / path.name).exists()]
    contents = {}
    for path in records:
        figures = [source / "figures" / name for name in json.loads(path.read_text(encoding="utf-8"))["figures"]]
        for part in (*figures, path.with_suffix(".npz"), path):  # the record last: it tells that the others are there
            if part.is_file():
                contents[target / part.relative_to(source)] = part.read_bytes()
    write_together(contents)
    return len(records)


def _shown(path: Path) -> str:
    """A path as seen from the working folder."""
    return os.path.relpath(path)
