"""A notebook's source in jupytext's percent format, read without jupytext, and how a saved notebook differs from it.

The grade reads notebooks where nothing but numpy is installed, so the format's few rules are here: a line ``# %%`` begins a
cell, ``[markdown]`` and ``tags=[...]`` follow it, the text of a Markdown cell is in comments, and so are magics.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path

from helpers.results.digests import Module, canonical

CELL = re.compile(r"^# %%(?: \[(markdown|raw|md)\])?((?: .*)?)$", re.MULTILINE)
HEADER = re.compile(r"\A# ---\n(?:#[^\n]*\n)*?# ---\n\s*")  # what jupytext writes on top where it is not told otherwise
MAGIC = re.compile(r"^\s*(?:# ?)?(?:%{1,2}[a-zA-Z]|![\w./])")  # a line of IPython's own, commented out in the source
CHOICE = re.compile(r"^(\w+ = ).*?\s*# ?@param\b.*$")  # a field of a form: its value is the reader's to choose
SHOWN = 4  # names or cells that a sentence lists
SOLUTION = "solution"  # tag of a cell that gives an answer away: the student edition leaves it out, and nothing shows it


@dataclass(frozen=True)
class Cell:
    """One cell: "code", "markdown" or "raw", its tags, and its text without the comment signs of the format."""

    kind: str
    tags: tuple[str, ...]
    text: str


def read(path: Path) -> str:
    """The text of a source, without byte-order mark, Windows' line ends and jupytext's header: they change nothing in it."""
    return HEADER.sub("", path.read_text(encoding="utf-8-sig"))


def digest(text: str) -> str:
    """A digest of what the cells of a source say; blank lines between them and the mark of solutions count for nothing."""
    content = [[cell.kind, [tag for tag in cell.tags if tag != SOLUTION], cell.text] for cell in cells(text)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def cells(text: str) -> list[Cell]:
    """The cells of a source text as :func:`read` gives it."""
    starts = list(CELL.finditer(text))
    ends = [start.start() for start in starts[1:]] + [len(text)] * bool(starts)
    first = text[: starts[0].start() if starts else len(text)].strip("\n")  # what stands before the first mark is code
    return [Cell("code", (), first)] * bool(first) + [
        _cell(start, text[start.end() : end].strip("\n")) for start, end in zip(starts, ends, strict=True)]


def _cell(start: re.Match, body: str) -> Cell:
    tags = re.search(r"tags=(\[[^\]]*\])", start[2])
    kind = {"md": "markdown", None: "code"}.get(start[1], start[1])
    if kind == "markdown":
        body = "\n".join(re.sub(r"^# ?", "", line) for line in body.split("\n"))
    return Cell(kind, tuple(json.loads(tags[1])) if tags else (), body)


def code(text: str) -> list[str]:
    """The code cells of a source text that hold anything."""
    return [cell.text for cell in cells(text) if cell.kind == "code" and cell.text.strip()]


def plain(cell: str) -> str:
    """A code cell as it is compared and parsed: without IPython's own lines, choices of a form, and blanks at the ends."""
    lines = (CHOICE.sub(r"\1...", line.rstrip()) for line in cell.splitlines() if not MAGIC.match(line))
    return "\n".join(lines).strip("\n")


def code_digest(code_cells: Iterable[str]) -> str:
    """A short digest of code cells, which a notebook prints as it ends and a saved copy is compared with."""
    return hashlib.sha256("\0".join(filter(None, map(plain, code_cells))).encode()).hexdigest()[:12]


def differences(saved: Sequence[str], source: Sequence[str]) -> list[str]:
    """How the code cells of a saved notebook differ from those of its source, as sentences; none where they do not.

    A cell more, such as one that mounts a Drive, is no difference unless it defines anew what the source defines.

    Args:
        saved: texts of the code cells, in their order.
        source: the same of the source.
    """
    mine, theirs = [list(map(plain, texts)) for texts in (saved, source)]
    blocks = SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes()
    altered = [index for kind, start, end, *_ in blocks if kind == "replace" for index in range(start + 1, end + 1)]
    missing = sum(to - begin for kind, _, _, begin, to in blocks if kind == "insert")
    found = definitions_apart(mine, theirs)
    sentences = [f"its {_listed(found)} {'is' if len(found) == 1 else 'are'} not as in the source"] if found else []
    if altered:
        sentences.append(f"code cell{'s' * (len(altered) > 1)} {_listed(map(str, altered))} differ{'s' * (len(altered) == 1)} "
                         "from the source")
    if missing:
        sentences.append(f"{missing} code cell{'s' * (missing > 1)} of the source {'are' if missing > 1 else 'is'} not there")
    return sentences


def definitions_apart(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """Functions, classes and constants of the second code that the first defines otherwise or not at all."""
    mine, theirs = _definitions(first), _definitions(second)
    return [name for name, definition in theirs.items() if mine.get(name) != definition]


def _definitions(code_cells: Iterable[str]) -> dict[str, str]:
    """Name -> the text of its syntax tree; a cell that does not parse defines nothing."""
    return {name: form for text in code_cells for name, form in _defined_by(text)}


@lru_cache(maxsize=4096)  # a source and its saved notebook have the same cells
def _defined_by(text: str) -> tuple[tuple[str, str], ...]:
    try:
        definitions = Module("", plain(text)).definitions
    except (SyntaxError, ValueError, RecursionError):
        return ()
    return tuple((name, canonical(nodes)) for name, nodes in definitions.items())


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
