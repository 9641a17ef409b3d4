"""Write the arrays of records in the present form, where an earlier version of the suite wrote them in a larger one.

Nothing is trained and no metric changes: the new file is read back and compared, number by number, before it takes the old one's
place, and what other records say of it is brought up to date in the same step.
"""

from __future__ import annotations

import hashlib

import numpy as np

from helpers import settings
from helpers.files import write_together
from helpers.results import deliverables, packing, records
from helpers.results.records import Record, RecordError

WORTH = 0.95  # of the old size: less is not worth a new file in the history of a repository


def register(commands) -> None:
    """Add the command ``repack``."""
    command = commands.add_parser("repack", help=__doc__.splitlines()[0])
    command.add_argument("run", nargs="*", help="ids; all runs by default")
    command.set_defaults(function=repack, default_profile="full")


def repack(arguments) -> int:
    """Repack the arrays of records; one line for each that became smaller."""
    results = settings.output_folder() / "results"
    own = {record.id: record for record in (Record(path) for path in sorted(results.glob("*.json")))}
    everything = [*own.values(), *(Record(path) for path in sorted(results.glob("seeds/*/*.json")))]
    for run_id in arguments.run or list(own):
        record = own.get(run_id)
        if record is None:
            raise RecordError(f"{run_id} has no record in {results}{deliverables.nearest(run_id)}")
        before, after = repacked(record, everything)
        if after < before:
            print(f"{run_id}: {before:,} to {after:,} bytes")
    return 0


def repacked(record: Record, everything: list[Record]) -> tuple[int, int]:
    """Repack one record's arrays, and name them in the records, of any root, that rest on it; bytes before and after.

    Raises:
        RecordError: what would be written does not hold the same numbers; nothing was written.
    """
    path = record.arrays_path()
    old, before = record.arrays, path.read_bytes()
    kept = packing.kept(record.id, old)
    after = packing.pack(kept)
    if len(after) > WORTH * len(before):
        return len(before), len(before)
    _compare(record, kept, after)
    name = hashlib.sha256(after).hexdigest()
    files = {path: after}
    for other in everything:
        rests_on = other.content.get("rests_on") or {}
        if rests_on.get(record.id) == record["arrays"]["sha256"]:
            rests_on[record.id] = name
            files[other.path] = records.json_bytes(other.content)
    record.content["arrays"]["sha256"] = name
    files[record.path] = records.json_bytes(record.content)
    write_together(files)
    return len(before), len(after)


def _compare(record: Record, kept: dict[str, np.ndarray], packed: bytes) -> None:
    """Read what was packed and hold it against what went in."""
    back = packing.unpack(packed)
    for name, array in kept.items():
        there = back.get(name)
        expected = packing.rounded(array) if packing.is_rounded(name, array) else array
        same = there is not None and there.dtype == array.dtype and there.shape == array.shape
        if not same or not np.array_equal(there, expected, equal_nan=array.dtype.kind == "f"):
            raise RecordError(f"{record.path.with_suffix('.npz')}: {name} did not come back as it is; nothing was written")
