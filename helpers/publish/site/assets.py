"""What the pages share: the folder they are written to, their template, libraries, pictures, and data for their scripts."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import shutil
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from helpers import settings
from helpers.files import file_digest
from helpers.results import tables, verdicts
from helpers.results.records import Record

HERE = Path(__file__).parent
LIMIT = 15 * 2**20  # bytes of the whole site
WIDEST = 1000  # pixels of a picture: as wide as the text column on a screen
QUALITY = 72  # of WebP
THUMBNAIL, SAME = (48, 48), 24.0  # two pictures are one where no pixel of their thumbnails differs by so much, of 255
SAME_SHAPE = 0.01  # and their ratios of width and height by no more than this share
SERVED = ("tex-svg.js", "uPlot.iife.min.js", "uPlot.min.css", "LICENSE.uPlot", "LICENSE.MathJax")


class SiteError(RuntimeError):
    """The site cannot be built."""

    explained = True  # the message says what to mend: the command line shows it alone


@cache
def templates() -> jinja2.Environment:
    """The templates; everything that they are given is escaped, unless it is marked as HTML here."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"number": tables.number, "data": data, "words": words, "tone": tone}
    environment.globals |= {"KNOWN": tables.KNOWN}
    return environment


def data(content: object) -> str:
    """JSON that may stand inside a ``<script>`` element, whatever texts it holds; safe as HTML."""
    from markupsafe import Markup

    text = json.dumps(content, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


def words(name: str) -> str:
    """The name of a file or a metric as words: ``train_plot.png`` becomes "train plot"."""
    return name.rpartition(".")[0].replace("_", " ") if name.endswith(".png") else name.replace("_", " ")


def tone(verdict: verdicts.Verdict | None) -> str:
    """The colour of a verdict: good, bad, care (a budget or data cut short), plain."""
    if verdict is None:
        return "plain"
    tones = {True: "good", False: "bad", None: "care" if verdict.on_part or verdict.word == "partial" else "plain"}
    return tones[verdict.passed]


UNSTYLED = re.compile(r'<span class="(?:n|p|o|w|bp|nb|nn|sa|ow|kc|fm|vm|nc)">([^<]*)</span>')  # not coloured


def plainer(html: str) -> str:
    """Highlighted code without the marks that the stylesheet has no colour for: they are most of a page's bytes."""
    return UNSTYLED.sub(r"\1", html)


def highlighted(source: str) -> str:
    """Python code as HTML in the stylesheet's colours."""
    from markupsafe import Markup
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return Markup(plainer(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))) if source else ""


def reason(error: Exception) -> str:
    """Why a record cannot be drawn, in words."""
    return f"its record has no {error}" if isinstance(error, KeyError) else str(error)


def rounded(values, digits: int = 5) -> list:
    """Numbers for the scripts, with so many significant digits; what is not finite becomes a gap."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in np.asarray(values, np.float64).ravel()]


def vendored(name: str) -> bytes:
    """A file of others as it was fetched; the large one lies here compressed, to keep the repository small."""
    packed = HERE / "vendor" / f"{name}.xz"
    return lzma.decompress(packed.read_bytes()) if packed.is_file() else (HERE / "vendor" / name).read_bytes()


class Site:
    """The folder of the pages while it is written.

    Args:
        folder: of the pages; what is there is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures: dict[str, tuple[str, int, int]] = {}  # digest of the pixels -> address, width, height
        self.thumbnails: list[tuple] = []  # width by height, thumbnail, and what `pictures` has of it
        self.pages: dict[str, tuple[str, dict]] = {}  # address -> template, content
        if folder.exists():
            if any(folder.iterdir()) and not (folder / "assets" / "site.css").exists():
                raise SiteError(f"{folder} holds something else than a site: move it away, or name another folder")
            shutil.rmtree(folder)
        (folder / "assets").mkdir(parents=True)
        (folder / "pictures").mkdir()
        for path in (HERE / "static").iterdir():
            shutil.copyfile(path, folder / "assets" / path.name)
        for name in SERVED:
            (folder / "assets" / name).write_bytes(vendored(name))

    def write(self, address: str, template: str, **content) -> None:
        """Note a page, its template and what that is given; :meth:`finish` writes it."""
        self.pages[address] = template, content

    def finish(self) -> None:
        """Write all pages, and put the report beside them where both fit into ``LIMIT``.

        Raises:
            SiteError: the pages alone are larger.
        """
        report = settings.output_folder() / "report.pdf"
        self._write_pages(report=report.is_file())
        if report.is_file() and self.size() + report.stat().st_size <= LIMIT:
            shutil.copyfile(report, self.folder / report.name)
        elif report.is_file():
            self._write_pages(report=False)
        if self.size() > LIMIT:
            raise SiteError(f"the site has {self.size() / 2**20:.1f} MiB, more than {LIMIT / 2**20:.0f}")

    def _write_pages(self, report: bool) -> None:
        for address, (template, content) in self.pages.items():
            path = self.folder / address
            path.parent.mkdir(parents=True, exist_ok=True)
            root = "../" * address.count("/")  # from the page to the folder of the site
            text = templates().get_template(template).render(root=root, address=address, report=report, **content)
            path.write_text(text, encoding="utf-8", newline="\n")

    def picture(self, content: bytes, widest: int = WIDEST) -> tuple[str, int, int]:
        """Put a picture into the site, once for each content: its address from the folder, its width and height (pixels).

        A picture larger than ``widest`` is made smaller; on white paper, without transparency, as WebP. A photograph (JPEG) of
        a picture that is there already is that picture: notebooks hold such copies of figures, at the size that is shown.
        """
        with Image.open(io.BytesIO(content)) as image:
            photograph = image.format == "JPEG"
            if image.mode in ("RGBA", "LA", "P"):
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
        small = np.asarray(image.resize(THUMBNAIL, Image.Resampling.BILINEAR), np.float32)
        shape = image.width / image.height
        for other_shape, other, there in self.thumbnails if photograph else ():
            if abs(other_shape / shape - 1) <= SAME_SHAPE and np.abs(small - other).max() < SAME:
                return there
        found = self.pixels(image, widest)
        self.thumbnails.append((shape, small, found))
        return found

    def pixels(self, image: Image.Image, widest: int = WIDEST, quality: int = QUALITY) -> tuple[str, int, int]:
        """The same for an image in memory."""
        digest = hashlib.sha256(f"{image.size}{widest}{quality}".encode() + image.tobytes()).hexdigest()[:16]
        if digest not in self.pictures:
            if image.width > widest:
                image = image.resize((widest, round(image.height * widest / image.width)), Image.Resampling.LANCZOS)
            address = f"pictures/{digest}.webp"
            image.save(self.folder / address, "webp", quality=quality, method=3)
            self.pictures[digest] = address, image.width, image.height
        return self.pictures[digest]

    def size(self) -> int:
        """Bytes of all files written so far."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def figures_of(record: Record, site: Site) -> list[dict]:
    """The figures that a record names: name, and either a picture or the reason why there is none."""
    found = []
    for name, digest in record["figures"].items():
        path = settings.output_folder() / "figures" / Path(name).name
        if not path.is_file():
            found.append({"name": name, "gap": "the figure is missing"})
        elif file_digest(path) != digest:
            found.append({"name": name, "gap": "not the figure that the record names"})
        else:
            address, width, height = site.picture(path.read_bytes())
            found.append({"name": name, "address": address, "width": width, "height": height})
    return found
