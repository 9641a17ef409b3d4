"""The arrays of a record in one file that is small enough for git.

The file is a zip as ``numpy.savez`` writes it, with two savings. Pictures lie in it as lossless WebP, named for instance
``samples.100x32x32x3.webp``: to the bit the same numbers in half the bytes, and unpacked they open in any viewer. What was
measured at every training step, two thousand steps and more, keeps 12 significant bits, 1/4096 of a value at worst: far less than
one minibatch differs from the next.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image

from helpers.results import deliverables

PICTURES = re.compile(r"(?P<name>.+)\.(?P<shape>\d+(?:x\d+){2,6})\.webp")
TALLEST, LEAST_SIDE = 16383, 8  # pixels: of a WebP picture, and of what is worth being one
MEASURED_EACH_STEP = re.compile(r"(?:^|_)train(?:_|$)")
MANY_STEPS, DROPPED_BITS = 2000, 12  # of the 24 that a float32 has
CREATED = (1980, 1, 1, 0, 0, 0)  # the same bytes for the same arrays


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of the file for some arrays of plain numbers, by name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            pictures = _encoded(array)
            if pictures is not None:
                shape = "x".join(map(str, array.shape))
                archive.writestr(zipfile.ZipInfo(f"{name}.{shape}.webp", CREATED), pictures)
                continue
            if is_rounded(name, array):
                array = rounded(array)
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", CREATED)
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content.getvalue())
    return packed.getvalue()


def kept(run_id: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that the record of a run keeps: of pictures only those that are shown, or measured, later."""
    pictures = deliverables.pictures_kept(run_id)
    return {name: array for name, array in arrays.items()
            if pictures is None or name in pictures or not are_pictures(array)}


def unpack(source: Path | bytes) -> dict[str, np.ndarray]:
    """The arrays of a file, or of its bytes, by name; nothing is unpickled.

    Raises:
        ValueError: pictures in it are not the ones that their name announces.
    """
    arrays = {}
    with np.load(io.BytesIO(source) if isinstance(source, bytes) else source, allow_pickle=False) as content:
        for member in content.files:
            announced = announced_pictures(member)
            arrays[announced[0] if announced else member] = (
                decoded(content[member], announced[1]) if announced else content[member])
    return arrays


def announced_pictures(member: str) -> tuple[str, tuple[int, ...]] | None:
    """Name and shape of the array that a member of the zip holds as a picture; None for other members."""
    match = PICTURES.fullmatch(member)
    return (match["name"], tuple(map(int, match["shape"].split("x")))) if match else None


def decoded(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Pictures, (..., H, W) in grey or (..., H, W, 3), as uint8, from a WebP of all below each other.

    Raises:
        ValueError: the content is another picture, or none.
    """
    width, height, coloured = _sides(shape)
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["WEBP"]) as picture:
            if picture.size != (width, height) or getattr(picture, "n_frames", 1) != 1:
                raise ValueError(f"it announces {width} x {height} pixels and has {picture.size[0]} x {picture.size[1]}")
            pixels = np.array(picture.convert("RGB"))  # a copy: torch warns of arrays that cannot be written
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be read as a WebP picture ({str(error)[:80]})") from error
    return pixels.reshape(shape) if coloured else pixels[..., 0].reshape(shape)


def is_rounded(name: str, array: np.ndarray) -> bool:
    """Whether an array is one of measurements at every training step, and long."""
    return bool(MEASURED_EACH_STEP.search(name)) and array.dtype == np.float32 and array.ndim > 0 and len(array) >= MANY_STEPS


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 numbers with 12 significant bits, to nearest, ties to even; what is not finite stays as it is.

    References: Klöwer et al., Nature Computational Science 1, 713-724 (2021).
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    last = (bits >> np.uint32(DROPPED_BITS)) & np.uint32(1)
    half = np.uint32((1 << (DROPPED_BITS - 1)) - 1)
    kept = ((bits + half + last) & np.uint32(0xFFFFFFFF << DROPPED_BITS & 0xFFFFFFFF)).view(np.float32)
    return np.where(np.isfinite(values) & np.isfinite(kept), kept, values).astype(np.float32)


def are_pictures(array: np.ndarray) -> bool:
    """Whether an array holds pictures: uint8 (..., H, W) or (..., H, W, 3), no side of them less than eight pixels."""
    if array.dtype != np.uint8 or not 3 <= array.ndim <= 7 or array.size == 0:
        return False
    width, _, coloured = _sides(array.shape)
    return min(width, array.shape[-3 if coloured else -2]) >= LEAST_SIDE


def _encoded(array: np.ndarray) -> bytes | None:
    """Pictures as WebP; None for other arrays, and where Pillow cannot write them so that they come back to the bit."""
    width, height, coloured = _sides(array.shape) if are_pictures(array) else (0, 0, False)
    if not width or max(width, height) > TALLEST:
        return None
    pixels = array.reshape(height, width, 3) if coloured else array.reshape(height, width)[..., None].repeat(3, axis=-1)
    stream = io.BytesIO()
    try:  # a quality of 100 would take fifty times as long and save a hundredth
        PIL.Image.fromarray(pixels).save(stream, "webp", lossless=True, quality=75, method=4)
        return stream.getvalue() if np.array_equal(decoded(stream.getvalue(), array.shape), array) else None
    except (OSError, KeyError, ValueError):  # a Pillow without WebP
        return None


def _sides(shape: tuple[int, ...]) -> tuple[int, int, bool]:
    """Width and height of all pictures of a shape below each other, and whether they have colours."""
    coloured = len(shape) > 3 and shape[-1] == 3
    rows = shape[:-2] if coloured else shape[:-1]
    return shape[len(rows)], math.prod(rows), coloured
