"""A class of copies, marked one by one within limits: one row a student and item, resumable, whatever some of them hold."""

from __future__ import annotations

import hashlib
import html
import json
import os
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from helpers import settings
from helpers.grade import formats, limits, marking, reference
from helpers.grade.cleaning import cell, clean
from helpers.grade.finding import Index, is_litter
from helpers.grade.marking import Item
from helpers.grade.packages import KINDS
from helpers.grade.submission import Unreadable


@dataclass(frozen=True)
class Student:
    """One entry of a class: a name and what was handed in under it."""

    name: str
    place: Path

    @property
    def file_name(self) -> str:
        """A name for files that belong to the student: plain, and another one for each student."""
        plain = "".join(character if character.isascii() and character.isalnum() else "_" for character in self.name)[:60]
        return f"{plain}-{hashlib.sha256(self.place.name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def students(folder: Path) -> list[Student]:
    """Every folder, zip and notebook of a class, by name.

    Raises:
        Unreadable: the folder is not there or holds none.
    """
    if not folder.is_dir():
        raise Unreadable(f"{folder} is not a folder")
    places = [path for path in sorted(folder.iterdir()) if not is_litter(path.name) and not path.name.startswith(".")
              and not path.is_symlink() and (path.is_dir() or path.suffix.lower() in KINDS)]
    if not places:
        raise Unreadable(f"{folder} holds no folder, zip or notebook")
    names = [path.name if path.is_dir() else path.stem for path in places]
    return [Student(name if names.count(name) == 1 else path.name, path) for name, path in zip(names, places, strict=True)]


def grade_class(arguments, facts: Path, sheets: Collection[str] = ()) -> int:
    """Mark a class and write its tables; the exit status is 0 whatever the marks are."""
    folder = Path(arguments.class_folder)
    if not arguments.csv:
        raise Unreadable("a class is marked into a table: --csv FILE")
    if settings.PROJECT_ROOT.resolve().is_relative_to(folder.resolve()):
        raise Unreadable(f"{folder} holds the helpers that would mark it: keep the class outside the suite")
    target, pages = Path(arguments.csv), Path(arguments.html) if arguments.html else None
    everyone = students(folder)
    marked: dict[str, list[Item]] = {}
    formats.lenient_console()
    started = time.perf_counter()
    parts, jobs = target.with_suffix(".parts"), max(1, arguments.jobs)
    for student, items, again in mark_class(everyone, facts, parts, jobs, pages, sheets):
        marked[student.name] = items
        earned, possible, by_hand = formats.points(items)
        how = "" if again else ", marked before"
        name = f"{len(marked)}/{len(everyone)} {clean(student.name, 60)}"
        print(f"{name}: {earned:g} of {possible:g} points, {by_hand:g} by hand{how}", flush=True)
    marked = {student.name: marked[student.name] for student in everyone}
    shared = copied(marked, known_origins(facts))
    write_tables(marked, shared, target)
    if pages:
        formats.write(pages / "index.html", index_page(everyone, marked, shared))
    print(f"{target}: {len(everyone)} copies, {time.perf_counter() - started:.0f} s")
    return 0


def mark_class(everyone: Iterable[Student], facts: Path, parts: Path, jobs: int, pages: Path | None = None,
               sheets: Collection[str] = ()) -> Iterator[tuple[Student, list[Item], bool]]:
    """Mark every student, several at a time; what was marked before and has not changed since is read.

    Args:
        everyone: of the class.
        facts: a ``reference.json`` or the folder of a suite.
        parts: a folder for the marks of each student.
        jobs: how many at a time.
        pages: a folder for feedback pages, if they are wanted.
        sheets: as in :func:`helpers.grade.marking.plan`.

    Yields:
        Student, items, and whether they were marked anew.
    """
    with tempfile.TemporaryDirectory(prefix="class-") as folder:
        known = Path(folder) / reference.FILE
        known.write_text(reference.to_json(reference.facts(facts)) if facts.is_dir() else facts.read_text(encoding="utf-8"),
                         encoding="utf-8")
        version = _version(known, sheets)

        def one(student: Student) -> tuple[Student, list[Item], bool]:
            part = parts / f"{student.file_name}.json"
            page = pages / f"{student.file_name}.html" if pages else None
            fingerprint = _fingerprint(student.place, version)
            before = _read_part(part, fingerprint)
            if before is not None and (page is None or page.is_file()):
                return student, before, False
            items = limits.mark(student.place, known, page=page, sheets=sheets)
            content = {"fingerprint": fingerprint, "items": [limits.to_dict(item) for item in items]}
            formats.write(part, json.dumps(content))
            return student, items, True

        with ThreadPoolExecutor(max_workers=jobs) as pool:
            waiting = [pool.submit(one, student) for student in everyone]
            try:
                for done in as_completed(waiting):
                    yield done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _version(facts: Path, sheets: Collection[str]) -> str:
    """A digest of what the marks depend on beside the copy: the grade's code, the deliverables, the facts, the sheets."""
    digest = hashlib.sha256(facts.read_bytes() + ",".join(sorted(sheets)).encode())
    for path in sorted((settings.PROJECT_ROOT / "helpers").rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update((settings.PROJECT_ROOT / "deliverables.toml").read_bytes())
    return digest.hexdigest()


def _fingerprint(place: Path, version: str) -> str:
    """A digest of the names, sizes and times of what a student handed in."""
    names = [path for paths in Index(place).by_name.values() for path in paths] if place.is_dir() else [""]
    digest = hashlib.sha256(version.encode())
    for name in sorted(names):
        try:
            status = os.lstat(place / name if name else place)
        except OSError:
            continue
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read_part(path: Path, fingerprint: str) -> list[Item] | None:
    """The marks of a student from an earlier time; None where there are none of the same copy and grade."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [limits.from_dict(item) for item in content["items"]] if content["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def known_origins(facts: Path) -> set[str]:
    """The origins of the suite's own records, which a class may have been given."""
    known = reference.facts(facts) if facts.is_dir() else reference.read(facts)
    return {run["record"]["origin"] for run in known["runs"].values() if "record" in run}


def copied(marked: Mapping[str, list[Item]], known: set[str]) -> dict[tuple[str, str], list[str]]:
    """(student, item) -> other students who handed in the very record, to the millisecond of its training."""
    owners: dict[str, list[str]] = {}
    for student, items in marked.items():
        for item in items:
            if item.origin and item.origin not in known:
                owners.setdefault(item.origin, []).append(student)
    return {(student, item.label): others for student, items in marked.items() for item in items
            if (others := [other for other in owners.get(item.origin, ()) if other != student])}


def write_tables(marked: Mapping[str, list[Item]], shared: Mapping[tuple[str, str], list[str]], target: Path) -> None:
    """One row a student and item, and beside it ``NAME.totals.csv`` with one row a student for the gradebook."""
    lines = [["student", *formats.COLUMNS, "same_record_as"]]
    totals = [["student", "points", "of", "by_hand", *marking.STATUSES, "same_records_as"]]
    for student, items in marked.items():
        others: set[str] = set()
        for item in items:
            same = shared.get((student, item.label), [])
            others |= set(same)
            lines.append([cell(student), *formats.row(item), cell(", ".join(same))])
        counts = [sum(item.status == status for item in items) for status in marking.STATUSES]
        given = [f"{value:g}" for value in formats.points(items)]
        totals.append([cell(student), *given, *counts, cell(", ".join(sorted(others)))])
    formats.write(target, formats.csv_text(lines))
    formats.write(target.with_suffix(".totals.csv"), formats.csv_text(totals))


def index_page(everyone: Iterable[Student], marked: Mapping[str, list[Item]], shared: Mapping[tuple[str, str], list[str]]) -> str:
    """A page for staff: it links the pages of all students and says which of them handed in the very same records."""
    from helpers.grade import pages

    rows = []
    for student in everyone:
        earned, possible, by_hand = formats.points(marked[student.name])
        name = pages.link(f"{student.file_name}.html", clean(student.name, 80))
        same = [f"{label} as {', '.join(others)}" for (one, label), others in shared.items() if one == student.name]
        rows.append([name, f"{earned:g} of {possible:g}", f"{by_hand:g}", html.escape(clean("; ".join(same), 500))])
    return pages.page("Feedback", pages.table(["student", "points", "by a person", "the same record"], rows))
