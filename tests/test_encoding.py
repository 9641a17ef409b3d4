"""Text is UTF-8 by name: what the locale of a machine says must not matter."""

import ast
from pathlib import Path

import pytest

from helpers import settings

CALLS = {"read_text": 0, "write_text": 1, "open": 2, "NamedTemporaryFile": 99}  # positional arguments before the encoding
FILES = sorted(path.relative_to(settings.PROJECT_ROOT).as_posix() for path in settings.PROJECT_ROOT.glob("helpers/**/*.py"))


def unnamed(text):
    """Lines of calls that read or write text in the encoding of the locale."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        said = [part for value in [*node.args[:2], keywords.get("mode")] if value is not None for part in ast.walk(value)]
        mode = next((part.value for part in said if isinstance(part, ast.Constant) and isinstance(part.value, str)
                     and set(part.value) <= set("rwaxbt+")), "")
        if name in CALLS and "encoding" not in keywords and "b" not in mode and _is_file(node, name):
            yield node.lineno
        texts = {"text", "universal_newlines"} & set(keywords)
        if texts and name in ("run", "Popen", "check_output") and "encoding" not in keywords:
            yield node.lineno


def _is_file(node, name):
    """Not ``urlopen`` and other modules' open, such as ``Image.open``."""
    if name != "open":
        return len(node.args) <= CALLS[name]
    owner = getattr(node.func, "value", None)
    return owner is None or (isinstance(owner, ast.Name) and not owner.id[0].isupper() and owner.id not in (
        "tarfile", "gzip", "zipfile", "os", "webbrowser", "archive", "content"))  # members of an archive are bytes


@pytest.mark.parametrize("file", FILES)
def test_text_is_read_and_written_as_utf8_by_name(file):
    assert list(unnamed((settings.PROJECT_ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(("call", "found"), [
    ("path.read_text()", True), ("path.read_text(encoding='utf-8')", False), ("path.write_text(text)", True),
    ("path.write_text(text, encoding='utf-8')", False), ("open(path)", True), ("open(path, 'w')", True),
    ("open(path, 'rb')", False), ("path.open('rb')", False), ("path.open('w')", True), ("Image.open(path)", False),
    ("subprocess.run(command, text=True)", True),
    ("subprocess.run(command, encoding='utf-8')", False), ("path.read_text(errors='replace')", True),
])
def test_the_search_finds_what_it_should(call, found):
    assert bool(list(unnamed(call))) == found


def test_line_ends_are_the_same_on_every_system():
    attributes = (settings.PROJECT_ROOT / ".gitattributes").read_text(encoding="utf-8")
    assert "* text=auto eol=lf" in attributes and all(f"*.{kind} binary" in attributes for kind in ("png", "npz", "pdf"))
    assert Path(__file__).read_bytes().count(b"\r") == 0
