"""Images as lossless sheets: PNG packs photographs a third smaller than a zip of pixels does."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

COLUMNS = ROWS = 50


def as_sheets(images: np.ndarray) -> Iterator[bytes]:
    """PNG files of 2500 images each, row by row; the last one is filled up with black.

    Args:
        images: (N, side, side) or (N, side, side, 3) uint8.
    """
    from PIL import Image

    number = COLUMNS * ROWS
    for start in range(0, len(images), number):
        part = images[start : start + number]
        whole = np.zeros((number, *images.shape[1:]), np.uint8)
        whole[: len(part)] = part
        side = images.shape[1]
        grid = whole.reshape(ROWS, COLUMNS, *images.shape[1:]).swapaxes(1, 2)
        picture = Image.fromarray(np.ascontiguousarray(grid.reshape(ROWS * side, COLUMNS * side, *images.shape[3:])))
        stream = io.BytesIO()
        picture.save(stream, "png", optimize=True)
        yield stream.getvalue()
