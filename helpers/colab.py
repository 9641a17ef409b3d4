"""On a Colab runtime: install the few packages it lacks, and leave those it has alone (torch above all)."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

from helpers.settings import PROJECT_ROOT


def on_colab() -> bool:
    """Whether this process is a Colab runtime."""
    return "google.colab" in sys.modules


def missing() -> list[str]:
    """The lines of ``requirements.txt`` whose package is not installed, whatever its version."""
    lines = (line.split("#")[0].strip() for line in (PROJECT_ROOT / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line and not _installed(re.split(r"[<>=!~\[ ]", line)[0])]


def prepare() -> None:
    """Install what is missing on Colab, without changing what is there; elsewhere do nothing."""
    wanted = missing() if on_colab() else []
    if not wanted:
        return
    names = [re.split(r"[<>=!~\[ ]", line)[0] for line in wanted]
    print(f"installing {', '.join(names)}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade-strategy", "only-if-needed"]
    subprocess.run([*pip, *wanted], check=True)


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
