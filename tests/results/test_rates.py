"""Measured rates: the plan estimates from them, and a card that is too small is named before anything is trained."""

import json

import pytest
import torch

from helpers import settings
from helpers.publish import planning
from helpers.results import rates
from helpers.work import memory, runs

CARD = "Measured Card"


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A machine without records on which two rates are known."""
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    rows = [{"run": "cifar10_jsd_1", "updates_per_second": 10.0, "planned": 100_000, "peak_megabytes": 4096.0},
            {"run": "q2_a_dset2", "updates_per_second": 100.0, "planned": 7_820, "peak_megabytes": 100.0}]
    for card, factor in ((CARD, 1), ("Another Card", 2)):
        content = {"machine": {"device": card},
                   "rows": [row | {"updates_per_second": factor * row["updates_per_second"]} for row in rows]}
        (folder / f"rates_{card.replace(' ', '_')}.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(settings, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path / "output"))


def test_a_rate_of_this_card_comes_first(measured):
    assert rates.of("cifar10_jsd_1", CARD).seconds == 10_000
    assert rates.of("cifar10_jsd_1").card == "Another Card"
    assert rates.of("dirac", CARD) is None


@pytest.mark.parametrize(("device", "left"), [("CPU, 2 threads", "about 83 min on Another Card"), (CARD, "about 2.8 h")])
def test_the_plan_estimates_from_measured_rates_and_names_another_device(measured, monkeypatch, device, left):
    monkeypatch.setattr(settings, "environment", lambda: {"device": device})
    planned = {task.run_id: task for task in planning.tasks()}
    assert planned["cifar10_jsd_1"].left == left
    assert planned["dirac"].left == "not measured"


@pytest.fixture
def card(measured, monkeypatch):
    """A card with some memory free."""
    def free(megabytes, whole=16_384):
        monkeypatch.setattr(settings, "device", lambda: torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (megabytes * 2**20, whole * 2**20))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: CARD)
    return free


@pytest.mark.parametrize(("whole", "remedy"), [(16_384, "end what else uses it"), (4_096, "train on a larger card")])
def test_a_run_that_does_not_fit_is_named_before_any_is_trained(card, whole, remedy, monkeypatch):
    card(2_000, whole)
    monkeypatch.setattr(runs, "train_one", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(runs, "in_order", lambda run_ids: list(run_ids))
    arguments = type("Asked", (), {"run": ["q2_a_dset2", "cifar10_jsd_1"], "even": False, "minutes": None, "seeds": 1,
                                   "root": None, "again": False, "updates": None})
    with pytest.raises(settings.SettingError, match=rf"cifar10_jsd_1 needs about 5,632 MiB.*2,000 of.*{remedy}"):
        runs.train(arguments)


def test_what_fits_passes_and_a_cpu_is_not_asked(card, monkeypatch):
    card(6_000)
    memory.check(["q2_a_dset2", "cifar10_jsd_1"])
    card(100)
    with pytest.raises(settings.SettingError, match="declared in RUNS"):
        memory.check(["dirac"])
    monkeypatch.setattr(settings, "device", lambda: torch.device("cpu"))
    memory.check(["dirac"])
