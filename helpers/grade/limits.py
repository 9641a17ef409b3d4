"""Marking a copy in a process of its own, within a time and a memory limit, whatever is in it.

The child hands over each item as soon as it is marked. Where it is stopped, the items that it did not reach are failed with
that reason, and the others stand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from helpers import settings
from helpers.grade import marking, packages, pages, reference
from helpers.grade.marking import Item
from helpers.grade.submission import TooSlow, Unreadable
from helpers.results.verdicts import Verdict

SECONDS, MEGABYTES = 30.0, 512
SHARE_OF_AN_ITEM = 1 / 3  # of the time: one hostile file leaves the other items time to be marked
MOST_OUTPUT = 32 * 2**20  # bytes of marks that are read from a child


def mark(place: Path, facts: Path, *, page: Path | None = None, seconds: float = SECONDS,
         megabytes: int = MEGABYTES, sheets: Collection[str] = ()) -> list[Item]:
    """Mark a folder, zip or notebook in a process of its own.

    Args:
        place: what was handed in.
        facts: a ``reference.json``, or a folder of a suite.
        page: where the feedback page is to be written, if anywhere.
        seconds: of time.
        megabytes: of memory, 2^20 bytes each.
        sheets: as in :func:`helpers.grade.marking.plan`.

    Returns:
        Every item of the sheets; those that the limits kept from being marked are failed with that reason.
    """
    with tempfile.TemporaryDirectory(prefix="grade-") as folder:
        results, known = Path(folder) / "items.jsonl", Path(folder) / reference.FILE
        known.write_text(reference.to_json(reference.facts(facts)) if facts.is_dir() else facts.read_text(encoding="utf-8"),
                         encoding="utf-8")
        words = [sys.executable, "-m", "helpers.grade.limits", str(place.resolve()), str(known), str(results),
                 str(seconds), str(megabytes), str(page.resolve()) if page else "", ",".join(sheets)]
        ending = _run(words, folder, seconds, megabytes)
        return _collected(results, ending, sheets)


def _run(words: list[str], folder: str, seconds: float, megabytes: int) -> str:
    """Run the child; returns why it did not come to its end, or nothing."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TMPDIR": folder,
                   "PYTHONDONTWRITEBYTECODE": "1"}
    child = subprocess.Popen(words, cwd=settings.PROJECT_ROOT, env=environment, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, complaint = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _stop(child)
        return f"marking it takes more than {seconds:g} seconds"
    except BaseException:
        _stop(child)
        raise
    if child.returncode == 0:
        return ""
    if child.returncode == MEMORY_SPENT or b"MemoryError" in complaint:
        return f"marking it takes more than {megabytes} MB of memory"
    if -child.returncode in (getattr(signal, "SIGXCPU", 0), signal.SIGTERM, getattr(signal, "SIGKILL", 9)):
        return f"marking it takes more than {seconds:g} seconds or {megabytes} MB of memory"
    return f"marking it ended early (status {child.returncode})"


def _stop(child: subprocess.Popen) -> None:
    """End a child with all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (OSError, AttributeError):
        child.kill()
    child.communicate()


def _collected(results: Path, ending: str, sheets: Collection[str]) -> list[Item]:
    """The items that a child handed over, and the others failed with the reason of its ending."""
    content = b""
    if results.exists():
        with open(results, "rb") as stream:
            content = stream.read(MOST_OUTPUT)
    marked = []
    for line in content.decode("utf-8", "replace").split("\n"):
        try:
            marked.append(from_dict(json.loads(line)))
        except (ValueError, TypeError, KeyError):
            continue  # cut off in the middle
    by_label = {item.label: item for item in marked}
    reason = ending or "it could not be marked"
    return [by_label.get(item.label) or replace(item, status="fail", reasons=(reason,)) for item in marking.plan(sheets)]


def to_dict(item: Item) -> dict:
    """An item as JSON holds it."""
    return asdict(item)


def from_dict(content: dict) -> Item:
    """The item of :func:`to_dict`."""
    verdicts = tuple(Verdict(**verdict) for verdict in content["evidence"])
    return Item(**{**content, "evidence": verdicts, "reasons": tuple(content["reasons"])})


MEMORY_SPENT = 77  # exit status of a child that ran out of memory


def child(arguments: list[str]) -> int:
    """What the child does: mark, and hand over each item."""
    place, facts, results, seconds, megabytes, page, sheets = arguments
    started = time.monotonic()
    _limit(float(seconds), int(megabytes))
    known, copy, items = reference.read(Path(facts)), None, []
    asked = marking.plan(marking.sheets_named(sheets or None))
    with open(results, "w", encoding="utf-8") as stream:
        try:
            copy = packages.open_copy(Path(place), Path(results).parent)
        except Unreadable as error:
            marked = iter([replace(item, status="missing", reasons=(str(error),)) for item in asked])
        else:
            only = [item.label for item in asked]
            marked = marking.mark_each(copy, known, lambda: alarm(float(seconds) * SHARE_OF_AN_ITEM), only)
        for item in marked:
            items.append(item)
            stream.write(json.dumps(to_dict(item)) + "\n")
            stream.flush()
    if page:
        with alarm(max(1.0, float(seconds) - (time.monotonic() - started) - 1.0)):
            pages.write_page(items, copy, Path(page))
    return 0


def _limit(seconds: float, megabytes: int) -> None:
    """Limit this process: memory, processor time, and the size of a file that it writes. Elsewhere than on Unix, time alone."""
    try:
        import resource
    except ImportError:
        return
    limits = {"RLIMIT_AS": megabytes * 2**20, "RLIMIT_CPU": int(seconds) + 1, "RLIMIT_FSIZE": 512 * 2**20, "RLIMIT_CORE": 0}
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            try:
                hard = resource.getrlimit(kind)[1]
                resource.setrlimit(kind, (value, value) if hard == resource.RLIM_INFINITY else (min(value, hard), hard))
            except (ValueError, OSError):
                continue  # not every system limits everything


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise :class:`TooSlow` in what runs within, after so many seconds."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise TooSlow(f"it takes more than {seconds:.0f} seconds to mark")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    try:
        raise SystemExit(child(sys.argv[1:]))
    except MemoryError:
        raise SystemExit(MEMORY_SPENT) from None
