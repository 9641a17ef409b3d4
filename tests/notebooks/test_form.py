"""The form of the notebooks: cells a reader takes in at once, lines that need no scrolling, links that lead somewhere."""

import re

import pytest

from helpers import settings
from helpers.publish import notebooks

LONGEST_CELL, WIDEST_LINE, LONGEST_FIRST_SENTENCE = 60, 100, 40
CELL = re.compile(r"^# %%([^\n]*)\n(.*?)(?=^# %%|\Z)", re.MULTILINE | re.DOTALL)
EVERY = sorted(path.stem for path in (settings.PROJECT_ROOT / "notebooks").glob("*.py"))
READY = ("1_vae_2d", "2_vae_mnist", "5_planar_flows")


def cells(name):
    """(is it prose, its lines) of each cell; the first code cell, the same everywhere, is held by the test of the stamping."""
    text = notebooks.source_path(name).read_text(encoding="utf-8")
    found = [("[markdown]" in head, body.strip("\n").splitlines()) for head, body in CELL.findall(text)]
    return [(prose, lines) for prose, lines in found if not (lines and lines[0].startswith("# Bootstrap"))]


@pytest.mark.parametrize("name", EVERY)
def test_cells_are_short_and_lines_are_narrow(name):
    for prose, lines in cells(name):
        assert prose or len(lines) <= LONGEST_CELL, f"a code cell of {len(lines)} lines: {lines[0]}"
        wide = [line for line in lines if len(line) > WIDEST_LINE]
        assert not wide, f"{len(wide[0])} columns: {wide[0]}"


@pytest.mark.parametrize("name", READY)
def test_answers_open_with_one_short_sentence(name):
    openings = 0
    for prose, lines in cells(name):
        text = " ".join(line.removeprefix("#").strip() for line in lines) if prose else ""
        for answer in re.findall(r"\*\*Answer[^*]*\*\* (.*?[.:])(?: |$)", text):
            openings += 1
            assert len(answer.split()) <= LONGEST_FIRST_SENTENCE, answer
    assert openings


@pytest.mark.parametrize("name", READY)
def test_the_questions_link_to_headings(name):
    module = notebooks.definitions(name)
    headings = {line.lstrip("# ") for prose, lines in cells(name) if prose for line in lines if line.startswith("# #")}
    for question in module.QUESTIONS:
        assert question.heading in headings
        assert not question.run or question.run in module.RUNS
