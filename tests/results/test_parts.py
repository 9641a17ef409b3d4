"""A record on part of the published data says so, and is never taken for one on the whole."""

import json

import fake_suite
import numpy as np
import pytest

from helpers import settings, suite
from helpers.data import datasets, published
from helpers.data.downloads import write_cache
from helpers.results.records import Record
from helpers.suite import Outcome, Suite

NOTEBOOK = "def train(run, dataset):\n    return 1\n"


def test_it_says_so_beside_every_number_and_is_not_reduced_by_it(tmp_path):
    dataset = {"name": "svhn", "stand_in": False, "part": "7,999 training images"}
    content = fake_suite.record(fake_suite.entry("q2_a_dset1"), dataset=dataset)
    record = Record(fake_suite.write_record(tmp_path, content))
    assert (record.part, record.reduced) == ("SVHN, 7,999 training images", "")
    assert record.remark == "on part of the data: SVHN, 7,999 training images"
    record.content["budget"] = {"done": 1, "planned": 2, "unit": "steps"}
    assert record.remark == "on part of the data: SVHN, 7,999 training images; 1 of 2 steps"
    for whole in ({"part": ""}, {}):
        record.content["dataset"] = {"name": "svhn", "stand_in": False, **whole}
        record.content["budget"] = {"done": 2, "planned": 2, "unit": "steps"}
        assert (record.part, record.remark) == ("", "")


@pytest.fixture
def house_numbers(tmp_path, monkeypatch):
    """A project whose run trains on the house numbers that are at hand; returns a function that changes those."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "9_test.py").write_text(NOTEBOOK)
    monkeypatch.setattr(settings, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("SUITE_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "cache").mkdir(parents=True)

    def put(number: int, part: bool) -> None:
        pixels = np.random.default_rng(number).integers(0, 256, (number, 32, 32, 3)).astype(np.uint8)
        images = {"train": pixels, "test": pixels[:2]}
        arrays = {f"{split}_images": array for split, array in images.items()}
        labels = {f"{split}_labels": np.zeros(len(array), int) for split, array in images.items()}
        origin = " ".join(sha256 for sha256, _ in published.SVHN_FILES.values())
        write_cache(tmp_path / "data" / "cache" / "svhn.npz", arrays | labels, "" if part else origin)
        if part:
            monkeypatch.setattr(published, "SVHN_PART_SHA256", published.image_digests(images))
        else:
            known = datasets.KNOWN["svhn"]
            monkeypatch.setitem(datasets.KNOWN, "svhn", type(known)(known.read, {"train": number, "test": 2}, 32, 3))

    return put


def test_a_run_on_the_whole_replaces_one_on_a_part_when_asked_and_goes_on_from_none_of_its_checkpoints(house_numbers):
    fingerprints = []

    def train(run, dataset):
        fingerprints.append(run.fingerprint)
        data = datasets.load(dataset)
        done = 3 if data.part else 1  # the part came further
        return Outcome({"loss": [1.0]}, {}, data.describe(), (done, 5, "steps"))

    runs = {"alpha": suite.run(train, full={"dataset": "svhn"})}
    house_numbers(6, part=True)
    record = Suite("9_test", runs).run("alpha")
    assert record["dataset"]["part"] == "6 training images"
    house_numbers(9, part=False)
    assert Suite("9_test", runs).run("alpha").part == "SVHN, 6 training images"  # shown as what it is
    again = Suite("9_test", runs).run("alpha", again=True)
    assert (again.part, again["dataset"]["sizes"]["train"], again["budget"]["done"]) == ("", 9, 1)
    assert json.loads(again.path.read_text()) == again.content
    assert len(set(fingerprints)) == 2
