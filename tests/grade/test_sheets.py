"""A course that handed out some sheets gets the items and totals of these sheets."""

import csv
import json
import shutil
import subprocess
import sys

import pytest

from helpers import settings
from helpers.grade import classes, limits, marking, reference
from helpers.grade.submission import Unreadable
from helpers.results import deliverables


@pytest.fixture(scope="module")
def facts_file(facts, tmp_path_factory):
    path = tmp_path_factory.mktemp("facts") / reference.FILE
    path.write_text(reference.to_json(facts))
    return path


def grade(*words):
    command = [sys.executable, "-m", "helpers", "grade", *map(str, words)]
    return subprocess.run(command, cwd=settings.PROJECT_ROOT, capture_output=True, text=True, check=False)


def possible(*sheets):
    """The points of the runs and answers of sheets, and the weights of their notebooks."""
    entries = [("run", entry) for entry in deliverables.asked_runs()] + [("answer", entry) for entry in deliverables.answers()]
    mine = [(kind, entry) for kind, entry in entries if entry["sheet"] in sheets]
    notebooks = {entry["notebook"] for kind, entry in mine if kind == "run"}
    points = sum(entry.get("points", marking.WEIGHTS[kind]) for kind, entry in mine)
    runs = {entry["id"] for kind, entry in mine if kind == "run"}
    return points + marking.WEIGHTS["notebook"] * len(notebooks), runs, notebooks


def test_the_sheets_have_their_own_items_and_together_all():
    for sheets in (["haifa24"], ["mila20", "berkeley24"]):
        points, runs, notebooks = possible(*sheets)
        items = marking.plan(sheets)
        assert sum(item.points for item in items) == points
        assert {item.name for item in items if item.kind == "run"} == runs
        assert {item.name for item in items if item.kind == "notebook"} == notebooks
        assert {item.sheet for item in items} <= {*sheets, ""}
    assert marking.plan(deliverables.sheets()) == marking.plan()
    parts = [item for sheet in deliverables.sheets() for item in marking.plan([sheet]) if item.kind != "notebook"]
    assert parts == [item for item in marking.plan() if item.kind != "notebook"]


@pytest.mark.parametrize("text", ["haifa23", "haifa24,,mila20", ""])
def test_an_unknown_sheet_names_the_known_ones(text):
    with pytest.raises(Unreadable, match="the sheets are berkeley24, berkeley19, haifa24, mit24, mila20"):
        marking.sheets_named(text)


def test_one_submission_is_marked_for_its_sheet(copy, tmp_path, facts_file):
    (copy / "results" / "mila_p1_vae.json").unlink()  # of another sheet: nobody asks for it
    done = grade(copy, "--reference", facts_file, "--sheet", "haifa24,mit24", "--gradescope", tmp_path / "results.json")
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "results.json").read_text())
    points, runs, _ = possible("haifa24", "mit24")
    assert {test["name"].split(":")[0] for test in content["tests"] if "run" in test["tags"]} == runs
    by_hand = sum(item.points for item in limits.mark(copy, facts_file, sheets=["haifa24", "mit24"]) if item.score is None)
    assert content["score"] == points - by_hand
    unknown = grade(copy, "--reference", facts_file, "--sheet", "mila21")
    assert unknown.returncode == 2 and "'mila21'" in unknown.stderr and "mila20" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_a_class_is_marked_for_its_sheet_and_again_for_another(copy, tmp_path, facts_file):
    for name in ("ann", "bob"):
        shutil.copytree(copy, tmp_path / "class" / name)
    (tmp_path / "class" / "bob" / "results" / "haifa_q1.json").unlink()
    (tmp_path / "class" / "cat.zip").write_bytes(b"no zip")
    words = ("--class", tmp_path / "class", "--reference", facts_file, "--csv", tmp_path / "marks.csv")
    for sheet, again in (("haifa24", False), ("haifa24", True), ("mila20", False)):
        done = grade(*words, "--sheet", sheet)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("marked before") == 3 * again
        points, _, _ = possible(sheet)
        rows = list(csv.DictReader((tmp_path / "marks.csv").open()))
        assert {row["sheet"] for row in rows} == {sheet, ""}
        totals = {row["student"]: row for row in csv.DictReader((tmp_path / "marks.totals.csv").open())}
        assert {float(row["of"]) + float(row["by_hand"]) for row in totals.values()} == {points}
        assert float(totals["cat"]["points"]) == 0 < float(totals["bob"]["points"])
        lost = float(totals["ann"]["points"]) - float(totals["bob"]["points"])
        assert lost == (marking.WEIGHTS["run"] if sheet == "haifa24" else 0)
    assert grade(*words, "--sheet", "none").returncode == 2


def test_the_marks_of_other_sheets_are_no_marks_of_these(facts_file):
    versions = {classes._version(facts_file, sheets) for sheets in ([], ["haifa24"], ["mila20"], ["mila20", "haifa24"])}
    assert len(versions) == 4
    assert classes._version(facts_file, ["mila20", "haifa24"]) == classes._version(facts_file, ["haifa24", "mila20"])
