"""Letters in the report's figures have one size: one for titles in every figure, and all figures are printed at one scale."""

import ast

import pytest
from PIL import Image

from helpers import plotting, settings
from helpers.publish import report

SCALE, TOLERANCE = 0.6, 0.04  # print to drawing: titles of 10 points are printed at 6
NOTEBOOKS = sorted((settings.PROJECT_ROOT / "notebooks").glob("*.py"))
SIZED = {"size", "fontsize"}


def sized_titles(source: str) -> list[int]:
    """The lines where a title of a figure or of an axis is given a size of its own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            names, words = ast.unparse(node.func), {word.arg for word in node.keywords}
            sets_size = names.endswith(("title.set_fontsize", "title.set_size"))
            if sets_size or (node.func.attr in ("set_title", "suptitle") and words & SIZED):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("line", [
    "axis.set_title('a', fontsize=8)", "figure.suptitle('a', size=7)", "axis.title.set_fontsize(8)",
    "figure._suptitle.set_fontsize(8)",
])
def test_a_title_of_its_own_size_is_seen(line):
    assert sized_titles(line) == [1] and sized_titles("axis.set_title('a')\naxis.legend(fontsize=7)") == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_titles_have_the_size_of_the_suite(path):
    assert sized_titles(path.read_text(encoding="utf-8")) == []


def test_titles_of_figures_and_axes_are_alike():
    figure, axis = plotting.plt.subplots()
    plotting.title(figure, "a")
    axis.set_title("b")
    assert figure._suptitle.get_fontsize() == axis.title.get_fontsize()
    plotting.plt.close(figure)


def test_figures_are_printed_at_one_scale():
    text = (settings.PROJECT_ROOT / "report.tex").read_text(encoding="utf-8")
    drawn_at, scales = plotting.plt.rcParams["savefig.dpi"], {}
    for name, share in report.shown_widths(text).items():
        path = settings.PROJECT_ROOT / "figures" / name
        if path.is_file():
            with Image.open(path) as image:
                scales[name] = share * report.TEXT_WIDTH * drawn_at / image.width
    assert len(scales) > 100
    assert {name: round(scale, 2) for name, scale in scales.items() if abs(scale - SCALE) > TOLERANCE} == {}
