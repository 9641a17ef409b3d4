"""What the benchmarks measure with: memory of a known size, shares that add up, rows with their ratio."""

import pytest
import torch

from benchmarks import common, loop_shares
from helpers.results import records


def test_the_peak_is_the_most_that_is_held_at_one_time():
    def two_in_turn():
        for _ in range(2):
            torch.zeros(2**18)  # 1 MiB, freed before the next

    def two_at_once():
        return torch.zeros(2**18), torch.zeros(2**18)

    assert common.peak_megabytes(two_in_turn, two_at_once) == pytest.approx([1.0, 2.0], rel=0.01)


def test_sides_take_turns_and_a_row_holds_their_ratio():
    calls = []
    seconds = common.time_alternating(lambda: calls.append("ours"), lambda: calls.append("theirs"), repetitions=2, warm_up=1)
    assert calls == ["ours", "theirs"] * 3
    assert all(value >= 0 for value in seconds)
    assert common.row("a", "b", 3.0, 2.0, "steps/s")["ratio"] == 1.5


def test_the_shares_of_a_step_add_up():
    class Small(dict):
        """What the benchmark needs of a record."""

        id = "q1_a_dset1"

    config = {"part": "a", "dataset_id": 1, "epochs": 20, "batch_size": 128, "learning_rate": 3e-3, "members": 2, "draws": 1}
    row = loop_shares.shares(Small(notebook="1_vae_2d", function="run_gaussian", config=config, seed=0), 0.3)
    parts = [row[name] for name in ("model", "optimiser", "data", "loop")]
    assert sum(parts) == pytest.approx(1.0)
    assert all(part > 0 for part in parts)
    assert row["model"] > 0.5
    assert row["steps_per_second"] > 10
    assert row["operations"] > 50 and row["gigaflop"] > 0.01
    points = 2 * 2 * 10000 * 2 * 4 / 2**20  # two members' copies of 10000 points, twice
    assert row["memory_megabytes"] > points
    assert row["t4_minutes"] > 0


def test_a_run_without_a_record_is_named(monkeypatch, capsys):
    monkeypatch.setattr(records, "load", lambda *arguments: None)
    assert loop_shares.measure() == []
    assert "q1_a_dset1: not recorded" in capsys.readouterr().out
