"""The grade: what passes, what is caught and by which name, hostile copies, output formats, the packaged autograder."""

import hashlib
import os
import shutil

import fake_suite
import pytest

from helpers.grade import marking, written
from helpers.grade.submission import ARRAYS_LIMIT, NOTEBOOK_LIMIT, RECORD_LIMIT, Submission, Unreadable
from helpers.results import deliverables, verdicts
from helpers.results.records import Record


def only(items, *labels):
    """Assert that these items and no others are not a pass, and return the first."""
    assert {label for label, item in items.items() if item.status not in ("pass", "manual")} == set(labels)
    return items[labels[0]]


def test_a_perfect_copy_passes_and_has_every_item(copy, mark):
    items = mark(copy)
    assert marking.passed(items.values())
    assert len(items) == len(deliverables.asked_runs()) + len(deliverables.answers()) + 6
    assert items["q1_a_dset1"].status == "pass"
    assert items["dirac"].status == "pass"
    assert {items[name].status for name in ("haifa_q2", "answer:q1_reflection", "mila_p3_transformations")} == {"manual"}
    assert items["q1_a_dset1"].points == 5 and not items["q1_a_dset1"].weighted
    assert items["haifa_q1"].weighted
    assert items["answer:mila_p3_logdet"].points == 4


def test_an_archive_with_one_outer_folder_is_found(copy, tmp_path, mark):
    outer = tmp_path / "outer"
    outer.mkdir()
    shutil.move(copy, outer / "my homework")
    assert marking.passed(mark(outer).values())


def test_an_empty_folder_is_all_missing(tmp_path, mark):
    items = mark(tmp_path)
    assert {item.status for item in items.values()} == {"missing"}
    assert not marking.passed(items.values())
    with pytest.raises(Unreadable, match="not a folder"):
        Submission.of(tmp_path / "nothing")


def test_a_number_changed_by_hand_is_caught_by_name(copy, mark):
    def raise_number(content):
        content["metrics"]["neg_elbo"] -= 0.01
        for part in ("min", "max"):
            content["spread"]["neg_elbo"][part] -= 0.01

    fake_suite.edit(copy / "results" / "q1_a_dset1.json", raise_number)
    item = only(mark(copy), "q1_a_dset1", "notebook:1_vae_2d")
    assert item.status == "fail"
    assert any("neg_elbo of q1_a_dset1: the notebook prints 4.4300 ± 0.0100, the record has 4.4200 ± 0.0100" in reason
               for reason in item.reasons)


def test_a_small_number_is_compared_in_all_its_digits(copy):
    def shrink(content):
        content["metrics"]["recon_mse"] = 2.7e-05
        content["spread"]["recon_mse"] = {"std": 0.0, "min": 2.7e-05, "max": 2.7e-05, "n": 1}

    fake_suite.edit(copy / "results" / "mit_p4_toroidal.json", shrink)
    record = Submission.of(copy).record("mit_p4_toroidal")
    entry = deliverables.entry("mit_p4_toroidal")
    for shown, wrong in ((["2.7e-05"], 0), (["**2.7e-05**"], 0), (["3.1e-05"], 1), (["2.7e-05", "2.7e-06"], 1)):
        assert len(written.misprinted(entry, record, {("mit_p4_toroidal", "recon_mse"): shown})) == wrong


def test_a_mean_that_its_seeds_do_not_give_is_caught(copy, mark):
    fake_suite.edit(copy / "results" / "q1_a_dset1.json", lambda content: content["metrics"].update(neg_elbo=4.405))
    assert "does not lie between its own smallest and largest seed" in "; ".join(mark(copy)["q1_a_dset1"].reasons)


@pytest.mark.parametrize(("spoil", "expected"), [
    (lambda path: path.unlink(), "figures/q1_a_dset1_train_plot.png is missing"),
    (lambda path: path.write_bytes(fake_suite.png("another")), "figures/q1_a_dset1_train_plot.png is not the one"),
])
def test_a_missing_or_swapped_figure_is_caught_by_name(copy, spoil, expected, mark):
    spoil(copy / "figures" / "q1_a_dset1_train_plot.png")
    item = only(mark(copy), "q1_a_dset1")
    assert item.status == "fail"
    assert item.reasons[0].startswith(expected)


@pytest.mark.parametrize(("text", "status"), [
    (None, "missing"),
    ("", "fail"),
    ("**Answer (q1_reflection): In which datasets are the latents used, and why not in the others?**", "fail"),
    ("## Answer\n\n*Your answer here.*", "fail"),
    ("In which datasets are the latents used, and why not in the others?", "fail"),
    ("<!-- " + fake_suite.PROSE, "fail"),
])
def test_an_unanswered_question_is_caught_by_name(copy, text, status, mark):
    def spoil(content):
        cells = [cell for cell in content["cells"] if "answer:q1_reflection" in cell["metadata"].get("tags", [])]
        if text is None:
            content["cells"].remove(cells[0])
        else:
            cells[0]["source"] = text

    fake_suite.edit(copy / "notebooks" / "1_vae_2d.ipynb", spoil)
    assert only(mark(copy), "answer:q1_reflection").status == status


@pytest.mark.parametrize(("changes", "status", "reason"), [
    ({"budget": {"done": 300, "planned": 780, "unit": "steps"}}, "partial", "300 of 780 steps"),
    ({"profile": "quick", "config": {"epochs": 2, "learning_rate": 1e-3}}, "partial", "quick profile"),
    ({"source": "0" * 64}, "fail", "stale"),
    ({"notebook": "2_vae_mnist"}, "fail", "is of notebook '2_vae_mnist'"),
    ({"arrays": {"sha256": "0" * 64}}, "fail", "npz is missing or not the one"),
])
def test_what_a_record_says_of_itself_decides_its_status(copy, changes, status, reason, mark):
    entry = fake_suite.entry("q1_b_dset2")
    fake_suite.write_record(copy, fake_suite.record(entry, **changes))
    item = mark(copy)["q1_b_dset2"]
    assert item.status == status
    assert reason in "; ".join(item.reasons)


@pytest.mark.parametrize(("name", "stand_in", "stands_for", "status"), [
    ("street_digits", True, "svhn", "partial"),
    ("street_digits", False, None, "fail"),
    ("photo_patches", True, "cifar10", "fail"),
])
def test_a_stand_in_is_partial_if_it_says_so_and_fails_if_not(copy, name, stand_in, stands_for, status, mark):
    dataset = fake_suite.dataset_of({"dataset": name}) | {"stand_in": stand_in, "stands_for": stands_for}
    fake_suite.write_record(copy, fake_suite.record(fake_suite.entry("q2_a_dset1"), dataset=dataset))
    assert mark(copy)["q2_a_dset1"].status == status


@pytest.mark.parametrize(("value", "done", "status", "word"), [
    (91.0, 780, "part", "target reached, on part of the data"),
    (102.5, 780, "part", "sheet reached, on part of the data"),
    (110.0, 780, "partial", "short of the sheet, on part of the data"),
    (91.0, 50, "partial", "partial"),
    (-1.0, 780, "fail", "past the bound"),
])
def test_a_number_on_part_of_the_data_stands_between_pass_and_partial(copy, value, done, status, word, facts):
    dataset = fake_suite.dataset_of({"dataset": "svhn"}) | {"digest": "0123456789abcdef" * 4, "part": "7,999 training images",
                                                            "sizes": {"train": 7999, "test": 2001}, "note": "part"}
    content = fake_suite.record_with("q2_a_dset1", neg_elbo=value) | {
        "dataset": dataset, "budget": {"done": done, "planned": 780, "unit": "steps"}}
    content["arrays"] = {"sha256": hashlib.sha256(fake_suite.arrays_of(content)).hexdigest()}
    record = Record(fake_suite.write_record(copy, content))
    fake_suite.print_again(copy, "3_vae_images", content)
    verdict = next(verdict for verdict in verdicts.judge(fake_suite.entry("q2_a_dset1"), record) if verdict.metric == "neg_elbo")
    assert (verdict.word, verdict.on_part) == (word, "reached" in word)
    known = facts | {"datasets": facts["datasets"] | {"svhn": [*facts["datasets"]["svhn"], dataset]}}
    item = next(item for item in marking.mark(Submission.of(copy), known) if item.name == "q2_a_dset1")
    assert "on part of the data: SVHN, 7,999 training images" in "; ".join(item.reasons)
    assert item.status == status
    assert item.score == {"part": 0.75, "partial": 0.5, "fail": 0.0}[status] * item.points


@pytest.mark.parametrize(("run_id", "metric", "value", "word"), [
    ("q1_a_dset1", "neg_elbo", 4.39, "past the bound"),
    ("q1_a_dset1", "neg_elbo", 4.48, "short of the sheet"),
    ("q1_a_dset1", "neg_elbo", 4.46, "sheet reached"),
    ("q1_a_dset1", "neg_elbo", 4.43, "target reached"),
    ("mila_p1_vae", "test_log_px", -69.0, "past the bound"),
    ("mila_p1_vae", "test_log_px", -96.0, "short of the sheet"),
    ("mit_p4_toroidal", "path_distance_mean", 0.03, "short of the target"),
])
def test_values_are_judged_against_sheet_target_and_bound(tmp_path, run_id, metric, value, word, mark):
    fake_suite.write_record(tmp_path, fake_suite.record_with(run_id, **{metric: value}))
    item = mark(tmp_path)[run_id]
    assert [verdict.word for verdict in item.evidence if verdict.metric == metric] == [word]
    assert (item.status == "pass") == (word in ("sheet reached", "target reached"))


def test_another_feature_extractor_is_partial_and_a_missing_metric_fails(tmp_path, mark):
    content = fake_suite.record(fake_suite.entry("cifar10_w1_3"))
    for kind in ("metrics", "spread"):
        content[kind] = {f"{name}_smallnet": value for name, value in content[kind].items()}
    fake_suite.write_record(tmp_path, content)
    assert mark(tmp_path)["cifar10_w1_3"].status == "partial"
    content["metrics"].pop("fid_smallnet")
    fake_suite.write_record(tmp_path, content)
    assert "fid = - is not measured" in mark(tmp_path)["cifar10_w1_3"].reasons


def test_a_number_that_is_only_reported_must_be_there_too(copy, mark):
    def forget(content):
        for kind in ("metrics", "spread"):
            del content[kind]["kl"]

    fake_suite.edit(copy / "results" / "q1_a_dset1.json", forget)
    assert only(mark(copy), "q1_a_dset1").reasons == ("kl = - is not measured",)


def test_bounds_that_must_be_in_order_and_dirac_verdicts_are_checked(copy, mark):
    def worse(content):
        content["metrics"]["neg_iwae100_first100"] = content["spread"]["neg_iwae100_first100"]["max"] = 9.0

    fake_suite.edit(copy / "results" / "b19_1b.json", worse)
    fake_suite.edit(copy / "results" / "dirac.json", lambda content: content["facts"]["verdicts"].update(w1_9="diverges"))
    items = mark(copy)
    assert "exceeds neg_elbo_first100" in items["b19_1b"].reasons[0]
    assert items["dirac"].reasons == ("w1_9: diverges where theory says limit cycle",)


@pytest.mark.parametrize(("spoil", "reason"), [
    (lambda content: content["cells"][1].update(execution_count=None), "hollow"),
    (lambda content: content["cells"][1].update(execution_count=9), "hollow"),
    (lambda content: content["cells"][4].update(outputs=[]), "hollow"),
    (lambda content: content["cells"][1].update(source="pass"), "hollow"),
    (lambda content: content["cells"][1].update(source=content["cells"][1]["source"].replace("*", "+")), "stale"),
    (lambda content: content["cells"][4]["outputs"].append({"output_type": "error", "ename": "E", "evalue": "", "traceback": []}),
     "failed"),
])
def test_hollow_stale_and_failed_notebooks_are_told_apart(copy, spoil, reason, mark):
    fake_suite.edit(copy / "notebooks" / "5_planar_flows.ipynb", spoil)
    assert mark(copy)["notebook:5_planar_flows"].reasons[0].startswith(reason)


def sparse(path, size):
    """A file of a size that takes no room on the disk."""
    with open(path, "wb") as stream:
        stream.truncate(size)


def spoil_record(text):
    """A change of a copy: the record of q1_a_dset1 gets this text."""
    return lambda copy: (copy / "results" / "q1_a_dset1.json").write_text(text)


def link_out(copy):
    target = copy.parent / "outside.json"
    shutil.copy(copy / "results" / "q1_a_dset1.json", target)
    (copy / "results" / "q1_a_dset1.json").unlink()
    (copy / "results" / "q1_a_dset1.json").symlink_to(target)


def link_loop(copy):
    path = copy / "results" / "q1_a_dset1.json"
    path.unlink()
    path.symlink_to(path)


def pipe(copy):
    path = copy / "results" / "q1_a_dset1.json"
    path.unlink()
    os.mkfifo(path)


def field(name, value):
    """A change of a copy: one field of the record of q1_a_dset1."""
    return lambda copy: fake_suite.edit(copy / "results" / "q1_a_dset1.json", lambda content: content.update({name: value}))


@pytest.mark.parametrize(("attack", "reason"), [
    (lambda copy: sparse(copy / "results" / "q1_a_dset1.json", RECORD_LIMIT + 1), "the limit is"),
    (lambda copy: sparse(copy / "results" / "q1_a_dset1.npz", ARRAYS_LIMIT + 1), "the limit is"),
    (spoil_record("{"), "not a readable record"),
    (spoil_record("[" * 100_000), "not a readable record"),
    (spoil_record("[1, 2]"), "not a readable record"),
    (spoil_record("\ud800".encode("utf-8", "surrogatepass").decode("latin-1")), "not a readable record"),
    (link_out, "is a link that leaves the folder"),
    (link_loop, "cannot be opened"),
    (pipe, "is not a plain file"),
    (field("id", "q1_a_dset2"), "its id is"),
    (field("metrics", {"neg_elbo": "4.43", "recon": 1.0, "kl": 1.0}), "is '4.43', not a finite number"),
    (field("metrics", {"neg_elbo": float("nan"), "recon": 1.0, "kl": 1.0}), "not a finite number"),
    (field("metrics", {"neg_elbo": 10**400, "recon": 1.0, "kl": 1.0}), "not a finite number"),
    (field("metrics", {"neg_elbo": True, "recon": 1.0, "kl": 1.0}), "not a finite number"),
    (field("metrics", [4.43]), "not a readable record"),
    (field("spread", None), "not a readable record"),
    (field("budget", {"done": "all", "planned": 1, "unit": "steps"}), "budget"),
    (field("profile", "gigantic"), "profile"),
    (field("dataset", {"name": "svhn", "stand_in": True}), "does not say what it stands for"),
    (field("figures", {"q1_a_dset1_train_plot.png": 7}), "figures"),
    (field("notebook", "../../etc/passwd"), "is of notebook"),
])
def test_a_hostile_record_is_a_failed_item_and_never_a_crash(copy, attack, reason, mark):
    attack(copy)
    items = mark(copy)
    assert items["q1_a_dset1"].status == "fail"
    assert reason in "; ".join(items["q1_a_dset1"].reasons)
    assert items["q1_a_dset2"].status == "pass"


@pytest.mark.parametrize("text", [
    "", "{}", "[" * 100_000, '{"cells": 7}', '{"cells": [{"cell_type": "code"}]}', '{"cells": [], "metadata": []}',
    '{"cells": [{"cell_type": "code", "source": 3, "outputs": [{"output_type": "stream"}], "execution_count": 1}]}',
])
def test_a_broken_notebook_is_a_failed_item_and_never_a_crash(copy, text, mark):
    (copy / "notebooks" / "1_vae_2d.ipynb").write_text(text)
    items = mark(copy)
    assert items["notebook:1_vae_2d"].status == "fail"
    assert items["answer:q1_reflection"].status in ("fail", "missing")
    assert items["notebook:5_planar_flows"].status == "pass"


def test_huge_notebooks_folders_in_place_of_files_and_links_are_refused(copy, mark):
    sparse(copy / "notebooks" / "1_vae_2d.ipynb", NOTEBOOK_LIMIT + 1)
    (copy / "notebooks" / "5_planar_flows.ipynb").unlink()
    (copy / "notebooks" / "5_planar_flows.ipynb").mkdir()
    (copy / "figures" / "q1_a_dset2_train_plot.png").unlink()
    (copy / "figures" / "q1_a_dset2_train_plot.png").symlink_to("/etc/hostname")
    (copy / "notebooks" / "2_vae_mnist.py").write_text("(" * 50_000)
    items = mark(copy)
    for label in ("notebook:1_vae_2d", "notebook:5_planar_flows", "q1_a_dset2", "mila_p1_vae", "notebook:2_vae_mnist"):
        assert items[label].status == "fail", label
    assert "leaves the folder" in items["q1_a_dset2"].reasons[0]
