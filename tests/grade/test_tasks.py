"""Functions without their run earn a share: by the checks of the notebook, which nothing but the notebook has run."""

import copy as copying
import json

import pytest

from helpers.grade import marking, tasks
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


WRONG = {"output_type": "error", "ename": "AssertionError", "evalue": "no", "traceback": []}


@pytest.mark.parametrize(("change", "failed", "changed"), [
    (None, 0, 0),
    (lambda cells: cells[1].update(outputs=[WRONG]), 1, 0),
    (lambda cells: cells[2].update(source="assert True"), 0, 1),
    (lambda cells: cells[1].update(execution_count=None), 0, 0),
    (lambda cells: cells[0].update(source=cells[0]["source"].replace("return 2 * x", "raise NotImplementedError('task')")), 0, 0),
])
def test_a_check_that_failed_and_one_that_is_gone_are_named(tmp_path, change, failed, changed):
    share(tmp_path, change)
    found = tasks.failures("a", "n", Submission.of(tmp_path), FACTS)
    assert list(map(len, found)) == [failed, changed]
    assert not failed or found[0] == ["the check fails: AssertionError: no; it is of double"]
    assert not changed or found[1] == ["the notebook has no check as it was handed out of negate"]


def test_what_a_run_of_the_notebook_found_comes_before_what_it_shows(tmp_path):
    share(tmp_path)
    form = FACTS["checks"]["n"][1]["form"]
    ran = {"n": {"checks": {form: "AssertionError: wrong"}}}
    failed, changed = tasks.failures("a", "n", Submission.of(tmp_path), FACTS | {"ran": ran})
    assert (failed, changed) == (["the check fails when it is run: AssertionError: wrong; it is of negate"], [])
    earned, _ = tasks.credit("a", "n", Submission.of(tmp_path), FACTS | {"ran": ran})
    assert earned == tasks.MOST / 2
    assert tasks.failures("a", "n", Submission.of(tmp_path), FACTS | {"ran": {"n": {"checks": {form: ""}}}}) == ([], [])


def test_a_run_whose_only_fault_is_a_failed_check_keeps_the_share_of_its_other_tasks(copy, facts, monkeypatch):
    monkeypatch.setattr(tasks, "failures", lambda *_: (["the check fails"], []))
    monkeypatch.setattr(tasks, "credit", lambda *_: (0.25, ["1 of 2"]))

    def marked():
        return next(marking.mark_each(Submission.of(copy), facts, only=["q1_a_dset1"]))

    assert (marked().status, marked().score, marked().reasons) == ("fail", 1.25, ("the check fails",))
    path = copy / "results" / "q1_a_dset1.json"
    whole = path.read_text()
    path.write_text(whole.replace("12.5", "0.0"))  # another fault
    assert (marked().status, marked().score) == ("fail", 0)
    path.unlink()
    assert (marked().status, marked().score) == ("missing", 1.25)
