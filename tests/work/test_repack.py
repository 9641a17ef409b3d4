"""Arrays of an earlier version take the present form; no number changes, and what rests on them still does."""

import hashlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.results import packing
from helpers.results.records import Record, RecordError
from helpers.work import repack, seeds


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path))
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def written(folder, run_id, arrays, **more):
    """A record as an earlier version wrote it, with numpy's own file of arrays."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    (folder / f"{run_id}.npz").write_bytes(packed.getvalue())
    content = {
        "id": run_id, "notebook": "3_vae_images", "function": "train", "profile": "full", "seed": 0, "seeds": [0], "shown": 0,
        "source": "0" * 64, "config": {}, "dataset": None, "budget": {"done": 1, "planned": 1, "unit": "steps"},
        "metrics": {"loss": 0.125}, "spread": {"loss": {"std": 0.0, "min": 0.125, "max": 0.125, "n": 1}}, "facts": {},
        "figures": {}, "environment": {"device": "CPU"}, "seconds": 1.0,
        "arrays": {"sha256": hashlib.sha256(packed.getvalue()).hexdigest()}, **more}
    path = folder / f"{run_id}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return content


def pictures():
    generator = np.random.default_rng(3)
    return (np.linspace(0, 200, 32)[:, None] + generator.integers(0, 9, (20, 32, 32, 3))).astype(np.uint8)


def test_arrays_shrink_keep_their_numbers_and_are_named_by_who_rests_on_them(results, capsys):
    images, terms = pictures(), np.random.default_rng(1).normal(size=(3000, 2)).astype(np.float32)
    old = written(results, "q3_dset1", {"samples": images, "vqvae_train": terms, "steps": np.arange(9)})
    rests = written(results, "haifa_q2", {}, rests_on={"q3_dset1": old["arrays"]["sha256"], "other": "1" * 64})
    outdated = written(results, "haifa_q1", {}, rests_on={"q3_dset1": "2" * 64})
    outdated_text = "  " + (results / "haifa_q1.json").read_text(encoding="utf-8")  # another's spacing: it is not even touched
    (results / "haifa_q1.json").write_text(outdated_text, encoding="utf-8")
    (results / "seeds" / "1").mkdir(parents=True)
    written(results / "seeds" / "1", "haifa_q2", {}, seed=1, rests_on=dict(rests["rests_on"]))
    before = (results / "q3_dset1.npz").stat().st_size
    assert repack.repack(SimpleNamespace(run=[])) == 0
    record = Record(results / "q3_dset1.json")
    assert (results / "q3_dset1.npz").stat().st_size < before
    assert np.array_equal(record.arrays["samples"], images) and np.array_equal(record.arrays["steps"], np.arange(9))
    assert np.array_equal(record.arrays["vqvae_train"], packing.rounded(terms))
    assert {**record.content, "arrays": old["arrays"]} == old
    assert f"q3_dset1: {before:,} to" in capsys.readouterr().out
    now = json.loads((results / "haifa_q2.json").read_text(encoding="utf-8"))
    assert now == {**rests, "rests_on": {"q3_dset1": record["arrays"]["sha256"], "other": "1" * 64}}
    assert (results / "haifa_q1.json").read_text(encoding="utf-8") == outdated_text  # it was stale and stays so
    assert json.loads(outdated_text) == outdated
    (repetition,) = seeds.repetitions(Record(results / "haifa_q2.json"))
    assert repetition["rests_on"] == now["rests_on"]


def test_a_second_time_nothing_is_left_to_do(results, capsys):
    written(results, "q3_dset1", {"samples": pictures()})
    repack.repack(SimpleNamespace(run=["q3_dset1"]))
    there = {path.name: path.read_bytes() for path in results.iterdir()}
    capsys.readouterr()
    repack.repack(SimpleNamespace(run=["q3_dset1"]))
    assert capsys.readouterr().out == "" and {path.name: path.read_bytes() for path in results.iterdir()} == there


@pytest.mark.parametrize(("run_id", "kept"), [("q2_a_dset1_still", []), ("q2_b_dset1_z1", ["first_level_fixed"])])
def test_pictures_that_nothing_shows_or_measures_are_left_out(results, run_id, kept):
    written(results, run_id, {"samples": pictures(), "first_level_fixed": pictures(), "terms": np.ones(3)})
    repack.repack(SimpleNamespace(run=[run_id]))
    assert list(Record(results / f"{run_id}.json").arrays) == [*kept, "terms"]


@pytest.mark.parametrize("change", [
    lambda arrays: {**arrays, "samples": arrays["samples"] ^ 1}, lambda arrays: {"steps": arrays["steps"]},
    lambda arrays: {**arrays, "samples": arrays["samples"][:-1]},
], ids=["other numbers", "one is missing", "one is shorter"])
def test_a_file_that_does_not_come_back_is_not_written(results, monkeypatch, change):
    written(results, "q3_dset1", {"samples": pictures(), "steps": np.arange(9)})
    there = {path.name: path.read_bytes() for path in results.iterdir()}
    pack = packing.pack
    monkeypatch.setattr(packing, "pack", lambda arrays: pack(change(arrays)))
    with pytest.raises(RecordError, match="samples did not come back as it is; nothing was written"):
        repack.repack(SimpleNamespace(run=["q3_dset1"]))
    assert {path.name: path.read_bytes() for path in results.iterdir()} == there


def test_an_unknown_run_names_the_nearest(results):
    with pytest.raises(RecordError, match="q3_dset has no record in .*; the nearest are q3_dset"):
        repack.repack(SimpleNamespace(run=["q3_dset"]))
