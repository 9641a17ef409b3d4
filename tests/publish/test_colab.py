"""Colab: what is installed there, where results go, and what is packed."""

import json
import os
import shutil
import sys
import types
import zipfile
from pathlib import Path

import fake_suite
import pytest

from helpers import settings
from helpers.publish import colab, costs, handing_in, notebooks, stamping
from helpers.results import deliverables
from helpers.settings import SettingError
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


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    """A first cell that was not run before, and a list of two runs that are asked for."""
    monkeypatch.setattr(colab, "_chosen", {})
    entries = [{"id": "run_a", "notebook": "1_one"}, {"id": "run_b", "notebook": "1_one"}, {"id": "run_c", "notebook": "2_two"}]
    monkeypatch.setattr(deliverables, "asked_runs", lambda: entries)
    monkeypatch.setattr(deliverables, "supporting_runs", list)
    monkeypatch.setattr(costs, "declared", lambda notebook, profile: {
        "run_a": run(len), "run_b": run(len, long=True)})


@pytest.fixture
def calls(monkeypatch):
    """The pip calls made, as (arguments, text of the constraints); none is carried out."""
    made = []

    def run(command, **options):
        made.append((command, Path(command[command.index("--constraint") + 1]).read_text(encoding="utf-8")))
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
    colab.prepare("1_one")
    (command, constraints), = calls
    assert command[:3] == [sys.executable, "-m", "pip"] and "install" in command
    assert command[-1] == "surely-not-installed>=2"
    assert not any("numpy" in argument or "jupyter" in argument for argument in command)
    assert constraints.splitlines()[0] == f"numpy=={sys.modules['numpy'].__version__}"
    assert "the suite: an uploaded copy, models\ninstalling surely-not-installed>=2\n" in capsys.readouterr().out


def test_a_failing_installation_says_what_pip_said(runtime, calls):
    with pytest.raises(RuntimeError, match=r"could not install impossible>=3:\nno such package"):
        colab.install(["impossible>=3"])


def test_elsewhere_nothing_is_installed_packed_or_moved(calls, capsys, tmp_path):
    colab.prepare("1_one")
    capsys.readouterr()
    colab.pack()
    assert calls == [] and capsys.readouterr() == ("", "")
    assert os.environ["SUITE_OUTPUT"] == str(tmp_path / "output") and not (tmp_path / "output").exists()


def test_nothing_of_the_real_requirements_is_missing_here():
    assert colab.missing() == []


def test_without_drive_results_stay_in_the_clone_and_the_cell_says_so(runtime, calls, capsys):
    colab.prepare("1_one")
    assert settings.output_folder() == runtime / "build" / "smoke"
    assert "models/build/smoke, gone with this runtime; to keep them, mount Drive" in capsys.readouterr().out


def test_drive_gets_the_records_it_lacks_and_keeps_those_it_has(runtime, calls, monkeypatch, capsys):
    monkeypatch.setenv("SUITE_PROFILE", "full")
    record(runtime, "old", "of the clone")
    record(runtime, "new", "of the clone")
    kept = colab.DRIVE / "models"
    record(kept, "old", "of Drive")
    for brought in (1, 0):  # the second time there is nothing left to bring
        colab.prepare("1_one")
        assert settings.output_folder() == kept and settings.checkpoint_folder() == kept / "build" / "checkpoints"
        output = capsys.readouterr().out
        assert f"drive/MyDrive/models, on Drive ({brought} records brought there)" in output
        assert not notebooks.MACHINE_PATH.search(output)
        for name, text in (("old", "of Drive"), ("new", "of the clone")):
            assert json.loads((kept / "results" / f"{name}.json").read_text(encoding="utf-8"))["text"] == text
            for part in (f"results/{name}.npz", f"figures/{name}.png"):
                assert (kept / part).read_bytes() == text.encode()
    monkeypatch.setenv("SUITE_PROFILE", "quick")  # the first cell again, for another profile
    colab.prepare("1_one")
    assert settings.output_folder() == kept / "build" / "quick"


def test_a_chosen_output_and_a_suite_that_lies_on_drive_stay_where_they_are(runtime, calls, monkeypatch, tmp_path, capsys):
    colab.DRIVE.mkdir(parents=True)
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path / "content" / "mine"))
    colab.prepare("1_one")
    assert settings.output_folder() == tmp_path / "content" / "mine"
    monkeypatch.delenv("SUITE_OUTPUT")
    uploaded = shutil.move(runtime, colab.DRIVE / "uploaded")
    monkeypatch.setattr(settings, "PROJECT_ROOT", uploaded)
    colab.prepare("1_one")
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
        colab.prepare("1_one")
        Suite("1_one", {"run_a": run(train)}).run("run_a")
        shutil.rmtree(runtime / "build", ignore_errors=True)  # the clone is a fresh one the second time
        monkeypatch.delenv("SUITE_OUTPUT")
    assert len(trained) == 1 and trained[0].is_relative_to(colab.DRIVE / "models" / "build" / "smoke")




def measured(folder, name, seconds, done=10, device="CPU, 1 threads"):
    """A record that says how long its training took."""
    content = fake_suite.record({"id": name, "notebook": "1_one", "figures": []}, profile="smoke", seconds=seconds,
                                environment={"device": device}, budget={"done": done, "planned": 10, "unit": "steps"})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def test_each_choice_says_what_it_trains_and_how_long_that_takes_here(tmp_path, capsys, monkeypatch):
    results = tmp_path / "output" / "results"
    measured(results, "run_a", 40.0)
    measured(results, "run_b", 100.0, done=2)
    colab.prepare("1_one", "smoke", costs.LONG, 0)
    printed = capsys.readouterr().out
    assert printed.startswith("profile: smoke\ndevice:  CPU, ") and ", NO GPU\n" in printed
    assert [line.split(maxsplit=1)[1] if line.startswith("  *") else line.strip() for line in printed.splitlines()[3:]] == [
        "nothing          no training", "what is missing  no training", "long runs too    1 run, about 8 min",
        "everything       2 runs, about 9 min"]
    assert "  * long runs too " in printed and os.environ["SUITE_RETRAIN"] == "run_b"
    colab.prepare("1_one", "smoke", costs.EVERYTHING, 1)
    assert "  * everything       2 runs, about 2 min" in capsys.readouterr().out  # 40 s, and a minute
    assert (os.environ["SUITE_RETRAIN"], os.environ["SUITE_MINUTES"]) == ("*", "1")
    colab.prepare("1_one")  # the cell again with its defaults: everything is as it was
    assert "SUITE_RETRAIN" not in os.environ and "SUITE_MINUTES" not in os.environ


def test_what_the_environment_says_stays(capsys, monkeypatch):
    monkeypatch.setenv("SUITE_MINUTES", "7")
    colab.prepare("1_one", "quick", minutes=3)
    printed = capsys.readouterr().out
    assert "SUITE_PROFILE=smoke was set outside of this notebook and stays\n" in printed and "profile: smoke\n" in printed
    assert "SUITE_MINUTES=7 was set outside" in printed and os.environ["SUITE_MINUTES"] == "7"


def test_where_nothing_is_to_be_trained_missing_records_are_named_at_once(tmp_path, monkeypatch):
    with pytest.raises(SettingError, match="run_a, run_b have no record of the smoke profile: choose 'what is missing'"):
        colab.prepare("1_one", train=costs.NOTHING)
    for name in ("run_a", "run_b"):
        measured(tmp_path / "output" / "results", name, 1.0)
    colab.prepare("1_one", train=costs.NOTHING)


@pytest.mark.parametrize(("choices", "complaint"), [
    ({"train": "all"}, "train = 'all' is unknown; the choices are nothing, what is missing"), ({"minutes": -1}, "minutes = -1"),
    ({"minutes": float("nan")}, "minutes = nan"),
])
def test_a_choice_that_is_none_is_refused(choices, complaint):
    with pytest.raises(SettingError, match=complaint):
        colab.prepare("1_one", **choices)


def test_the_form_offers_the_choices_that_there_are():
    form = stamping.first_cell("", "1_one")
    offered = [json.loads(line.split("@param ")[1]) for line in form.splitlines() if "@param [" in line]
    assert offered == [[colab.AUTOMATIC, *settings.PROFILES], list(costs.CHOICES)]
    assert len(form.splitlines()) <= 30 and max(map(len, form.splitlines())) <= 100


def test_hours_on_a_cpu_are_not_counted_unasked(monkeypatch):
    monkeypatch.setenv("SUITE_PROFILE", "full")
    assert costs.of("1_one", costs.MISSING).runs == ("run_a",)
    for choice, minutes in ((costs.LONG, 0), (costs.MISSING, 90)):
        assert costs.of("1_one", choice, minutes).runs == ("run_a", "run_b")


def test_a_time_measured_on_a_cpu_is_scaled_to_a_gpu_and_back(monkeypatch, tmp_path):
    import torch

    results = tmp_path / "output" / "results"
    measured(results, "run_a", 100.0)
    measured(results, "run_b", 30.0, device="NVIDIA T4")
    monkeypatch.setattr(costs, "gpu_share", lambda: 0.1)
    assert costs.of("1_one", costs.EVERYTHING).seconds == pytest.approx(100 + 300)
    monkeypatch.setattr(settings, "device", lambda: torch.device("cuda"))
    assert costs.of("1_one", costs.EVERYTHING).seconds == pytest.approx(10 + 30)
    monkeypatch.setattr(costs, "gpu_share", lambda: None)
    assert costs.of("1_one", costs.EVERYTHING).text == "2 runs, about 30 s and 1 not measured yet"


def test_the_share_of_a_gpu_comes_from_the_benchmark(monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "MEASURED", tmp_path / "none")
    assert costs.gpu_share() is None
    monkeypatch.undo()
    assert 0 < costs.gpu_share() < 1


@pytest.fixture
def session(monkeypatch):
    """What a kernel has run: three cells, the last one running."""
    cells = ["colab.prepare('1_one')", "print(2)", "colab.pack()"]
    monkeypatch.setattr(handing_in, "typed_cells", lambda: cells)
    return cells


def ipynb(cells):
    return {"cells": [{"cell_type": "code", "metadata": {}, "source": [source], "outputs": [],
                       "execution_count": None if source == "colab.pack()" else count} for count, source in enumerate(cells, 2)],
            "metadata": {}, "nbformat": 4, "nbformat_minor": 0}


@pytest.mark.parametrize("answers", [True, False])
def test_the_zip_holds_what_the_grade_needs(runtime, calls, session, capsys, monkeypatch, answers):
    def blocking_request(name, **options):
        if not answers:
            raise TimeoutError
        return {"ipynb": ipynb(session)}

    monkeypatch.setattr(sys.modules["google.colab"], "_message", types.SimpleNamespace(blocking_request=blocking_request),
                        raising=False)
    (runtime / "notebooks").mkdir()
    source = "# %%\ncolab.prepare('1_one')\n\n# %%\nprint(2)\n\n# %%\ncolab.pack()\n"
    (runtime / "notebooks" / "1_one.py").write_text(source, encoding="utf-8")
    output = runtime / "build" / "smoke"
    record(output, "run_a")
    (output / "results" / ".unfinished").write_text("")
    (output / "results" / "seeds").mkdir()
    (output / "results" / "seeds" / "run_a.json").write_text("{}")
    colab.prepare("1_one")
    for _ in range(2):  # again: the zip is replaced, and is not in itself
        colab.pack()
    with zipfile.ZipFile(output / "hand_in.zip") as archive:
        assert archive.namelist() == ["results/run_a.json", "results/run_a.npz", "results/seeds/run_a.json", "figures/run_a.png",
                                      "notebooks/1_one.py", *["notebooks/1_one.ipynb"] * answers]
        archive.extractall(runtime / "unpacked")
    printed = capsys.readouterr().out
    assert handing_in.end_line(session) in printed and "files.download('models/build/smoke/hand_in.zip')" in printed
    assert ("this notebook is not in it: File > Download" in printed) == (not answers)
    folder = runtime / "unpacked" / "notebooks"
    found = notebooks.check("1_one", folder, folder)
    assert found == notebooks.Check("1_one", "fresh") if answers else found.state == "missing"
