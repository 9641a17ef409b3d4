"""Colab: what is installed there, where results go, and what is packed."""

import json
import os
import shutil
import sys
import types
import zipfile
from pathlib import Path

import pytest

from helpers import settings
from helpers.publish import colab, notebooks
from helpers.suite import Outcome, Suite, run


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """A Colab runtime with a clone of a small project and no Drive; returns the folder of the clone."""
    clone = tmp_path / "content" / "models"
    clone.mkdir(parents=True)
    (clone / "requirements.txt").write_text("# lower bounds\nnumpy>=1.0  # is there\njupyter>=1\nsurely-not-installed>=2\n")
    monkeypatch.setattr(settings, "PROJECT_ROOT", clone)
    monkeypatch.setattr(colab, "DRIVE", tmp_path / "content" / "drive" / "MyDrive")
    monkeypatch.delenv("SUITE_OUTPUT")
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.chdir(clone.parent)
    return clone


@pytest.fixture
def calls(monkeypatch):
    """The pip calls made, as (arguments, text of the constraints); none is carried out."""
    made = []

    def run(command, **options):
        made.append((command, Path(command[command.index("--constraint") + 1]).read_text()))
        return types.SimpleNamespace(returncode=int("impossible" in command[-1]), stdout="no such package\n")

    monkeypatch.setattr(colab.subprocess, "run", run)
    return made


def record(folder, name, text="{}"):
    """A record with arrays and a figure of their own under ``folder``."""
    for part in ("results", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "results" / f"{name}.npz").write_bytes(text.encode())
    (folder / "figures" / f"{name}.png").write_bytes(text.encode())
    (folder / "results" / f"{name}.json").write_text(json.dumps({"figures": {f"{name}.png": "0"}, "text": text}))


def test_only_what_is_missing_is_installed_and_what_is_there_is_held(runtime, calls, capsys):
    colab.prepare()
    (command, constraints), = calls
    assert command[:3] == [sys.executable, "-m", "pip"] and "install" in command
    assert command[-1] == "surely-not-installed>=2"
    assert not any("numpy" in argument or "jupyter" in argument for argument in command)
    assert constraints.splitlines()[0] == f"numpy=={sys.modules['numpy'].__version__}"
    assert "the suite: an uploaded copy, models\ninstalling surely-not-installed>=2\n" in capsys.readouterr().out


def test_a_failing_installation_says_what_pip_said(runtime, calls):
    with pytest.raises(RuntimeError, match=r"could not install impossible>=3:\nno such package"):
        colab.install(["impossible>=3"])


def test_elsewhere_nothing_is_done_or_said(calls, capsys, tmp_path):
    colab.prepare()
    colab.pack()
    assert calls == [] and capsys.readouterr() == ("", "")
    assert os.environ["SUITE_OUTPUT"] == str(tmp_path / "output") and not (tmp_path / "output").exists()


def test_nothing_of_the_real_requirements_is_missing_here():
    assert colab.missing() == []


def test_without_drive_results_stay_in_the_clone_and_the_cell_says_so(runtime, calls, capsys):
    colab.prepare()
    assert settings.output_folder() == runtime / "build" / "smoke"
    assert "models/build/smoke, gone with this runtime; to keep them, mount Drive" in capsys.readouterr().out


def test_drive_gets_the_records_it_lacks_and_keeps_those_it_has(runtime, calls, monkeypatch, capsys):
    monkeypatch.setenv("SUITE_PROFILE", "full")
    record(runtime, "old", "of the clone")
    record(runtime, "new", "of the clone")
    kept = colab.DRIVE / "models"
    record(kept, "old", "of Drive")
    for brought in (1, 0):  # the second time there is nothing left to bring
        colab.prepare()
        assert settings.output_folder() == kept and settings.checkpoint_folder() == kept / "build" / "checkpoints"
        output = capsys.readouterr().out
        assert f"drive/MyDrive/models, on Drive ({brought} records brought there)" in output
        assert not notebooks.MACHINE_PATH.search(output)
        for name, text in (("old", "of Drive"), ("new", "of the clone")):
            assert json.loads((kept / "results" / f"{name}.json").read_text())["text"] == text
            assert (kept / "results" / f"{name}.npz").read_text() == (kept / "figures" / f"{name}.png").read_text() == text
    monkeypatch.setenv("SUITE_PROFILE", "quick")  # the first cell again, for another profile
    colab.prepare()
    assert settings.output_folder() == kept / "build" / "quick"


def test_a_chosen_output_and_a_suite_that_lies_on_drive_stay_where_they_are(runtime, calls, monkeypatch, tmp_path, capsys):
    colab.DRIVE.mkdir(parents=True)
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path / "content" / "mine"))
    colab.prepare()
    assert settings.output_folder() == tmp_path / "content" / "mine"
    monkeypatch.delenv("SUITE_OUTPUT")
    uploaded = shutil.move(runtime, colab.DRIVE / "uploaded")
    monkeypatch.setattr(settings, "PROJECT_ROOT", uploaded)
    colab.prepare()
    assert settings.output_folder() == uploaded / "build" / "smoke"
    assert "drive/MyDrive/uploaded/build/smoke, on Drive\n" in capsys.readouterr().out


def test_after_a_disconnect_the_record_on_drive_is_found_again(runtime, calls, monkeypatch):
    colab.DRIVE.mkdir(parents=True)
    (runtime / "notebooks").mkdir()
    (runtime / "notebooks" / "1_one.py").write_text("def train(run):\n    return 1\n")
    trained = []

    def train(run):
        trained.append(run.checkpoint().path)
        return Outcome(values={"loss": 1.0})

    for _ in range(2):
        colab.prepare()
        Suite("1_one", {"run_a": run(train)}).run("run_a")
        shutil.rmtree(runtime / "build", ignore_errors=True)  # the clone is a fresh one the second time
        monkeypatch.delenv("SUITE_OUTPUT")
    assert len(trained) == 1 and trained[0].is_relative_to(colab.DRIVE / "models" / "build" / "smoke")


def test_the_zip_holds_results_and_figures(runtime, capsys):
    output = runtime / "build" / "smoke"
    record(output, "run_a")
    (output / "results" / ".unfinished").write_text("")
    (output / "notebooks").mkdir()
    for _ in range(2):  # again: the zip is replaced, and is not in itself
        colab.pack()
    with zipfile.ZipFile(output / "results.zip") as archive:
        assert archive.namelist() == ["results/run_a.json", "results/run_a.npz", "figures/run_a.png"]
    assert "files.download('models/build/smoke/results.zip')" in capsys.readouterr().out
