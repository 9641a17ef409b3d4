"""A notebook as it was handed in: its cells, its code as Python, and the numbers that its tables show. Nothing of it is run."""

from __future__ import annotations

import ast
import html.parser
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from helpers.publish import percent
from helpers.results.digests import canonical

MOST_CELLS, MOST_NODES, DEEPEST = 2_000, 200_000, 100
LONGEST_ERROR = 200  # signs
MAGIC = re.compile(r"^(\s*)(?:%|!|\?)")
KEPT_CELL_MAGICS = ("%%time", "%%timeit", "%%capture", "%%prun")  # their body runs in the notebook itself


class NotPython(ValueError):
    """A text is not Python that a notebook can hold; the message says why."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        kind: "code" or "markdown".
        source: its text.
        tags: from its metadata.
        count: the number that the kernel gave its run; None where it was not run.
        outputs: (kind, text): "stdout", "stderr", "error", or the type of what was displayed, such as "text/html".
        attached: whether pictures are attached to it.
    """

    kind: str
    source: str
    tags: tuple[str, ...] = ()
    count: int | None = None
    outputs: tuple[tuple[str, str], ...] = ()
    attached: bool = False


def of_notebook(content: bytes) -> list[Cell]:
    """The cells of an ``.ipynb``.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RecursionError: it is not a notebook.
    """
    cells = json.loads(content.decode("utf-8-sig"))["cells"]
    if len(cells) > MOST_CELLS:
        raise ValueError(f"{len(cells):,} cells, the limit is {MOST_CELLS:,}")
    return [_cell(cell) for cell in cells]


def _cell(cell: dict) -> Cell:
    metadata = cell.get("metadata", {})
    kind = str(cell["cell_type"])
    outputs = [part for output in cell.get("outputs", []) for part in _output(output)] if kind == "code" else []
    count = cell.get("execution_count")
    tags = metadata.get("tags", [])
    return Cell(kind, _joined(cell["source"]), tuple(str(tag) for tag in tags if isinstance(tag, str)),
                count if isinstance(count, int) else None, tuple(outputs), bool(cell.get("attachments")))


def _output(output: dict) -> Iterable[tuple[str, str]]:
    kind = output["output_type"]
    if kind == "stream":
        yield str(output["name"]), _joined(output["text"])
    elif kind == "error":
        yield "error", f"{output.get('ename', '')}: {output.get('evalue', '')}"[:LONGEST_ERROR].rstrip(": ")
    else:
        for name, value in output.get("data", {}).items():
            if str(name).startswith("text/"):
                yield str(name), _joined(value)
            elif str(name).startswith("image/"):
                yield str(name), ""


def _joined(text: str | list[str]) -> str:
    if not isinstance(text, (str, list)):
        raise TypeError(f"a text of a cell is {type(text).__name__}")
    return text if isinstance(text, str) else "".join(text)


def of_source(text: str) -> list[Cell]:
    """The cells of a source in jupytext's percent format."""
    text = percent.HEADER.sub("", text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))
    return [Cell(cell.kind, cell.text, cell.tags) for cell in percent.cells(text)]


@dataclass(frozen=True)
class Code:
    """The code of a notebook: its text without magics, and its top-level statements in canonical form.

    Attributes:
        text: Python.
        statements: one a top-level statement, without layout, comments and docstrings.
        definitions: name of a function or class -> its canonical form, the last one where there are several.
    """

    text: str
    statements: tuple[str, ...] = ()
    definitions: dict[str, str] = field(default_factory=dict)


def code(cells: Iterable[Cell]) -> Code:
    """The code of cells.

    Raises:
        NotPython: it is nested too deeply or too long to be a notebook's; cells that do not parse are left out.
    """
    texts, statements, definitions, nodes = [], [], {}, 0
    for text in (without_magics(cell.source) for cell in cells if cell.kind == "code"):
        read = _read(text)
        if read is None:
            continue
        nodes += read[0]
        if nodes > MOST_NODES:
            raise NotPython(f"its code has more than {MOST_NODES:,} parts")
        texts.append(text)
        statements += (form for _, form in read[1])
        definitions |= {name: form for name, form in read[1] if name}
    return Code("\n".join(texts), tuple(statements), definitions)


@lru_cache(maxsize=4096)  # a source and its saved notebook have the same cells
def _read(text: str) -> tuple[int, tuple[tuple[str, str], ...]] | None:
    """Of a cell: how many nodes it has, and of each statement (name it defines, canonical form); None if it does not parse."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    except (RecursionError, MemoryError) as error:
        raise NotPython("a cell is nested too deeply to be read") from error
    number = size_of(tree)
    if number > MOST_NODES:
        return number, ()
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    return number, tuple((node.name if isinstance(node, kinds) else "", canonical(node)) for node in tree.body)


def size_of(tree: ast.AST) -> int:
    """The number of nodes of a syntax tree.

    Raises:
        NotPython: it is nested deeper than any code that a person writes.
    """
    number, level, depth = 0, [tree], 0
    while level:
        depth += 1
        number += len(level)
        if depth > DEEPEST:
            raise NotPython(f"a cell is nested more than {DEEPEST} levels deep")
        if number > MOST_NODES:
            break
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return number


def without_magics(text: str) -> str:
    """A cell's text as plain Python: line magics are replaced by ``pass``, and a cell in another language is empty."""
    lines = text.replace("\r\n", "\n").split("\n")
    first = next((index for index, line in enumerate(lines) if line.strip()), None)
    if first is not None and lines[first].startswith("%%"):
        if not lines[first].startswith(KEPT_CELL_MAGICS):
            return ""
        lines[first] = ""
    return "\n".join(MAGIC.sub(r"\1pass  # ", line, count=1) if MAGIC.match(line) else line for line in lines)


class _Rows(html.parser.HTMLParser):
    """The rows of the tables in a piece of HTML, as texts."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def printed_rows(cells: Iterable[Cell]) -> list[dict[str, str]]:
    """The rows of every table that names run, metric and ours in its head, in whatever form an output shows it."""
    found = []
    for cell in cells:
        for kind, text in cell.outputs if cell.kind == "code" else ():
            if kind == "text/html":
                parser = _Rows()
                parser.feed(text)
                rows = [[entry.strip() for entry in row] for row in parser.rows]
            elif kind.startswith("text/") or kind == "stdout":
                rows = [_split(line) for line in text.splitlines()]
            else:
                continue
            found += _rows_of_results(rows)
    return found


def _split(line: str) -> list[str]:
    """The entries of a line of a table: between bars, or with two blanks or more between them."""
    line = line.strip()
    if "|" in line:
        return [entry.strip() for entry in line.strip("|").split("|")]
    return [entry for entry in re.split(r"\s{2,}|\t", line) if entry]


def _rows_of_results(rows: Iterable[list[str]]) -> Iterable[dict[str, str]]:
    columns = None
    for row in rows:
        if {"run", "metric", "ours"} <= set(row):
            columns = {name: row.index(name) for name in ("run", "metric", "ours")}
        elif columns and len(row) > max(columns.values()):
            yield {name: row[column] for name, column in columns.items()}
