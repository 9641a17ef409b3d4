"""A reader's path: every part of a notebook says what is asked and by what idea it is answered, before its first code cell."""

import re

import pytest

from helpers import settings
from helpers.publish import percent

SOURCES = sorted((settings.PROJECT_ROOT / "notebooks").glob("*.py"))
HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)
QUESTION, IDEA = re.compile(r"^\*\*Questions?\b[^*\n]*\*\*", re.MULTILINE), re.compile(r"^\*\*Idea\.\*\*", re.MULTILINE)
LISTS = {  # parts that answer no question: where things are, what they are made of, and what was chosen
    "The questions", "The data", "Images", "Choices that are not the sheet's", "What is not the sheets'",
    "Every model of this notebook",
}


def parts_of(source: str) -> list[tuple[str, str]]:
    """(heading, Markdown before the first code cell) of every part that holds code."""
    parts, heading, text, has_code = [], None, "", False
    for cell in percent.cells(source):
        if cell.kind != "markdown":
            if heading and not has_code:
                parts.append((heading, text))
            has_code = True
            continue
        pieces = HEADING.split(cell.text)
        if not has_code:
            text += "\n" + pieces[0]
        for name, following in zip(pieces[1::2], pieces[2::2], strict=True):
            heading, text, has_code = name, following, False
    return parts


def complaint(text: str) -> str:
    """What the opening of a part lacks; empty where it lacks nothing."""
    question, idea = QUESTION.search(text), IDEA.search(text)
    if not question or not idea:
        return "no question" if not question else "no idea"
    return "" if question.start() < idea.start() else "the idea before the question"


CASES = [(path.stem, heading, text) for path in SOURCES for heading, text in parts_of(path.read_text(encoding="utf-8"))[1:]
         if heading not in LISTS]  # the first part is the title, with the bootstrap


@pytest.mark.parametrize(("notebook", "heading", "text"), CASES, ids=[f"{name}: {heading}" for name, heading, _ in CASES])
def test_a_part_opens_with_its_question_and_its_idea(notebook, heading, text):
    assert complaint(text) == ""


@pytest.mark.parametrize("path", SOURCES, ids=[path.stem for path in SOURCES])
def test_no_heading_or_question_stands_in_a_cell_that_students_do_not_get(path):
    for cell in percent.cells(path.read_text(encoding="utf-8")):
        if cell.kind == "markdown" and percent.SOLUTION in cell.tags:
            assert not HEADING.search(cell.text) and not QUESTION.search(cell.text), cell.text[:200]


def test_every_notebook_has_parts():
    assert {name for name, _, _ in CASES} == {path.stem for path in SOURCES} and len(CASES) > 35


@pytest.mark.parametrize(("text", "expected"), [
    ("**Question 2(a).** What?\n\n**Idea.** That.", ""), ("**Questions 1.1 and 1.2.** What?\n\n**Idea.** That.", ""),
    ("**Idea.** That.", "no question"), ("**Question.** What?", "no idea"), ("What?", "no question"),
    ("**Idea.** That.\n\n**Question.** What?", "the idea before the question"), ("so **Question.** in a line", "no question"),
])
def test_an_opening_that_lacks_something_is_seen(text, expected):
    assert complaint(text) == expected
