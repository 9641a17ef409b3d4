"""The grade as a command: no code of the copy runs, output formats, the packaged autograder."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import fake_suite
import pytest

from helpers import settings
from helpers.__main__ import parser_for
from helpers.grade import formats, gradescope, marking
from helpers.grade.submission import Submission


def grade(folder, environment, reference, *words):
    """Run the command on a copy, against the suite of invented numbers."""
    command = [sys.executable, "-m", "helpers", "grade", str(folder), "--reference", str(reference), *words]
    return subprocess.run(command, cwd=settings.PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False)


def test_no_code_of_the_copy_is_run(copy, tmp_path, perfect):
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')\n"
    (copy / "helpers").mkdir()
    for place in ("helpers/__init__.py", "helpers/settings.py", "sitecustomize.py", "conftest.py", "json.py"):
        (copy / place).write_text(trap)
    for path in (copy / "notebooks").glob("*.py"):
        path.write_text(trap + path.read_text())
    grade(copy, dict(os.environ), perfect)
    assert not (tmp_path / "sprung").exists()


def test_the_formats_are_valid_and_agree(copy, capsys, facts):
    (copy / "results" / "q1_a_dset1.json").write_text("{\x00")
    items = marking.mark(Submission.of(copy), facts)
    formats.show(items)
    console = capsys.readouterr().out
    for name, write in formats.WRITERS.items():
        write(items, copy / "out" / name)
    scores = json.loads((copy / "out" / "gradescope").read_text())
    rows = list(csv.DictReader(io.StringIO((copy / "out" / "csv").read_text())))
    failed = [test["name"] for test in scores["tests"] if test.get("status") == "failed"]
    assert [name.split(":")[0] for name in failed] == ["q1_a_dset1"]
    assert {row["item"] for row in rows if row["status"] not in ("pass", "manual")} == {"q1_a_dset1"}
    assert all(test["score"] == test["max_score"] for test in scores["tests"] if test.get("status") == "passed")
    assert len(scores["tests"]) == len(items) == len({row["item"] for row in rows})
    kept = next(row for row in rows if row["item"] == "q1_a_dset2" and row["metric"] == "neg_elbo")
    assert (float(kept["value"]), float(kept["sheet_value"])) == (4.43, 4.4429)
    assert scores["score"] == sum(test.get("score", 0) for test in scores["tests"])
    passing = {item.label for item in items if item.status == "pass"}
    assert {entry["name"].split()[0] for entry in scores["leaderboard"]} <= passing
    assert any(entry["order"] == "asc" for entry in scores["leaderboard"])
    assert "1 fail" in console and "not a readable record" in console


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """An environment in which the heavy packages cannot be imported."""
    folder = tmp_path_factory.mktemp("no_torch")
    for name in ("torch", "matplotlib", "IPython", "nbclient", "jupytext", "sklearn"):
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
    # This Python comes first: it has numpy, as the autograder's own environment would.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(folder), "PATH": path}


@pytest.mark.parametrize(("missing", "status"), [(None, 0), ("results/dirac.npz", 1), ("results", 1)])
def test_the_command_needs_no_torch_and_little_time_and_tells_by_its_exit_status(copy, without_torch, missing, status, perfect):
    if missing:
        (copy / missing).rename(copy.parent / "gone")
    before = os.times()
    done = grade(copy, without_torch, perfect)
    spent = sum(os.times()[2:4]) - sum(before[2:4])
    assert done.returncode == status, done.stderr
    assert spent < 5  # seconds of processor time, of the command and its children
    assert done.stderr == ""


def spoil_number(folder):
    path = folder / "results" / "mila_p1_vae.json"
    path.write_text(path.read_text().replace("97.5,", "97.4,", 1))


def spoil_figure(folder):
    shutil.copy(folder / "figures" / "q3_dset1_samples.png", folder / "figures" / "q3_dset2_samples.png")


def spoil_answer(folder):
    fake_suite.edit(folder / "notebooks" / "2_vae_mnist.ipynb", lambda content: content.update(
        cells=[cell for cell in content["cells"] if cell["metadata"].get("tags") != ["answer:mit_p2_elbo_proof"]]))


@pytest.mark.parametrize(("spoil", "caught"), [
    (None, None), (spoil_number, "mila_p1_vae"), (spoil_figure, "q3_dset2"), (spoil_answer, "answer:mit_p2_elbo_proof"),
])
def test_the_packaged_autograder_passes_a_copy_and_catches_spoilt_ones(copy, tmp_path, without_torch, spoil, caught, perfect):
    base = tmp_path / "autograder"
    with zipfile.ZipFile(gradescope.pack(tmp_path / "autograder.zip", perfect)) as archive:
        archive.extractall(base / "source")
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
    assert modes["run_autograder"] & 0o111 and modes["setup.sh"] & 0o111
    if spoil:
        spoil(copy)
    shutil.copytree(copy, base / "submission")
    script = base / "source" / "run_autograder"
    subprocess.run(["bash", str(script)], env={**without_torch, "AUTOGRADER_BASE": str(base)}, cwd=tmp_path, capture_output=True,
                   check=True)
    tests = json.loads((base / "results" / "results.json").read_text())["tests"]
    failed = [test["name"] for test in tests if test.get("status") == "failed"]
    manual = [test["name"] for test in tests if "score" not in test]
    assert len(tests) > 50 and manual
    assert (not failed) if caught is None else failed[0].startswith(f"{caught}: ")
    assert len(failed) <= 2  # a changed number is told at its run and at its notebook


def test_the_packed_autograder_is_the_same_for_the_same_sources(tmp_path, perfect):
    first, second = (gradescope.pack(tmp_path / name, perfect) for name in ("a.zip", "b.zip"))
    assert first.read_bytes() == second.read_bytes()


def test_the_autograder_answers_even_where_nothing_can_be_marked(tmp_path, without_torch, perfect):
    base = tmp_path / "autograder"
    with zipfile.ZipFile(gradescope.pack(tmp_path / "autograder.zip", perfect)) as archive:
        archive.extractall(base / "source")
    subprocess.run(["bash", str(base / "source" / "run_autograder")], env={**without_torch, "AUTOGRADER_BASE": str(base)},
                   capture_output=True, check=True)
    assert json.loads((base / "results" / "results.json").read_text())["score"] == 0


@pytest.mark.parametrize("words", [
    ["--profile", "full", "grade", "copy"], ["--profile=full", "grade", "copy"], ["grade", "copy"],
])
def test_a_profile_that_is_called_as_a_command_is_none(words):
    assert parser_for(words).parse_args(words).folder == "copy"
