"""Where the files of a handed-in copy lie: as the suite has them, or nested, flattened and renamed as people hand them in.

A file is looked for at its own place first, then anywhere by its name, which may have got what browsers, Drive and file
managers add to it (``Copy of 1_vae_2d.ipynb``, ``q1_a_dset1 (1).json``). What macOS leaves behind is passed over.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

LITTER = re.compile(r"\._|\.DS_Store$|Thumbs\.db$|desktop\.ini$|Icon\r$|~\$", re.IGNORECASE)
PASSED_OVER = frozenset({"__macosx", ".git", ".venv", "venv", "node_modules", "__pycache__", ".ipynb_checkpoints", ".trash"})
MOST_FILES, DEEPEST = 20_000, 12
ADDED = re.compile(r"\s*(\(\d+\)|-copy\d*|- copy|_copy\d*|\bcopy)$", re.IGNORECASE)  # at the end of a name, before its suffix
BEFORE = re.compile(r"^(copy of|copie de|kopie von|copia de)\s+", re.IGNORECASE)


def is_litter(name: str) -> bool:
    """Whether a file or folder is one that a system leaves behind, not one that a person handed in."""
    return bool(LITTER.match(name)) or name.lower() in PASSED_OVER


def plain(name: str) -> str:
    """A file's name without what copying it has added, in lower case."""
    path = PurePosixPath(name)
    stem, suffix = path.stem, path.suffix
    while True:
        shorter = ADDED.sub("", BEFORE.sub("", stem)).strip()
        if shorter in (stem, ""):
            return (stem + suffix).lower()
        stem = shorter


@dataclass
class Index:
    """The files of a folder by their plain names.

    Attributes:
        root: the folder.
        by_name: plain name -> paths relative to ``root``, in POSIX form.
        cut: whether there were more files than are looked at.
    """

    root: Path
    by_name: dict[str, list[str]] = field(default_factory=dict)
    cut: bool = False

    def __post_init__(self) -> None:
        number, waiting = 0, [("", 0)]
        while waiting:
            folder, depth = waiting.pop(0)
            try:
                entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                if is_litter(entry.name):
                    continue
                number += 1
                if number > MOST_FILES:
                    self.cut = True
                    return
                relative = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if depth < DEEPEST:
                        waiting.append((relative, depth + 1))
                else:
                    self.by_name.setdefault(plain(entry.name), []).append(relative)

    @property
    def number(self) -> int:
        """How many files there are."""
        return sum(map(len, self.by_name.values()))

    def find(self, relative: str) -> list[str]:
        """The paths that may be meant by a path of the suite, those that fit best; several where they fit equally well."""
        wanted = PurePosixPath(relative)
        found = self.by_name.get(plain(wanted.name), [])
        ranks = {path: _rank(PurePosixPath(path), wanted) for path in found}
        return [path for path in found if ranks[path] == min(ranks.values())]

    def with_suffix(self, suffix: str) -> list[str]:
        """Every path with a suffix, those nearest to the root first."""
        return [path for paths in self.by_name.values() for path in paths if path.lower().endswith(suffix)]


def _rank(path: PurePosixPath, wanted: PurePosixPath) -> tuple:
    """How badly a path fits the wanted one: another folder, another name, deeper."""
    in_place = path.parent.name.lower() == wanted.parent.name.lower()
    small_profile = "build" in path.parts
    return small_profile, not in_place, path.name != wanted.name, len(path.parts)
