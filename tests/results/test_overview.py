"""What a notebook opens and closes with: links that lead somewhere, numbers from records, a word for what is missing."""

import json

import IPython
import IPython.display
import pytest

from helpers.results import overview
from helpers.results.overview import Question

PROOF = Question("prove the bound", "A.2 The bound")
TRAINED = Question("train it", "A.1 A model", "test error per pixel", "made", "mse")


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Writes the record of a run named "made" where records are looked for."""
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path))

    def write(mse=0.0373687, std=0.000592, n=3, done=9400, profile="full"):
        content = {"id": "made", "profile": profile, "metrics": {"mse": mse},
                   "spread": {"mse": {"std": std, "min": mse, "max": mse, "n": n}},
                   "budget": {"done": done, "planned": 9400, "unit": "steps"}, "dataset": None, "config": {}, "seconds": 47.0,
                   "seeds": list(range(n)), "environment": {"device": "CPU"}, "facts": {}, "figures": {},
                   "notebook": "9_test", "function": "train", "source": "0", "arrays": {"sha256": "0"}}
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / "made.json").write_text(json.dumps(content), encoding="utf-8")
        return overview.load("made")

    return write


@pytest.mark.parametrize(("value", "deviation", "expected"), [
    (0.0373687, 0.000592, "0.03737 ± 0.00059"), (-731.489, None, "-731.5"), (-91.0305, 0.19737, "-91.03 ± 0.20"),
    (12345.6, None, "12346"), (9.9999, 0.01, "10.000 ± 0.010"), (0.0, None, "0"),
])
def test_four_significant_digits(value, deviation, expected):
    assert overview.significant(value, deviation) == expected


def test_a_headline_is_the_record_s_and_says_what_must_be_said(record):
    assert overview.headline(TRAINED) == "test error per pixel: not trained yet"
    assert overview.headline(PROOF) == "-"
    record()
    assert overview.headline(TRAINED) == "test error per pixel: 0.03737 ± 0.00059"
    record(n=1, done=94, profile="quick")
    assert overview.headline(TRAINED) == "test error per pixel: 0.03737 (94 of 9,400 steps; quick profile)"


def test_the_list_links_to_headings_and_is_drawn_over_at_the_end(record, monkeypatch, capsys):
    shown = []
    overview.show_questions([TRAINED, PROOF])
    assert "A.1 A model    test error per pixel: not trained yet" in capsys.readouterr().out
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    for name in ("display", "update_display"):
        monkeypatch.setattr(IPython.display, name,
                            lambda table, display_id, name=name: shown.append((name, display_id, table.data)))
    overview.show_questions([TRAINED, PROOF])
    record()
    overview.show_questions([TRAINED, PROOF], again=True)
    assert [entry[:2] for entry in shown] == [("display", "questions"), ("update_display", "questions")]
    assert "| train it | [A.1 A model](#A.1-A-model) | test error per pixel: not trained yet |" in shown[0][2]
    assert "0.03737" in shown[1][2]


def test_how_a_run_was_trained(record, capsys):
    overview.show_training(record())
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "made", "3", "9,400", "of", "9,400", "steps", "47", "200", "CPU"]
