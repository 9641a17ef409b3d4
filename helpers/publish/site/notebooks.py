"""The saved notebooks as pages: nbconvert's HTML in the site's frame, pictures beside it, formulas by the local MathJax."""

from __future__ import annotations

import base64
import json
import re

from helpers import settings
from helpers.publish.site.assets import Site, plainer
from helpers.results import deliverables

OUTSIDE = re.compile(r'<img (?=[^>]*src="(?:\w+:)?//)(?:[^>]*alt="([^"]*)")?[^>]*>')  # a badge: its words stand in its place
KINDS = ("text/plain", "text/markdown", "image/png", "image/jpeg")  # of outputs that are shown; none of them can hold a script


def names() -> list[str]:
    """The saved notebooks of the profile in force, in order."""
    return sorted(path.stem for path in (settings.output_folder() / "notebooks").glob("[0-9]_*.ipynb"))


def read(name: str) -> dict:
    """A saved notebook."""
    return json.loads((settings.output_folder() / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8-sig"))


def text_of(cell: dict) -> str:
    """The source of a cell, which the format keeps as a text or as lines."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def title(content: dict, name: str) -> str:
    """The first heading of a notebook; its name where it has none."""
    headings = (re.search(r"^# (.+)$", text_of(cell), re.MULTILINE) for cell in content["cells"]
                if cell["cell_type"] == "markdown")
    return next((found[1] for found in headings if found), name)


def titles() -> list[dict]:
    """Name and title of each saved notebook."""
    return [{"name": name, "title": title(read(name), name)} for name in names()]


def write(site: Site) -> dict[str, str]:
    """Write a page for each saved notebook.

    Returns:
        Per run id the address, from the site's folder, of the cell that declares or draws it.
    """
    found = {}
    pages = [{"name": name, "content": read(name)} for name in names()]
    for number, page in enumerate(pages):
        name, content = page["name"], page["content"]
        body = body_of(content, site)
        around = [{"name": pages[other]["name"], "title": title(pages[other]["content"], pages[other]["name"])}
                  if 0 <= other < len(pages) else None for other in (number - 1, number + 1)]
        site.write(f"notebooks/{name}.html", "notebook.html", title=title(content, name), body=body, before=around[0],
                   after=around[1], headings=headings(content))
        found |= cells_of_runs(content, name)
    return found


def body_of(content: dict, site: Site) -> str:
    """A notebook as HTML without a frame; its pictures become files of the site, HTML within its Markdown is shown as text."""
    import nbformat
    from jinja2 import pass_context
    from markupsafe import Markup
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    @pass_context
    def markdown(context, source: str) -> str:
        return MarkdownWithMath(renderer=IPythonRenderer(escape=True)).render(source)

    notebook = nbformat.reads(json.dumps(content), as_version=4)
    for index, cell in enumerate(notebook.cells):
        cell.setdefault("id", f"cell-{index:03d}")
        for output in cell.get("outputs", []):
            prepare(output, site)
    exporter = HTMLExporter(template_name="basic")
    exporter.register_filter("markdown2html", markdown)
    html, _ = exporter.from_notebook_node(notebook)
    html = OUTSIDE.sub(lambda image: image[1] or "", html).replace("<img ", '<img loading="lazy" ')
    return Markup(plainer(html))


def prepare(output: dict, site: Site) -> None:
    """Keep of an output what is text or a picture, and put the picture into the site."""
    if "data" not in output:
        return
    output["data"] = {kind: value for kind, value in output["data"].items() if kind in KINDS}
    for kind in ("image/png", "image/jpeg"):
        if kind in output["data"]:
            address, width, _ = site.picture(base64.b64decode(output["data"][kind]))
            shown = output["metadata"].get(kind, {}).get("width", width)
            output["metadata"][kind] = {"alt": "figure drawn by the code above", "width": min(shown, width)}
            output["metadata"]["filenames"] = {kind: f"../{address}"}


def headings(content: dict) -> list[dict]:
    """The second-level headings of a notebook and the cells that they are in, for its list of contents."""
    found = []
    for index, cell in enumerate(content["cells"]):
        if cell["cell_type"] == "markdown":
            found += [{"text": text, "cell": anchor(cell, index)}
                      for text in re.findall(r"^## (.+)$", text_of(cell), re.MULTILINE)]
    return found


def anchor(cell: dict, index: int) -> str:
    """The id that nbconvert gives a cell's element."""
    return f"cell-id={cell.get('id', f'cell-{index:03d}')}"


def cells_of_runs(content: dict, name: str) -> dict[str, str]:
    """Per run of a notebook the address of the cell that asks for it by name, else of the one that declares its function."""
    code = [(anchor(cell, index), text_of(cell)) for index, cell in enumerate(content["cells"]) if cell["cell_type"] == "code"]
    found = {}
    for entry in (*deliverables.asked_runs(), *deliverables.supporting_runs()):
        if entry["notebook"] != name:
            continue
        run_id = entry["id"]
        stems = [run_id[:length] for length in range(len(run_id), 2, -1)]  # names may be put together, as in f"q1_{part}_dset1"
        tests = [f'suite.run("{run_id}")', f'"{run_id}"', *(f'f"{stem}{{' for stem in stems)]
        place = next((cell for test in tests for cell, text in code if test in text), None)
        if place:
            found[run_id] = f"notebooks/{name}.html#{place}"
    return found
