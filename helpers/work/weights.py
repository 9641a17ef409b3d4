"""The weights that are too large for git, as one archive for a release: ``python -m helpers weights``."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from helpers import settings
from helpers.files import write_atomically
from helpers.results import deliverables, records
from helpers.results import weights as stored


def register(commands) -> None:
    """Add the command ``weights``."""
    command = commands.add_parser("weights", help=weights.__doc__.splitlines()[0])
    command.add_argument("archive", nargs="?", help="build/weights.zip by default")
    command.add_argument("--unpack", action="store_true", help="take an archive's weights over into the data folder")
    command.set_defaults(function=weights, default_profile="full")


def weights(arguments) -> int:
    """Pack the weights that are too large for git into one archive for a release, or unpack such an archive."""
    path = Path(arguments.archive) if arguments.archive else settings.PROJECT_ROOT / "build" / "weights.zip"
    names = unpack(path) if arguments.unpack else pack(path)
    print(f"{path}: {len(names)} files" + (f" taken over into {settings.data_folder() / 'weights'}" if arguments.unpack else ""))
    return 0


def pack(target: Path) -> list[str]:
    """Write an archive of the weights of all recorded runs that are in ``build/weights/``; returns the names of its files."""
    known = expected()
    files = [path for path in sorted(stored.heavy_folder().glob("*.safetensors")) if matches(path.name, path.read_bytes(), known)]

    def write(stream) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for path in files:
                archive.write(path, path.name)

    write_atomically(target, write)
    return [path.name for path in files]


def unpack(source: Path) -> list[str]:
    """Take over from an archive the files that records name, checked by their digests; returns their names.

    Raises:
        RecordError: the archive is missing, is no archive, or holds a file that is not the one its record names.
    """
    known, taken = expected(), []
    try:
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                if name in known and archive.getinfo(name).file_size == known[name]["bytes"]:
                    taken.append((name, archive.read(name)))
    except (OSError, zipfile.BadZipFile) as error:
        raise records.RecordError(f"{source} is not an archive of weights ({error}): make weights writes one") from error
    for name, content in taken:
        if not matches(name, content, known):
            raise records.RecordError(f"{source}: {name} is not the file that its record names; nothing was taken over")
    for name, content in taken:
        write_atomically(settings.data_folder() / "weights" / name, lambda stream, content=content: stream.write(content))
    return [name for name, _ in taken]


def expected() -> dict[str, dict]:
    """File name -> sha256 and bytes, of the weights that the records name."""
    found = ((run_id, records.load(run_id)) for run_id in deliverables.run_ids())
    return {f"{run_id}.safetensors": record.content["weights"] for run_id, record in found
            if record is not None and record.content.get("weights")}


def matches(name: str, content: bytes, known: dict[str, dict]) -> bool:
    """Whether a file is the one that a record names."""
    return name in known and hashlib.sha256(content).hexdigest() == known[name]["sha256"]
