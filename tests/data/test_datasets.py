"""Datasets by name: stand-ins are named, limits and digests hold, wrong data is refused with both sides."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from helpers import settings
from helpers.data import datasets, standins
from helpers.data.downloads import DataError, write_cache


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """A data folder that does not exist yet."""
    monkeypatch.setenv("SUITE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_importing_is_light():
    heavy = {"torch", "torchvision", "sklearn", "scipy", "matplotlib", "PIL"}
    code = f"import sys, helpers.data.datasets; print(*{heavy} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=settings.PROJECT_ROOT, stdout=subprocess.PIPE, check=True).stdout.strip() == b""


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError) as caught:
        datasets.load("imagenet")
    assert all(name in str(caught.value) for name in ("imagenet", *datasets.KNOWN))


@pytest.mark.parametrize("limit", [{"trian": 5}, {"train": 0}, {"train": 2.5}])
def test_limits_that_make_no_sense_are_refused(limit):
    with pytest.raises(DataError, match="train, test"):
        datasets.load("digits", limit=limit)


@pytest.mark.parametrize("name", ["digits", "digits_binarized", "street_digits", "photo_patches"])
def test_stand_ins_say_so_and_need_no_folder(data_folder, name):
    limit = {split: 20 + position for position, split in enumerate(datasets.KNOWN[name].sizes)}
    dataset = datasets.load(name, limit=limit)
    facts = json.loads(json.dumps(dataset.describe()))
    assert facts["name"] == name
    assert facts["sizes"] == limit
    assert facts["stand_in"] is True
    assert facts["stands_for"] in datasets.KNOWN
    assert "not comparable" in facts["note"]
    assert dataset.title == f"{name} (stand-in for {facts['stands_for']})"
    assert len(facts["digest"]) == 64
    assert facts["digest"] == datasets.load(name, limit=limit).digest
    assert not data_folder.exists()
    if name == "digits_binarized":
        assert dataset.labels is None
        assert set(np.unique(dataset.images["valid"])) == {0, 1}
    else:
        assert {split: len(labels) for split, labels in dataset.labels.items()} == limit


def test_splits_of_the_digits_share_no_image_and_keep_the_whole():
    for name in ("digits", "digits_binarized"):
        dataset = datasets.load(name)
        assert dataset.sizes == datasets.KNOWN[name].sizes
        assert sum(dataset.sizes.values()) == 1797
    images, labels = standins.digits()
    dataset = datasets.load("digits")
    assert np.array_equal(np.concatenate([dataset.images["train"], dataset.images["test"]]), images)
    assert np.array_equal(np.concatenate([dataset.labels["train"], dataset.labels["test"]]), labels)


def test_complete_street_digits_are_cached_and_drawn_anew_when_stale(data_folder, monkeypatch):
    small = dataclasses.replace(datasets.KNOWN["street_digits"], sizes={"train": 80, "test": 70})
    monkeypatch.setitem(datasets.KNOWN, "street_digits", small)
    drawn, draw = [], standins.street_digits

    def counted(split, number):
        drawn.append((split, number))
        return draw(split, number)

    monkeypatch.setattr(standins, "street_digits", counted)
    part = datasets.load("street_digits", limit={"train": 30})
    cache = data_folder / "cache" / "street_digits.npz"
    assert not cache.exists()
    whole = datasets.load("street_digits")
    assert cache.exists()
    assert np.array_equal(whole.images["train"][:30], part.images["train"])
    drawn.clear()
    assert datasets.load("street_digits").digest == whole.digest
    assert drawn == [("test", 64)]  # enough to see whether the cache is what would be drawn now
    stale = {f"{split}_images": np.zeros((number, 32, 32, 3), np.uint8) for split, number in whole.sizes.items()}
    write_cache(cache, stale | {f"{split}_labels": labels for split, labels in whole.labels.items()})
    assert datasets.load("street_digits").digest == whole.digest


def test_digest_sees_one_pixel_and_one_label():
    dataset = datasets.load("digits", limit={"train": 10, "test": 10})
    pixel = {**dataset.images, "test": dataset.images["test"].copy()}
    pixel["test"][9, 14, 14] ^= 1
    label = {**dataset.labels, "train": (dataset.labels["train"] + 1) % 10}
    variants = [dataset, dataclasses.replace(dataset, images=pixel), dataclasses.replace(dataset, labels=label),
                dataclasses.replace(dataset, labels=None)]  # fmt: skip
    assert len({variant.digest for variant in variants}) == 4


GOOD = np.full((4, 28, 28), 0.5, np.float32)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD[:0], "the train split is empty"),
        (np.zeros((4, 32, 32, 3), np.uint8), r"\(4, 32, 32, 3\); expected \(N, 28, 28\)"),
        (GOOD * 255, r"from 127\.5 to 127\.5; float32 values must be in 0\.\.1"),
        (GOOD - 1, r"from -0\.5 to"),
        (np.where(np.arange(4)[:, None, None] == 2, np.nan, GOOD), "1 of the train images have NaN.*index 2"),
        (np.full((4, 28, 28), 256), r"to 256; int64 values must be in 0\.\.255"),
        (np.full((4, 28, 28), "a"), "expected integers"),
    ],
)
def test_wrong_images_are_refused_with_both_sides(images, message):
    with pytest.raises(DataError, match=message):
        datasets.check_images(images, side=28, channels=1, split="train")


@pytest.mark.parametrize("images", [GOOD, (GOOD * 255).astype(np.uint8), (GOOD * 255).astype(np.int32), GOOD[:1]])
def test_good_images_pass(images):
    assert datasets.check_images(images, side=28, channels=1, split="train") is None


def test_missing_splits_and_labels_are_refused():
    dataset = datasets.load("digits", limit={"train": 5, "test": 5})
    datasets.check_dataset(dataset, side=28, channels=1, labelled=True)
    short = {"train": np.zeros(4, int), "test": np.zeros(5, int)}
    wrong = {
        "has no test split; it has train": {"images": {"train": dataset.images["train"]}},
        "has no train labels": {"labels": None},
        "has no test labels": {"labels": {"train": dataset.labels["train"]}},
        r"train labels of shape \(4,\); expected \(5,\)": {"labels": short},
    }
    for message, change in wrong.items():
        with pytest.raises(DataError, match=message):
            datasets.check_dataset(dataclasses.replace(dataset, **change), side=28, channels=1, labelled=True)
