"""A class of twenty, made from the reference with planted faults: the report names each, and honest work keeps its points.

Functions and check cells are those of the suite's own notebooks 2 and 6 as students get them; they are run here, so that a saved
notebook shows what its code really does. The numbers around them are invented and fit together (``fake_suite``).
"""

import argparse
import ast
import csv
import json
import os
import shutil
import types
from functools import cache

import fake_suite
import pytest

from helpers import settings
from helpers.grade import classes, handout, isolation, limits, marking, packages, pages, reference, rerun, running, tasks
from helpers.grade.submission import Submission
from helpers.results import deliverables
from helpers.results.digests import source_digest

SHEETS = ["mila20", "haifa24"]
ASKED = {"2_vae_mnist": "log_mean_exp", "6_gan_critics": "one_centred_penalty"}  # the checks that name these functions are made
KL = "0.5 * (logvar_p - logvar_q + squares - 1)", "0.5 * (logvar_q - logvar_p + squares - 1)"
MEAN = "(shift + torch.exp(y - shift).mean(dim=1, keepdim=True).log()).squeeze(1)", "y.mean(dim=1)"
NORM = "vector_norm(input_gradients(scores, inputs), dim=1)", "vector_norm(input_gradients(scores, inputs), dim=0)"
SUM = "input_gradients(scores, inputs).square().sum(1)", "input_gradients(scores, inputs).square().sum(0)"
INVENTED = fake_suite.source
OF_VAE, OF_GAN, OF_FLOW = "mila_p1_vae", "dirac", "mila_p3_data_arcs_k8"


def checks_in(notebook, text):
    """The check cells of a source that count here."""
    return [check["text"] for check in tasks.texts_of(text) if ASKED[notebook] in check["names"]]


@cache
def reference_source(notebook):
    """A notebook of the course: the suite's own definitions that some checks are about, these checks, and invented training."""
    if notebook not in ASKED:
        return INVENTED(notebook)
    whole = (settings.PROJECT_ROOT / "notebooks" / f"{notebook}.py").read_text(encoding="utf-8")
    text = handout.with_plain_definitions(notebook, whole)
    tree, checks = ast.parse(text), checks_in(notebook, text)
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    imports = [line for line in imports if "helpers" not in line]
    uses = tasks.uses_of(text)
    named = {node.id for check in checks for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Name)} & uses.keys()
    needed = named.union(*(tasks.functions_of(name, uses) for name in named))
    definitions = [ast.get_source_segment(text, node) for node in tree.body if getattr(node, "name", None) in needed]
    train = fake_suite.FUNCTION.replace("return", f"used = {', '.join(sorted(named))}\n    return")
    cells = ["\n".join(imports), *definitions, *checks]
    return "".join(f"# %%\n{cell}\n\n" for cell in cells) + INVENTED(notebook).replace(fake_suite.FUNCTION, train)


def saved(notebook, text, stop=False):
    """The saved notebook of a source: definitions and checks are really run; ``stop`` at the first error, as "run all" does."""
    entries = [entry for entry in deliverables.asked_runs() if entry["notebook"] == notebook]
    content = fake_suite.notebook(notebook, entries)
    cells = content["cells"]
    module, errors = types.ModuleType("student"), 0
    for cell in cells if notebook in ASKED else ():
        if cell["cell_type"] != "code" or "suite" in cell["source"] or "records" in cell["source"] or "RUNS" in cell["source"]:
            continue
        if errors and stop:
            cell["execution_count"] = None
        elif error := running.run(cell["source"], notebook, module):
            errors += 1
            kind, _, value = error.partition(": ")
            cell["outputs"] = [{"output_type": "error", "ename": kind, "evalue": value, "traceback": []}]
    if errors and stop:
        cells[-1 - sum(cell["cell_type"] != "code" for cell in cells)].update(outputs=[], execution_count=None)
    return content


class Student:
    """What one student hands in: the reference with records of its own, then changed."""

    def __init__(self, folder, made, seconds):
        self.folder = folder
        shutil.copytree(made, folder)
        for path in (folder / "results").glob("*.json"):
            fake_suite.edit(path, lambda content: content.update(seconds=seconds))

    def write(self, notebook, change, *, stop=False, without_checks=False):
        """Write a notebook otherwise, and train all of its runs with it; stopped at an error, there are none."""
        text = (self.folder / "notebooks" / f"{notebook}.py").read_text(encoding="utf-8")
        old, new = change
        assert text.count(old) == 1
        for check in checks_in(notebook, text) if without_checks else ():
            text = text.replace(check, "")
        text = text.replace(old, new)
        (self.folder / "notebooks" / f"{notebook}.py").write_text(text, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fake_suite, "source", lambda name: text if name == notebook else reference_source(name))
            content = json.dumps(saved(notebook, text, stop))
        (self.folder / "notebooks" / f"{notebook}.ipynb").write_text(content, encoding="utf-8")
        for path in (self.folder / "results").glob("*.json"):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["notebook"] == notebook and stop:
                path.unlink()
            elif record["notebook"] == notebook:
                fake_suite.edit(path, lambda content: content.update(source=source_digest("train", text)))

    def record(self, run_id, **metrics):
        """Put other numbers into a record, its arrays and its notebook's table: everything fits together."""
        path = self.folder / "results" / f"{run_id}.json"
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = fake_suite.entry(run_id), {**before["metrics"], **metrics}
        spread = {name: fake_suite.spread_of(value) for name, value in changed[1].items()}
        content = fake_suite.record(changed[0], metrics=changed[1], spread=spread, source=before["source"],
                                    seconds=before["seconds"])
        path.write_text(json.dumps(content), encoding="utf-8")
        path.with_suffix(".npz").write_bytes(fake_suite.arrays_of(content))

        def print_again(notebook):
            output = next(cell["outputs"][0] for cell in notebook["cells"] if "tables" in cell["source"])
            table = "".join(output["data"]["text/markdown"]).splitlines(keepends=True)
            for name, value in metrics.items():
                row, ours = f"| {run_id} | {name} |", fake_suite.tables.with_spread(value, spread[name])
                table = [f"{row} {ours} | 3 |\n" if line.startswith(row) else line for line in table]
            output["data"]["text/markdown"] = table

        fake_suite.edit(self.folder / "notebooks" / f"{before['notebook']}.ipynb", print_again)


def zipped(student):
    shutil.make_archive(str(student.folder), "zip", student.folder)
    shutil.rmtree(student.folder)


def other_line_ends(student):
    for path in (student.folder / "notebooks").glob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def other_names(student):
    (student.folder / "results").rename(student.folder / "my results")
    for path in (student.folder / "notebooks").glob("*.ipynb"):
        path.rename(student.folder / f"Copy of {path.stem} (1).ipynb")


def only_flows(student):
    for path in (student.folder / "results").glob("*.json"):
        if json.loads(path.read_text(encoding="utf-8"))["notebook"] != "5_planar_flows":
            path.unlink()
    for notebook in ASKED:
        (student.folder / "notebooks" / f"{notebook}.ipynb").unlink()


def figure(student):
    there = student.folder / "figures"
    shutil.copy(there / "mila_p1_train_plot.png", there / "mila_p3_data_arcs.png")


def number(student):
    fake_suite.edit(student.folder / "results" / f"{OF_FLOW}.json", lambda content: content["metrics"].update(nll=2.70))


def another_ones(student):
    for suffix in (".json", ".npz"):
        shutil.copy(student.folder.parent / "lent" / "results" / f"{OF_GAN}{suffix}", student.folder / "results")


def renamed(student):
    student.write("2_vae_mnist", ("shift = torch.where", "offset = shift = torch.where"))


def elbow(student):
    student.record("haifa_q1", kl=-3.0, recon=fake_suite.metrics_of(fake_suite.entry("haifa_q1"))["neg_elbo"] + 3.0)


FAILS, HIDDEN, ENDS = "the check fails: AssertionError", "has no check as it was handed out of task", "ends in an error"
# Name -> what is done to the reference, and (item, words of its reasons) that the report must have; honest ones have none.
CLASS = {
    "honest": (lambda student: None, []),
    "honest_renamed_variable": (renamed, []),
    "honest_line_ends": (other_line_ends, []),
    "honest_file_names": (other_names, []),
    "honest_zip": (zipped, []),
    "honest_only_flows": (only_flows, []),
    "kl_sign_stopped": (lambda student: student.write("2_vae_mnist", KL, stop=True), [
        (OF_VAE, "kl_gaussian_gaussian_analytic"), (OF_VAE, f"{FAILS}: KL, closed form"), ("notebook:2_vae_mnist", ENDS)]),
    "kl_sign_ran_on": (lambda student: student.write("2_vae_mnist", KL), [
        (OF_VAE, f"{FAILS}: KL, closed form"), ("haifa_q1", f"{FAILS}: KL, closed form"), ("notebook:2_vae_mnist", ENDS)]),
    "kl_sign_hidden": (lambda student: student.write("2_vae_mnist", KL, without_checks=True), [
        (OF_VAE, "kl_gaussian_gaussian_analytic"), (OF_VAE, HIDDEN)]),
    "kl_sign_in_the_numbers": (elbow, [("haifa_q1", "kl = -3: no KL divergence is below zero")]),
    "mean_of_logs_ran_on": (lambda student: student.write("2_vae_mnist", MEAN), [
        (OF_VAE, f"{FAILS}: log-mean-exp; it is of task log_likelihood_bernoulli, log_likelihood_normal, log_mean_exp")]),
    "mean_of_logs_hidden": (lambda student: student.write("2_vae_mnist", MEAN, without_checks=True), [
        (OF_VAE, "log_mean_exp"), (OF_VAE, HIDDEN)]),
    "norm_axis_stopped": (lambda student: student.write("6_gan_critics", NORM, stop=True), [
        (OF_GAN, "one_centred_penalty"), (OF_GAN, FAILS), ("notebook:6_gan_critics", ENDS)]),
    "norm_axis_hidden": (lambda student: student.write("6_gan_critics", NORM, without_checks=True), [
        (OF_GAN, "one_centred_penalty"), (OF_GAN, HIDDEN)]),
    "sum_axis_ran_on": (lambda student: student.write("6_gan_critics", SUM), [(OF_GAN, "r1_penalty"), (OF_GAN, FAILS)]),
    "number": (number, [(OF_FLOW, "the notebook prints 2.7200"), ("notebook:5_planar_flows", f"nll of {OF_FLOW}")]),
    "number_past_the_bound": (lambda student: student.record(OF_FLOW, nll=2.0), [(OF_FLOW, "nll = 2.0000 is past the bound")]),
    "figure": (figure, [(OF_FLOW, "figures/mila_p3_data_arcs.png is not the one that the record names")]),
    "lent": (lambda student: None, []),
    "record_of_another": (another_ones, []),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The course's own solution, as far as the sheets of this class need it, and its facts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_suite, "source", reference_source)
        folder, notebooks = tmp_path_factory.mktemp("reference"), reference.notebooks(SHEETS)
        mine = [entry for entry in deliverables.asked_runs() if entry["notebook"] in notebooks]
        for entry in mine:
            fake_suite.write_record(folder, fake_suite.record(entry))
        for name in notebooks:
            content = json.dumps(saved(name, reference_source(name)))
            (folder / "notebooks" / f"{name}.ipynb").write_text(content, encoding="utf-8")
    return folder, reference.facts(folder)


@pytest.fixture(scope="module")
def report(made, tmp_path_factory):
    """The class as the command marks it: rows and totals of the tables, and the page of each student."""
    reference_folder, facts = made
    folder = tmp_path_factory.mktemp("class")
    for order, (name, (change, _)) in enumerate(CLASS.items(), 1):
        change(Student(folder / "students" / name, reference_folder, 20.0 + order / 1000))

    def mark(place, known, *, page=None, sheets=()):
        """As limits.mark, in this process: to start twenty others would take most of the time."""
        copy = packages.open_copy(place, folder)
        items = marking.mark(copy, facts, sheets)
        pages.write_page(items, copy, page)
        return items

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "mark", mark)
        arguments = argparse.Namespace(class_folder=str(folder / "students"), csv=str(folder / "marks.csv"),
                                       html=str(folder / "pages"), jobs=1)
        assert classes.grade_class(arguments, reference_folder, SHEETS) == 0
    rows = {(row["student"], row["item"]): row for row in csv.DictReader((folder / "marks.csv").open(encoding="utf-8"))}
    totals = {row["student"]: row for row in csv.DictReader((folder / "marks.totals.csv").open(encoding="utf-8"))}
    students = {student.name: student for student in classes.students(folder / "students")}
    shown = {name: (folder / "pages" / f"{student.file_name}.html").read_text(encoding="utf-8")
             for name, student in students.items()}
    return {"rows": rows, "totals": totals, "pages": shown, "students": students, "facts": facts,
            "index": (folder / "pages" / "index.html").read_text(encoding="utf-8")}


def test_the_class_has_twenty_and_the_reference_passes(report):
    assert len(report["totals"]) == len(CLASS) == 20
    for (student, item), row in report["rows"].items():
        if student == "honest":
            assert row["status"] in ("pass", "manual"), (item, row["reasons"])


@pytest.mark.parametrize("name", [name for name, (_, words) in CLASS.items() if words])
def test_the_report_names_the_fault_at_its_item(report, name):
    for item, words in CLASS[name][1]:
        assert words in report["rows"][name, item]["reasons"], report["rows"][name, item]
        assert words in report["pages"][name]
        if HIDDEN not in words and "hidden" not in name:
            assert report["rows"][name, item]["status"] in ("fail", "missing")
    faulty = {item for (student, item), row in report["rows"].items() if student == name and row["status"] in ("fail", "missing")}
    notebooks = {"kl": "2_vae_mnist", "mean": "2_vae_mnist", "norm": "6_gan_critics", "sum": "6_gan_critics"}
    wanted = notebooks.get(name.split("_")[0], "5_planar_flows")
    for item in faulty:  # and nothing of the other notebooks
        notebook = item.split(":")[1] if ":" in item else deliverables.entry(item)["notebook"]
        assert notebook == wanted, (item, report["rows"][name, item]["reasons"])
    honest = float(report["totals"]["honest"]["points"])
    assert float(report["totals"][name]["points"]) < honest or "hidden" in name


@pytest.mark.parametrize("name", [name for name, (_, words) in CLASS.items() if not words])
def test_honest_work_loses_nothing(report, name):
    honest = report["totals"]["honest"]
    if name == "honest_only_flows":
        missing = {item for (student, item), row in report["rows"].items() if student == name and row["status"] == "missing"}
        rows = [row for (student, item), row in report["rows"].items() if student == name and item not in missing]
        assert missing and all(row["status"] in ("pass", "manual") for row in rows)
        assert sum(row["status"] == "pass" for row in rows) > 5
    elif name == "honest_file_names":
        assert report["totals"][name]["points"] == honest["points"]
    else:
        assert {key: value for key, value in report["totals"][name].items() if key not in ("student", "same_records_as")} \
            == {key: value for key, value in honest.items() if key not in ("student", "same_records_as")}


def test_a_run_with_a_failed_check_earns_what_it_would_earn_without_its_record(report):
    runs = [entry["id"] for entry in deliverables.asked_runs() if entry["notebook"] == "2_vae_mnist" and entry["sheet"] in SHEETS]
    for run_id in runs:
        ran_on, stopped = (report["rows"][name, run_id] for name in ("kl_sign_ran_on", "kl_sign_stopped"))
        assert (ran_on["status"], stopped["status"]) == ("fail", "missing") and ran_on["score"] == stopped["score"]


def test_another_ones_record_is_named_on_both_sides_and_nowhere_else(report):
    shared = {key: row["same_record_as"] for key, row in report["rows"].items() if row["same_record_as"]}
    assert shared == {("lent", OF_GAN): "record_of_another", ("record_of_another", OF_GAN): "lent"}
    assert f"{OF_GAN} as lent" in report["index"] and f"{OF_GAN} as record_of_another" in report["index"]
    assert report["totals"]["lent"]["same_records_as"] == "record_of_another"


def can_take_another_user():
    try:
        return os.getuid() == 0 and bool(isolation.best().words)
    except isolation.NotIsolated:
        return False


@pytest.mark.skipif(not can_take_another_user(), reason="another user can be taken by root with setpriv alone")
def test_what_was_hidden_is_named_by_running_it(report):
    """The three whose check cell is gone have passed until here; the autograder's run names task and check, and fails them."""
    for name, run_id, said in (("kl_sign_hidden", OF_VAE, "KL, closed form"), ("mean_of_logs_hidden", OF_VAE, "log-mean-exp"),
                               ("norm_axis_hidden", OF_GAN, "AssertionError")):
        notebook = deliverables.entry(run_id)["notebook"]
        job = rerun.Job({notebook: tasks.texts_of(reference_source(notebook))}, ["helpers/__init__.py"], 120, whole=False)
        copy = Submission.of(report["students"][name].place)
        ran, how = rerun.run(copy, job)
        item, = marking.mark_each(copy, report["facts"] | {"ran": ran}, only=[run_id])
        assert report["rows"][name, run_id]["status"] == "pass" and item.status == "fail"
        assert "the check fails when it is run: AssertionError" in item.reasons[0] and said in item.reasons[0], how
        assert f"as user {isolation.NOBODY}" in how
