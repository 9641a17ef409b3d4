"""Runs by their ids: declared and asked for agree, unknown names are helped, equal updates are shared out."""

import pytest

from helpers import settings
from helpers.results import deliverables, records
from helpers.suite import Outcome, run
from helpers.work import definitions, runs


@pytest.fixture(scope="module")
def declared():
    """Notebook -> the runs that it declares."""
    return {name: definitions.declared(name, "smoke") for name in definitions.names()}


def test_every_declared_run_is_in_the_list_of_deliverables_and_the_reverse(declared):
    listed = {(deliverables.entry(run_id)["notebook"], run_id) for run_id in deliverables.run_ids()}
    assert {(name, run_id) for name, found in declared.items() for run_id in found} == listed


def test_recorded_runs_have_the_full_configuration_that_their_notebook_declares(declared, monkeypatch):
    monkeypatch.setenv("SUITE_PROFILE", "full")
    for name in definitions.names():
        for run_id, found in definitions.declared(name, "full").items():
            record = records.load(run_id, settings.PROJECT_ROOT / "results")
            if record is not None and record["profile"] == "full" and records.state(record) != "stale":
                assert record["config"] == found.config("full"), run_id


def test_an_unknown_run_names_the_nearest_ones():
    with pytest.raises(definitions.UnknownRun, match="there is no run 'q1_a_dset3'; the nearest are q1_a_dset"):
        runs.expand(["q1_a_dset3"])
    with pytest.raises(definitions.UnknownRun, match=r"there is no run 'zzz_\*'; make status lists the runs"):
        runs.expand(["zzz_*"])
    assert runs.expand(["cifar10_w1_*", "dirac", "cifar10_w1_2"]) == ["cifar10_w1_2", "cifar10_w1_3", "dirac"]


def test_what_a_run_needs_comes_first_and_is_added_where_it_has_no_record(monkeypatch):
    needs = {"a": ("c",), "b": ("a",), "c": ()}
    monkeypatch.setattr(runs, "declaration", lambda run_id: run(lambda run: None, needs=needs[run_id]))
    monkeypatch.setattr(runs.records, "load", lambda run_id: None if run_id == "c" else object())
    assert runs.in_order(["b", "a"]) == ["c", "a", "b"]
    assert runs.in_order(["b"]) == ["c", "b"]


def test_equal_updates_are_what_all_reach_in_the_time():
    rates, done = {"quick": 10.0, "slow": 1.0}, {"quick": 0, "slow": 0}
    assert runs.equal_updates(rates, done, 110.0) == 100
    assert runs.equal_updates(rates, {"quick": 500, "slow": 0}, 110.0) == 110  # who is further waits
    assert runs.equal_updates(rates, done, -5.0) == 0


@pytest.fixture
def five(monkeypatch):
    """Two runs of a made-up notebook that count updates; returns the updates that each was stopped after."""
    stopped = []

    def train(run, rate):
        done = min(1000, run.stop_after or round(rate * (run.time_budget or 1e9)))
        stopped.append((run.id, run.stop_after))
        return Outcome({"loss": 1.0}, budget=(done, 1000, "updates"), seconds=done / rate)

    declared = {name: run(train, full={"rate": rate}) for name, rate in (("cifar10_jsd_1", 2.0), ("cifar10_w1_3", 0.5))}
    monkeypatch.setattr(runs, "suite_of", lambda run_id: runs.Suite("6_gan_critics", declared))
    monkeypatch.setattr(runs, "declaration", declared.__getitem__)
    monkeypatch.setattr("helpers.suite.source_digest", lambda *arguments: "0" * 64)
    monkeypatch.setattr(runs.records, "state", lambda record: "partial")
    return stopped


def test_runs_that_share_a_time_end_at_one_equal_number(five, capsys):
    assert runs.train_evenly(["cifar10_jsd_1", "cifar10_w1_3"], minutes=5) == 0
    targets = {number for _, number in five if number is not None}
    found = {records.load(run_id)["budget"]["done"] for run_id in ("cifar10_jsd_1", "cifar10_w1_3")}
    assert targets == found == {135}  # (136 - 40) / 2 + (136 - 10) / 0.5 seconds are 300
    assert "all go to" in capsys.readouterr().out


def test_an_even_share_of_no_time_is_refused(five):
    with pytest.raises(settings.SettingError, match="say how long with --minutes"):
        runs.train_evenly(["cifar10_jsd_1"], None)
