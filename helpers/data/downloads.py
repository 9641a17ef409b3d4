"""Files on disk that can be trusted: downloads with a known digest, and decoded caches that are whole or an error.

A file takes its final name only when it is complete and right. Nothing is ever replaced by other data: what cannot
be had is a :class:`DataError` that says what was looked for, where, and what could be asked for instead.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from helpers import settings
from helpers.data.network import NetworkError, receive
from helpers.files import (
    HOST,
    WriteError,
    file_digest,
    flush,
    left_overs,
    remove_left_overs,
    temporary_beside,
    write_atomically,
)

SOURCE = "source"  # in a cache: the digests of the published files that it was decoded from
DEEPEST = 5  # folders below the data folder in which a file is looked for
MOST_FILES = 100_000  # names after which it is looked for no further: somebody's whole disk
FURTHER_FOLDERS = (Path("/kaggle/input"),)


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
    url: str, path: Path, sha256: str, *, what: str, size: int | None = None, stand_in: str | None = None,
    mirrors: Sequence[str] = (), also: Mapping[str, tuple[str, int]] | None = None,
) -> Path:  # fmt: skip
    """Make sure that a published file is there: verify it if it is on disk, else download and verify it.

    Args:
        url: address of the file, ``http:``, ``https:`` or ``file:``.
        path: where it belongs.
        sha256: the digest that it must have.
        what: the data in words, for messages.
        size: the number of bytes that it must have, if known.
        stand_in: name of a generated dataset that could be asked for instead; only ever named in the message.
        mirrors: further addresses of the same file.
        also: other names that it has in usual places (unpacked, say) -> digest and size; looked for in the whole data folder.

    Returns:
        The path of a file whose digest is right: ``path``, or where another tool has put it.

    Raises:
        DataError: no network, an error from the server, a folder that cannot be written to, or a file that is truncated
            or another one. What arrived is removed, unless the server can go on from it the next time.
    """
    if path.exists():
        verify(path, sha256, url, size=size)
        remove_left_overs(path.parent, "download")
        return path
    looked_at: list[str] = []
    for name, known in {path.name: (sha256, size), **(also or {})}.items():
        if (found := find(name, *known, looked_at)) is not None:
            return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path) as partial:
            _download([url, *mirrors], partial, path, sha256, what, size, stand_in, looked_at)
    except OSError as error:
        said = error if isinstance(error, WriteError) else f"could not write {path}: {error.strerror or error}"
        raise DataError(f"{said}. SUITE_DATA names the data folder, which must be writable") from error
    return path


def find(name: str, sha256: str, size: int | None, looked_at: list[str] | None = None, method: str = "sha256") -> Path | None:
    """A file of a name, size and digest anywhere in the data folder (or where Kaggle mounts data): other tools have other places.

    Args:
        looked_at: gets a sentence for each file of that name which is another one.
        method: of the digest.
    """
    for path in _files_below((settings.data_folder(), *FURTHER_FOLDERS)).get(name.lower(), ()):
        with suppress(OSError):
            if path.is_file() and size in (None, path.stat().st_size):
                with open(path, "rb") as stream:
                    if hashlib.file_digest(stream, method).hexdigest() == sha256:
                        return path
            if looked_at is not None:
                looked_at.append(f"{path} is another file ({path.stat().st_size} bytes)")
    return None


def _files_below(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Name in small letters -> files of that name, a few levels deep."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for place, below, names in os.walk(folder):
            depth = len(Path(place).relative_to(folder).parts)
            if depth >= DEEPEST or len(found) > MOST_FILES:
                below.clear()
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in names:
                found.setdefault(name.lower(), []).append(Path(place) / name)
    return found


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Where a download grows: from what a killed process left, if there is something."""
    with temporary_beside(path, "download") as partial:
        there = [left for left in left_overs(path.parent, "download") if left.name.startswith(f".{path.name}.")]
        for left in sorted(there, key=lambda left: left.stat().st_size):  # the longest comes last and stays
            with suppress(OSError):  # another process has taken it
                os.replace(left, partial)
        yield partial


def _download(urls: list[str], partial: Path, path: Path, sha256: str, what: str, size: int | None, stand_in: str | None,
              looked_at: list[str]) -> None:
    """Bring the file to ``path`` from the first address that has it, through ``partial``."""
    kept = path.with_name(f".{path.name}.{HOST}.0.{'0' * 8}.download")  # of no process: the next one goes on from it
    reasons = []
    for number, url in enumerate(urls, 1):
        try:
            ended = receive(url, partial, what, size)
        except NetworkError as error:
            reasons.append(f"{url} ({error})")
            continue
        found, received = file_digest(partial) if partial.exists() else "", partial.stat().st_size if partial.exists() else 0
        if found == sha256:
            flush(partial)
            os.replace(partial, path)
            return
        fate = "It was removed; run again, or put the right file there"
        if ended.resumable and not ended.whole and received < (size or 0):
            os.replace(partial, kept)
            fate = "What came is kept, and the same command goes on from there"
        partial.unlink(missing_ok=True)
        if number < len(urls):
            reasons.append(f"{url} (it sent another file)")
            continue
        raise DataError(f"{what}: what arrived for {path} from {url} is truncated or another file: "
                        f"{_difference(sha256, size, found, received)}. {fate}")
    if partial.exists() and partial.stat().st_size:
        os.replace(partial, kept)
    raise DataError(_no_data(reasons, path, what, stand_in, looked_at))


def _write(path: Path, write: Callable) -> None:
    """Write a file atomically; a folder that cannot be written to is a :class:`DataError`."""
    try:
        write_atomically(path, write)
    except OSError as error:
        raise DataError(f"{error}. SUITE_DATA names the data folder, which must be writable") from error


def _difference(sha256: str, size: int | None, found: str, found_size: int) -> str:
    expected_size = "" if size is None else f" ({size} bytes)"
    return f"expected sha256 {sha256}{expected_size}, found {found} ({found_size} bytes)"


def _no_data(reasons: list[str], path: Path, what: str, stand_in: str | None, looked_at: list[str]) -> str:
    """What to do about data that is neither on disk nor to be had from the network."""
    lines = [
        f"{what}: {path.name} is not in {path.parent} and could not be downloaded from {' or '.join(reasons)}.",
        f"Put the file there, or set SUITE_DATA to a folder that has it (it is now {settings.data_folder()}).",
    ]
    lines += [f"{sentence}." for sentence in looked_at[:3]]
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


def write_cache(path: Path, arrays: dict[str, np.ndarray], source: str = "") -> None:
    """Write decoded arrays, with the digest of all of them under ``digest``, as an uncompressed ``.npz``, atomically.

    Args:
        path: the cache file.
        arrays: name -> array.
        source: what they were decoded from, as digests of the published files.
    """
    facts = {"digest": np.array(digest_of_arrays(arrays))} | ({SOURCE: np.array(source)} if source else {})
    _write(path, lambda stream: np.savez(stream, **arrays, **facts))


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
        if not path.is_file():
            raise ValueError("it is no regular file")
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except Exception as error:  # whatever a broken file makes numpy and zipfile raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"the cache {path} is truncated or corrupt ({said}); it must hold {', '.join(names)}. "
            "Delete it and run again to decode the original files anew"
        ) from error


def read_cache(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Arrays of a cache, checked against the digest in it (files without one rely on the zip format's own checksums).

    Args:
        path: an existing ``.npz`` file.
        names: the arrays that it must hold.

    Returns:
        name -> array, for ``names`` and whatever else the file holds; under ``SOURCE`` what it says that it was decoded from.

    Raises:
        DataError: the file is truncated, corrupt or lacks an array.
    """
    with _opened(path, names) as archive:
        arrays = {name: archive[name] for name in [*names, *archive.files] if name != "digest"}
        stored = str(archive["digest"]) if "digest" in archive.files else None
    decoded = {name: array for name, array in arrays.items() if name != SOURCE}
    if stored is not None and stored != (found := digest_of_arrays(decoded)):
        raise DataError(
            f"the cache {path} is corrupt: its arrays have digest {found}, and {stored} was stored with them. "
            "Delete it and run again to decode the original files anew"
        )
    return arrays
