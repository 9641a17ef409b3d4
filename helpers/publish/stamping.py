"""The first and last cell of every notebook, from one template, and the repository's address in them and in the badges.

THE setting is ``Repository`` in ``[project.urls]`` of ``pyproject.toml``. ``make colab REPO=owner/name`` changes it and stamps it
into the first cell and below the title of each notebook and into the README's list of notebooks. Without an address there are
no badges, and the first cell works from a clone or an uploaded folder.

Stamping a source would make its saved, executed notebook stale. A notebook that is fresh gets the same change instead, in its
source cells and in the digest of its source, without being executed. That is honest because of what the change is: the
address is used only on Colab where the suite's folder is not there yet, the badge is a link, no definition that a run reaches
is among them, and the changed cells must be cells without outputs. Executed again, the notebook would come out byte for byte
the same. A notebook that gains a cell is left stale: a cell that was never run gets no number as if it had been.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from helpers import settings
from helpers.files import write_together
from helpers.publish import notebooks, percent
from helpers.settings import SettingError

GITHUB = "https://github.com/"
REPOSITORY = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$|.*\.git$)[\w.-]{1,100}", re.ASCII)

FIRST_CELL = '''\
# Bootstrap: your choices (on Colab a form), then the suite's folder, cloned if need be.
import subprocess
import sys
from pathlib import Path

profile = "automatic"  # @param ["automatic", "smoke", "quick", "full"]
train = "what is missing"  # @param ["nothing", "what is missing", "long runs too", "everything"]
minutes = 0  # @param {type: "number"}
repository = ""

starts = [Path(globals().get("__file__", "notebook")).resolve().parent, Path.cwd()]
places = [place for start in starts for place in (start, *start.parents)]
places += [*sorted(Path.cwd().glob("*")), *sorted(Path.cwd().glob("drive/MyDrive/*"))]
root = next((place for place in places if (place / "helpers/settings.py").is_file()), None)
if root is None and repository and "google.colab" in sys.modules:
    command = ["git", "clone", "--depth", "1", f"https://github.com/{repository}"]
    said = subprocess.run(command, capture_output=True, encoding="utf-8").stderr
    root = Path(repository.split("/")[1]).resolve()
    print(said)
if root is None or not root.is_dir():
    raise FileNotFoundError(
        "the suite's folder was not found: open this notebook inside it. On Colab, upload the "
        "folder to the top of your Drive and mount Drive, or !git clone it; run this cell again"
    )
sys.path.insert(0, str(root))

from helpers.publish import colab

colab.prepare("NAME", profile, train, minutes)
'''
LAST_CELL = '''\
# The end: which code was run; on Colab also one zip to hand in.
colab.pack()
'''

_FIRST = re.compile(r"^# %%\n# Bootstrap\b.*?\n(?=\s*^# %%)", re.MULTILINE | re.DOTALL)
_LAST = re.compile(r"\n+^# %%\n(?:#[^\n]*\n)?colab\.pack\(\)\n", re.MULTILINE)
_TITLE = re.compile(r"\A(# %% \[markdown\]\n# # [^\n]*\n)(?:#\n# \[!\[Open in Colab\][^\n]*\n)?")
_ROW = re.compile(r"^(\| \[(\w+)\]\(notebooks/\2\.ipynb\))(?: \[!\[Open in Colab\][^|\n]*)?(?= \|)", re.MULTILINE)
_LIST = re.compile(r"(?<=<!-- notebooks:begin -->\n).*?(?=<!-- notebooks:end -->)", re.DOTALL)
_URLS = re.compile(r'^(\[project\.urls\]\n(?:#[^\n]*\n)*)(?:Repository = "[^\n]*"\n)?', re.MULTILINE)


def checked(repository: str) -> str:
    """``repository`` itself if it is of the form owner/name, as GitHub names things.

    Raises:
        SettingError: it is not.
    """
    if not REPOSITORY.fullmatch(repository):
        raise SettingError(f"{repository!r} is not a GitHub repository: expected owner/name, for example ada/generative-models")
    return repository


def setting(root: Path = settings.PROJECT_ROOT) -> str:
    """The repository that ``pyproject.toml`` names, as owner/name; empty where it names none.

    Raises:
        SettingError: the address is not one of GitHub.
    """
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    if "Repository" not in urls:
        return ""
    if not urls["Repository"].startswith(GITHUB):
        raise SettingError(f"pyproject.toml: Repository = {urls['Repository']!r}; expected {GITHUB}owner/name")
    return checked(urls["Repository"].removeprefix(GITHUB))


def first_cell(repository: str, name: str) -> str:
    """The text of the first code cell of a notebook."""
    return FIRST_CELL.replace('repository = ""', f'repository = "{repository}"').replace("NAME", name)


def badge(repository: str, name: str) -> str:
    """Markdown of the badge that opens a saved notebook in Colab; empty without a repository."""
    if not repository:
        return ""
    colab = "https://colab.research.google.com"
    return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{repository}/blob/main/notebooks/{name}.ipynb)"


def stamped(repository: str, root: Path = settings.PROJECT_ROOT) -> dict[Path, str]:
    """What every file that carries the address should say: ``pyproject.toml``, ``README.md`` and the notebooks' sources.

    Raises:
        SettingError: a file lacks the place where the address belongs.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in (root / "pyproject.toml", root / "README.md", *_sources(root))}
    project, readme, *sources = texts
    line = f'Repository = "{GITHUB}{repository}"\n' if repository else ""
    texts[project] = _once(_URLS, lambda match: match[1] + line, texts[project], project, "[project.urls]")
    texts[readme] = _once(_LIST, lambda match: _ROW.sub(
        lambda row: " ".join(filter(None, [row[1], badge(repository, row[2])])), match[0],
    ), texts[readme], readme, "'<!-- notebooks:begin -->' and '<!-- notebooks:end -->'")
    for path in sources:
        below = f"#\n# {badge(repository, path.stem)}\n" if repository else ""
        text = _once(_TITLE, lambda match, below=below: match[1] + below, texts[path], path, "a title on top, in a Markdown cell")
        first = "# %%\n" + first_cell(repository, path.stem)
        text = _once(_FIRST, lambda match, first=first: first, text, path, "a code cell that begins '# Bootstrap'")
        texts[path] = _LAST.sub("\n", text).rstrip() + "\n\n# %%\n" + LAST_CELL
    return texts


def stamp(repository: str, root: Path = settings.PROJECT_ROOT) -> list[str]:
    """Write the address, and the first and last cell, everywhere they belong; all files or none.

    Args:
        repository: owner/name, or empty for none.
        root: of the project.

    Returns:
        The files that changed, relative to ``root``.

    Raises:
        SettingError: a malformed name, or a file lacks the place where the address belongs.
    """
    contents: dict[Path, bytes] = {}
    for path, text in stamped(checked(repository) if repository else "", root).items():
        if text == path.read_text(encoding="utf-8"):
            continue
        if path.suffix == ".py" and (carried := _carried(path, text)) is not None:
            contents[path.with_suffix(".ipynb")] = carried
        contents[path] = text.encode()
    write_together(contents)
    return sorted(str(path.relative_to(root)) for path in contents)


def complaints(root: Path = settings.PROJECT_ROOT) -> list[str]:
    """Files that do not say what the setting says, one line each; empty when all agree.

    Raises:
        SettingError: the setting is malformed, or a file lacks the place where the address belongs.
    """
    repository = setting(root)
    found = [f"{path.relative_to(root)}: the address, the badge or the first or last cell is another one"
             for path, text in stamped(repository, root).items() if text != path.read_text(encoding="utf-8")]
    for source in _sources(root):
        path = source.with_suffix(".ipynb")
        if not path.is_file():
            found += [f"{path.relative_to(root)}: not built yet, so its badge leads nowhere"] * bool(repository)
        elif not _agrees(path, repository):
            found.append(f"{path.relative_to(root)}: built with another badge or first cell: build it again")
    return found


def _sources(root: Path) -> list[Path]:
    return sorted((root / "notebooks").glob("[0-9]_*.py"))


def _once(pattern: re.Pattern, replacement, text: str, path: Path, expected: str) -> str:
    new, number = pattern.subn(replacement, text)
    if number != 1:
        raise SettingError(f"{path.name} needs {expected}, once; found {number} times")
    return new


def _carried(source: Path, text: str) -> bytes | None:
    """The saved notebook with the change of its source, or None where it cannot be carried over (see the top of this file)."""
    import jupytext
    import nbformat

    if notebooks.check(source.stem, source.parent, source.parent).state != "fresh":
        return None
    saved = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    before, after = (jupytext.reads(content, fmt="py:percent").cells for content in (source.read_text(encoding="utf-8"), text))
    if len(before) != len(after) or [cell.source for cell in before] != [cell.source for cell in saved.cells]:
        return None
    for cell, old, new in zip(saved.cells, before, after, strict=True):
        if old.source != new.source:
            if cell.get("outputs"):
                return None
            cell.source = new.source
    saved.metadata["suite"]["source"] = percent.digest(text)
    return nbformat.writes(saved).encode()


def _agrees(path: Path, repository: str) -> bool:
    """Whether a saved notebook has the badge and the first cell of the setting."""
    try:
        title, first = ("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"][:2])
    except (ValueError, KeyError, TypeError):
        return False
    link = badge(repository, path.stem)
    return first == first_cell(repository, path.stem).strip() and (link in title if link else "[![Open in Colab]" not in title)


def register(commands) -> None:
    """Add the command ``colab``."""
    command = commands.add_parser("colab", help=colab.__doc__)
    command.add_argument("--repository", metavar="OWNER/NAME", help="on GitHub; without it, nothing is changed")
    command.add_argument("--write", action="store_true", help="write the present setting again, as for a new notebook")
    command.set_defaults(function=colab)


def colab(arguments) -> int:
    """Write the repository's address into badges and first cells, or check that it is the same everywhere."""
    if arguments.repository is not None:
        checked(arguments.repository)
    if arguments.write or arguments.repository is not None:
        changed = stamp(setting() if arguments.repository is None else arguments.repository)
        print(*(f"stamped {name}" for name in changed), sep="\n", end="\n" * bool(changed))
    print(f"repository: {setting() or 'none; make colab REPO=owner/name sets it'}")
    found = complaints()
    print(*found or ["first cells and badges agree with it"], sep="\n")
    return 1 if found and not (arguments.write or arguments.repository) else 0
