"""Files on disk that can be trusted: downloads with a known digest, and decoded caches that are whole or an error.

A file takes its final name only when it is complete and right. Nothing is ever replaced by other data: what cannot
be had is a :class:`DataError` that says what was looked for, where, and what could be asked for instead.
"""

from __future__ import annotations

import hashlib
import http.client
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from helpers import settings
from helpers.files import file_digest, write_atomically

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0  # without a byte from the server


class DataError(RuntimeError):
    """Data is missing, damaged, or not of the form that was asked for; the message says what to do."""

    explained = True  # the message says what to mend: the command line shows it alone


def verify(path: Path, sha256: str, url: str, *, size: int | None = None) -> None:
    """Check that a file is the one that was published.

    Args:
        path: an existing file.
        sha256: the digest that it must have.
        url: where it comes from, for the message.
        size: the number of bytes that it must have, if known.

    Raises:
        DataError: it is another file or part of it; the message names both digests and sizes. The file stays there.
    """
    found, found_size = file_digest(path), path.stat().st_size
    if found != sha256:
        raise DataError(
            f"{path} is not the published file: {_difference(sha256, size, found, found_size)}. "
            f"Delete it and run again to download it from {url}"
        )


def fetch(
    url: str, path: Path, sha256: str, *, what: str, size: int | None = None, stand_in: str | None = None
) -> Path:
    """Make sure that a published file is there: verify it if it is on disk, else download and verify it.

    Args:
        url: address of the file, ``http:``, ``https:`` or ``file:``.
        path: where it belongs.
        sha256: the digest that it must have.
        what: the data in words, for messages.
        size: the number of bytes that it must have, if known.
        stand_in: name of a generated dataset that could be asked for instead; only ever named in the message.

    Returns:
        ``path``, of a file whose digest is right.

    Raises:
        DataError: no network, an error from the server, a folder that cannot be written to, or a file that is truncated
            or another one. What arrived is removed.
    """
    if path.exists():
        verify(path, sha256, url, size=size)
        return path

    def write(stream) -> None:
        digest, received = hashlib.sha256(), 0
        try:
            for chunk in _download(url, what):
                stream.write(chunk)
                digest.update(chunk)
                received += len(chunk)
        except _NetworkError as error:
            raise DataError(_no_data(url, path, what, stand_in, error)) from error
        if digest.hexdigest() != sha256:
            raise DataError(
                f"{what}: what arrived for {path} from {url} is truncated or another file: "
                f"{_difference(sha256, size, digest.hexdigest(), received)}. "
                "It was removed; run again, or put the right file there"
            )

    _write(path, write)
    return path


class _NetworkError(Exception):
    """The server could not be reached or refused; other operating system errors are about the disk."""


def _download(url: str, what: str) -> Iterator[bytes]:
    """The bytes at ``url``, in pieces, under a progress bar. A connection that ends early just ends."""
    from tqdm import tqdm

    try:
        request = urllib.request.Request(url, headers={"User-Agent": "Python-urllib"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            length = int(response.headers.get("Content-Length") or 0) or None
            options = {"file": sys.stdout, "disable": not settings.show_progress(), "unit": "B", "unit_scale": True}
            with tqdm(total=length, desc=f"downloading {what}", **options) as bar:
                while chunk := response.read(CHUNK_BYTES):
                    yield chunk
                    bar.update(len(chunk))
    except http.client.IncompleteRead as error:
        yield error.partial  # the digest will be wrong, which is reported with the sizes
    except urllib.error.HTTPError as error:
        raise _NetworkError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _NetworkError(str(error)) from error


def _write(path: Path, write: Callable) -> None:
    """Write a file atomically; a folder that cannot be written to is a :class:`DataError`."""
    try:
        write_atomically(path, write)
    except OSError as error:
        raise DataError(f"{error}. SUITE_DATA names the data folder, which must be writable") from error


def _difference(sha256: str, size: int | None, found: str, found_size: int) -> str:
    expected_size = "" if size is None else f" ({size} bytes)"
    return f"expected sha256 {sha256}{expected_size}, found {found} ({found_size} bytes)"


def _no_data(url: str, path: Path, what: str, stand_in: str | None, reason: Exception) -> str:
    """What to do about data that is neither on disk nor to be had from the network."""
    lines = [
        f"{what}: {path.name} is not in {path.parent} and could not be downloaded from {url} ({reason}).",
        f"Put the file there, or set SUITE_DATA to a folder that has it (it is now {settings.data_folder()}).",
    ]
    if stand_in:
        how = f": SUITE_HOUSE_NUMBERS={stand_in}" if stand_in in settings.HOUSE_NUMBERS else ""
        lines.append(f"The stand-in {stand_in!r} needs no network; it is used only when asked for by that name{how}.")
    return " ".join(lines)


def digest_of_arrays(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over arrays in the order of their names: for each its name, element type, shape and bytes (C order).

    Args:
        arrays: name -> array of any shape.

    Returns:
        64 hexadecimal digits; any change of a name, type, shape or value changes them.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.data if array.size else b"")
    return total.hexdigest()


def write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write decoded arrays, with the digest of all of them under ``digest``, as an uncompressed ``.npz``, atomically.

    Args:
        path: the cache file.
        arrays: name -> array.
    """
    digest = np.array(digest_of_arrays(arrays))
    _write(path, lambda stream: np.savez(stream, **arrays, digest=digest))


def read_array(path: Path, name: str) -> np.ndarray:
    """One array of a cache, without the others; only the zip format's checksum is checked.

    Raises:
        DataError: the file is truncated, corrupt or lacks the array.
    """
    with _opened(path, [name]) as archive:
        return archive[name]


@contextmanager
def _opened(path: Path, names: list[str]) -> Iterator[np.lib.npyio.NpzFile]:
    """A cache while it is read; whatever is wrong with the file is a :class:`DataError`."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"the cache {path} is truncated or corrupt ({error}); it must hold {', '.join(names)}. "
            "Delete it and run again to decode the original files anew"
        ) from error


def read_cache(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Arrays of a cache, checked against the digest in it (files without one rely on the zip format's own checksums).

    Args:
        path: an existing ``.npz`` file.
        names: the arrays that it must hold.

    Returns:
        name -> array, for ``names`` and whatever else the file holds.

    Raises:
        DataError: the file is truncated, corrupt or lacks an array.
    """
    with _opened(path, names) as archive:
        arrays = {name: archive[name] for name in [*names, *archive.files] if name != "digest"}
        stored = str(archive["digest"]) if "digest" in archive.files else None
    if stored is not None and stored != (found := digest_of_arrays(arrays)):
        raise DataError(
            f"the cache {path} is corrupt: its arrays have digest {found}, and {stored} was stored with them. "
            "Delete it and run again to decode the original files anew"
        )
    return arrays
