"""The percent format read without jupytext: the same cells as jupytext's own reader."""

import jupytext
import pytest

from helpers.publish import notebooks, percent

ODD = '''# ---
# jupyter:
#   kernelspec:
#     name: python3
# ---

import math

# %% [markdown] tags=["answer:one", "kept"]
# A list:
#
# - one
#   - **two**

# %% A title of a cell
x = """
# a comment within a text
"""

# %% tags=["check"]
# !pip install nothing
# %matplotlib inline
y = x % 3

# %% [raw]
raw text
'''


def same(text):
    ours, theirs = percent.cells(text), jupytext.reads(text, fmt="py:percent").cells
    return [(cell.kind, list(cell.tags)) for cell in ours] == [
        (cell.cell_type, cell.metadata.get("tags", [])) for cell in theirs] and [
        (percent.plain(cell.text) if cell.kind == "code" else cell.text) for cell in ours if cell.kind != "raw"] == [
        (percent.plain(cell.source) if cell.cell_type == "code" else cell.source) for cell in theirs if cell.cell_type != "raw"]


@pytest.mark.parametrize("name", notebooks.names())
def test_the_suites_sources_read_as_jupytext_reads_them(name):
    assert same(percent.read(notebooks.source_path(name)))


def test_an_odd_source_reads_as_jupytext_reads_it(tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    assert same(percent.read(tmp_path / "odd.py"))


def test_magics_and_choices_do_not_count_and_operators_do():
    cell = "%%time\n%matplotlib inline\n!ls\nx = 3  #@param {type: 'number'}\ny = (x\n     % 2)\n"
    assert percent.plain(cell) == "x = ...\ny = (x\n     % 2)"
    assert percent.plain("# %%time\n# !ls\n# 5 % of it\nz = 1") == "# 5 % of it\nz = 1"


def test_differences_name_what_differs():
    source = ["import math", "def one():\n    return 1", "A = 2", "print(one())"]
    assert percent.differences(source, source) == percent.differences(["!ls", *source], source) == []
    assert percent.differences([source[0], "print(0)", *source[1:]], source) == []  # a cell more
    assert percent.differences([*source[:3], "A = 3", source[3]], source) == ["its A is not as in the source"]
    assert percent.differences(["not python", *source[1:]], source) == ["code cell 1 differs from the source"]
    assert percent.differences(source[:1], source) == [
        "its one, A are not as in the source", "3 code cells of the source are not there"]


def test_the_digest_of_code_depends_on_the_code_alone():
    assert percent.code_digest(["%%time\na = 1", "", "b = 2\n"]) == percent.code_digest(["a = 1", "b = 2"])
    assert percent.code_digest(["a = 1", "b = 2"]) != percent.code_digest(["a = 1\nb = 2"])
