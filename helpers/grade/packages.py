"""What a person hands in, opened: a folder, a zip, or a single notebook."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from helpers.grade.finding import is_litter
from helpers.grade.submission import Submission, Unreadable

MOST_MEMBERS, MOST_BYTES, MOST_OF_ONE = 5_000, 400 * 2**20, 80 * 2**20
KINDS = (".zip", ".ipynb")


def open_copy(place: Path, into: Path) -> Submission:
    """The copy of the suite in a folder, zip or notebook.

    Args:
        place: what was handed in.
        into: a folder that may be written into, for what a zip holds.

    Raises:
        Unreadable: it is none of them, or its zip cannot be unpacked.
    """
    if place.is_dir():
        inner = [path for path in sorted(place.iterdir()) if not is_litter(path.name)]
        if len(inner) == 1 and inner[0].suffix.lower() == ".zip" and inner[0].is_file() and not inner[0].is_symlink():
            return Submission.of(unpack(inner[0], into / "unpacked"))
        return Submission.of(place)
    if not place.is_file() or place.suffix.lower() not in KINDS:
        raise Unreadable(f"{place.name} is neither a folder nor a zip nor a notebook")
    if place.suffix.lower() == ".zip":
        return Submission.of(unpack(place, into / "unpacked"))
    alone = into / "alone"
    alone.mkdir()
    shutil.copyfile(place, alone / place.name)
    return Submission.of(alone)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip: plain files under the folder and nothing else; returns the folder.

    Raises:
        Unreadable: it is no zip, or holds more than a submission may.
    """
    folder.mkdir(parents=True)
    left = MOST_BYTES
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if _is_wanted(member)]
            if len(members) > MOST_MEMBERS:
                raise Unreadable(f"{archive.name} holds {len(members):,} files, the limit is {MOST_MEMBERS:,}")
            for member in members:
                target = folder.joinpath(*PurePosixPath(member.filename.replace("\\", "/")).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(member) as source, open(target, "wb") as stream:
                    left -= _pour(source, stream, min(left, MOST_OF_ONE), member.filename)
    except Unreadable:
        raise
    except (OSError, ValueError, RuntimeError, EOFError, NotImplementedError, zipfile.BadZipFile, MemoryError) as error:
        raise Unreadable(f"{archive.name} cannot be unpacked ({type(error).__name__}: {str(error)[:80]})") from error
    except Exception as error:  # zlib.error and the like have no common parent
        raise Unreadable(f"{archive.name} cannot be unpacked ({type(error).__name__})") from error
    return folder


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a plain file within the folder; links, litter and paths that lead elsewhere are passed over."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    kind = stat.S_IFMT(member.external_attr >> 16)
    outside = path.is_absolute() or ".." in path.parts or ":" in member.filename or "\0" in member.filename
    return not (member.is_dir() or outside or kind not in (0, stat.S_IFREG) or any(map(is_litter, path.parts)))


def _pour(source, stream, most: int, name: str) -> int:
    """Copy at most so many bytes; returns how many there were."""
    number = 0
    while block := source.read(2**20):
        number += len(block)
        if number > most:
            raise Unreadable(f"{name[:80]} and what came before it are larger than a submission may be")
        stream.write(block)
    return number
