"""Writing files so that a crash, a full disk or a second reader never meets half of one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable) -> None:
    """Write a file beside ``path`` with ``write(stream)`` (binary), flush it to disk, then rename it over ``path``.

    If anything fails the temporary file is removed and the old ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_together(contents: dict[Path, bytes]) -> None:
    """Write several files so that a failure while writing leaves all of them as they were.

    Everything is on disk under temporary names before the first rename; the files are renamed in the order given.
    """
    staged = []
    try:
        for path, content in contents.items():
            waiting = path.with_name(f".{path.name}.{os.getpid()}.waiting")  # another process may be writing the same file
            staged.append((waiting, path))
            write_atomically(waiting, lambda stream, content=content: stream.write(content))
        for waiting, path in staged:
            os.replace(waiting, path)
    finally:
        for waiting, _ in staged:
            waiting.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
