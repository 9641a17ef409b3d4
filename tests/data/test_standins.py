"""The stand-ins are the same pictures every time, by index, and show what their labels say."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from helpers import settings
from helpers.data import standins

DRAWERS = [standins.street_digits, standins.photo_patches]


@pytest.mark.parametrize("draw", DRAWERS)
def test_image_depends_on_its_index_only(draw):
    number = standins.BLOCK + 5  # into a second block
    images, labels = draw("test", number)
    assert images.shape == (number, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    for fewer in (1, 7, 300):
        few_images, few_labels = draw("test", fewer)
        assert np.array_equal(few_images, images[:fewer])
        assert np.array_equal(few_labels, labels[:fewer])
    assert len({image.tobytes() for image in images}) > 0.99 * number  # blocks do not repeat each other
    assert not np.array_equal(draw("train", 7)[0], images[:7])


def test_another_process_with_other_threads_draws_the_same():
    code = (
        "import hashlib; from helpers.data.standins import photo_patches, street_digits;"
        "pictures = [draw('train', 40)[0].tobytes() for draw in (street_digits, photo_patches)];"
        "print(*(hashlib.sha256(content).hexdigest() for content in pictures))"
    )
    here = [hashlib.sha256(draw("train", 40)[0].tobytes()).hexdigest() for draw in DRAWERS]
    threads = {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=settings.PROJECT_ROOT, env=os.environ | threads,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert there.stdout.split() == here


def test_glyphs_have_the_holes_of_their_digits():
    from scipy.ndimage import label

    fields = standins.glyph_fields().reshape(len(standins.FONTS), 10, standins.GLYPH_CELLS, standins.GLYPH_CELLS)

    def count_holes(field):
        """Parts of the background apart from the outer one; a lone cell in a notch of the outline is none."""
        return (np.bincount(label(field < 0)[0].ravel())[1:] >= 4).sum() - 1

    holes = np.array([[count_holes(field) for field in font] for font in fields])
    assert (holes[:, [1, 2, 3, 5, 7]] == 0).all()
    assert (holes[:, [6, 9]] == 1).all()
    assert (holes[:, 8] == 2).all()
    assert (holes[:, 0] >= 1).all()  # a zero with a stroke through it has two
    # A distance field has slope 1 almost everywhere.
    rows, columns = np.gradient(fields, 2 * standins.GLYPH_EXTENT / standins.GLYPH_CELLS, axis=(2, 3))
    assert np.median(np.hypot(rows, columns)) == pytest.approx(1, abs=0.01)


def test_label_is_the_middle_digit_and_neighbours_are_cut_off():
    def middle_of_the_range(low, high, *shape):
        return np.full((10, *shape, 1, 1), (low + high) / 2, np.float32)

    fonts = np.zeros(10, np.int64)
    rows = {name: np.tile(digits, (10, 1)) for name, digits in {"left": [0, 8, 1], "right": [1, 8, 7]}.items()}
    middle = np.column_stack([np.zeros(10, int), np.arange(10), np.ones(10, int)])
    left, _ = standins._paint_digits(middle_of_the_range, rows["left"], fonts)
    right, _ = standins._paint_digits(middle_of_the_range, rows["right"], fonts)
    each, _ = standins._paint_digits(middle_of_the_range, middle, fonts)
    centre = slice(9, 23)
    assert np.array_equal(left[:, :, centre], right[:, :, centre])  # neighbours stay out of the middle
    assert (left[0] != right[0])[:, :5].any()
    assert (left[0] != right[0])[:, -5:].any()
    assert left[0][:, 0].max() > 0.5  # the left zero runs over the picture's side
    assert np.array_equal(each[8], left[0])  # the digit at the label's place is the one in the middle
    assert len({picture[:, centre].tobytes() for picture in each}) == 10


def test_street_digits_vary_as_photographs_do():
    images, labels = standins.street_digits("train", 1000)
    frequencies = np.bincount(labels, minlength=10) / 1000
    expected = np.array(standins.SVHN_LABEL_COUNTS) / sum(standins.SVHN_LABEL_COUNTS)
    assert np.abs(frequencies - expected).max() < 4 * np.sqrt(expected.max() / 1000)
    grey = images.mean(axis=3)
    contrast = grey.std(axis=(1, 2))
    assert np.percentile(contrast, 10) < 15 < 35 < np.percentile(contrast, 90)  # grey levels: low and high
    corners = np.concatenate([grey[:, :3, :3], grey[:, -3:, -3:]], axis=1).mean(axis=(1, 2))
    darker = (grey[:, 8:24, 8:24].mean(axis=(1, 2)) < corners).mean()
    assert 0.3 < darker < 0.7  # dark on light as often as light on dark
    assert (images.std(axis=3).mean(axis=(1, 2)) > 3).mean() > 0.5  # most have a colour


def test_photo_patches_of_train_and_test_share_no_pixel(monkeypatch):
    import sklearn.datasets

    def marked(name):
        """Noise that is bright in the test columns and dark elsewhere."""
        noise = np.random.RandomState(0).randint(0, 128, (427, 640, 3)).astype(np.uint8)
        first, last = standins.PHOTOGRAPHS[name]
        noise[:, first:last] += 128
        return noise

    monkeypatch.setattr(sklearn.datasets, "load_sample_image", marked)
    standins._photo_windows.cache_clear()
    try:
        assert standins.photo_patches("train", 2000)[0].max() < 128
        assert standins.photo_patches("test", 2000)[0].min() >= 128
    finally:
        standins._photo_windows.cache_clear()


def test_photo_patches_are_labelled_by_photograph_and_have_detail():
    images, labels = standins.photo_patches("train", 1000)
    assert 0.4 < labels.mean() < 0.6
    blue_minus_red = images[..., 2].astype(float).mean(axis=(1, 2)) - images[..., 0].mean(axis=(1, 2))
    assert blue_minus_red[labels == 0].std() < blue_minus_red[labels == 1].std()  # orange flower on teal; grey temple
    assert (images[..., 1].std(axis=(1, 2)) > 5).all()


def test_digits_are_enlarged_and_labelled():
    images, labels = standins.digits()
    assert images.shape == (1797, 28, 28)
    assert images.dtype == np.uint8
    assert np.array_equal(images, standins.digits()[0])
    assert images.max() == 255
    border = np.ones((28, 28), bool)
    border[4:24, 4:24] = False
    assert images[:, border].max() == 0
    means = np.stack([images[:1200][labels[:1200] == digit].mean(axis=0) for digit in range(10)])
    distances = ((images[1200:, None].astype(float) - means) ** 2).sum(axis=(2, 3))
    assert (distances.argmin(axis=1) == labels[1200:]).mean() > 0.8  # nearest mean picture


def test_binarised_digits_follow_the_brightness():
    brightness, pixels = standins.digits()[0] / 255, standins.digits_binarized()
    assert pixels.dtype == np.uint8
    assert set(np.unique(pixels)) == {0, 1}
    assert np.array_equal(pixels, standins.digits_binarized())
    assert (pixels[brightness == 0] == 0).all()
    assert (pixels[brightness == 1] == 1).all()
    between = (brightness > 0) & (brightness < 1)
    error = (pixels - brightness)[between]
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(error.size)
