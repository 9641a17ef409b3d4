"""The student edition: nothing of the solution is in it, each notebook stops at its first task, and what is solved is graded."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
import student

from helpers import settings
from helpers.grade import handout, marking, reference, release
from helpers.grade.submission import Submission, Unreadable
from helpers.publish import percent
from helpers.results import deliverables

ROOT = settings.PROJECT_ROOT
NOTEBOOKS = reference.notebooks()
GIVEN = {name: (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8") for name in NOTEBOOKS}
RUNS = {"1_vae_2d": ("q1_a_dset1", "mit_p4_torus", "mit_p4_toroidal"),
        "5_planar_flows": ("mila_p3_transformations", "mila_p3_data_arcs_k2", "mila_p3_density_sine")}


def compact(text):
    return re.sub(r"\s", "", text)


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    """A release and what was left out of it; tests change no file of it."""
    folder = tmp_path_factory.mktemp("release") / "student"
    return folder, release.write(folder)


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A release in which notebooks 1 and 5 are solved and some of their runs are trained, small, to be handed in."""
    folder = tmp_path_factory.mktemp("solved") / "student"
    release.write(folder)
    for name, runs in RUNS.items():
        student.solve_in(folder, name)
        python(folder, folder, "-m", "helpers", "train", *runs)
    return folder


def python(folder, output, *words):
    """Run Python in a folder at the smoke profile."""
    environment = {**os.environ, "SUITE_PROFILE": "smoke", "SUITE_OUTPUT": str(output), "MPLBACKEND": "agg", "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def texts_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()}


def test_no_removed_statement_is_left_in_the_release(edition):
    folder, removed = edition
    kept = set()  # lines of the suite's code outside of the tasks
    for name, text in GIVEN.items():
        bodies = sum(removed[name].values(), ())
        lines = [line.strip() for line in handout.with_plain_definitions(name, text).split("\n")]
        kept |= {line for line in lines if lines.count(line) > bodies.count(line)}
    wanted = {line for notebook in removed.values() for code in notebook.values() for line in code if len(compact(line)) > 12}
    assert len(wanted - kept) > 400
    left = {place: found for place, text in texts_of(folder).items()
            if (found := {line.strip().removeprefix("# ") for line in text.split("\n")} & (wanted - kept))}
    assert not left


def test_no_three_statements_of_a_solution_stand_together(edition):
    folder, removed = edition
    texts = {place: compact(text) for place, text in texts_of(folder).items()}
    for notebook in removed.values():
        for task, code in notebook.items():
            for start in range(len(code) - 2):
                three = compact("".join(code[start : start + 3]))
                assert not [place for place, text in texts.items() if len(three) > 60 and three in text], (task, code[start])


def test_answers_results_and_the_quick_twins_stay_behind(edition):
    folder, _ = edition
    texts = texts_of(folder)
    assert not [place for place in texts if place.endswith((".ipynb", ".png", ".npz", ".pdf", ".tex", ".safetensors"))]
    assert not [place for place in texts if place.startswith(("results", "figures", "tests", "benchmarks", "docs"))]
    assert {place for place in texts if place.startswith("helpers/fast/")} == {"helpers/fast/__init__.py", "helpers/fast/gan.py"}
    everything = compact("".join(texts.values()))
    for text in GIVEN.values():
        for cell in percent.cells(text):
            answered = any(tag.startswith("answer:") for tag in cell.tags)
            if cell.kind == "markdown" and (answered or handout.SOLUTION in cell.tags):
                told = cell.text.split("\n\n") if answered else \
                    [part for part in cell.text.split("\n\n") if part not in handout._questions(cell.text)]
                said = [part for part in told if not part.startswith(("#", "**Drawn"))]
                assert not [part for part in said if len(part) > 60 and compact(re.sub("\n", "\n# ", part)) in everything]
    asked = tomllib.loads(texts["deliverables.toml"])
    assert not [entry for entry in asked["run"] if "verdicts" in entry]
    assert {entry["id"] for entry in asked["run"]} == {entry["id"] for entry in deliverables.asked_runs()}
    for name, words in (("notebooks/5_planar_flows.py", "PlanarStack"), ("notebooks/4_vqvae.py", "quantiser."),
                        ("notebooks/3_vae_images.py", "sampling.")):
        assert words not in texts[name]


def test_an_answer_is_its_question(edition):
    folder, _ = edition
    for entry in deliverables.answers():
        text = (folder / "notebooks" / f"{entry['notebook']}.py").read_text(encoding="utf-8")
        (cell,) = [cell for cell in percent.cells(text) if f"answer:{entry['id']}" in cell.tags]
        assert entry["text"] in cell.text
        assert not marking.written.is_answered(cell.text, entry["text"])


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_declares_its_runs_and_stops_at_its_first_task(edition, notebook, tmp_path):
    folder, removed = edition
    environment = {**os.environ, "SUITE_PROFILE": "smoke", "SUITE_OUTPUT": str(tmp_path), "MPLBACKEND": "agg", "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, f"notebooks/{notebook}.py"], cwd=folder, env=environment, capture_output=True,
                          encoding="utf-8")
    last = done.stderr.strip().split("\n")[-1]
    stopped = re.match(r"NotImplementedError: task: (\w+): \w", last)
    assert stopped and stopped[1] in removed[notebook], last
    theirs = marking.reference.declared.runs((folder / "notebooks" / f"{notebook}.py").read_text(encoding="utf-8"))
    assert theirs == marking.reference.declared.runs(GIVEN[notebook])
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_bodies_put_back_are_the_suite_with_plain_definitions(edition, notebook):
    folder, _ = edition
    released = (folder / "notebooks" / f"{notebook}.py").read_text(encoding="utf-8")
    again = student.solve(released, GIVEN[notebook], notebook)
    assert percent.code(again) == percent.code(handout.with_plain_definitions(notebook, GIVEN[notebook]))


@pytest.mark.parametrize("notebook", RUNS)
def test_a_solved_release_gives_the_same_records_to_the_bit(solved, notebook, tmp_path):
    """Notebook 1 beside the suite itself; notebook 5 beside the suite with its plain definition for the quick twin."""
    place = ROOT
    if notebook == "5_planar_flows":
        place = tmp_path / "plain"
        release.write(place)
        plain = handout.with_plain_definitions(notebook, GIVEN[notebook])
        (place / "notebooks" / f"{notebook}.py").write_text(plain, encoding="utf-8")
    python(place, tmp_path, "-m", "helpers", "train", *RUNS[notebook])
    for run_id in RUNS[notebook]:
        ours, theirs = (json.loads((folder / "results" / f"{run_id}.json").read_text(encoding="utf-8"))
                        for folder in (tmp_path, solved))
        for name in ("id", "config", "budget", "metrics", "spread", "arrays", "weights", "source", "dataset"):
            assert ours[name] == theirs[name], (run_id, name)


def saved(folder, notebook, text, ran=True):
    """Save a notebook as if its cells had been run without an error."""
    cells = [{"cell_type": cell.kind, "metadata": {"tags": list(cell.tags)}, "source": cell.text,
              **({"execution_count": number if ran else None, "outputs": []} if cell.kind == "code" else {})}
             for number, cell in enumerate(percent.cells(text), 1)]
    (folder / "notebooks" / f"{notebook}.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}}), encoding="utf-8")


@pytest.fixture(scope="module")
def course():
    """The facts of the course's own suite, without its records: tests of the way back need none."""
    return reference.facts()


def test_who_solves_only_notebook_5_is_graded_for_it(edition, solved, course, tmp_path):
    folder, _ = edition
    copy = tmp_path / "copy"
    for part in ("results", "notebooks", "figures"):
        (copy / part).mkdir(parents=True)
    for name in NOTEBOOKS:
        source = solved if name == "5_planar_flows" else folder
        text = (source / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
        (copy / "notebooks" / f"{name}.py").write_text(text, encoding="utf-8")
        saved(copy, name, text, ran=name == "5_planar_flows")
    for run_id in RUNS["5_planar_flows"]:
        for suffix in (".json", ".npz"):
            (copy / "results" / f"{run_id}{suffix}").write_bytes((solved / "results" / f"{run_id}{suffix}").read_bytes())
    items = {item.label: item for item in marking.mark(Submission.of(copy), course)}
    assert not [item for item in items.values() if any("could not be marked" in reason for reason in item.reasons)]
    mine = {entry["id"] for entry in deliverables.asked_runs() if entry["notebook"] == "5_planar_flows"}
    for run_id in RUNS["5_planar_flows"]:
        assert items[run_id].status != "missing" and not any("stale" in reason for reason in items[run_id].reasons)
    for item in items.values():
        if item.kind == "run" and item.name not in mine:
            assert (item.status, item.score) == ("missing", 0.0), item
    for item in items.values():
        assert item.kind != "answer" or (item.status, item.score) == ("fail", 0.0), item
    without = items["mila_p3_data_arcs_k32"]  # solved and not trained
    assert without.status == "missing" and without.share == marking.tasks.MOST
    assert "tasks pass their checks" in without.reasons[-1]


def test_one_task_earns_its_own_share_and_an_untouched_release_none(edition, course, tmp_path):
    folder, _ = edition
    name, run_id = "1_vae_2d", "q1_a_dset1"
    (tmp_path / "notebooks").mkdir()
    released = (folder / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
    shares = []
    for only in (["none"], ["q1_loss"], []):
        text = student.solve(released, GIVEN[name], name, only)
        (tmp_path / "notebooks" / f"{name}.py").write_text(text, encoding="utf-8")
        saved(tmp_path, name, text)
        shares.append(marking.tasks.credit(run_id, name, Submission.of(tmp_path), course)[0])
    assert shares[0] == 0 and 0 < shares[1] <= shares[2] <= marking.tasks.MOST


def test_a_student_checks_a_run_in_two_ways(solved, monkeypatch):
    words = ("import sys; sys.path.insert(0, '.')\nfrom helpers.suite import Suite\nfrom helpers.work import definitions\n"
             "suite = Suite('1_vae_2d', definitions.declared('1_vae_2d', 'smoke'))\n"
             "suite.check('q1_a_dset1'); suite.check('q1_a_dset2')")
    said = python(solved, solved, "-c", words)
    assert re.search(r"q1_a_dset1 \(1\(a\), dataset 1\): smoke profile", said) and "neg_elbo: " in said
    assert "smoke profile" in said and "not drawn yet" in said and "it counts as missing" in said
    environment = {**os.environ, "SUITE_PROFILE": "smoke", "SUITE_OUTPUT": str(solved), "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-m", "helpers", "check-run", "q1_a_dset1", "q1_a_dset2"], cwd=solved, env=environment,
                          capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert re.search(r"q1_a_dset1 .*: (partial|fail), [\d.]+ of 5 points", done.stdout)
    assert re.search(r"q1_a_dset2 .*: missing, ", done.stdout)
    unknown = subprocess.run([sys.executable, "-m", "helpers", "check-run", "q1_a_dset9"], cwd=solved, env=environment,
                             capture_output=True, encoding="utf-8")
    assert unknown.returncode == 2 and "q1_a_dset1" in unknown.stderr and "Traceback" not in unknown.stderr


def test_a_release_of_one_sheet_has_its_notebooks(tmp_path):
    removed = release.write(tmp_path / "haifa", ["haifa24"])
    assert list(removed) == ["2_vae_mnist"]
    asked = tomllib.loads((tmp_path / "haifa" / "deliverables.toml").read_text(encoding="utf-8"))
    assert {entry["sheet"] for entry in asked["run"]} == {"haifa24"}
    assert "mila_p1_vae" in {entry["id"] for entry in asked["support"]} and not asked.get("answer")
    assert "calc_elbo" in (tmp_path / "haifa" / "README.md").read_text(encoding="utf-8")
    # What other sheets ask is given, but for VAE.encode, whose one line is that of ConvVAE.encode.
    assert set(removed["2_vae_mnist"]) == {"calc_elbo", "sample", "mit_p3_vae"} and len(removed["2_vae_mnist"]["mit_p3_vae"]) == 1
    assert {task["id"] for task in asked["task"]} == {"calc_elbo", "sample"}


def test_what_another_sheet_asks_is_given_unless_it_tells_a_solution(tmp_path):
    removed = release.write(tmp_path / "two", ["berkeley24", "mila20"])
    assert "mit_p4_chamfer" not in removed["1_vae_2d"] and "mit_p1_autoencoder" not in removed["2_vae_mnist"]
    assert removed["2_vae_mnist"]["mit_p3_kl"][0] in removed["1_vae_2d"]["q1_loss"]  # the KL of question 1


def test_a_release_is_written_over_nothing(tmp_path):
    (tmp_path / "mine").write_text("kept", encoding="utf-8")
    with pytest.raises(Unreadable, match="not an empty folder"):
        release.write(tmp_path)
    with pytest.raises(Unreadable, match="own sources"):
        release.write(ROOT / "notebooks" / "student")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_tasks_name_what_there_is_and_have_points():
    for task in deliverables.tasks():
        there = handout.definitions(GIVEN[task["notebook"]])
        assert all(handout.functions(name, there) for name in task["names"]) and task["points"] > 0
    assert len({task["id"] for task in deliverables.tasks()}) == len(deliverables.tasks())
    with pytest.raises(handout.HandoutError, match="no_such"):
        handout.without_bodies("x = 1", [{"id": "a", "notebook": "n", "names": ["no_such"], "statement": "s"}])
    with pytest.raises(handout.HandoutError, match="0 times"):
        handout.with_plain_definitions("5_planar_flows", "x = 1")


def test_the_mark_of_a_solution_leaves_a_saved_notebook_fresh():
    marked = '# %% [markdown] tags=["solution"]\n# It is two.\n'
    assert percent.digest(marked) == percent.digest(marked.replace(' tags=["solution"]', ""))
    assert percent.digest(marked) != percent.digest(marked.replace("solution", "answer:a"))
