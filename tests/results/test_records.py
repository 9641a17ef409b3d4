"""Records: run or load or resume, digests, spread, and what faults leave behind."""

import dataclasses
import json
import os
import subprocess
import sys

import fake_suite
import numpy as np
import pytest
import torch

from helpers import files, settings
from helpers.results import records, weights
from helpers.results.records import Record, RecordError
from helpers.suite import Outcome, Run, Suite, run

NOTEBOOK = '''
import numpy as np
from helpers.suite import Outcome

SCALE = 2.0

def helper(x):
    """Docstring."""
    return SCALE * x

def train(run, value):
    CALLS.append(value)
    arrays = {"curve": np.arange(3.0) * helper(value)}
    return Outcome({"loss": [value, value + 2.0]}, arrays, seeds=[5, 6], budget=(4, 4, "steps"))

def unrelated():
    return 1
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one notebook; returns the suite factory, the run function and the list of its calls."""
    (tmp_path / "notebooks").mkdir()
    source = tmp_path / "notebooks" / "9_test.py"
    source.write_text(NOTEBOOK)
    monkeypatch.setattr(settings, "PROJECT_ROOT", tmp_path)
    module = {"CALLS": []}
    exec(NOTEBOOK, module)
    return source, module["train"], module["CALLS"]


def make(run_id, function, config, **options):
    """The record of a run of one configuration, as a notebook would ask for it."""
    return Suite("9_test", {run_id: run(function, full=config, **options)}).run(run_id)


def test_a_run_trains_once_and_is_loaded_afterwards(project):
    _, train, calls = project
    first = make("alpha", train, {"value": 1.0})
    second = make("alpha", train, {"value": 1.0})
    assert calls == [1.0]
    assert first.content == second.content
    assert second.metrics == {"loss": 2.0}
    assert second.spread["loss"] == {"std": pytest.approx(2**0.5), "min": 1.0, "max": 3.0, "n": 2}
    assert second.arrays["curve"].tolist() == [0.0, 2.0, 4.0]
    assert second["budget"] == {"done": 4, "planned": 4, "unit": "steps"}


def test_another_configuration_and_a_request_by_name_train_again(project, monkeypatch):
    _, train, calls = project
    make("alpha", train, {"value": 1.0})
    make("alpha", train, {"value": 3.0})
    monkeypatch.setenv("SUITE_RETRAIN", "beta,al*")
    make("alpha", train, {"value": 3.0})
    assert calls == [1.0, 3.0, 3.0]


def test_a_cpu_starts_a_long_full_run_only_when_somebody_granted_it(project, monkeypatch, capsys):
    _, train, calls = project
    monkeypatch.setenv("SUITE_PROFILE", "full")
    monkeypatch.setattr(settings, "device", lambda: torch.device("cpu"))
    assert make("alpha", train, {"value": 1.0}, long=True) is None
    assert "alpha: not recorded yet" in capsys.readouterr().out
    for name, value in (("SUITE_MINUTES", "5"), ("SUITE_RETRAIN", "alpha")):
        with monkeypatch.context() as granted:
            granted.setenv(name, value)
            assert make("alpha", train, {"value": calls[-1] + 1 if calls else 1.0}, long=True).id == "alpha"
    assert calls == [1.0, 2.0]
    assert make("alpha", train, {"value": 2.0}, long=True).metrics  # a record is shown without being asked for
    assert make("alpha", train, {"value": 1.0}, long=True) is None  # one of another configuration is not
    assert Suite("9_test", {"gamma": run(train, full={"value": 3.0}, long=True)}).run("gamma", asked=True).id == "gamma"
    monkeypatch.setattr(settings, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(settings, "environment", lambda: {"device": "a GPU"})
    assert make("beta", train, {"value": 4.0}, long=True).id == "beta"


def test_smaller_profiles_say_only_what_differs_from_the_larger_one(project, monkeypatch):
    _, train, _ = project
    declared = run(train, full={"epochs": 20, "width": 128}, quick={"epochs": 2}, smoke={"width": 8})
    assert [declared.config(profile) for profile in ("full", "quick", "smoke")] == [
        {"epochs": 20, "width": 128}, {"epochs": 2, "width": 128}, {"epochs": 2, "width": 8}]
    with pytest.raises(TypeError, match="train: smoke sets witdh, which full does not have"):
        run(train, full={"width": 128}, smoke={"witdh": 8})


def test_an_undeclared_run_is_refused_by_name(project):
    with pytest.raises(KeyError, match="9_test declares no run 'q1_a_dset3'; the nearest are q1_a_dset"):
        Suite("9_test", {}).run("q1_a_dset3")


def test_a_run_ages_with_the_run_that_it_rests_on(project, capsys):
    _, train, calls = project
    runs = {"alpha": run(train, full={"value": 1.0}), "beta": run(train, full={"value": 2.0}, needs=["alpha"])}
    with pytest.raises(RecordError, match="beta rests on alpha, which has no record yet; first: python -m helpers train alpha"):
        Suite("9_test", runs).run("beta")
    Suite("9_test", runs).run("alpha")
    record = Suite("9_test", runs).run("beta")
    assert not records.rests_on_another(record)
    make("alpha", train, {"value": 5.0})
    assert records.rests_on_another(record) and records.state(record) == "stale"
    Suite("9_test", runs).run("beta")
    assert "STALE" in capsys.readouterr().out and calls == [1.0, 2.0, 5.0]


@pytest.mark.usefixtures("project")
def test_weights_lie_beside_their_record_and_are_checked():
    model = torch.nn.Linear(3, 2)

    def train(run, size):
        large = {"kernel": torch.arange(float(size)), "steps": torch.tensor(7)}
        return Outcome({"loss": 1.0}, weights={"model": model, "large": large})

    path = make("alpha", train, {"size": 10}).path
    again = Suite("9_test").weights("alpha")
    assert torch.equal(again["model"]["weight"], model.weight) and again["large"]["steps"] == 7
    assert path.with_suffix(".safetensors").stat().st_size < weights.LIMIT
    make("alpha", train, {"size": 300_000})  # too large for git: in half precision, elsewhere
    assert not weights.place(path, bytes(weights.LIMIT + 1)).is_relative_to(path.parent)
    assert not path.with_suffix(".safetensors").exists()
    halves = Suite("9_test").weights("alpha")["large"]["kernel"]
    assert halves.dtype == torch.float32 and torch.equal(halves, torch.arange(300_000.0).half().float())
    damaged = weights.heavy_folder() / "alpha.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.raises(RecordError, match="is not the file that alpha.json names"):
        Suite("9_test").weights("alpha")
    damaged.unlink()
    assert Suite("9_test").weights("alpha") is None


def test_editing_code_makes_a_record_stale_and_editing_prose_does_not(project, capsys):
    source, train, calls = project
    record = make("alpha", train, {"value": 1.0})
    source.write_text(NOTEBOOK.replace("Docstring.", "Other words.").replace("return 1", "return 2") + "# a remark\n")
    assert records.state(record) == "recorded"
    source.write_text(NOTEBOOK.replace("SCALE = 2.0", "SCALE = 3.0"))
    assert records.state(record) == "stale"
    make("alpha", train, {"value": 1.0})
    assert calls == [1.0]  # shown and called stale, never trained again unasked
    assert "STALE" in capsys.readouterr().out


def test_a_smaller_profile_never_overwrites_a_larger_ones_record(project, monkeypatch):
    _, train, calls = project
    monkeypatch.setenv("SUITE_PROFILE", "full")
    path = make("alpha", train, {"value": 1.0}).path
    before = path.read_bytes()
    monkeypatch.setenv("SUITE_PROFILE", "quick")
    with pytest.raises(RecordError, match="is a record of the full profile; the quick profile does not overwrite it"):
        make("alpha", train, {"value": 1.0})
    assert path.read_bytes() == before
    assert calls == [1.0]


def test_a_shorter_training_of_the_same_run_leaves_the_longer_record(project, monkeypatch, capsys):
    _, train, calls = project

    steps = [3]

    def stopped(run, value):
        return dataclasses.replace(train(run, value), budget=(steps[0], 4, "steps"))

    stopped.__name__ = "train"  # the code that a record is of is looked up by name
    monkeypatch.setenv("SUITE_RETRAIN", "alpha")
    longer = make("alpha", stopped, {"value": 1.0})
    before = longer.path.read_bytes()
    steps[0] = 2
    assert make("alpha", stopped, {"value": 1.0}).content == longer.content
    assert longer.path.read_bytes() == before
    assert "the record there came further: it stays" in capsys.readouterr().out
    assert make("alpha", stopped, {"value": 2.0})["budget"]["done"] == 2  # another configuration is another run
    steps[0] = 4
    assert make("alpha", stopped, {"value": 2.0}).complete
    assert len(calls) == 4


@pytest.mark.parametrize("failing_write", [1, 2])
def test_a_failing_write_leaves_the_old_record_intact(project, monkeypatch, failing_write):
    _, train, _ = project
    path = make("alpha", train, {"value": 1.0}).path
    before = {name: path.with_suffix(name).read_bytes() for name in (".json", ".npz")}

    writes = []

    def full_disk(descriptor):
        writes.append(descriptor)
        if len(writes) == failing_write:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make("alpha", train, {"value": 5.0})
    assert {name: path.with_suffix(name).read_bytes() for name in before} == before
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["alpha.json", "alpha.npz"]


def test_metrics_that_are_not_finite_are_not_written(project):
    _, train, _ = project
    with pytest.raises(RecordError, match="metric loss is not finite"):
        make("alpha", train, {"value": float("inf")})
    assert not (settings.output_folder() / "results").exists()


def test_a_damaged_record_says_what_to_do(project):
    _, train, _ = project
    path = make("alpha", train, {"value": 1.0}).path
    path.write_text(path.read_text()[:40])
    with pytest.raises(RecordError, match="alpha.json is not a readable record.*train alpha --again"):
        make("alpha", train, {"value": 1.0})


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def a_list(path):
    path.write_text("[3]")


def other_signs(path):
    path.write_bytes(path.read_text().encode("utf-16"))


def deep(path):
    path.write_text("[" * 100_000)


def changed(**fields):
    def damage(path):
        fake_suite.edit(path, lambda content: content.update(fields))

    return damage


@pytest.mark.parametrize(("damage", "said"), [
    (a_folder, "it is not a file"), (a_list, "wrong form"), (other_signs, ""), (deep, ""),
    pytest.param(a_pipe, "it is not a file", marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")),
    (changed(budget={"done": "all", "planned": None, "unit": 3}), "budget"), (changed(environment=None), "wrong form"),
    (changed(metrics=[1.0, 2.0]), "wrong form"), (changed(seconds="long"), "seconds"),
    (changed(shown=7), "at place 7 of"), (changed(shown="first"), "at place first of"),
    (changed(dataset={"digest": "x"}), "no name"), (changed(figures=["a.png"]), "wrong form"),
    (changed(profile="huge"), "profile"), (changed(config=[["value", 1.0]]), "config"),
])
def test_every_kind_of_damage_is_one_clear_error(project, damage, said):
    _, train, _ = project
    path = make("alpha", train, {"value": 1.0}).path
    damage(path)
    with pytest.raises(RecordError, match=rf"alpha.json is not a readable record \(.*{said}.*train alpha --again"):
        make("alpha", train, {"value": 1.0})


def test_a_record_under_another_name_is_not_that_of_the_run(project):
    _, train, _ = project
    path = make("alpha", train, {"value": 1.0}).path
    path.rename(path.with_name("beta.json"))
    with pytest.raises(RecordError, match=r"beta.json is the record of 'alpha': give it that name"):
        records.load("beta")


def test_nothing_is_trained_where_a_folder_stands_in_the_way_of_the_record(project):
    _, train, calls = project
    (settings.output_folder() / "results" / "alpha.json").mkdir(parents=True)
    with pytest.raises(RecordError, match=r"alpha.json is not a file, .*: move it away"):
        Suite("9_test", {"alpha": run(train, full={"value": 1.0})}).run("alpha", again=True)
    assert calls == []


def test_arrays_that_are_not_the_records_are_refused(project):
    _, train, _ = project
    path = make("alpha", train, {"value": 1.0}).path
    np.savez(path.with_suffix(".npz"), curve=np.zeros(3))
    with pytest.raises(RecordError, match=r"alpha\.npz is missing or not the file that alpha\.json names"):
        _ = Record(path).arrays


def test_a_figure_has_the_same_bytes_each_time_and_its_digest_is_in_the_record(project):
    from helpers import plotting

    _, train, _ = project
    suite = Suite("9_test")
    record = make("alpha", train, {"value": 1.0})
    images = []
    for _ in range(2):
        figure, axis = plotting.plt.subplots()
        axis.plot(record.arrays["curve"])
        plotting.title(figure, "A curve", record)
        suite.figure(figure, "alpha.png", record)
        images.append((suite.figures / "alpha.png").read_bytes())
    assert images[0] == images[1]
    assert Record(record.path)["figures"] == {"alpha.png": files.file_digest(suite.figures / "alpha.png")}


def test_a_figure_does_not_undo_what_another_process_recorded(project, monkeypatch):
    from helpers import plotting

    _, train, _ = project
    suite = Suite("9_test")
    old = make("alpha", train, {"value": 1.0})
    new = make("alpha", train, {"value": 3.0})  # as another process would, while the notebook holds the old record
    with pytest.raises(RecordError, match=r"alpha.json is not the record that curve.png was drawn from"):
        suite.figure(plotting.plt.subplots()[0], "curve.png", old)
    assert Record(new.path).content == new.content


def test_two_processes_write_one_file_and_neither_fails(tmp_path):
    code = f"""
from pathlib import Path
from helpers.files import write_together
for round in range(100):
    write_together({{Path({str(tmp_path)!r}) / name: b"x" * 1000 for name in ("a.json", "a.npz")}})
"""
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=settings.PROJECT_ROOT) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.npz"]


def test_a_record_tells_its_stand_in_and_its_cut_budget(project):
    _, train, _ = project
    record = make("alpha", train, {"value": 1.0})
    record.content["dataset"] = {"name": "digits", "stand_in": True, "stands_for": "mnist"}
    record.content["budget"] = {"done": 3000, "planned": 100000, "unit": "updates"}
    assert record.remark == "on digits, a stand-in for mnist; 3,000 of 100,000 updates; smoke profile"


def test_seeds_of_a_run_differ_by_purpose_and_repeat():
    run = Run("alpha", 0, "f" * 64, None)
    assert run.seed_for("order") == Run("beta", 0, "", None).seed_for("order") != run.seed_for("noise")
    assert len(set(run.seeds(50))) == 50


KILLED = '''
import sys, time
import numpy as np, torch
from helpers import settings
from helpers.suite import Outcome, Suite, run
from helpers.train.training import Batches, GradientUpdate, fit
from pathlib import Path

settings.PROJECT_ROOT = Path(sys.argv[1])

def train(run, steps):
    with torch.random.fork_rng():
        torch.manual_seed(run.seed_for("initialisation"))
        model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    data = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    batches = Batches(data, 8, seed=run.seed_for("order"))
    def loss(batch, generator, step):
        if len(sys.argv) > 2:
            time.sleep(0.005)  # slow enough to be killed in the middle
        noise = 0.1 * torch.randn(len(batch), 1, generator=generator)
        return ((model(batch) - batch.sum(1, keepdim=True) - noise) ** 2).mean()[None]
    update = GradientUpdate(model, loss, torch.optim.Adam(model.parameters(), 1e-2))
    history = fit(update, batches, steps=steps, checkpoint_seconds=0.05, **run.training())
    arrays = {"terms": history.terms, "weights": model[0].weight.detach().numpy()}
    return Outcome({"loss": float(history.terms[-8:].mean())}, arrays, budget=(history.done, history.planned, "steps"))

suite = Suite("9_test")
suite.source_path = Path(sys.argv[1]) / "notebooks" / "9_test.py"
suite.runs["killed"] = run(train, full={"steps": 300})
suite.run("killed")
'''


def test_kill_9_in_the_middle_and_again_gives_the_same_bits(tmp_path):
    (tmp_path / "notebooks").mkdir()
    script = tmp_path / "notebooks" / "9_test.py"
    script.write_text(KILLED)
    results = {}
    for name in ("whole", "killed"):
        environment = os.environ | {"SUITE_OUTPUT": str(tmp_path / name), "PYTHONPATH": str(files.Path(__file__).parents[2])}
        command = [sys.executable, str(script), str(tmp_path)]
        if name == "killed":
            process = subprocess.Popen([*command, "slowly"], env=environment, stdout=subprocess.DEVNULL)
            checkpoints = tmp_path / name / "build" / "checkpoints"
            while not list(checkpoints.glob("killed-*.pt")):
                assert process.poll() is None, "the run ended before its first checkpoint"
            process.kill()
            assert process.wait() == -9
            assert not (tmp_path / name / "results").exists()
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        assert ("resumed at step" in output) == (name == "killed")
        path = tmp_path / name / "results" / "killed.json"
        results[name] = (json.loads(path.read_text())["metrics"], path.with_suffix(".npz").read_bytes())
        assert not list((tmp_path / name / "build" / "checkpoints").glob("*.pt"))
    assert results["whole"] == results["killed"]
