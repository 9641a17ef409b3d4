"""A copy of the suite that is to be marked: read with care, because it may be broken or hostile.

Sizes are limited before a file is opened, links must not lead out of the copy, every field of a record is checked before
it is used, and nothing of the copy is ever run. Files are found where people leave them (:mod:`helpers.grade.finding`).
"""

from __future__ import annotations

import json
import re
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from helpers import settings
from helpers.files import file_digest
from helpers.grade import cells as notebook_cells
from helpers.grade.cells import Cell, Code
from helpers.grade.finding import Index
from helpers.results.digests import reached, source_digest
from helpers.results.records import Record, RecordError

MEBIBYTE = 2**20
RECORD_LIMIT, ARRAYS_LIMIT, FIGURE_LIMIT, NOTEBOOK_LIMIT, SOURCE_LIMIT = (
    2 * MEBIBYTE, 64 * MEBIBYTE, 32 * MEBIBYTE, 16 * MEBIBYTE, 2 * MEBIBYTE,
)
# What a broken or hostile file can raise while it is parsed.
PARSING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, MemoryError, SyntaxError)


class Unreadable(ValueError):
    """A file of the copy cannot be used; the message names it and says why."""

    explained = True  # the message says what to mend: the command line shows it alone


class TooSlow(BaseException):
    """One item took longer than it may; no handler of ordinary errors may swallow this."""


@dataclass
class Submission:
    """A copy of the suite.

    Attributes:
        root: folder of ``results/``, ``figures/`` and the executed ``notebooks/``.
        source_root: folder of the ``notebooks/`` with the sources; the same one for a submission.
        search: whether files that are not at their place are looked for elsewhere.
    """

    root: Path
    source_root: Path
    search: bool = True
    _kept: dict = field(default_factory=dict, repr=False)  # what was read or failed: nothing is parsed twice

    @classmethod
    def of(cls, folder: Path) -> Submission:
        """The copy in a folder.

        Raises:
            Unreadable: it is not a folder.
        """
        if not folder.is_dir():
            raise Unreadable(f"{folder} is not a folder")
        return cls(folder, folder)

    @classmethod
    def this_suite(cls) -> Submission:
        """The outputs of the profile in force."""
        return cls(settings.output_folder(), settings.PROJECT_ROOT, search=False)

    @cached_property
    def index(self) -> Index:
        """The files of the copy by name."""
        return Index(self.root)

    def once(self, key: tuple, read):
        """What ``read()`` gives or raises; it is called once for a key."""
        if key not in self._kept:
            try:
                self._kept[key] = read(), None
            except (TooSlow, *PARSING_ERRORS) as error:
                self._kept[key] = None, error
        value, error = self._kept[key]
        if error is not None:
            raise error
        return value

    def file(self, relative: str, limit: int, *, of_source: bool = False) -> Path | None:
        """The path of a plain file of the copy that may be opened, or None where there is none.

        Raises:
            Unreadable: it is larger than ``limit`` bytes, not a plain file, a link that leaves the copy, or one of several
                that could be meant.
        """
        root = self.source_root if of_source else self.root
        found = self._checked(root, relative, limit)
        if found is not None or not self.search:
            return found
        places = self.index.find(relative) or self._by_content(relative)
        paths = [path for place in places[:8] if (path := self._checked(root, place, limit)) is not None]
        if len(paths) > 1 and len({file_digest(path) for path in paths}) > 1:
            raise Unreadable(f"{' and '.join(places[:3])} could both be {relative}: hand in one of them")
        return paths[0] if paths else None

    def _checked(self, root: Path, relative: str, limit: int) -> Path | None:
        try:
            path = (root / relative).resolve(strict=True)
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, RuntimeError, ValueError) as error:  # loops of links, forbidden folders
            raise Unreadable(f"{relative} cannot be opened ({type(error).__name__})") from error
        if not path.is_relative_to(root.resolve()):
            raise Unreadable(f"{relative} is a link that leaves the folder")
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"{relative} is not a plain file")
        if status.st_size > limit:
            raise Unreadable(f"{relative} has {status.st_size:,} bytes, the limit is {limit:,}")
        return path

    def _by_content(self, relative: str) -> list[str]:
        """Notebooks or sources under a name of their own, known by the suite that they open."""
        folder, _, name = relative.partition("/")
        stem, _, suffix = name.rpartition(".")
        if folder != "notebooks":
            return []
        opens = re.compile(rb'Suite\(\s*\\?["\']' + re.escape(stem).encode() + rb'\\?["\']')
        found = []
        for place in self.index.with_suffix(f".{suffix}")[:60]:
            try:
                path = self._checked(self.root, place, NOTEBOOK_LIMIT)
                if path is not None and opens.search(path.read_bytes()):
                    found.append(place)
            except (Unreadable, OSError):
                continue
        return found

    def place(self, relative: str, limit: int = 2**62) -> str:
        """Where a file was found, relative to the copy; its own place where it was not."""
        try:
            path = self.file(relative, limit)
        except Unreadable:
            return relative
        return relative if path is None else path.relative_to(self.root.resolve()).as_posix()

    def record(self, run_id: str) -> Record | None:
        """The record of a run, every field of it checked, or None where there is none.

        Raises:
            Unreadable: it is there and cannot be used.
        """
        return self.once(("record", run_id), lambda: self._read_record(run_id))

    def _read_record(self, run_id: str) -> Record | None:
        path = self.file(f"results/{run_id}.json", RECORD_LIMIT)
        if path is None:
            return None
        try:
            record = Record(path)
        except RecordError as error:
            raise Unreadable(f"results/{run_id}.json is not a readable record ({_short(error.__cause__ or error)})") from error
        except PARSING_ERRORS as error:
            raise Unreadable(f"results/{run_id}.json is not a readable record ({_short(error)})") from error
        if record.id != run_id:
            raise Unreadable(f"results/{run_id}.json: its id is {record.id[:60]!r}")
        return record

    def digest(self, relative: str, limit: int) -> str | None:
        """The sha256 of a file of the copy, None where there is none."""
        path = self.file(relative, limit)
        return None if path is None else file_digest(path)

    def cells(self, notebook: str) -> list[Cell]:
        """The cells of a saved notebook; empty where there is none.

        Raises:
            Unreadable: it is there and is not a notebook.
        """
        return self.once(("cells", notebook), lambda: self._read_cells(notebook))

    def _read_cells(self, notebook: str) -> list[Cell]:
        relative = f"notebooks/{notebook}.ipynb"
        path = self.file(relative, NOTEBOOK_LIMIT)
        if path is None:
            return []
        try:
            return notebook_cells.of_notebook(path.read_bytes())
        except PARSING_ERRORS as error:
            raise Unreadable(f"{relative} is not a notebook ({_short(error)})") from error

    def source(self, notebook: str) -> str | None:
        """The text of a notebook's source, None where there is none."""
        path = self.file(f"notebooks/{notebook}.py", SOURCE_LIMIT, of_source=True)
        return None if path is None else path.read_bytes().decode("utf-8", "replace")

    def code(self, notebook: str, *, saved: bool) -> Code | None:
        """The code of a notebook's saved cells, or of its source; None where there is none, or none in an unreadable notebook.

        Raises:
            Unreadable: the source is there and cannot be read.
        """
        try:
            return self.once(("code", notebook, saved), lambda: self._read_code(notebook, saved))
        except Unreadable:
            if saved:
                return None  # said at the notebook; the source is judged in its place
            raise

    def _read_code(self, notebook: str, saved: bool) -> Code | None:
        if saved:
            cells = self.cells(notebook)
        else:
            text = self.source(notebook)
            cells = [] if text is None else notebook_cells.of_source(text)
        name = f"notebooks/{notebook}.{'ipynb' if saved else 'py'}"
        try:
            code = notebook_cells.code(cells) if cells else None
            if code and not code.statements and any(cell.source.strip() for cell in cells if cell.kind == "code"):
                raise SyntaxError("no cell of it is Python")
            return code
        except PARSING_ERRORS as error:
            raise Unreadable(f"{name} cannot be read as Python ({_short(error)})") from error

    def code_digest(self, notebook: str, function: str, *, saved: bool) -> str | None:
        """The digest of the code that a function reaches in the saved cells or the source, with this suite's helpers."""
        def read() -> str | None:
            code = self.code(notebook, saved=saved)
            try:
                return None if code is None else source_digest(function, code.text)
            except PARSING_ERRORS:
                return None

        return self.once(("digest", notebook, function, saved), read)

    def differing(self, notebook: str, function: str) -> list[str]:
        """The definitions of a notebook that a function reaches and that differ between saved cells and source."""
        parts = []
        for saved in (True, False):
            code = self.code(notebook, saved=saved)
            try:
                parts.append({name: form for (module, name), (_, form) in reached(function, code.text).items() if not module})
            except PARSING_ERRORS:
                parts.append({})
        return sorted(name for name in parts[0].keys() | parts[1].keys() if parts[0].get(name) != parts[1].get(name))

    def stamp(self, notebook: str) -> dict:
        """What the build wrote into a saved notebook: digest of its source, profile, versions."""
        path = self.file(f"notebooks/{notebook}.ipynb", NOTEBOOK_LIMIT)
        try:
            stamp = json.loads(path.read_bytes())["metadata"]["suite"]
        except PARSING_ERRORS:
            return {}
        return stamp if isinstance(stamp, dict) else {}


def _short(error: object, limit: int = 120) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than marking may take"
    text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
    return text if len(text) <= limit else text[: limit - 3] + "..."
