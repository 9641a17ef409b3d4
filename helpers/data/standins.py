"""Drawing of the stand-in datasets: pictures made here, for where the real ones cannot be downloaded.

``street_digits`` stands in for SVHN, ``photo_patches`` for CIFAR-10, ``digits`` for MNIST. Image i of a split depends on the split
and on i only: random numbers come in blocks of ``BLOCK`` images, each block from its own counter-based generator. The arithmetic
is numpy's, elementwise, so the number of threads changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLOCK = 1024  # images that share a generator
SPLIT_SEEDS = {"train": 1, "valid": 2, "test": 3}
SIDE = 32  # pixels along each side of street_digits and photo_patches
PIXELS = np.arange(SIDE, dtype=np.float32) - np.float32((SIDE - 1) / 2)  # positions around the middle of a picture

# Fonts that come with matplotlib: sans, serif, monospaced and typewriter shapes in several weights.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmtt10",
)
# How often SVHN's training labels 0..9 occur (counts of its 73257 images): house numbers start with small digits.
SVHN_LABEL_COUNTS = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)

# Photographs that scikit-learn ships, 427 x 640 pixels (their position is the label), each with the columns that belong
# to the test split; no pixel is in both splits.
PHOTOGRAPHS = {"china.jpg": (230, 390), "flower.jpg": (330, 490)}
PHOTO_WIDTHS = (640, 400, 320, 200)  # pixels across a photograph at the scales that patches are cut from
PHOTO_DETAIL = 16.0  # least standard deviation of a patch, in grey levels: most of both photographs is plain background

GLYPH_CELLS = 64  # cells along each side of a stored distance field
GLYPH_EXTENT = 0.8  # a field covers [-0.8, 0.8]^2, in digit heights around the digit's centre
FAR = np.float32(-0.3)  # the distance where there is no digit


def block_generator(name: str, split: str, block: int, stream: int = 0) -> np.random.Generator:
    """The generator of one block of images: counter-based, and keyed by what is drawn."""
    key = [*name.encode(), SPLIT_SEEDS[split], block, stream]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _glyph_outlines(font: str) -> Iterator[np.ndarray]:
    """Line segments (M, 2, 2) of each digit's outline, in units of the height of the 8, centred."""
    import matplotlib
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    properties = FontProperties(fname=Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf")
    paths = [TextPath((0, 0), str(digit), size=1.0, prop=properties) for digit in range(10)]
    height = paths[8].get_extents().height
    for path in paths:
        extents = path.get_extents()
        centre = np.array([extents.x0 + extents.x1, extents.y0 + extents.y1]) / 2
        polygons = [(polygon - centre) / height for polygon in path.to_polygons(closed_only=True)]
        yield np.concatenate([np.stack([polygon[:-1], polygon[1:]], axis=1) for polygon in polygons])


@functools.lru_cache(maxsize=1)
def glyph_fields() -> np.ndarray:
    """Signed distances to the outlines of all digits in all fonts, positive inside, in digit heights.

    A distance field takes any weight (a threshold), softness (a slope) and shadow from one look-up.

    Returns:
        (fonts * 10, GLYPH_CELLS, GLYPH_CELLS) float32; row index grows upwards.
    """
    axis = (np.arange(GLYPH_CELLS) + 0.5) / GLYPH_CELLS * 2 * GLYPH_EXTENT - GLYPH_EXTENT
    y, x = (grid.ravel()[:, None] for grid in np.meshgrid(axis, axis, indexing="ij"))
    fields = []
    for font in FONTS:
        for outline in _glyph_outlines(font):
            (x0, y0), (x1, y1) = outline.transpose(1, 2, 0)
            dx, dy = x1 - x0, y1 - y0
            along = np.clip(((x - x0) * dx + (y - y0) * dy) / np.maximum(dx * dx + dy * dy, 1e-12), 0, 1)
            distance = np.sqrt(((x0 + along * dx - x) ** 2 + (y0 + along * dy - y) ** 2).min(axis=1))
            crosses = ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * dx / np.where(dy == 0, 1, dy))
            fields.append(np.where(crosses.sum(axis=1) % 2 == 1, distance, -distance))
    return np.stack(fields).reshape(-1, GLYPH_CELLS, GLYPH_CELLS).astype(np.float32)


def street_digits(split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Drawings in the manner of SVHN's cropped house numbers.

    Args:
        split: ``train`` or ``test``.
        number: how many; the first ones are the same whatever the number.

    Returns:
        images (number, 32, 32, 3) uint8 and the labels 0..9 of the middle digits (number,) int64.
    """
    images, labels = np.empty((number, SIDE, SIDE, 3), np.uint8), np.empty(number, np.int64)
    for block, part in _blocks(number):
        images[part], labels[part] = _street_block(split, block, part.stop - part.start)
    return images, labels


def _blocks(number: int) -> list[tuple[int, slice]]:
    """The blocks that the first ``number`` images are in, each with its place among them."""
    return [(start // BLOCK, slice(start, min(start + BLOCK, number))) for start in range(0, number, BLOCK)]


def _street_block(split: str, block: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` street digits of a block: shapes of the digits, light and colour, then the camera."""
    generator = block_generator("street_digits", split, block)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        """One value an image, (count, *shape, 1, 1); drawn for the whole block so that ``count`` changes nothing."""
        values = low + (high - low) * generator.random((BLOCK, *shape))
        return values[:count].astype(np.float32)[..., None, None]

    bounds = np.cumsum(SVHN_LABEL_COUNTS)[:-1] / sum(SVHN_LABEL_COUNTS)
    digits = np.searchsorted(bounds, generator.random((BLOCK, 3)))[:count]
    fonts = generator.integers(0, len(FONTS), BLOCK)[:count]
    coverage, shadow = _paint_digits(uniform, digits, fonts)
    noise = block_generator("street_digits", split, block, stream=1).random((count, 2, SIDE, SIDE), dtype=np.float32)
    luma = _photograph(uniform, _light_wall(uniform, coverage, shadow), np.sqrt(np.float32(12)) * (noise - 0.5))
    picture = luma[..., None] * _tints(uniform, coverage)
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8), digits[:, 1].astype(np.int64)


def _chance(uniform, probability: float) -> np.ndarray:
    return uniform(0, 1) < probability


def _spread(uniform, scale: float) -> np.ndarray:
    """Bell-shaped around 0, of standard deviation ``scale``, within 3 of them: a sum of three uniforms."""
    return uniform(-scale, scale, 3).sum(axis=1)


def _paint_digits(uniform, digits: np.ndarray, fonts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where there is paint (0..1) and where its shadow is, both (N, 32, 32), for three digits in a row."""
    x, y = PIXELS[None, None, :], PIXELS[None, :, None]
    # A pixel's position along and across the row, in digit heights, the middle digit's centre being (0, 0).
    height, squeeze = uniform(20, 31), uniform(0.70, 1.10)
    angle, shear = _spread(uniform, 0.08), _spread(uniform, 0.09)
    column, row = x - _spread(uniform, 0.9), -(y - _spread(uniform, 0.9))
    across = (row * np.cos(angle) - column * np.sin(angle)) / height
    along = (column * np.cos(angle) + row * np.sin(angle)) / (height * squeeze) - shear * across
    advance = uniform(0.66, 0.92)
    slot = np.clip(np.rint(along / advance), -1, 1)  # the digit that a pixel belongs to: left, middle, right
    left, right = slot < 0, slot > 0
    present = np.where(left, _chance(uniform, 0.55), np.where(right, _chance(uniform, 0.55), True))
    digit = np.where(left, digits[:, :1, None], np.where(right, digits[:, 2:, None], digits[:, 1:2, None]))
    glyphs = (fonts[:, None, None] * 10 + digit).astype(np.int32)
    along, across = along - slot * advance, across - slot * _spread(uniform, 0.02)

    softness = (1.0 + 2.6 * uniform(0, 1) ** 2) / height  # width of an edge, 1 to 3.6 pixels
    weight = uniform(-0.012, 0.03)
    coverage = _smooth_step((np.where(present, _look_up(glyphs, along, across), FAR) + weight) / softness + 0.5)
    # A shadow, or the lit side of a raised digit, falls mostly downwards and is softer.
    along, across = along + uniform(-0.07, 0.07), across + uniform(-0.02, 0.09)
    shadow = _smooth_step(np.where(present, _look_up(glyphs, along, across), FAR) / (1.6 * softness) + 0.5)
    shadow = shadow * (1 - coverage) * np.where(_chance(uniform, 0.4), uniform(-0.35, 0.15), 0)
    return coverage, shadow


def _light_wall(uniform, coverage: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """Brightness (N, 32, 32) of a wall and its painted digits, whose contrast is often low, under uneven light."""
    x, y = PIXELS[None, None, :], PIXELS[None, :, None]
    contrast = (0.10 + 0.60 * uniform(0, 1) ** 2) * np.where(_chance(uniform, 0.5), 1, -1).astype(np.float32)
    wall = uniform(0.25, 0.75) - contrast / 2
    # The border of a plate, a joint or a frame at one side.
    angle = uniform(0, 2 * np.pi)
    edge = np.cos(angle) * x + np.sin(angle) * y - uniform(9, 17)
    edge = _smooth_step(edge / uniform(1, 4) + 0.5) * np.where(_chance(uniform, 0.4), _spread(uniform, 0.16), 0)
    # Light: a slope in any direction, and a bright or dark patch.
    angle = uniform(0, 2 * np.pi)
    slope = uniform(0, 0.3) * (np.cos(angle) * x + np.sin(angle) * y) / SIDE
    patch = uniform(-0.25, 0.2) * ((x - uniform(-16, 16)) ** 2 + (y - uniform(-16, 16)) ** 2) / SIDE**2
    return (wall + edge * (1 - coverage) + contrast * coverage + shadow) * (1 + slope + patch)


def _photograph(uniform, luma: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Brightness (N, 32, 32) after the camera; ``noise`` (N, 2, 32, 32), of variance 1: the wall's and the sensor's."""
    texture = _blur(_blur(noise[:, 0], 0.33), 0.33)
    luma = _blur(luma + uniform(0, 0.05) * texture, uniform(0.1, 0.33))
    return luma + 0.03 * uniform(0, 1) ** 2 * noise[:, 1]


def _tints(uniform, coverage: np.ndarray) -> np.ndarray:
    """Factors (N, 32, 32, 3) that colour a grey picture: wall and paint each warm, blue, or now and then of any hue."""
    warm, blue, other = 0.7 + _spread(uniform, 0.35), 3.8 + _spread(uniform, 0.2), uniform(0, 2 * np.pi)
    kind, saturation = uniform(0, 1, 2), 0.36 * uniform(0, 1, 2) ** 2
    hues = np.where(kind < 0.5, warm[:, None], np.where(kind < 0.92, blue[:, None], other[:, None]))
    paint = (~_chance(uniform, 0.4)).astype(np.float32)  # some digits have the wall's own colour, as in relief
    channels = []
    for phase in (0.0, 2.1, 4.2):  # red, green, blue on the circle of hues
        wall_tint, paint_tint = np.moveaxis(saturation * np.cos(hues - np.float32(phase)), 1, 0)
        tint = wall_tint + (paint_tint - wall_tint) * paint * coverage
        # Colour at half resolution, as JPEG stores it.
        half = tint.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4))
        channels.append(1 + _blur(half.repeat(2, axis=1).repeat(2, axis=2), 0.25))
    return np.stack(channels, axis=-1)


def _look_up(glyphs: np.ndarray, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Distance fields of ``glyphs`` at positions in digit heights, bilinear; all arrays (N, 32, 32)."""
    scale = np.float32(GLYPH_CELLS / (2 * GLYPH_EXTENT))
    column = np.clip((along + GLYPH_EXTENT) * scale - 0.5, 0, GLYPH_CELLS - 1.001)
    row = np.clip((across + GLYPH_EXTENT) * scale - 0.5, 0, GLYPH_CELLS - 1.001)
    left, low = column.astype(np.int32), row.astype(np.int32)
    column, row = column - left, row - low
    fields = glyph_fields().ravel()
    corner = (glyphs * GLYPH_CELLS + low) * GLYPH_CELLS + left
    lower = fields[corner] * (1 - column) + fields[corner + 1] * column
    upper = fields[corner + GLYPH_CELLS] * (1 - column) + fields[corner + GLYPH_CELLS + 1] * column
    return lower * (1 - row) + upper * row


def _smooth_step(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and a smooth S between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def _blur(picture: np.ndarray, weight) -> np.ndarray:
    """Each pixel mixed with its neighbours, of weight ``weight`` each, along both axes; (N, 32, 32), edges repeated."""
    for _ in range(2):
        padded = np.pad(picture, ((0, 0), (1, 1), (0, 0)), mode="edge")
        picture = (1 - 2 * weight) * picture + weight * (padded[:, :-2] + padded[:, 2:])
        picture = picture.swapaxes(1, 2)
    return picture


@functools.lru_cache(maxsize=2)
def _photo_windows(split: str) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """For each photograph and scale: all windows (rows, columns, 3, 32, 32), a view, and the split's places (M, 2)."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    found = []
    for name, (first, last) in PHOTOGRAPHS.items():
        photograph = Image.fromarray(load_sample_image(name))
        found.append([])
        for width in PHOTO_WIDTHS:
            scale = photograph.width / width
            image = photograph.resize((width, round(photograph.height / scale)), Image.Resampling.BOX)
            windows = np.lib.stride_tricks.sliding_window_view(np.asarray(image), (SIDE, SIDE), axis=(0, 1))
            detailed = windows[:, :, 1, 3::8, 3::8].std(axis=(2, 3)) >= PHOTO_DETAIL
            left = np.arange(windows.shape[1]) * scale  # columns of the photograph that a window starts and ends at
            right = left + SIDE * scale
            allowed = (left >= first) & (right <= last) if split == "test" else (right <= first) | (left >= last)
            found[-1].append((windows, np.argwhere(detailed & allowed)))
    return found


def photo_patches(split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Random crops, at several scales and flips, of two photographs; train and test from different parts of them.

    Args:
        split: ``train`` or ``test``.
        number: how many; the first ones are the same whatever the number.

    Returns:
        images (number, 32, 32, 3) uint8 and labels (number,) int64: 0 for the temple, 1 for the flower.
    """
    windows = _photo_windows(split)
    images, labels = np.empty((number, SIDE, SIDE, 3), np.uint8), np.empty(number, np.int64)
    for block, part in _blocks(number):
        random = block_generator("photo_patches", split, block).random((BLOCK, 4))[: part.stop - part.start]
        photo, scale = (random[:, :2] * (len(PHOTOGRAPHS), len(PHOTO_WIDTHS))).astype(int).T
        patches = np.empty((len(random), 3, SIDE, SIDE), np.uint8)
        for photo_index, scale_index in np.ndindex(len(PHOTOGRAPHS), len(PHOTO_WIDTHS)):
            chosen = (photo == photo_index) & (scale == scale_index)
            view, places = windows[photo_index][scale_index]
            rows, columns = places[(random[chosen, 2] * len(places)).astype(int)].T
            patches[chosen] = view[rows, columns]
        flip = random[:, 3] < 0.5
        patches[flip] = patches[flip, :, :, ::-1]
        images[part], labels[part] = patches.transpose(0, 2, 3, 1), photo
    return images, labels


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1797 handwritten digits, enlarged smoothly from 8 x 8 to 20 x 20 within 28 x 28, shuffled once.

    Returns:
        images (1797, 28, 28) uint8, bright on black as in MNIST, and labels 0..9 (1797,) int64.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    small = load_digits()
    order = block_generator("digits", "train", 0).permutation(len(small.target))
    images = np.zeros((len(order), 28, 28), np.uint8)
    for position, index in enumerate(order):
        large = Image.fromarray(small.images[index].astype(np.float32)).resize((20, 20), Image.Resampling.BICUBIC)
        # Steeper than linear, since enlarging softens strokes that MNIST has nearly black and white.
        images[position, 4:24, 4:24] = np.rint(255 * np.clip(np.asarray(large) / 16 * 1.6 - 0.35, 0, 1))
    return images, small.target[order].astype(np.int64)


def digits_binarized() -> np.ndarray:
    """The pictures of :func:`digits` (1797, 28, 28), drawn once: each pixel is 1 with its brightness as probability."""
    brightness = digits()[0] / 255
    return (block_generator("digits_binarized", "train", 0).random(brightness.shape) < brightness).astype(np.uint8)
