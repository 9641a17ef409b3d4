"""The image datasets by name: published ones (:mod:`helpers.data.published`) and stand-ins (:mod:`helpers.data.standins`).

``load(name)`` gives a :class:`Dataset` of uint8 arrays; ``Dataset.describe()`` goes into every record. A published set
that cannot be had is an error that names its stand-in; a stand-in is used only when its own name is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from helpers import settings
from helpers.data import published, standins
from helpers.data.downloads import DataError, digest_of_arrays, read_array
from helpers.data.published import Arrays, Content


@dataclass(frozen=True)
class Dataset:
    """Images and labels by split.

    Attributes:
        name: the name it was asked for by.
        images: split -> (N, side, side) or (N, side, side, 3) uint8; 0..255, or 0 and 1 for the binarised sets.
        labels: split -> (N,) int64, or None where the set has none.
        stand_in: whether it replaces a real dataset.
        stands_for: the real dataset's name, for a stand-in.
        note: what a reader of results must know about it, or an empty text.
        part: what part of the published set it is, for example ``7,999 training images``; empty for the whole.
        groups: split -> (N,) int64 or None, which images belong together (SVHN: the house); None where nothing is known.
    """

    name: str
    images: Arrays
    labels: Arrays | None
    stand_in: bool
    stands_for: str | None
    note: str
    part: str = ""
    groups: Arrays | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all arrays: images, then labels, each by the names of the splits in alphabetical order."""
        parts = [digest_of_arrays(self.images), digest_of_arrays(self.labels or {})]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images in each split."""
        return {split: len(images) for split, images in self.images.items()}

    @property
    def title(self) -> str:
        """The name for figures and tables, which says of a stand-in or a part that it is one."""
        if self.part:
            return f"{self.name.upper()}, {self.part}"
        return f"{self.name} (stand-in for {self.stands_for})" if self.stand_in else self.name

    def describe(self) -> dict:
        """What a record says about its data; fit for JSON."""
        return {
            "name": self.name, "digest": self.digest, "sizes": self.sizes, "stand_in": self.stand_in,
            "stands_for": self.stands_for, "note": f"{self.title}: {self.note}" if self.part else self.note, "part": self.part,
        }  # fmt: skip


def load(name: str, *, limit: dict[str, int] | None = None) -> Dataset:
    """A dataset by name; real ones are downloaded into ``settings.data_folder()`` if they are not there.

    Args:
        name: one of ``KNOWN``.
        limit: split -> at most so many images, the first ones; splits not named are whole. Stand-ins are drawn on
            demand, so a small limit on every split is quick.

    Raises:
        DataError: an unknown name or split, or data that is missing, damaged or of another form.
    """
    if name not in KNOWN:
        raise DataError(f"there is no dataset {name!r}; the known ones are {', '.join(KNOWN)}")
    known = KNOWN[name]
    for split, number in (limit or {}).items():
        if split not in known.sizes or not isinstance(number, int) or number < 1:
            splits = ", ".join(known.sizes)
            raise DataError(f"limit {split!r}: {number!r} is not a positive number of images of {name}'s {splits}")
    sizes = {split: min(size, (limit or {}).get(split, size)) for split, size in known.sizes.items()}
    content = known.read(sizes)
    whole = Dataset(name, content.images, content.labels, known.stands_for is not None, known.stands_for, content.note,
                    groups=content.groups)  # fmt: skip
    check_dataset(whole, side=known.side, channels=known.channels, splits=tuple(sizes), labelled=known.labelled)
    if content.is_part:
        sizes = {split: min(size, whole.sizes[split]) for split, size in sizes.items()}
    elif any(whole.sizes[split] < size for split, size in sizes.items()) or not (whole.stand_in or whole.sizes == known.sizes):
        copy = f", or be the known part with SHA-256 {published.SVHN_PART_SHA256}" if name == "svhn" else ""
        raise DataError(f"{name} must have {known.sizes} images{copy}; it has {whole.sizes} with SHA-256 "
                        f"{published.image_digests(whole.images)}")
    if content.doubt:
        raise DataError(f"{name}: {content.doubt}")
    images, labels, groups = (_first(arrays, sizes) if arrays else None for arrays in (whole.images, whole.labels, whole.groups))
    part = f"{sizes['train']:,} training images" if content.is_part else ""
    return replace(whole, images=images, labels=labels, groups=groups, part=part)


def part_at_hand(name: str | None) -> str:
    """What part of a published set the data folder holds, in a few words; empty for the whole, or where nothing is there yet."""
    path, known = settings.data_folder() / "cache" / f"{name}.npz", KNOWN.get(name)
    if known is None or known.stands_for is not None or not known.labelled or not path.exists():
        return ""
    number = len(read_array(path, "train_labels"))
    return "" if number == known.sizes["train"] else f"{number:,} training images"


def _first(arrays: Arrays, sizes: dict[str, int]) -> Arrays:
    """The first images or labels of each split; copies where some are left out, so that the rest can be freed."""
    return {
        split: array if len(array) <= sizes[split] else array[: sizes[split]].copy()
        for split, array in arrays.items()
    }


def check_images(images: np.ndarray, *, side: int, channels: int, split: str) -> None:
    """Check an array of images before anything is trained on it.

    Args:
        images: (N, side, side) for one channel, (N, side, side, channels) otherwise; integers in 0..255 or floats in
            [0, 1].
        side: expected height and width in pixels.
        channels: expected number of channels.
        split: its name, for messages.

    Raises:
        DataError: empty, of another shape, not numbers, not finite, or out of range; the message has both sides.
    """
    images = np.asarray(images)
    expected = (side, side) if channels == 1 else (side, side, channels)
    if images.ndim == 0 or len(images) == 0:
        raise DataError(f"the {split} split is empty; expected images of shape {expected}")
    if images.shape[1:] != expected:
        raise DataError(f"the {split} images have shape {images.shape}; expected (N, {', '.join(map(str, expected))})")
    if images.dtype.kind not in "uif":
        raise DataError(f"the {split} images are {images.dtype}; expected integers in 0..255 or floats in [0, 1]")
    floating = images.dtype.kind == "f"
    if floating and not np.isfinite(images).all():
        bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))
        raise DataError(f"{len(bad)} of the {split} images have NaN or infinite values, the first at index {bad[0]}")
    top = 1 if floating else 255
    if images.dtype != np.uint8 and (images.min() < 0 or images.max() > top):
        kind = f"{images.dtype} values must be in 0..{top}"
        raise DataError(f"the {split} images have values from {images.min()} to {images.max()}; {kind}")


def check_dataset(
    dataset: Dataset, *, side: int, channels: int, splits: tuple[str, ...] = ("train", "test"), labelled: bool = False
) -> None:
    """Check that a dataset has the splits, image form and (where ``labelled``) the labels that a run needs.

    Raises:
        DataError: what was expected and what came, for the first thing that is wrong.
    """
    for split in splits:
        if split not in dataset.images:
            raise DataError(f"{dataset.name} has no {split} split; it has {', '.join(dataset.images) or 'none'}")
        check_images(dataset.images[split], side=side, channels=channels, split=f"{dataset.name} {split}")
        if not labelled:
            continue
        if dataset.labels is None or split not in dataset.labels:
            raise DataError(f"{dataset.name} has no {split} labels; expected one for each image")
        for kind, arrays in (("labels", dataset.labels), ("groups", dataset.groups or {})):
            shape, number = arrays[split].shape if split in arrays else None, len(dataset.images[split])
            if shape not in (None, (number,)):
                raise DataError(f"{dataset.name} has {split} {kind} of shape {shape}; expected ({number},), one an image")


def _draw(draw: Callable[[str, int], tuple[np.ndarray, np.ndarray]], sizes: dict[str, int]) -> tuple[Arrays, Arrays]:
    """The first images and labels of each split of a stand-in."""
    drawn = {split: draw(split, number) for split, number in sizes.items()}
    return {split: pair[0] for split, pair in drawn.items()}, {split: pair[1] for split, pair in drawn.items()}


def _street_digits(sizes: dict[str, int]) -> Content:
    """Drawn house numbers; the complete set is cached, and drawn anew if its first images are not today's."""
    note = "drawn by this suite, not photographs: not comparable with results on SVHN"
    if sizes != KNOWN["street_digits"].sizes:
        return Content(*_draw(standins.street_digits, sizes), note)

    def decode() -> Arrays:
        kinds = zip(("images", "labels"), _draw(standins.street_digits, sizes), strict=True)
        return {f"{split}_{kind}": arrays[split] for kind, arrays in kinds for split in sizes}

    content = published.read_colour_cache("street_digits", decode)
    if not np.array_equal(content.images["test"][:64], standins.street_digits("test", 64)[0]):
        (settings.data_folder() / "cache" / "street_digits.npz").unlink()
        content = published.read_colour_cache("street_digits", decode)
    return replace(content, note=note)


def _photo_patches(sizes: dict[str, int]) -> Content:
    note = "crops of two photographs, not objects of ten classes: not comparable with results on CIFAR-10"
    return Content(*_draw(standins.photo_patches, sizes), note)


def _cut(array: np.ndarray, sizes: dict[str, int]) -> Arrays:
    """Consecutive parts of an array, as long as the complete splits are."""
    return dict(zip(sizes, np.split(array, np.cumsum(list(sizes.values()))[:-1]), strict=True))


def _digits(sizes: dict[str, int]) -> Content:
    images, labels = standins.digits()
    whole = KNOWN["digits"].sizes
    note = "handwritten digits of 8 x 8 pixels, enlarged: not comparable with results on MNIST"
    return Content(_cut(images, whole), _cut(labels, whole), note)


def _digits_binarized(sizes: dict[str, int]) -> Content:
    note = "handwritten digits of 8 x 8 pixels, enlarged and binarised: not comparable with results on binarised MNIST"
    return Content(_cut(standins.digits_binarized(), KNOWN["digits_binarized"].sizes), None, note)


@dataclass(frozen=True)
class Known:
    """What a name stands for: how it is read (given the sizes wanted) and the form that it must have."""

    read: Callable[[dict[str, int]], Content]
    sizes: dict[str, int]
    side: int
    channels: int
    labelled: bool = True
    stands_for: str | None = None


KNOWN = {
    "binarized_mnist": Known(
        lambda sizes: published.binarized_mnist(),
        {"train": 50000, "valid": 10000, "test": 10000}, 28, 1, labelled=False,
    ),
    "mnist": Known(lambda sizes: published.mnist(), {"train": 60000, "test": 10000}, 28, 1),
    "cifar10": Known(lambda sizes: published.cifar10(), {"train": 50000, "test": 10000}, 32, 3),
    "svhn": Known(lambda sizes: published.svhn(), {"train": 73257, "test": 26032}, 32, 3),
    "digits": Known(_digits, {"train": 1497, "test": 300}, 28, 1, stands_for="mnist"),
    "digits_binarized": Known(
        _digits_binarized,
        {"train": 1197, "valid": 300, "test": 300}, 28, 1, labelled=False, stands_for="binarized_mnist",
    ),
    "street_digits": Known(_street_digits, {"train": 73257, "test": 26032}, 32, 3, stands_for="svhn"),
    "photo_patches": Known(_photo_patches, {"train": 50000, "test": 10000}, 32, 3, stands_for="cifar10"),
}  # fmt: skip
