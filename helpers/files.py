"""Writing files so that a crash, a full disk or a second reader never meets half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A file on its way has the name .NAME.HOST.PID.TOKEN.part: what a killed writer left can be told from what is being written.
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.(part|download)")
HOST = re.sub(r"[^\w-]", "-", platform.node())[:40] or "host"
NOT_OFFERED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EACCES)  # on mounted drives
STALE_SECONDS = 3600.0  # without a change, after which another machine's temporary file is a left-over

_mine: set[Path] = set()  # temporary files that this process is writing


class WriteError(OSError):
    """A file could not be written; the message names it, the reason and the space that is free there."""

    explained = True  # the message says what to mend: the command line shows it alone


def write_atomically(path: Path, write: Callable) -> None:
    """Write a file beside ``path`` with ``write(stream)`` (binary), flush it to disk, then rename it over ``path``.

    If anything fails the temporary file is removed and the old ``path`` is as it was. A file system that knows neither flushing
    nor modes (mounted drives) is taken as it is.

    Raises:
        WriteError: the system refuses to write; path, reason and free space are named.
    """
    with _explained(path), temporary_beside(path) as waiting:
        _write(waiting, write)
        os.replace(waiting, path)


def write_together(contents: dict[Path, bytes]) -> None:
    """Write several files so that a failure while writing leaves all of them as they were.

    Everything is on disk under temporary names before the first rename; the files are renamed in the order given.

    Raises:
        WriteError: the system refuses to write one; path, reason and free space are named.
    """
    staged = []
    try:
        for path, content in contents.items():
            with _explained(path):
                staged.append((_named(path), path))
                _write(staged[-1][0], lambda stream, content=content: stream.write(content))
        for waiting, path in staged:
            with _explained(path):
                os.replace(waiting, path)
    finally:
        for waiting, _ in staged:
            _discard(waiting)


@contextmanager
def temporary_beside(path: Path, kind: str = "part") -> Iterator[Path]:
    """A name of this process alone for a file on its way to ``path``; what has that name at the end is removed."""
    waiting = _named(path, kind)
    try:
        yield waiting
    finally:
        _discard(waiting)


def left_overs(folder: Path, kind: str = "part") -> list[Path]:
    """Temporary files of writers that were killed: of this machine's dead processes, and of others' that nobody has touched."""
    found = []
    for path in folder.glob(f".*.{kind}"):
        match = TEMPORARY.fullmatch(path.name)
        if match is None or path in _mine:
            continue
        with suppress(OSError):  # it has just been renamed
            if not process_lives(match["host"], int(match["pid"]), age(path)):
                found.append(path)
    return found


def remove_left_overs(folder: Path, kind: str = "part") -> None:
    """Remove what killed writers left in a folder."""
    for path in left_overs(folder, kind):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def process_lives(host: str, pid: int, age: float, stale: float = STALE_SECONDS) -> bool:
    """Whether a process is still at work: looked up on this machine, told by the age of its last sign (s) on another."""
    if host != HOST:
        return age < stale
    if pid <= 0 or pid == os.getpid():
        return False  # what this process writes it knows: another of the same number is gone
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's, or the system cannot tell
        return age < stale
    return not is_zombie(pid)


def is_zombie(pid: int) -> bool:
    """Whether a process of this machine has ended and only its parent has not noticed yet."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "Z"
    return False


def age(path: Path) -> float:
    """Seconds since a file was changed, by the clock of its own disk; zero where that cannot be told, or it has just gone."""
    with temporary_beside(path.with_name("clock")) as clock:
        try:
            clock.touch()
            return max(0.0, clock.stat().st_mtime - path.stat().st_mtime)
        except OSError:
            return 0.0


def free_space(folder: Path) -> str:
    """What is free on the disk of a folder, in words; of its nearest parent where it is not there."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            return f"{shutil.disk_usage(place).free / 2**30:.2f} GiB are free there"
    return "the free space there is not known"


def flush(path: Path) -> None:
    """Wait until a file that is written is on the disk."""
    with open(path, "r+b") as stream:
        _to_disk(stream)


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _named(path: Path, kind: str = "part") -> Path:
    waiting = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{secrets.token_hex(4)}.{kind}")
    _mine.add(waiting)
    return waiting


def _discard(waiting: Path) -> None:
    with suppress(OSError):
        waiting.unlink(missing_ok=True)
    _mine.discard(waiting)


def _write(waiting: Path, write: Callable) -> None:
    waiting.parent.mkdir(parents=True, exist_ok=True)
    with open(waiting, "xb") as stream:
        write(stream)
        stream.flush()
        _to_disk(stream)


def _to_disk(stream) -> None:
    try:
        os.fsync(stream.fileno())
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the system says about a write into one sentence."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        sentence = WriteError(f"could not write {path}: {error.strerror or error}; {free_space(path.parent)}")
        sentence.errno = error.errno
        raise sentence from error


def print_anywhere() -> None:
    """Let a terminal whose encoding lacks a sign show a question mark for it, rather than end the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
