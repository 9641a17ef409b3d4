"""Functions without their run earn a share: by the checks of the notebook, which nothing but the notebook has run."""

import copy as copying
import json

import pytest

from helpers.grade import tasks
from helpers.grade.submission import Submission

SOURCE = """# %%
def double(x):
    return 2 * x


def negate(x):
    return -x


def train(run):
    return double(negate(1))


# %%
assert double(2) == 4

# %%
for value in (1, 2):
    assert negate(value) == -value
"""
FUNCTIONS = tasks.functions_of("train", tasks.uses_of(SOURCE))
FACTS = {"runs": {"a": {"functions": FUNCTIONS}}, "checks": {"n": tasks.checks_of(SOURCE)}}
CELLS = [{"cell_type": "code", "metadata": {}, "execution_count": number, "outputs": [], "source": text.strip()}
         for number, text in enumerate(SOURCE.split("# %%")[1:], 1)]


def share(tmp_path, change=None):
    cells = copying.deepcopy(CELLS)
    if change:
        change(cells)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "n.ipynb").write_text(json.dumps({"cells": cells}))
    return tasks.credit("a", "n", Submission.of(tmp_path), FACTS)


def test_all_functions_with_their_checks_earn_half(tmp_path):
    earned, (sentence,) = share(tmp_path)
    assert earned == tasks.MOST
    assert "2 of 2" in sentence and "double, negate" in sentence


@pytest.mark.parametrize("change", [
    lambda cells: cells[1].update(execution_count=None),
    lambda cells: cells[1].update(source="assert True"),
    lambda cells: cells[1].update(outputs=[{"output_type": "error", "ename": "AssertionError", "evalue": "", "traceback": []}]),
    lambda cells: cells[0].update(source=cells[0]["source"].replace("return 2 * x", "raise NotImplementedError('task')")),
    lambda cells: cells[0].update(source=cells[0]["source"].replace("return 2 * x", "return None")),
    lambda cells: cells.pop(1),
])
def test_a_function_that_is_empty_or_fails_its_check_earns_nothing(tmp_path, change):
    earned, (sentence,) = share(tmp_path, change)
    assert earned == tasks.MOST / 2
    assert "1 of 2" in sentence and "double" not in sentence


def test_without_a_notebook_nothing_is_earned(tmp_path):
    assert tasks.credit("a", "n", Submission.of(tmp_path), FACTS) == (0.0, [])
