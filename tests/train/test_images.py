"""Pixels in whatever form a course hands them out, and back from tensors."""

import numpy as np
import pytest
import torch

from helpers.data.downloads import DataError
from helpers.train import images


def pictures(number, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float16, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_the_same_pixels(dtype):
    given = pictures(3).astype(dtype)
    bytes_ = images.pixels(given, "train")
    assert bytes_.dtype == np.uint8 and np.array_equal(bytes_, pictures(3))


def test_floats_between_0_and_1_are_scaled_and_a_line_says_so(capsys):
    given = pictures(3) / 255
    assert np.array_equal(images.pixels(given, "train"), pictures(3))
    assert np.array_equal(images.pixels(given.astype(np.float32), "train"), pictures(3))
    assert "the train images are float64 in 0..1: scaled" in capsys.readouterr().out
    binary = (pictures(3) > 127).astype(np.float32)
    assert set(np.unique(images.pixels(binary, "test"))) == {0, 255}


def test_memory_of_any_kind():
    given = pictures(4)
    assert images.pixels(given, "train") is given
    given.flags.writeable = False
    assert np.array_equal(images.pixels(given, "train"), given)
    turned = np.asfortranarray(pictures(4))[::-1]
    bytes_ = images.pixels(turned, "train")
    assert bytes_.flags.c_contiguous and np.array_equal(bytes_, turned)
    grey = images.pixels(np.zeros((2, 28, 28)), "test", side=28, channels=1)
    assert grey.shape == (2, 28, 28) and grey.dtype == np.uint8


@pytest.mark.parametrize(("given", "message"), [
    (np.full((5, 32, 32, 3), 0.5) + pictures(5), r"float64 with values from 0.5 to 25\d.5; expected integers in 0..255"),
    (pictures(5) / 255 - 0.01, r"float64 with values from -0.01 to 0.99; expected integers in 0..255"),
    (2.0 * pictures(5), r"float64 with values from 0.0 to 510.0; expected"),
    (pictures(5).astype(np.int64) - 1, r"values from -1 to 254; int64 values must be in 0..255"),
    (np.zeros((5, 28, 28)), r"shape \(5, 28, 28\); expected \(N, 32, 32, 3\)"),
    (np.zeros((0, 32, 32, 3)), "the train split is empty"),
    (np.zeros((5, 32, 32, 3), bool), "the train images are bool; expected integers"),
    (np.array(["a"]), "shape"),
    (np.where(np.arange(5)[:, None, None, None] == 3, np.nan, pictures(5)), r"1 of the train images have NaN .* index 3"),
])
def test_anything_else_is_refused_with_both_sides_named(given, message):
    with pytest.raises(DataError, match=message):
        images.pixels(given, "train")


def test_scaling_to_tensors_and_back():
    given = torch.from_numpy(pictures(2))
    x = images.to_signed(given)
    assert x.is_contiguous(memory_format=torch.channels_last) and x.min() >= -1 and x.max() <= 1
    assert np.array_equal(images.to_bytes(x), given.numpy())
    assert images.to_signed(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1)).flatten().tolist() == [-1, 1]
