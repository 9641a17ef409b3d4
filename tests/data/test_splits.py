"""A validation set shares no group with the training set, and is as large as asked."""

import numpy as np
import pytest

from helpers.data.splits import split_by_group

HOUSES = np.repeat(np.arange(100), np.arange(100) % 4 + 1)  # one to four digits a house


@pytest.mark.parametrize("seed", range(5))
def test_no_house_is_on_both_sides_and_no_image_is_lost(seed):
    train, valid = split_by_group(HOUSES, len(HOUSES), 0.2, seed)
    assert not set(HOUSES[train]) & set(HOUSES[valid])
    assert sorted([*train, *valid]) == list(range(len(HOUSES)))
    assert 0.2 * len(HOUSES) <= len(valid) < 0.2 * len(HOUSES) + 4
    again = split_by_group(HOUSES, len(HOUSES), 0.2, seed)
    assert np.array_equal(again[0], train) and np.array_equal(again[1], valid)
    assert not np.array_equal(split_by_group(HOUSES, len(HOUSES), 0.2, seed + 5)[1], valid)


def test_the_order_of_the_images_and_the_names_of_the_houses_change_nothing_for_a_house():
    shuffled = np.random.default_rng(0).permutation(len(HOUSES))
    _, valid = split_by_group(HOUSES, len(HOUSES), 0.3, 1)
    _, other = split_by_group(7 * HOUSES[shuffled] - 3, len(HOUSES), 0.3, 1)
    assert set(HOUSES[valid]) == set(HOUSES[shuffled][other])


def test_without_groups_the_split_is_by_image():
    train, valid = split_by_group(None, 1000, 0.1, 0)
    assert len(valid) == 100
    assert len(train) == 900
    assert not set(train) & set(valid)


@pytest.mark.parametrize(("groups", "number", "share", "message"), [
    (HOUSES, 3, 0.1, r"shape \(250,\); expected \(3,\)"),
    (None, 10, 0.0, r"lies in \(0, 1\), not 0"),
    (None, 10, 1.0, r"lies in \(0, 1\), not 1"),
    (None, 10, float("nan"), "not nan"),
    (np.zeros(10, int), 10, 0.1, "10 images in 1 groups leave nothing"),
    (None, 1, 0.5, "leave nothing"),
    (None, 0, 0.5, "leave nothing"),
])
def test_a_split_that_cannot_be_is_refused(groups, number, share, message):
    with pytest.raises(ValueError, match=message):
        split_by_group(groups, number, share, 0)
