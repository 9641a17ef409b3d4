"""The arrays of a record that was handed in: opened without pickle, within a size that is read from its head first."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from helpers.results import packing

MOST_ARRAYS, MOST_BYTES, MOST_NAME = 200, 160 * 2**20, 200
# What a broken file raises while it is opened.
BROKEN = (OSError, ValueError, KeyError, EOFError, MemoryError, OverflowError, NotImplementedError, RuntimeError, TypeError,
          SyntaxError, RecursionError, zipfile.BadZipFile)


class ArraysError(ValueError):
    """A file of arrays cannot be used; the message says why."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` by name.

    Raises:
        ArraysError: it is not a file of plain numbers, or holds more than a record may.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_ARRAYS:
                raise ArraysError(f"it holds {len(members):,} arrays, the limit is {MOST_ARRAYS}")
            return _members(archive, members)
    except ArraysError:
        raise
    except BROKEN as error:
        raise ArraysError(f"it cannot be opened as arrays ({type(error).__name__}: {str(error)[:80]})") from error
    except Exception as error:  # zlib.error and the like have no common parent
        raise ArraysError(f"it cannot be opened as arrays ({type(error).__name__})") from error


def _members(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> dict[str, np.ndarray]:
    arrays, left = {}, MOST_BYTES
    for member in members:
        plain = member.filename.removesuffix(".npy"), None
        name, pictures = packing.announced_pictures(member.filename[: 2 * MOST_NAME]) or plain
        if name == member.filename or len(name) > MOST_NAME or name in arrays:
            raise ArraysError(f"{member.filename[:60]!r} is not the name of one array")
        if pictures:
            size = math.prod(pictures)
            if size > left or not size:
                raise ArraysError(f"its pictures announce more than {MOST_BYTES:,} bytes, or none")
            left -= size
            with archive.open(member) as stream:
                arrays[name] = packing.decoded(stream.read(2 * size + 1000), pictures)
            continue
        with archive.open(member) as stream:
            shape, order, kind = _head(stream)
            size = math.prod(shape) * kind.itemsize
            if size > left:
                raise ArraysError(f"its heads announce more than {MOST_BYTES:,} bytes")
            left -= size
            if kind.hasobject or kind.kind not in "biufcSU":
                raise ArraysError(f"{name[:60]!r} holds {kind} and not plain numbers")
            content = stream.read(size + 1)
        if len(content) != size:
            raise ArraysError(f"{name[:60]!r} is longer or shorter than its head says")
        flat = np.frombuffer(content, dtype=kind, count=math.prod(shape)) if size else np.zeros(0, kind)
        arrays[name] = flat.reshape(shape, order="F" if order else "C")
    return arrays


def _head(stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(stream)
    reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if reader is None:
        raise ArraysError(f"it has version {version} of the format")
    shape, order, kind = reader(stream, max_header_size=10_000)
    if len(shape) > 8 or any(side < 0 or side > 2**40 for side in shape):
        raise ArraysError(f"it has the shape {str(shape)[:60]}")
    return shape, order, kind
