"""The first and the last cell of every notebook: choices and their cost everywhere; on Colab also what the runtime lacks.

The first cell calls :func:`prepare`, the last one :func:`pack`. Nothing is written to stderr and no absolute path is printed,
so that a notebook run on Colab can be handed in as it is.
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
from pathlib import Path

from helpers import settings
from helpers.files import print_anywhere, write_together
from helpers.publish import costs, handing_in

DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts the user's Drive when the user asks it to
AUTOMATIC = "automatic"
NOT_NEEDED = {"jupyter", "jupytext", "nbclient"}  # they open and build notebooks; a Colab runtime has one open
_chosen: dict[str, str] = {}  # variable -> value that the first cell set
_opened: list[str] = []  # the notebook whose first cell was run last


def on_colab() -> bool:
    """Whether this process is a Colab runtime."""
    return "google.colab" in sys.modules


def prepare(notebook: str, profile: str = AUTOMATIC, train: str = costs.MISSING, minutes: float = 0) -> None:
    """Put the choices of the first cell into force and say what they cost here; on Colab, install and choose where results go.

    A choice that was made in the environment (``SUITE_PROFILE``, ``SUITE_MINUTES``, ``SUITE_RETRAIN``) stays as it is. With Drive
    mounted, results, figures and checkpoints go to a folder of the suite's name there, which first gets the records that the
    suite has and it lacks: after a disconnect the same cell finds them again, and a run goes on from its checkpoint. Mounting is
    left to the user, and a ``SUITE_OUTPUT`` that the user has set is respected.

    Args:
        notebook: its name.
        profile: ``automatic``, or one of the profiles.
        train: one of ``costs.CHOICES``.
        minutes: time of each run, after which it stops at a checkpoint; 0 for no limit.

    Raises:
        SettingError: a choice is not among the known ones, or nothing is to be trained and a run has no record.
        RuntimeError: a package could not be installed; the message holds what pip said.
    """
    print_anywhere()
    _opened[:] = [notebook]
    if train not in costs.CHOICES:
        raise settings.SettingError(f"train = {train!r} is unknown; the choices are {', '.join(costs.CHOICES)}")
    if not minutes >= 0:
        raise settings.SettingError(f"minutes = {minutes!r} is not a number of minutes; 0 is no limit")
    if on_colab():
        kind = "a clone" if (settings.PROJECT_ROOT / ".git").exists() else "an uploaded copy"
        print(f"the suite: {kind}, {_shown(settings.PROJECT_ROOT)}")
        install(missing())
    _put_in_force("SUITE_PROFILE", "" if profile == AUTOMATIC else profile)
    _put_in_force("SUITE_MINUTES", f"{minutes:g}" if minutes else "")
    if on_colab():
        _choose_output()
    _put_in_force("SUITE_RETRAIN", _asked_by_name(notebook, train))
    _say(notebook, train, minutes)
    if train == costs.NOTHING and (lacking := costs.without_record(notebook)):
        raise settings.SettingError(f"train = {train!r}, and {', '.join(lacking[:4])}{' and more' if len(lacking) > 4 else ''} "
                                    f"have no record of the {settings.profile()} profile: choose {costs.MISSING!r}")


def _put_in_force(name: str, value: str) -> None:
    """Set a variable of the environment, or take back what an earlier call of this cell set; what others set stays."""
    there = os.environ.get(name, "")
    if there and there != _chosen.get(name):
        if value and value != there:
            print(f"{name}={there} was set outside of this notebook and stays")
        return
    _chosen[name] = value
    if value:
        os.environ[name] = value
    else:
        os.environ.pop(name, None)


def _asked_by_name(notebook: str, train: str) -> str:
    if train == costs.EVERYTHING:
        return "*"
    return ",".join(costs.of(notebook, train).runs) if train == costs.LONG else ""


def _say(notebook: str, train: str, minutes: float) -> None:
    """Profile and device, loudly, and what each choice costs on this device."""
    device = settings.device()
    where = settings.environment()["device"]
    print(f"profile: {settings.profile()}\ndevice:  {where.upper() if device.type == 'cpu' else where}", end="")
    if device.type == "cpu":
        print(f", NO GPU{': Runtime > Change runtime type > T4 GPU' if on_colab() else ''}", end="")
    print("\ntrain:")
    for choice in costs.CHOICES:
        print(f"{'  * ' if choice == train else '    '}{choice:<16} {costs.of(notebook, choice, minutes).text}")


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
    """Say that the notebook was run to its end, and of which code; on Colab, write one zip to hand in and say how to get it."""
    cells = handing_in.typed_cells()
    if cells:
        print(handing_in.end_line(cells))
    if not on_colab():
        return
    target, number, with_notebook = handing_in.pack(settings.output_folder(), *(_opened or ["notebook"]), cells)
    print(f"{number} files to hand in, {target.stat().st_size / 2**20:.1f} MiB: {_shown(target)}")
    print(f"to download: from google.colab import files; files.download({_shown(target)!r})")
    if not with_notebook:
        print("this notebook is not in it: File > Download > Download .ipynb, and hand it in beside the zip")


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
    chosen = settings.named_path("SUITE_OUTPUT")
    if chosen and not chosen.is_relative_to(kept):
        print(f"results, figures and checkpoints: {_shown(chosen)}")
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
