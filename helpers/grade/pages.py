"""The feedback page of a copy: item, points, reason, evidence, and its figure beside the suite's. One file, nothing to load."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from helpers import settings
from helpers.grade import formats, pictures
from helpers.grade.cleaning import clean
from helpers.grade.marking import Item
from helpers.grade.submission import PARSING_ERRORS, Submission
from helpers.results import deliverables

WIDTH, QUALITY = 360, 70  # of a figure on the page, in pixels, and of its JPEG
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the page runs nothing and loads nothing
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.05rem;margin:1.6rem 0 .2rem}table{border-collapse:collapse}td,th{padding:.2rem .7rem;
border-bottom:1px solid #ddd;text-align:left;vertical-align:top}ul{margin:.2rem 0}.pass{color:#176c2c}
.fail,.missing{color:#a01818}
.partial,.part{color:#8a5a00}.manual{color:#444}figure{display:inline-block;margin:.4rem 1rem .4rem 0}figcaption{font-size:.8rem;
color:#666}img{max-width:100%;border:1px solid #ddd}"""


def write_page(items: Sequence[Item], copy: Submission | None, path: Path) -> None:
    """Write the page of a copy.

    Args:
        items: all of them.
        copy: for its figures; None where it could not be opened.
        path: of the page.
    """
    earned, possible, by_hand = formats.points(items)
    rows = [[link(f"#{item.label}", item.label), _status(item), _points(item)] for item in items]
    parts = [f"<p>{earned:g} of {possible:g} points, and {by_hand:g} that a person gives.</p>",
             table(["item", "status", "points"], rows)]
    parts += [_section(item, copy) for item in items]
    formats.write(path, page("Feedback", "\n".join(parts)))


def page(title: str, body: str) -> str:
    """A whole page around HTML that is already safe."""
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_safe(title)}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f"<style>{STYLE}</style></head><body><h1>{_safe(title)}</h1>\n{body}\n</body></html>\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are already safe."""
    head = "".join(f"<th>{_safe(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{entry}</td>" for entry in row) + "</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def link(target: str, text: str) -> str:
    """A link; its target is the suite's own."""
    return f'<a href="{html.escape(target, quote=True)}">{_safe(text)}</a>'


def _safe(text: object) -> str:
    return html.escape(clean(text), quote=True)


def _status(item: Item) -> str:
    return f'<span class="{item.status}">{item.status}</span>'


def _points(item: Item) -> str:
    score = "a person marks it" if item.score is None else f"{item.score:g} of {item.points:g}"
    return score + ("" if item.score is None else " (a weight)" * item.weighted)


def _section(item: Item, copy: Submission | None) -> str:
    lines = [f'<h2 id="{html.escape(item.label)}">{_safe(item.label)}: {_safe(item.question)}</h2>',
             f"<p>{_status(item)}, {_points(item)}</p>"]
    for texts in (formats.reasons(item), formats.evidence(item)):
        if texts:
            lines.append("<ul>" + "".join(f"<li>{_safe(text)}</li>" for text in texts) + "</ul>")
    if item.kind == "run" and copy is not None:
        lines.append(_figures(item, copy))
    return "\n".join(lines)


def _figures(item: Item, copy: Submission) -> str:
    """The first figure of a run that can be shown, beside the suite's."""
    for name in deliverables.entry(item.name)["figures"]:
        try:
            path = copy.file(f"figures/{name}", 2**25)
            if path is None or pictures.look_of(copy, name)[1]:
                continue
            ours = settings.PROJECT_ROOT / "figures" / name
            shown = [_shown(path, f"{name}, handed in")] + ([_shown(ours, "the course's")] if ours.is_file() else [])
            return "".join(shown)
        except PARSING_ERRORS:
            continue
    return ""


def _shown(path: Path, caption: str) -> str:
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as picture:
        small = picture.convert("RGBA")
    small.thumbnail((WIDTH, 4 * WIDTH))
    paper = Image.new("RGB", small.size, "white")
    paper.paste(small, mask=small.getchannel("A"))
    buffer = io.BytesIO()
    paper.save(buffer, format="JPEG", quality=QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<figure><img src="data:image/jpeg;base64,{data}" alt=""><figcaption>{_safe(caption)}</figcaption></figure>'
