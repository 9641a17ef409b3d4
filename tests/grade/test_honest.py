"""Honest copies as people hand them in: moved, renamed, edited, run elsewhere, in part. None loses what it earned."""

import hashlib
import json
import shutil
import zipfile

import fake_suite
import pytest

from helpers.grade import packages, written
from helpers.grade.finding import plain
from helpers.grade.submission import Unreadable

BOOK = "1_vae_2d"


def untouched(copy):
    return copy


def nested(copy):
    outer = copy.parent / "outer"
    (outer / "My Drive" / "hw").mkdir(parents=True)
    shutil.move(copy, outer / "My Drive" / "hw" / "vae homework (final)")
    return outer


def renamed_folders(copy):
    for name, other in (("results", "Results (1)"), ("figures", "pictures"), ("notebooks", "nb")):
        (copy / name).rename(copy / other)
    return copy


def flattened(copy):
    flat = copy.parent / "flat"
    flat.mkdir()
    for path in sorted(copy.rglob("*")):
        if path.is_file():
            shutil.move(path, flat / path.name)
    return flat


def copied_names(copy):
    for path in (copy / "notebooks").glob("*.ipynb"):
        path.rename(path.with_name(f"Copy of {path.name}"))
    for path in (copy / "results").glob("q1_*.json"):
        path.rename(path.with_name(f"{path.stem} (1).json"))
    return copy


def own_names(copy):
    (copy / "notebooks" / f"{BOOK}.ipynb").rename(copy / "notebooks" / "vae_homework_jane_doe.ipynb")
    return copy


def mac_litter(copy):
    for path in list(copy.rglob("*.json")) + list(copy.rglob("*.ipynb")):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07Mac OS X")
        (path.parent / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    shutil.copytree(copy / "results", copy / "__MACOSX" / "results")
    for path in (copy / "__MACOSX" / "results").iterdir():
        path.write_bytes(b"litter")
    return copy


def line_ends(copy):
    for path in (copy / "notebooks").glob("*.py"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    return copy


def edited_prose(copy):
    def function(content):
        content["cells"][1]["source"] = f"# a remark of mine\n{content['cells'][1]['source']}  # and one more"
        content["cells"].insert(1, {"cell_type": "markdown", "metadata": {}, "source": "## What I tried first\n\nNothing."})

    for path in (copy / "notebooks").glob("*.ipynb"):
        fake_suite.edit(path, function)
    for path in (copy / "notebooks").glob("*.py"):
        path.write_text("# %% [markdown]\n# Changed words.\n\n" + path.read_text())
    return copy


def no_sources(copy):
    for path in (copy / "notebooks").glob("*.py"):
        path.unlink()
    return copy


def on_colab(copy):
    """A cell that mounts the Drive comes first, its output names /content/drive, and a magic installs something."""
    def function(content):
        mount = {"cell_type": "code", "execution_count": 2, "metadata": {}, "id": "mount",
                 "source": "%%capture\n!pip install einops\nfrom google.colab import drive\ndrive.mount('/content/drive')",
                 "outputs": [{"output_type": "stream", "name": "stdout", "text": "Mounted at /content/drive\n"},
                             {"output_type": "stream", "name": "stderr", "text": "a warning of some package\n"}]}
        for cell in content["cells"]:
            if cell["cell_type"] == "code":
                cell["execution_count"] += 2
        content["cells"].insert(0, mount)

    for path in (copy / "notebooks").glob("*.ipynb"):
        fake_suite.edit(path, function)
    return copy


def edited_in_the_notebook(copy):
    """The function was rewritten and run in the saved notebook, the source stayed as it was handed out."""
    text = fake_suite.source(BOOK).replace("epochs * learning_rate", "learning_rate * epochs")

    def function(content):
        for cell in content["cells"]:
            cell["source"] = cell["source"].replace("epochs * learning_rate", "learning_rate * epochs")

    fake_suite.edit(copy / "notebooks" / f"{BOOK}.ipynb", function)
    digest = fake_suite.source_digest("train", text)
    for entry in fake_suite.deliverables.asked_runs():
        if entry["notebook"] == BOOK:
            fake_suite.edit(copy / "results" / f"{entry['id']}.json", lambda content: content.update(source=digest))
    return copy


def run_again(copy):
    """Trained again on another machine: other last digits, another time and device."""
    for entry in fake_suite.deliverables.asked_runs():
        old = fake_suite.record(entry)
        metrics = {name: value * (1 + 1e-4) if "target" not in entry["metrics"][name] and "bound" not in entry["metrics"][name]
                   else value for name, value in old["metrics"].items()}
        whole = fake_suite.balanced(entry, metrics)
        content = fake_suite.record(entry, metrics=whole, seconds=3.1,
                                    spread={name: fake_suite.spread_of(value) for name, value in whole.items()},
                                    environment={"python": "3.12", "torch": "2.6", "numpy": "2.1", "device": "NVIDIA L4"})
        fake_suite.write_record(copy, content)
        fake_suite.print_again(copy, entry["notebook"], content)
    return copy


HONEST = (untouched, nested, renamed_folders, flattened, copied_names, own_names, mac_litter, line_ends, edited_prose, no_sources,
          on_colab, edited_in_the_notebook, run_again)


@pytest.mark.parametrize("hand_in", HONEST)
def test_an_honest_copy_loses_nothing(copy, hand_in, mark):
    items = mark(hand_in(copy))
    lost = {label: item.reasons for label, item in items.items() if item.status not in ("pass", "manual")}
    assert not lost
    assert items["q1_a_dset1"].status == "pass"


def test_a_partial_copy_keeps_what_is_there(copy, mark):
    for path in [*copy.glob("notebooks/*"), *copy.glob("results/*")]:
        if not path.name.startswith(("5_planar", "mila_p3_data", "mila_p3_dens", "mila_p3_trans")):
            path.unlink()
    items = mark(copy)
    assert items["mila_p3_data_arcs_k8"].status == items["notebook:5_planar_flows"].status == "pass"
    assert items["answer:mila_p3_logdet"].status == "manual"
    assert items["q1_a_dset1"].status == items["notebook:1_vae_2d"].status == "missing"
    assert "none of the" in items["q1_a_dset1"].reasons[0] and "hand in the folders" in items["q1_a_dset1"].reasons[0]


def test_two_files_that_could_be_meant_are_named(copy, mark):
    (copy / "results" / "q1_a_dset1.json").rename(copy / "results" / "q1_a_dset1 (1).json")
    (copy / "results" / "q1_a_dset1 (2).json").write_text("{}")
    reason = mark(copy)["q1_a_dset1"].reasons[0]
    assert "q1_a_dset1 (1).json" in reason and "q1_a_dset1 (2).json" in reason


@pytest.mark.parametrize(("text", "attached", "answered"), [
    ("潜变量只在第一部分的数据集中使用，因为解码器的协方差是对角的，不能表示相关性，所以信息必须经过潜变量。", False, True),
    ("潜在変数は相関のあるデータでのみ使われる。対角共分散の復号器では相関を表せないからである。", False, True),
    ("$$\\log p(x) \\ge E_q[\\log p(x|z)] - KL(q(z|x) \\| p(z))$$", False, True),
    ("\\begin{align} a &= b \\end{align}", False, True),
    ("![proof](attachment:scan.png)", False, True),
    ("", True, True),
    ("是的。", False, False),
    ("$x$", False, False),
    ("Yes, they are.", False, False),
])
def test_an_answer_in_any_script_formula_or_picture_is_for_a_person(copy, text, attached, answered, mark):
    def function(content):
        cell = next(cell for cell in content["cells"] if "answer:q1_reflection" in cell["metadata"].get("tags", []))
        cell["source"] = cell["source"].split("\n")[0] + "\n\n" + text
        if attached:
            cell["attachments"] = {"scan.png": {"image/png": "iVBORw0KGgo="}}

    fake_suite.edit(copy / "notebooks" / f"{BOOK}.ipynb", function)
    assert (mark(copy)["answer:q1_reflection"].status == "manual") == answered


@pytest.mark.parametrize("heading", [
    "## Answer: in which datasets are the latents used, and why not in the others?", "**Answer (q1_reflection)**",
    "### In which data sets are the latents used and why not in the others",
])
def test_a_retyped_answer_is_found_by_its_heading(copy, heading, mark):
    def function(content):
        cell = next(cell for cell in content["cells"] if "answer:q1_reflection" in cell["metadata"].get("tags", []))
        cell["metadata"] = {}
        cell["source"] = f"{heading}\n\n{fake_suite.PROSE}"

    fake_suite.edit(copy / "notebooks" / f"{BOOK}.ipynb", function)
    assert mark(copy)["answer:q1_reflection"].status == "manual"


def test_an_answer_in_the_cell_below_its_question_counts(copy, mark):
    def function(content):
        index = next(index for index, cell in enumerate(content["cells"])
                     if "answer:q1_reflection" in cell["metadata"].get("tags", []))
        content["cells"][index]["source"] = "**In which datasets are the latents used, and why not in the others?**"
        content["cells"].insert(index + 1, {"cell_type": "markdown", "metadata": {}, "source": fake_suite.PROSE})

    fake_suite.edit(copy / "notebooks" / f"{BOOK}.ipynb", function)
    assert mark(copy)["answer:q1_reflection"].status == "manual"


def test_another_profile_is_named_as_the_cause(copy, mark):
    def function(content):
        content["cells"][0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "profile: quick, device: CPU\n"}]

    fake_suite.edit(copy / "notebooks" / f"{BOOK}.ipynb", function)
    item = mark(copy)[f"notebook:{BOOK}"]
    assert item.status == "partial" and "quick profile" in item.reasons[0]


def test_names_lose_what_copying_adds():
    names = {"Copy of 1_vae_2d.ipynb": "1_vae_2d.ipynb", "q1_a_dset1 (1).json": "q1_a_dset1.json",
             "1_vae_2d-Copy1.ipynb": "1_vae_2d.ipynb", "Q3 - Copy (2).png": "q3.png", "b19_1b.json": "b19_1b.json"}
    assert {name: plain(name) for name in names} == names
    assert written.words_in("two words") == 2


def test_a_zip_a_zip_in_a_folder_and_a_notebook_are_opened(copy, tmp_path, mark, facts):
    archive = tmp_path / "work.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for path in copy.rglob("*"):
            if path.is_file():
                content.write(path, f"hw/{path.relative_to(copy)}")
    for number, place in enumerate((archive, tmp_path / "folder")):
        (tmp_path / "folder").mkdir(exist_ok=True)
        shutil.copy(archive, tmp_path / "folder" / "work.zip")
        into = tmp_path / f"into{number}"
        into.mkdir()
        assert mark(packages.open_copy(place, into).root)["q1_a_dset1"].status == "pass"
    (tmp_path / "alone").mkdir()
    alone = packages.open_copy(copy / "notebooks" / f"{BOOK}.ipynb", tmp_path / "alone")
    assert mark(alone.root)[f"notebook:{BOOK}"].status == "pass"
    with pytest.raises(Unreadable, match="neither a folder nor a zip"):
        packages.open_copy(copy / "results" / "dirac.npz", tmp_path)


def test_a_notebook_without_its_source_tells_a_wrong_record(copy, mark):
    no_sources(copy)
    fake_suite.edit(copy / "results" / "q1_a_dset1.json",
                    lambda content: content.update(source=hashlib.sha256(json.dumps("other").encode()).hexdigest()))
    assert mark(copy)["q1_a_dset1"].reasons[0].startswith("stale")
