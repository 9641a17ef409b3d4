"""The source digest: what ages a record and what does not."""

import pytest

from helpers.results.digests import source_digest

NOTEBOOK = '''
from helpers.train import schedules
from helpers.train.training import Batches

RATE = 0.1
points = [1, 2]

def scale(x: float) -> float:
    """Scale."""
    return RATE * x

class Model:
    def forward(self, points):
        return scale(points)

def train(run, grid=None):
    rows = [scale(grid) for grid in (1, 2)]
    points = Model()
    return Batches, schedules.cosine(3), points, rows

def plot(record):
    return record

grid = train(None)
rows = plot(grid)
'''


def changed(old: str, new: str) -> bool:
    assert old in NOTEBOOK
    return source_digest("train", NOTEBOOK.replace(old, new)) != source_digest("train", NOTEBOOK)


@pytest.mark.parametrize(("old", "new"), [
    ("RATE = 0.1", "RATE = 0.2"), ("RATE * x", "RATE + x"), ("return scale(points)", "return 2 * scale(points)"),
    ("schedules.cosine(3)", "schedules.cosine(4)"), ("schedules.cosine(3)", "schedules.one_cycle(3)"),
])
def test_code_that_the_run_reaches_ages_it(old, new):
    assert changed(old, new)


@pytest.mark.parametrize(("old", "new"), [
    ('"""Scale."""', '"""Other words."""'), ("x: float) -> float", "x)"), ("return record", "return None"),
    ("return RATE", "# why\n    return RATE"), ("points = [1, 2]", "points = [3]"), ("grid = train(None)", "grid = 5"),
    ("rows = plot(grid)", ""), ("def plot(record):\n    return record\n", ""),
    ("grid = train(None)\nrows = plot(grid)\n", ""),
])
def test_prose_plots_and_variables_of_the_same_name_do_not(old, new):
    assert not changed(old, new)


def test_helpers_are_followed_where_they_are_named(monkeypatch, tmp_path):
    from helpers.results import digests

    before = source_digest("train", NOTEBOOK)
    original = digests._read_helper

    def with_other_code(name):
        module = original(name)
        if name == "helpers.train.training":
            text = (digests.PROJECT_ROOT / "helpers" / "train" / "training.py").read_text()
            return digests.Module(name, text.replace(target, replacement))
        return module

    monkeypatch.setattr(digests, "_read_helper", with_other_code)
    target, replacement = "torch.randperm", "torch.arange"  # in Batches, which train names
    assert source_digest("train", NOTEBOOK) != before
    target, replacement = "torch._foreach_lerp_", "torch._foreach_add_"  # in ExponentialAverage, which it does not
    assert source_digest("train", NOTEBOOK) == before


def test_an_unknown_function_is_named():
    with pytest.raises(KeyError, match="does not define 'tarin'"):
        source_digest("tarin", NOTEBOOK)
