"""The plan: what is left, how long it takes, and an end in time that loses nothing."""

import json
import re
import signal
import subprocess
import sys
import time

import fake_suite
import pytest

from helpers import settings
from helpers.locks import Lock
from helpers.publish import notebooks, planning
from helpers.results import deliverables
from helpers.work import definitions

SCRIPT = '''# %%
import os, sys, time
from pathlib import Path
sys.path.insert(0, "ROOT")
Path("OUT/started").write_text("yes")
BODY
'''
ENTRIES = [
    {"id": "thing_dset1", "notebook": "9_small", "figures": [], "metrics": {"loss": {"sheet": 2.0, "target": 1.0}}},
    {"id": "thing_dset2", "notebook": "9_small", "figures": []},
    {"id": "other", "notebook": "9_small", "figures": []},
]
CONTENT = {"run": ENTRIES, "support": [{"id": "classifier", "notebook": "9_small", "text": "serves the others"}],
           "data": {"published": ["svhn"]}}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A suite of one notebook and three runs; returns a function that writes the notebook's last lines."""
    for folder in ("notebooks", "output"):
        (tmp_path / folder).mkdir(exist_ok=True)
    for place in (notebooks, definitions):
        monkeypatch.setattr(place, "FOLDER", tmp_path / "notebooks")
    monkeypatch.setattr(deliverables, "content", lambda: CONTENT)
    script = str(tmp_path / "notebooks" / "9_small.py")
    monkeypatch.setattr(planning, "training_command", lambda asked: [sys.executable, script, *asked])

    def write(body):
        text = SCRIPT.replace("ROOT", str(settings.PROJECT_ROOT)).replace("OUT", str(tmp_path)).replace("BODY", body)
        (tmp_path / "notebooks" / "9_small.py").write_text(text)

    write("print('done')")
    return write


def record(run_id, **changes):
    """Write a record into the output folder."""
    entry = next(entry for entry in ENTRIES if entry["id"] == run_id)
    path = settings.output_folder() / "results" / f"{run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = fake_suite.record(entry, **changes)
    path.with_suffix(".npz").write_bytes(fake_suite.arrays_of(content))
    path.write_text(json.dumps(content))


def test_a_run_is_estimated_from_its_own_rate_and_from_nothing_else(small, tmp_path):
    record("thing_dset1", budget={"done": 100, "planned": 400, "unit": "steps"}, seconds=60.0)
    folder = settings.checkpoint_folder()
    folder.mkdir(parents=True)
    assert planning.tasks()[0].seconds_left == 240.0  # without its checkpoint it begins anew
    for name in ("thing_dset1-model-0123.pt", "thing_dset2-model-0123.pt"):
        (folder / name).write_bytes(b"")
    first, second, other = planning.tasks()
    assert (first.seconds_left, first.budget, first.left) == (180.0, "100 of 400 steps", "about 3 min")
    assert (second.state, second.seconds_left, second.left) == ("begun", None, "not measured")
    assert (other.state, other.seconds_left, other.left) == ("missing", None, "not measured")


def test_the_status_has_a_row_a_metric_and_one_for_a_run_without_a_record(small):
    record("thing_dset1", metrics={"loss": 1.5})
    rows = list(planning.status_rows(planning.tasks()))
    assert rows[0] == ["thing_dset1", "stale", "780 steps", "", "loss", "1.5000", "2.0000", "1.0000", "-"]
    assert [row[1] for row in rows[1:]] == ["missing", "missing"]


def test_what_is_left_is_trained_and_built_and_then_there_is_nothing_to_do(small, tmp_path, capfd):
    for entry in ENTRIES:
        record(entry["id"])
    assert planning.train_and_build()
    assert "to be built" in capfd.readouterr().out
    assert notebooks.check("9_small", settings.output_folder() / "notebooks").state == "fresh"
    assert planning.train_and_build()
    assert "nothing to do" in capfd.readouterr().out


@pytest.mark.parametrize("heard", [signal.SIG_DFL, signal.SIG_IGN], ids=["in a terminal", "in the background of a script"])
def test_the_end_comes_in_time(small, tmp_path, capfd, heard):
    small("time.sleep(60)")
    started, before = time.monotonic(), signal.signal(signal.SIGINT, heard)
    try:
        assert not planning.train_and_build(minutes=0.05)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 40
    assert (tmp_path / "started").exists()
    assert "minutes are over in 9_small" in capfd.readouterr().out


def test_the_time_of_a_sitting_is_not_a_budget_of_its_runs(small, tmp_path):
    small(f"Path({str(tmp_path)!r}, 'minutes').write_text(os.environ.get('SUITE_MINUTES', 'no budget'))")
    planning.train_and_build(minutes=5)  # a budget counts all sittings: the second would end at once
    assert (tmp_path / "minutes").read_text() == "no budget"


@pytest.mark.parametrize(("counts", "cause"), [([4, 5], "out of memory"), ([4, 4], r"its process was killed \(SIGKILL\)")])
def test_a_training_that_the_system_killed_is_named_with_the_cause(small, monkeypatch, counts, cause):
    numbers = iter(counts)
    monkeypatch.setattr(planning.kernels, "kills", lambda: next(numbers, counts[-1]))
    small("os.kill(os.getpid(), 9)")
    with pytest.raises(notebooks.NotebookError, match=rf"^the training of 9_small: {cause}.*Its checkpoints are kept"):
        planning.train_and_build()


def test_a_script_that_fails_is_an_error_that_names_it(small):
    small("raise ValueError('no')")
    with pytest.raises(notebooks.NotebookError, match="the training of 9_small ended with status 1"):
        planning.train_and_build()


def test_a_name_that_is_no_run_is_refused_and_a_supporting_run_is_found(small, monkeypatch):
    for entry in ENTRIES:
        record(entry["id"])
    fake_suite.edit(settings.output_folder() / "results" / "other.json", lambda content: content.update(id="classifier"))
    (settings.output_folder() / "results" / "other.json").rename(settings.output_folder() / "results" / "classifier.json")
    record("other")
    monkeypatch.setenv("SUITE_RETRAIN", "thing_*, classifier")
    assert [task.run_id for task in planning.left_to_do(more=False)["9_small"]] == ["thing_dset1", "thing_dset2", "classifier"]
    monkeypatch.setenv("SUITE_RETRAIN", "thing_*,clasifier")
    with pytest.raises(settings.SettingError, match="SUITE_RETRAIN names no run with clasifier"):
        planning.left_to_do(more=False)


def test_a_damaged_record_is_shown_and_trained_again(small):
    for entry in ENTRIES:
        record(entry["id"])
    (settings.output_folder() / "results" / "other.json").write_text("{")
    assert [task.state for task in planning.tasks()] == ["stale", "stale", "unreadable"]
    assert [task.run_id for task in planning.left_to_do(more=False)["9_small"]] == ["other"]


def test_the_status_says_what_is_damaged_and_how_to_mend_it_and_a_file_of_nobody_stops_nothing(small, capsys):
    for entry in ENTRIES:
        record(entry["id"])
    results = settings.output_folder() / "results"
    (results / "thing_dset2.npz").unlink()
    (results / "other.npz").write_bytes(b"PK\x03\x04 cut")
    (results / "classifier.json").write_text("{}")
    (results / "notes of mine.json").write_text("not a record")
    assert planning.status(None) == 0
    shown = capsys.readouterr().out
    for name in ("thing_dset2", "other", "classifier"):
        assert re.search(rf"^{name}: .*train {name} --again", shown, re.MULTILINE)
    left = [(task.run_id, task.state) for task in planning.left_to_do(more=False)["9_small"]]
    assert left == [(name, "unreadable") for name in ("thing_dset2", "other", "classifier")]


def test_drawn_house_numbers_count_as_none_where_the_photographs_are_asked_for(small, monkeypatch):
    for entry in ENTRIES:
        record(entry["id"])
    fake_suite.edit(settings.output_folder() / "results" / "other.json",
                    lambda content: content.update(dataset={"name": "street_digits", "stand_in": True, "stands_for": "svhn"}))
    assert planning.left_to_do(more=False) == {"9_small": []}
    monkeypatch.setenv("SUITE_HOUSE_NUMBERS", "svhn")
    assert [task.run_id for task in planning.left_to_do(more=False)["9_small"]] == ["other"]


def test_every_run_is_planned_the_dirac_games_among_them():
    assert {"dirac", "q1_a_dset1", "cifar10_w1_3"} <= {task.run_id for task in planning.tasks()}


def test_a_cut_run_is_only_gone_on_with_when_asked(small, monkeypatch):
    monkeypatch.setattr(planning.records, "state", lambda record: "recorded" if record.complete else "partial")
    for entry, done in zip(ENTRIES, (1, 2, 2), strict=True):
        record(entry["id"], budget={"done": done, "planned": 2, "unit": "steps"})
    assert planning.left_to_do(more=False) == {"9_small": []}
    assert [task.run_id for task in planning.left_to_do(more=True)["9_small"]] == ["thing_dset1"]


def test_what_the_plan_lists_is_asked_for_by_name_once(small, tmp_path, monkeypatch):
    for entry in ENTRIES[1:]:
        record(entry["id"])
    monkeypatch.setenv("SUITE_RETRAIN", "thing_dset2")
    assert [task.run_id for task in planning.left_to_do(more=False)["9_small"]] == ["thing_dset1", "thing_dset2"]
    small(f"with open({str(tmp_path / 'asked')!r}, 'a') as file: file.write(','.join(sys.argv[1:]) + ';')")
    planning.train_and_build()
    assert (tmp_path / "asked").read_text().startswith("thing_dset1,thing_dset2;")  # trained by name; the build loads


def test_runs_are_trained_by_this_python_under_the_profile_in_force():
    words = planning.training_command(["q1_a_dset1"])
    assert words == [sys.executable, "-m", "helpers", "--profile", "smoke", "train", "q1_a_dset1"]


@pytest.mark.parametrize(("seconds", "words"), [(12.0, "12 s"), (600.0, "10 min"), (9000.0, "2.5 h")])
def test_durations_are_said_in_the_unit_that_fits(seconds, words):
    assert planning.duration(seconds) == words


def test_the_interpreter_of_the_script_is_this_one(small, tmp_path):
    small(f"Path({str(tmp_path)!r}, 'python').write_text(sys.executable)")
    planning.train_and_build()
    assert (tmp_path / "python").read_text() == sys.executable


@pytest.mark.parametrize("deaf", [1, 99])
def test_a_child_that_swallows_an_interrupt_is_told_again_and_leaves_no_lock(tmp_path, monkeypatch, deaf):
    """As an import or a destructor does; a child that never listens is killed, and its lock goes with it."""
    monkeypatch.setattr(planning, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(settings, "checkpoint_folder", lambda: tmp_path)
    script = ("import signal, sys, time\nfrom pathlib import Path\nfrom helpers.locks import Lock\n"
              "heard = []\ndef hear(number, frame):\n    heard.append(1)\n    if len(heard) > int(sys.argv[2]):\n"
              "        lock.release()\n        sys.exit(130)\n"
              "signal.signal(signal.SIGINT, hear)\nlock = Lock(Path(sys.argv[1]) / 'alpha-0.lock')\nlock.take()\n"
              "print('held', flush=True)\nwhile True:\n    time.sleep(0.01)\n")
    command = [sys.executable, "-c", script, str(tmp_path), str(deaf)]
    child = subprocess.Popen(command, cwd=settings.PROJECT_ROOT, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    other = Lock(tmp_path / "beta-0.lock")
    assert other.take() is None
    planning._interrupt(child)
    assert child.returncode == (130 if deaf == 1 else -signal.SIGKILL)
    assert [path.name for path in tmp_path.glob("*.lock")] == ["beta-0.lock"]
    other.release()
