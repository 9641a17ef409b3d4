"""A notebook as a student gets it: tasks without their bodies, answers as questions, no prose that gives an answer away.

Only text is moved: what is kept stays as it is in the source, comments and layout included.
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helpers.publish import percent

SOLUTION = percent.SOLUTION  # the tag of a cell that gives an answer away
CHANGES = Path(__file__).with_name("student") / "changes.toml"
WIDTH = 90


class HandoutError(ValueError):
    """A source and what is said of its tasks do not fit; the message names both."""

    explained = True


@dataclass(frozen=True)
class Handout:
    """A notebook's source for students, and the lines of code that were taken out of it, by task."""

    text: str
    removed: Mapping[str, tuple[str, ...]]


def of(notebook: str, source: str, tasks: Sequence[Mapping], answers: Mapping[str, str]) -> Handout:
    """The student edition of a notebook.

    Args:
        notebook: its name.
        source: its text, in the percent format.
        tasks: entries of ``[[task]]`` of this notebook.
        answers: id of a written answer -> its question.

    Raises:
        HandoutError: a task is not defined, or a text to be changed does not stand there once.
    """
    text, removed = without_bodies(with_plain_definitions(notebook, source), tasks)
    return Handout(_without_answers(text, answers), removed)


@cache
def _changes() -> list[dict]:
    return tomllib.loads(CHANGES.read_text(encoding="utf-8"))["change"] if CHANGES.is_file() else []


def with_plain_definitions(notebook: str, source: str) -> str:
    """A source in which the notebook's own definitions stand where it uses their quick twins.

    Raises:
        HandoutError: a text to be changed does not stand there once.
    """
    for change in _changes():
        if change["notebook"] != notebook:
            continue
        if (times := source.count(change["old"])) != 1:
            raise HandoutError(f"{notebook} has {times} times, and {CHANGES.name} changes once: {change['old'].strip()[:80]!r}")
        source = source.replace(change["old"], change["new"])
    return source


def definitions(source: str) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """The top-level functions and classes of a source by name, and methods as ``Class.method``."""
    found: dict[str, ast.FunctionDef | ast.ClassDef] = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}": inner for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def functions(name: str, there: Mapping[str, ast.FunctionDef | ast.ClassDef]) -> list[str]:
    """The functions that a name of a task means: itself, or all methods of a class."""
    if isinstance(there.get(name), ast.ClassDef):
        return [other for other in there if other.startswith(f"{name}.")]
    return [name] if name in there else []


def without_bodies(source: str, tasks: Iterable[Mapping]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A source whose tasks keep signature and docstring and raise instead of doing something.

    Returns:
        The text, and for each task the lines of code that were removed, without blanks around them.

    Raises:
        HandoutError: a task names what the source does not define.
    """
    lines, there = source.split("\n"), definitions(source)
    blocks: dict[str, tuple[int, int, Mapping]] = {}
    for task in tasks:
        for name in task["names"]:
            if not functions(name, there):
                raise HandoutError(f"the task {task['id']} names {name}, which {task['notebook']} does not define")
            blocks |= {found: (*body_lines(there[found], lines), task) for found in functions(name, there)}
    removed: dict[str, tuple[str, ...]] = {}
    for first, last, task in sorted(blocks.values(), key=lambda block: block[0], reverse=True):
        body = lines[first:last]
        code = tuple(line.strip() for line in body if line.strip() and not line.lstrip().startswith("#"))
        removed[task["id"]] = code + removed.get(task["id"], ())
        indent = re.match(r"\s*", next(line for line in body if line.strip()))[0]
        lines[first:last] = _raise(task, indent)
    return "\n".join(lines), removed


def body_lines(node: ast.FunctionDef, lines: Sequence[str]) -> tuple[int, int]:
    """Indices of the first line of a function's body below its docstring, comments included, and of the one after its last."""
    documented = ast.get_docstring(node) is not None
    if documented:
        return node.body[0].end_lineno, node.end_lineno
    first = node.body[0].lineno - 1
    while not lines[first - 1].strip() or lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return first, node.end_lineno


def _raise(task: Mapping, indent: str) -> list[str]:
    said = f"task: {task['id']}: {task['statement']}"
    if len(line := f'{indent}raise NotImplementedError("{said}")') <= WIDTH:
        return [line]
    parts = textwrap.wrap(said, WIDTH - len(indent) - 8, drop_whitespace=False)
    return [f"{indent}raise NotImplementedError(", *(f'{indent}    "{part}"' for part in parts), f"{indent})"]


def _without_answers(text: str, answers: Mapping[str, str]) -> str:
    """The text with answers replaced by their questions, and without the prose that gives one away."""
    starts = list(percent.CELL.finditer(text))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    pieces = [text[: starts[0].start()] if starts else text]
    for start, end, cell in zip(starts, ends, percent.cells(text[len(pieces[0]) :]), strict=True):
        answered = [tag.removeprefix("answer:") for tag in cell.tags if tag.startswith("answer:")]
        if answered:
            heading = [part for part in cell.text.split("\n\n") if part.startswith("#")][:1]
            asked = [f"**Question ({name}): {answers[name]}**" for name in answered if name in answers]
            pieces.append(_markdown(start[0], [*heading, *asked]))
        elif SOLUTION in cell.tags:
            if kept := _questions(cell.text) if cell.kind == "markdown" else []:
                pieces.append(_markdown("# %% [markdown]", kept))
        else:
            pieces.append(text[start.start() : end])
    return "".join(pieces)


def _questions(text: str) -> list[str]:
    """Of prose that gives an answer away: each heading and the paragraph below it, which asks."""
    kept, below = [], False
    for part in re.split(r"\n{2,}", text):
        heading = part.startswith("#")
        if heading or below:
            kept.append(part)
        below = heading
    return kept


def _markdown(start: str, paragraphs: Iterable[str]) -> str:
    body = "\n\n".join(paragraphs).split("\n")
    return "\n".join([start, *(f"# {line}".rstrip() for line in body)]) + "\n\n"
