"""Records across machines: pack the new ones on a node, ``bring --pack OUT``, take them over at home, ``bring FILE...``.

A packed file lists the digest of everything in it. A record is taken over whole or not at all: its arrays must be those that it
names, and it never replaces one of a larger profile, nor one of the same run that came further.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from helpers import settings
from helpers.files import write_together
from helpers.results import deliverables, records
from helpers.results.records import Record, RecordError
from helpers.work import seeds

LIMIT = 15 << 20  # bytes of a packed file
BROUGHT = (".json", ".npz", ".safetensors")


class BringError(RuntimeError):
    """A packed file is refused; nothing of it was taken over."""

    explained = True


def register(commands) -> None:
    """Add the command ``bring``."""
    command = commands.add_parser("bring", help=bring.__doc__.splitlines()[0])
    command.add_argument("file", nargs="*", help="packed records; with --pack nothing, or the ids to pack")
    command.add_argument("--pack", metavar="FOLDER", help="pack the records of the present code, 15 MiB a file")
    command.set_defaults(function=bring, default_profile="full")


def bring(arguments) -> int:
    """Take over records that another machine made, or pack this one's for the way."""
    if arguments.pack:
        for path in pack(Path(arguments.pack), arguments.file):
            print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        return 0
    for name in arguments.file:
        for line in take(Path(name)):
            print(line)
    return 0


def pack(folder: Path, run_ids: list[str] | None = None) -> list[Path]:
    """Write records with arrays and small weights, from all roots, as ``records_00.zip`` and so on; returns their paths.

    A record without its arrays, as those that travelled to a node with the code, would be refused at home: it is left out.

    Args:
        folder: where the files go.
        run_ids: of the runs; by default all that have a record of the present code.
    """
    results = settings.output_folder() / "results"
    groups = []
    for path in sorted([*results.glob("*.json"), *results.glob("seeds/*/*.json")]):
        if (run_ids and path.stem not in run_ids) or (not run_ids and records.state(Record(path)) == "stale"):
            continue
        try:
            Record(path).arrays_path()
        except RecordError:
            if run_ids or path.with_suffix(".npz").exists():
                print(f"{path.relative_to(results).as_posix()} is not packed: its arrays are not here, or not its own")
            continue
        together = [path, *(path.with_suffix(suffix) for suffix in BROUGHT[1:] if path.with_suffix(suffix).is_file())]
        groups.append({other.relative_to(results).as_posix(): other.read_bytes() for other in together})
    files: list[dict[str, bytes]] = [{}]
    for group in groups:
        if files[-1] and sum(map(len, (*files[-1].values(), *group.values()))) > LIMIT - (1 << 16):
            files.append({})
        files[-1] |= group
    written = {}
    for index, content in enumerate(files):
        with tempfile.TemporaryFile() as stream:
            with zipfile.ZipFile(stream, "w") as archive:
                listed = {name: hashlib.sha256(part).hexdigest() for name, part in content.items()}
                archive.writestr("manifest.json", json.dumps(listed, indent=1))
                for name, part in content.items():
                    archive.writestr(name, part)
            stream.seek(0)
            written[folder / f"records_{index:02d}.zip"] = stream.read()
    write_together(written)
    return list(written)


def take(path: Path) -> list[str]:
    """Take over the records of a packed file; one line a record.

    Raises:
        BringError: the file is missing, damaged, changed or holds something else; nothing was taken over.
    """
    content = _checked(path)
    results, lines, merged = settings.output_folder() / "results", [], []
    with tempfile.TemporaryDirectory() as staging:
        for name, part in content.items():
            place = Path(staging) / "results" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(part)
        found = [Path(staging) / "results" / name for name in content if name.endswith(".json")]
        try:
            arrived = {path: Record(path) for path in found}
            for record in arrived.values():
                _ = record.arrays  # must be those that it names
        except (RecordError, KeyError, ValueError, OSError) as error:
            raise BringError(f"{path}: {error}; nothing was taken over") from error
        for place, record in arrived.items():
            target = results / place.relative_to(Path(staging) / "results")
            if reason := _stays(target, record):
                lines.append(f"{record.id}: {reason}")
                continue
            files = {target.with_suffix(suffix): place.with_suffix(suffix).read_bytes() for suffix in (*BROUGHT[1:], BROUGHT[0])
                     if place.with_suffix(suffix).is_file()}
            write_together(files)
            merged.append(record.id)
            lines.append(f"{record.id}: taken over, {record.describe()}")
    for run_id in dict.fromkeys(merged):
        seeds.merge(run_id)
    return lines


def _checked(path: Path) -> dict[str, bytes]:
    """Name -> content of a packed file, every digest and name checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = json.loads(archive.read("manifest.json"))
            content = {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, RuntimeError) as error:
        raise BringError(f"{path} is not a file of packed records ({error}); copy it again") from error
    for name in sorted({*listed, *content}):
        parts = PurePosixPath(name).parts
        seeded = len(parts) == 3 and parts[0] == "seeds" and parts[1].isdigit()
        stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix
        if not (len(parts) == 1 or seeded) or suffix not in BROUGHT or stem not in deliverables.run_ids():
            raise BringError(f"{path} holds {name!r}, which is no record of this suite; nothing was taken over")
        if name not in content or listed.get(name) != hashlib.sha256(content[name]).hexdigest():
            raise BringError(f"{path}: {name} is not what was packed (its sha256 differs); nothing was taken over")
    return content


def _stays(target: Path, arrived: Record) -> str:
    """Why the record that is there stays, or an empty text."""
    try:
        there = Record(target) if target.is_file() else None
    except RecordError:
        return ""
    if there is None:
        return ""
    order = settings.PROFILES.index
    if order(there["profile"]) > order(arrived["profile"]):
        return f"the record there is of the {there['profile']} profile and stays"
    same = all(there[key] == arrived[key] for key in ("config", "profile", "seed"))
    if same and there["budget"]["done"] > arrived["budget"]["done"]:
        return f"the record there came further and stays, {there.describe()}"
    if same and there["source"] == arrived["source"] and there["budget"] == arrived["budget"]:
        return "already there" if there["arrays"] == arrived["arrays"] else ""
    return ""
