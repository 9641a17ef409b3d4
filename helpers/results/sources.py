"""The source text of a notebook, wherever it is run: a script, a kernel's cells, ``%run``, or ``ipython notebooks/N.py``."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path

from helpers.results.digests import Module

AROUND = re.compile(r"\s*%%(?:time|timeit|capture|prun|debug)\b[^\n]*(?:\n|$)")  # magics that run the rest of a cell as Python
RUN = re.compile(r"^%run\s+(.+)$", re.MULTILINE)


def read_source(path: Path) -> str:
    """The source text of a notebook: what the kernel has run where it is interactive, else the file.

    Args:
        path: of the notebook's source file.
    """
    text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    started = getattr(sys.modules.get("__main__"), "__file__", None)  # set while a script runs, also within IPython
    shell = _shell()
    if shell is None or "In" not in shell.user_ns or (started and Path(started).resolve() == path.resolve()):
        return text
    cells = "\n".join(filter(None, (_python(cell, shell) for cell in typed(shell))))
    if text and not set(Module("", cells).definitions) & set(Module("", text).definitions):
        return f"{text}\n{cells}"  # the session began with the file: python -i, %load
    return cells


def typed(shell) -> list[str]:
    """The cells of a session as they were typed (``In`` has them with their magics turned into calls)."""
    return list(getattr(shell.history_manager, "input_hist_raw", None) or shell.user_ns["In"])


def _shell():
    if sys.modules.get("IPython") is None:
        return None
    from IPython import get_ipython

    return get_ipython()


def _python(cell: str, shell) -> str:
    """The Python of a cell as it was typed, with the files that it runs in their place; empty where it is not Python."""
    while around := AROUND.match(cell):
        cell = cell[around.end() :]
    cell = RUN.sub(lambda match: _file(match[1]), cell)
    cell = shell.input_transformer_manager.transform_cell(cell)
    try:
        ast.parse(cell)
    except (SyntaxError, ValueError):
        return ""
    return cell


def _file(arguments: str) -> str:
    """The text of the file that ``%run`` names, empty where it is no file."""
    try:
        words = [word for word in shlex.split(arguments) if not word.startswith("-")]
        path = Path(words[0]).expanduser() if words else Path()
        path = path if path.suffix else path.with_suffix(".py")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return ""
