"""Sweeps: one run at several settings, its own record untouched."""

import json

import pytest

from helpers import settings
from helpers.results import records
from helpers.suite import Outcome, run
from helpers.work import sweeps


def train(run, width, rate):
    train.calls.append((width, rate))
    return Outcome({"neg_elbo": width * rate}, budget=(run.stop_after or 4, 4, "steps"), seconds=1.0)


@pytest.fixture(autouse=True)
def declared(monkeypatch):
    train.calls = []
    monkeypatch.setattr("helpers.suite.source_digest", lambda *arguments: "0" * 64)
    monkeypatch.setattr(sweeps, "declaration", lambda run_id: run(train, full={"width": 8, "rate": 0.5}))


def test_every_combination_is_trained_once_and_the_runs_own_record_is_never_touched():
    wanted = sweeps.grid("q1_a_dset1", ["width=4,8", "rate=0.1,0.2"])
    assert wanted == [{"width": width, "rate": rate} for width in (4, 8) for rate in (0.1, 0.2)]
    rows = sweeps.sweep("q1_a_dset1", wanted)
    assert [row["neg_elbo"] for row in rows] == pytest.approx([0.4, 0.8, 0.8, 1.6])
    assert train.calls == [(4, 0.1), (4, 0.2), (8, 0.1), (8, 0.2)]
    assert sweeps.sweep("q1_a_dset1", wanted) == rows and len(train.calls) == 4  # an interrupted sweep goes on
    assert records.load("q1_a_dset1") is None
    folder = settings.output_folder() / "sweeps" / "q1_a_dset1"
    assert json.loads((folder / "width-rate.json").read_text())["rows"] == rows
    assert (folder / "width-rate.csv").read_text().splitlines()[0] == "width,rate,neg_elbo,done,seconds"
    assert (folder / "width-rate.png").stat().st_size > 1000


@pytest.mark.parametrize(("word", "message"), [
    ("depth=3", "q1_a_dset1 has no setting 'depth'; its settings are width, rate"),
    ("width", "'width' is not of the form key=a,b,c"), ("width=", "'width=' is not of the form key=a,b,c"),
])
def test_what_is_no_setting_is_refused(word, message):
    with pytest.raises(sweeps.SweepError, match=message):
        sweeps.grid("q1_a_dset1", [word])


def test_values_are_json_or_text():
    assert [sweeps.value_of(text) for text in ("3", "0.5", "true", "null", "flow")] == [3, 0.5, True, None, "flow"]
