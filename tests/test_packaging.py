"""Packaging: the lists of dependencies agree, and everything that is imported is declared."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
JUPYTER = ("IPython", "nbformat", "ipykernel", "nbconvert", "jupyter_client")
NAMES = {"sklearn": "scikit-learn", "PIL": "Pillow", "torch_fidelity": "torch-fidelity", "google": "colab",
         "mpl_toolkits": "matplotlib", **dict.fromkeys(JUPYTER, "jupyter")}


def lines_of(name: str) -> list[str]:
    """The requirements of a file, without those that it includes, comments and blanks."""
    found = []
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line and not line.startswith("-r"):
            found.append(re.sub(r"\s*;\s*", "; ", line).replace('"', "'"))
    return sorted(found)


@pytest.mark.parametrize(("file", "declared"), [
    ("requirements.txt", PROJECT["dependencies"]), ("requirements-dev.txt", PROJECT["optional-dependencies"]["test"]),
    ("requirements-bench.txt", PROJECT["optional-dependencies"]["bench"]),
    ("requirements-cluster.txt", PROJECT["optional-dependencies"]["cluster"]),
])
def test_requirements_and_pyproject_agree(file, declared):
    assert lines_of(file) == sorted(re.sub(r"\s*;\s*", "; ", line) for line in declared)


def test_every_requirement_of_the_suite_is_a_full_lower_bound():
    for line in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=\d+\.\d+\.\d+", line), line


def imported(path: Path) -> set[str]:
    """The outermost packages that a source imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_everything_that_is_imported_is_declared():
    declared = {re.split(r"[><=;]", line)[0] for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cluster"],
                                                          *PROJECT["optional-dependencies"]["site"])}
    sources = [*(ROOT / "helpers").rglob("*.py"), *(ROOT / "notebooks").glob("*.py")]
    found = set().union(*map(imported, sources)) - set(sys.stdlib_module_names) - {"helpers", "benchmarks"}
    assert {NAMES.get(name, name) for name in found} - declared <= {"colab"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lets_python_keep_what_it_compiled():
    asked = ["make", "--no-print-directory", "--eval", 'shown:; @echo "[$$PYTHONDONTWRITEBYTECODE]"', "shown"]
    said = subprocess.run(asked, cwd=ROOT, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, check=True)
    assert said.stdout.decode().split() == ["[]"]


def test_the_tracked_tree_stays_light():
    asked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True) if shutil.which("git") else None
    if asked is None or asked.returncode or not asked.stdout:
        pytest.skip("not a clone: what is tracked is not known here")
    paths = [ROOT / name for name in asked.stdout.decode().split("\0") if name]
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in paths if path.is_file()}
    heaviest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert sum(sizes.values()) <= 30 * 2**20, f"{sum(sizes.values()) / 2**20:.1f} MiB are tracked; the heaviest: {heaviest}"
