"""Jupyter's own ways to open and save: an untouched notebook and its source stay as they are, byte for byte."""

import os
import shutil
import subprocess
import sys

import pytest

from helpers import settings
from helpers.publish import notebooks
from helpers.work import definitions

SOURCE = '''# %% [markdown]
# # One

# %%
print("profile: smoke")


# %%
def double(x):
    return 2 * x


# %% [markdown] tags=["answer:one"]
# An answer.

# %% tags=["check"]
print(double(2))
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project with this one's jupytext settings and a built notebook; returns its folder."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    shutil.copy(settings.PROJECT_ROOT / "pyproject.toml", root)
    (root / "notebooks" / "9_one.py").write_text(SOURCE)
    for module in (notebooks, definitions):
        monkeypatch.setattr(module, "FOLDER", root / "notebooks")
    monkeypatch.setenv("SUITE_OUTPUT", str(root))
    notebooks.build("9_one")
    return root


def contents(root):
    return {path.name: path.read_bytes() for path in (root / "notebooks").glob("9_*")}


def manager(root):
    """The contents manager that Jupyter uses where jupytext is installed."""
    from jupyter_server.services.contents.largefilemanager import LargeFileManager

    try:
        from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class as build
    except ImportError:  # until 1.17
        from jupytext.contentsmanager import build_jupytext_contents_manager_class as build
    made = build(LargeFileManager)()
    made.root_dir = str(root)
    return made


@pytest.mark.parametrize("name", ["9_one.ipynb", "9_one.py"])
def test_opened_and_saved_in_jupyter_untouched_nothing_changes(project, name):
    before = contents(project)
    for _ in range(2):
        contents_manager = manager(project)
        model = contents_manager.get(f"notebooks/{name}", content=True, type="notebook")
        contents_manager.save({"type": "notebook", "format": "json", "content": model["content"]}, f"notebooks/{name}")
        assert contents(project) == before
    assert notebooks.check("9_one", project / "notebooks").state == "fresh"


def test_an_edit_saved_in_jupyter_reaches_the_source(project):
    contents_manager = manager(project)
    model = contents_manager.get("notebooks/9_one.ipynb", content=True, type="notebook")
    model["content"]["cells"][4]["source"] = "print(double(3))"
    contents_manager.save({"type": "notebook", "format": "json", "content": model["content"]}, "notebooks/9_one.ipynb")
    assert (project / "notebooks" / "9_one.py").read_text() == SOURCE.replace("double(2)", "double(3)")


@pytest.mark.parametrize("newer", ["9_one.ipynb", "9_one.py"])
def test_jupytext_sync_changes_nothing(project, newer):
    before = contents(project)
    now = (project / "notebooks" / newer).stat().st_mtime + 10
    os.utime(project / "notebooks" / newer, (now, now))
    command = [sys.executable, "-m", "jupytext", "--sync", f"notebooks/{newer}"]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    assert contents(project) == before


@pytest.mark.parametrize("name", notebooks.names())
def test_the_suites_sources_are_written_as_jupytext_writes_them(name):
    """Else saving an untouched notebook would reflow its source."""
    import jupytext
    from jupytext.config import load_jupytext_configuration_file

    source = notebooks.source_path(name)
    saved = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    configuration = load_jupytext_configuration_file(str(settings.PROJECT_ROOT / "pyproject.toml"))
    assert jupytext.writes(saved, fmt="py:percent", config=configuration) == source.read_text(encoding="utf-8")
