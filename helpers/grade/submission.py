"""A copy of the suite that is to be marked: read with care, because it may be broken or hostile.

Sizes are limited before a file is opened, links must not lead out of the copy, every field of a record is checked before
it is used, and nothing of the copy is ever run.
"""

from __future__ import annotations

import json
import math
import re
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helpers import settings
from helpers.files import file_digest
from helpers.results.digests import source_digest
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


@dataclass(frozen=True)
class Cell:
    """One cell of a saved notebook: kind, tags, source, and the Markdown that it displayed."""

    kind: str
    tags: tuple[str, ...]
    source: str
    displayed: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """A copy of the suite.

    Attributes:
        root: folder of ``results/``, ``figures/`` and the executed ``notebooks/``.
        source_root: folder of the ``notebooks/`` with the sources; the same one for a submission.
    """

    root: Path
    source_root: Path

    @classmethod
    def of(cls, folder: Path) -> Submission:
        """The copy in a folder, or in its only subfolder, as archives are often packed.

        Raises:
            Unreadable: it is not a folder.
        """
        if not folder.is_dir():
            raise Unreadable(f"{folder} is not a folder")
        if not any((folder / name).exists() for name in ("results", "figures", "notebooks")):
            inner = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] not in "._"]
            folder = inner[0] if len(inner) == 1 else folder
        return cls(folder, folder)

    @classmethod
    def this_suite(cls) -> Submission:
        """The outputs of the profile in force."""
        return cls(settings.output_folder(), settings.PROJECT_ROOT)

    def file(self, relative: str, limit: int, *, of_source: bool = False) -> Path | None:
        """The path of a plain file of the copy that may be opened, or None where there is none.

        Raises:
            Unreadable: it is larger than ``limit`` bytes, not a plain file, or a link that leaves the copy.
        """
        root = self.source_root if of_source else self.root
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

    def record(self, run_id: str) -> Record | None:
        """The record of a run, every field of it checked, or None where there is none.

        Raises:
            Unreadable: it is there and cannot be used.
        """
        path = self.file(f"results/{run_id}.json", RECORD_LIMIT)
        if path is None:
            return None
        try:
            record = Record(path)
            complaint = _complaint(record.content, run_id)
        except RecordError as error:
            raise Unreadable(f"results/{run_id}.json is not a readable record ({_short(error.__cause__)})") from error
        except PARSING_ERRORS as error:
            raise Unreadable(f"results/{run_id}.json is not a readable record ({_short(error)})") from error
        if complaint:
            raise Unreadable(f"results/{run_id}.json: {complaint}")
        return record

    def digest(self, relative: str, limit: int) -> str | None:
        """The sha256 of a file of the copy, None where there is none."""
        path = self.file(relative, limit)
        return None if path is None else file_digest(path)

    def source(self, notebook: str) -> bytes | None:
        """The source of a notebook, None where there is none."""
        path = self.file(f"notebooks/{notebook}.py", SOURCE_LIMIT, of_source=True)
        return None if path is None else path.read_bytes()

    def is_stale(self, record: Record) -> bool:
        """Whether the code that a record came from is not the code of the copy's notebook and of this suite's helpers."""
        source = self.source(record["notebook"])
        return source is None or _digest_of(record["function"], source) != record["source"]

    def cells(self, notebook: str) -> list[Cell]:
        """The cells of a saved notebook; empty where there is none.

        Raises:
            Unreadable: it is there and is not a notebook.
        """
        relative = f"notebooks/{notebook}.ipynb"
        path = self.file(relative, NOTEBOOK_LIMIT)
        if path is None:
            return []
        try:
            return _cells_of(path, path.stat().st_mtime_ns)
        except PARSING_ERRORS as error:
            raise Unreadable(f"{relative} is not a notebook ({_short(error)})") from error

    def stamp(self, notebook: str) -> dict:
        """What the build wrote into a saved notebook: digest of its source, profile, versions."""
        path = self.file(f"notebooks/{notebook}.ipynb", NOTEBOOK_LIMIT)
        try:
            stamp = json.loads(path.read_bytes())["metadata"]["suite"]
        except PARSING_ERRORS:
            return {}
        return stamp if isinstance(stamp, dict) else {}


@cache
def _digest_of(function: str, source: bytes) -> str | None:
    try:
        return source_digest(function, source.decode("utf-8-sig"))
    except PARSING_ERRORS:
        return None


@cache
def _cells_of(path: Path, changed: int) -> list[Cell]:
    """Cells of a notebook file, parsed once for each time that it changed."""
    return [_cell(cell) for cell in json.loads(path.read_bytes())["cells"]]


def _cell(cell: dict) -> Cell:
    outputs = cell.get("outputs", []) if cell["cell_type"] == "code" else []
    markdown = [_joined(output["data"]["text/markdown"]) for output in outputs if "text/markdown" in output.get("data", {})]
    tags = tuple(str(tag) for tag in cell.get("metadata", {}).get("tags", []))
    return Cell(str(cell["cell_type"]), tags, _joined(cell["source"]), tuple(markdown))


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _short(error: object, limit: int = 120) -> str:
    text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _complaint(content: dict, run_id: str) -> str | None:
    """What is wrong with the fields of a record, or None."""
    if content["id"] != run_id:
        return f"its id is {str(content['id'])[:60]!r}"
    for name in ("notebook", "function", "source", "profile"):
        if not isinstance(content[name], str):
            return f"{name} is not a text"
    if content["profile"] not in settings.PROFILES:
        return f"its profile is {content['profile'][:60]!r}"
    budget, metrics, spread, dataset = (content[name] for name in ("budget", "metrics", "spread", "dataset"))
    amounts = [budget["done"], budget["planned"]]
    if not (isinstance(budget["unit"], str) and all(map(_is_number, amounts)) and min(amounts) >= 0):
        return "its budget is not two numbers and a unit"
    if dataset is not None and not (isinstance(dataset["name"], str) and isinstance(dataset["stand_in"], bool)):
        return "its data set has no name, or does not say whether it is a stand-in"
    if dataset is not None and dataset["stand_in"] and not isinstance(dataset.get("stands_for"), str):
        return "its data set does not say what it stands for"
    if not (isinstance(content["seeds"], list) and isinstance(content["facts"], dict) and isinstance(content["config"], dict)):
        return "seeds, facts or config have the wrong form"
    if not (_is_number(content["seconds"]) and isinstance(content["environment"]["device"], str)):
        return "seconds or device have the wrong form"
    if not all(isinstance(item, str) for pair in content["figures"].items() for item in pair):
        return "its figures are not names with digests"
    if not isinstance(content["arrays"]["sha256"], str):
        return "its arrays have no digest"
    for name, value in metrics.items():
        if not _is_number(value):
            return f"{name} is {str(value)[:40]!r}, not a finite number"
        parts = [spread[name][part] for part in ("std", "min", "max", "n")]
        if not all(map(_is_number, parts)):
            return f"the spread of {name} is not four finite numbers"
        slack = 1e-9 * max(1.0, abs(value))
        if not spread[name]["min"] - slack <= value <= spread[name]["max"] + slack:
            return f"{name} = {value} does not lie between its own smallest and largest seed"
    return None
