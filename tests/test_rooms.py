"""The house: which room may import from which, and how long a module may be."""

import ast
from pathlib import Path

import pytest

import helpers

HOUSE = Path(helpers.__file__).parent
ORDER = ("settings", "files", "plotting", "locks", "data", "train", "fast", "results", "suite", "work", "publish", "grade")
MODULES = sorted(path.relative_to(HOUSE) for path in HOUSE.rglob("*.py") if path.name != "__main__.py")


def rooms_imported_by(text: str) -> set[str]:
    """The rooms (or single modules) of ``helpers`` that a source text imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "helpers":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("helpers.")}
    return found


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_room_imports_only_from_rooms_before_it(module):
    room = module.parts[0].removesuffix(".py")
    if room == "__init__":
        return
    later = set(ORDER[ORDER.index(room) + 1 :])
    assert not rooms_imported_by((HOUSE / module).read_text(encoding="utf-8")) & later


def test_the_line_is_drawn_for_every_room():
    assert {module.parts[0].removesuffix(".py") for module in MODULES} - {"__init__"} <= set(ORDER)
    assert rooms_imported_by("import helpers.grade.marking\nfrom helpers import suite") == {"grade", "suite"}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_module_is_over_300_lines(module):
    assert len((HOUSE / module).read_text(encoding="utf-8").splitlines()) <= 300
