"""Several roots of one run: pooled moments against numpy, and a record that can be merged again and again."""

import numpy as np
import pytest

from helpers.results import records
from helpers.suite import Outcome, Suite, run
from helpers.work import runs, seeds


def test_pooled_moments_are_those_of_all_values():
    groups = [np.array([1.0, 2.5, 4.0]), np.array([7.0]), np.array([-2.0, 3.0])]
    found = seeds.pooled([float(group.mean()) for group in groups], [records.spread_of(group) for group in groups])
    everything = np.concatenate(groups)
    assert found["mean"] == pytest.approx(everything.mean()) and found["std"] == pytest.approx(everything.std(ddof=1))
    assert (found["min"], found["max"], found["n"]) == (-2.0, 7.0, 6)


def train(run, planned):
    return Outcome({"loss": [10.0 + run.seed, 12.0 + run.seed]}, {"curve": np.zeros(3)}, seeds=run.seeds(2),
                   budget=(planned, planned, "steps"), weights={})


@pytest.fixture(autouse=True)
def notebook(monkeypatch):
    monkeypatch.setattr("helpers.suite.source_digest", lambda *arguments: "0" * 64)
    monkeypatch.setattr(records, "source_digest", lambda *arguments: "0" * 64)
    declared = {"q1_a_dset1": run(train, full={"planned": 4})}
    monkeypatch.setattr(runs, "declaration", declared.__getitem__)
    monkeypatch.setattr(runs, "suite_of", lambda run_id, **options: Suite("1_vae_2d", declared, **options))


def ask(**options):
    arguments = {"run": ["q1_a_dset1"], "again": False, "updates": None, "minutes": None, "even": False, "seeds": 1, "root": None}
    return runs.train(type("Arguments", (), arguments | options))


def test_three_roots_give_mean_deviation_and_number():
    ask(seeds=3)
    record = records.load("q1_a_dset1")
    values = np.array([10.0, 12, 11, 13, 12, 14])
    assert record.metrics["loss"] == pytest.approx(values.mean())
    assert record.spread["loss"]["std"] == pytest.approx(values.std(ddof=1)) and record.spread["loss"]["n"] == 6
    assert len(set(record["seeds"])) == 6 and set(record["repeats"]) == {"0", "1", "2"}
    assert record.arrays["curve"].shape == (3,)  # those of root 0
    assert not records.load("q1_a_dset1", seeds.folder(2)).arrays
    before = record.path.read_bytes()
    assert seeds.merge("q1_a_dset1").path.read_bytes() == before  # again, and nothing changes


def test_a_root_of_another_configuration_or_budget_does_not_count():
    ask(root=1)
    assert records.load("q1_a_dset1") is None
    assert seeds.merge("q1_a_dset1") is None
    other = records.load("q1_a_dset1", seeds.folder(1))
    other.content["budget"]["done"] = 3
    other.path.write_bytes(records.json_bytes(other.content))
    ask()
    record = records.load("q1_a_dset1")
    assert record.spread["loss"]["n"] == 2 and "repeats" not in record.content


def test_an_older_record_that_says_nothing_of_what_it_rests_on_takes_its_repetitions_in():
    ask(seeds=2)
    record = records.load("q1_a_dset1")
    assert record.content.pop("rests_on") == {}
    record.path.write_bytes(records.json_bytes(record.content))
    ask(seeds=3)
    assert records.load("q1_a_dset1").spread["loss"]["n"] == 6
    other = records.load("q1_a_dset1", seeds.folder(1))
    other.content["rests_on"] = {"q1_choices": "0" * 64}
    other.path.write_bytes(records.json_bytes(other.content))
    assert seeds.merge("q1_a_dset1").spread["loss"]["n"] == 4
