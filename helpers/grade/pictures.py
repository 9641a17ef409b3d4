"""The figures of a copy: whether they are pictures, of a plausible size, not blank, and each its own."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping

from helpers.grade.submission import FIGURE_LIMIT, Submission, Unreadable
from helpers.results import deliverables

SMALLEST_SIDE, LARGEST_SIDE, MOST_PIXELS = 120, 20_000, 30_000_000
LEAST_SHADES = 3  # paper, ink, and what lies between them: a figure has more, a blank sheet fewer


def complaints(copy: Submission, names: Iterable[str], stated: Mapping[str, str]) -> Iterable[str]:
    """What is wrong with the figures of a run.

    Args:
        copy: the submission.
        names: the figures that the run must have.
        stated: name -> digest, from its record.
    """
    for name in names:
        try:
            digest = copy.digest(f"figures/{name}", FIGURE_LIMIT)
        except Unreadable as error:
            yield str(error)
            continue
        if digest is None:
            yield f"figures/{name} is missing"
        elif digest != stated.get(name):
            yield f"figures/{name} is not the one that the record names"
        else:
            wrong = look_of(copy, name)[1]
            twins = [] if wrong else twins_of(copy, name)
            if wrong:
                yield f"figures/{name} {wrong}"
            elif twins:
                yield f"figures/{name} is the same picture as {twins[0]}"


def look_of(copy: Submission, name: str) -> tuple[str, str]:
    """A digest of a figure's pixels, and what is wrong with it; one of the two is empty."""
    return copy.once(("picture", name), lambda: _look(copy, name))


def _look(copy: Submission, name: str) -> tuple[str, str]:
    from PIL import Image

    path = copy.file(f"figures/{name}", FIGURE_LIMIT)
    if path is None:
        return "", "is missing"
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
                width, height = picture.size
                if not (min(picture.size) >= SMALLEST_SIDE and max(picture.size) <= LARGEST_SIDE):
                    return "", f"has {width} x {height} pixels: no figure is that small or large"
                if width * height > MOST_PIXELS:
                    return "", f"has {width * height:,} pixels, the limit is {MOST_PIXELS:,}"
                grey = picture.convert("L")
    except Exception as error:  # whatever a broken picture raises
        return "", f"is not a picture that can be shown ({type(error).__name__})"
    shades = sum(1 for number in grey.histogram() if number)
    if shades < LEAST_SHADES:
        return "", "is blank"
    return hashlib.sha256(f"{grey.size}".encode() + grey.tobytes()).hexdigest(), ""


def twins_of(copy: Submission, name: str) -> list[str]:
    """Other figures that the sheets ask for and that show the same pixels."""
    same = copy.once(("twins",), lambda: _by_pixels(copy))
    digest, _ = look_of(copy, name)
    return [other for other in same.get(digest, ()) if other != name]


def _by_pixels(copy: Submission) -> dict[str, list[str]]:
    """Digest of the pixels -> names of the figures."""
    found: dict[str, dict[str, None]] = {}
    for entry in deliverables.asked_runs():
        for name in entry["figures"]:
            try:
                record = copy.record(entry["id"])
                named = record is not None and record["figures"].get(name) == copy.digest(f"figures/{name}", FIGURE_LIMIT)
                digest, wrong = look_of(copy, name) if named else ("", "is not the record's")
            except (Unreadable, OSError):
                continue  # said at its run
            if not wrong:
                found.setdefault(digest, {})[name] = None
    return {digest: list(names) for digest, names in found.items()}
