"""Notebooks: definitions without experiments, building in a clean kernel, and what the check finds."""

import json

import pytest

from helpers import settings
from helpers.publish import notebooks
from helpers.publish.notebooks import Check, NotebookError

SOURCE = '''# %% [markdown]
# # A small notebook

# %%
import sys
from pathlib import Path

sys.path.insert(0, "ROOT")
from helpers import settings

SIZE = 3
profile = settings.profile()
print("profile", profile)


# %%
def double(x):
    """Twice x."""
    return 2 * x


class Thing:
    size = SIZE


print(double(SIZE))
EXTRA
'''


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with one small notebook; returns a function that writes its source."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(notebooks, "FOLDER", folder)

    def write(extra=""):
        (folder / "9_small.py").write_text(SOURCE.replace("ROOT", str(settings.PROJECT_ROOT)).replace("EXTRA", extra))

    write()
    return write


def test_definitions_come_without_experiments(small, capsys):
    module = notebooks.definitions("9_small")
    assert module.double(4) == 8
    assert module.Thing.size == module.SIZE == 3
    assert not hasattr(module, "profile")
    assert capsys.readouterr().out == ""


def test_an_unknown_notebook_lists_the_known_ones(small):
    with pytest.raises(NotebookError, match="no notebook '7_none'; the notebooks are 9_small"):
        notebooks.definitions("7_none")


def test_build_executes_stamps_and_writes_only_under_the_output_folder(small, tmp_path):
    path = notebooks.build("9_small")
    assert path == tmp_path / "output" / "notebooks" / "9_small.ipynb"
    assert sorted(entry.name for entry in notebooks.FOLDER.iterdir()) == ["9_small.py"]
    content = json.loads(path.read_text())
    assert content["metadata"]["suite"]["profile"] == "smoke"
    assert "profile smoke" in "".join(content["cells"][1]["outputs"][0]["text"])
    assert notebooks.check("9_small", path.parent) == Check("9_small", "fresh")
    first = path.read_bytes()
    assert notebooks.build("9_small").read_bytes() == first  # the same source gives the same file


def test_check_tells_stale_hollow_failed_and_missing(small, tmp_path):
    assert notebooks.check("9_small", tmp_path / "output" / "notebooks").state == "missing"
    path = notebooks.build("9_small")
    fresh = json.loads(path.read_text())

    def state_of(change):
        content = json.loads(json.dumps(fresh))
        change(content["cells"])
        path.write_text(json.dumps(content))
        return notebooks.check("9_small", path.parent).state

    assert state_of(lambda cells: cells[1].update(outputs=[], execution_count=None)) == "hollow"
    assert state_of(lambda cells: cells[2].update(execution_count=7)) == "hollow"
    warning = {"output_type": "stream", "name": "stderr", "text": ["w"]}
    assert state_of(lambda cells: cells[1]["outputs"].append(warning)) == "failed"
    assert state_of(lambda cells: cells[1]["outputs"][0].update(text=["/" + "home/someone/file"])) == "failed"
    path.write_text("{")
    assert notebooks.check("9_small", path.parent).state == "missing"
    path.write_text(json.dumps(fresh))
    small("print('changed')")
    assert notebooks.check("9_small", path.parent).state == "stale"


def test_a_failing_cell_keeps_the_saved_notebook(small, tmp_path, monkeypatch):
    path = notebooks.build("9_small")
    before = path.read_bytes()
    small("raise ValueError('broken cell')")
    monkeypatch.setattr(settings, "PROJECT_ROOT", tmp_path)
    with pytest.raises(NotebookError, match="broken cell"):
        notebooks.build("9_small")
    assert path.read_bytes() == before
    assert (tmp_path / "build" / "failed" / "9_small.ipynb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks.names())
def test_each_notebook_runs_at_the_smoke_profile_and_changes_nothing_in_the_project(name, tmp_path):
    def contents():
        return {path: path.stat().st_mtime_ns for folder in ("results", "figures", "notebooks")
                for path in (settings.PROJECT_ROOT / folder).rglob("*") if "__pycache__" not in path.parts}

    before = contents()
    path = notebooks.build(name)
    assert notebooks.check(name, path.parent) == Check(name, "fresh")
    assert contents() == before
    records = sorted(path.stem for path in (tmp_path / "output" / "results").glob("*.json"))
    assert records, "the notebook recorded nothing"
    for record in records:
        content = json.loads((tmp_path / "output" / "results" / f"{record}.json").read_text())
        assert content["profile"] == "smoke"
        for figure in content["figures"]:
            assert (tmp_path / "output" / "figures" / figure).exists()
