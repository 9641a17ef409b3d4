"""What is handed in costs little whatever it is: limits, damaged files, a class with hostile copies, two copies side by side."""

import csv
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import zipfile

import fake_suite
import numpy as np
import pytest

from helpers import settings
from helpers.grade import arrays, classes, cleaning, diff, formats, limits, marking, reference
from helpers.grade.submission import Submission, Unreadable

FUZZED = 2_000


@pytest.fixture(scope="session")
def facts_file(facts, tmp_path_factory):
    path = tmp_path_factory.mktemp("facts") / reference.FILE
    path.write_text(reference.to_json(facts))
    return path


def nested_lambdas(copy):
    deep = "lambda x: " * 150 + "x"
    text = "".join(f"def f{number}(x):\n    return {deep}\n" for number in range(66))
    for suffix in (".py", ".ipynb"):
        path = copy / "notebooks" / f"1_vae_2d{suffix}"
        if suffix == ".py":
            path.write_text(path.read_text() + "\n# %%\n" + text)
        else:
            fake_suite.edit(path, lambda content: content["cells"].append(
                {"cell_type": "code", "execution_count": 6, "metadata": {}, "source": text, "outputs": []}))


def many_metrics(copy):
    def function(content):
        for number in range(17_000):
            content["metrics"][f"m{number}"] = 1.0
            content["spread"][f"m{number}"] = {"std": 0.0, "min": 1.0, "max": 1.0, "n": 1}

    fake_suite.edit(copy / "results" / "q1_a_dset1.json", function)


def bomb(copy):
    """An archive of arrays that unpacks to a gigabyte."""
    with zipfile.ZipFile(copy / "results" / "q1_a_dset1.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        head = np.lib.format.magic(1, 0)
        text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,), }"
        text += b" " * (117 - len(text)) + b"\n"
        with archive.open("by_seed.npy", "w") as stream:
            stream.write(head + len(text).to_bytes(2, "little") + text)
            for _ in range(64):
                stream.write(bytes(2**20))


@pytest.mark.parametrize("attack", [nested_lambdas, many_metrics, bomb])
def test_a_hostile_copy_costs_seconds_and_little_memory(copy, attack, facts_file):
    attack(copy)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    items = {item.label: item for item in limits.mark(copy, facts_file)}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15
    assert items["q1_a_dset1"].status == "fail"
    assert items["mila_p1_vae"].status == "pass"
    target = copy.parent / "out.json"
    formats.write_gradescope(list(items.values()), target)
    assert target.stat().st_size < 200_000


def test_over_the_time_what_was_not_reached_fails_with_that_reason(copy, facts_file):
    started = time.perf_counter()
    items = limits.mark(copy, facts_file, seconds=0.05)
    assert time.perf_counter() - started < 10
    assert {item.status for item in items} == {"fail"}
    assert "more than 0.05 seconds" in items[-1].reasons[0]


def test_over_the_memory_it_fails_and_says_so(copy, facts_file):
    (copy / "notebooks" / "1_vae_2d.ipynb").write_text('{"cells": [' + "[]," * 5_000_000 + "[]]}")
    items = {item.label: item for item in limits.mark(copy, facts_file, megabytes=280)}
    assert items["notebook:1_vae_2d"].status == "fail" and "memory" in items["notebook:1_vae_2d"].reasons[0].lower()
    assert items["mila_p1_vae"].status == "pass"


def test_one_slow_item_leaves_the_others_time(copy, facts, monkeypatch):
    def slow(run_id, submission, known):
        if run_id == "q1_a_dset1":
            time.sleep(5)
        return marking.Marked("pass")

    monkeypatch.setattr(marking, "_mark_run", slow)
    items = {item.label: item for item in marking.mark_each(Submission.of(copy), facts, lambda: limits.alarm(0.2))}
    assert items["q1_a_dset1"].status == "fail" and "seconds to mark" in items["q1_a_dset1"].reasons[0]
    assert items["q1_a_dset2"].status == "pass"


def damaged(content, generator):
    """A file with bytes changed, cut off, doubled or left out."""
    content = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        kind, place = generator.randrange(5), generator.randrange(max(1, len(content)))
        if kind == 0:
            content[place : place + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            del content[place:]
        elif kind == 2:
            content[place:place] = content[: generator.randint(1, 200)]
        elif kind == 3:
            del content[place : place + generator.randint(1, 60)]
        else:
            content[place : place + 1] = generator.choice([b'"', b"{", b"]", b"NaN", b"1e999", b"null", b"-", b"\x00"])
    return bytes(content)


def test_no_damaged_record_or_array_ends_in_a_traceback_or_passes_changed(copy, facts):
    """Two thousand damaged files: each is refused with a sentence, or is as good as the whole one."""
    generator, started = random.Random(0), time.process_time()
    record, packed = copy / "results" / "q1_a_dset1.json", copy / "results" / "q1_a_dset1.npz"
    whole = {path: path.read_bytes() for path in (record, packed)}
    with np.load(packed) as content:
        expected = dict(content)
    numbers = json.loads(whole[record])
    for _ in range(FUZZED // 2):
        record.write_bytes(damaged(whole[record], generator))
        found = next(marking.mark_each(Submission(copy, copy, search=False), facts, only=("q1_a_dset1",)))
        assert not found.reasons or "could not be marked" not in found.reasons[0], found.reasons
        if found.status == "pass":
            read = json.loads(record.read_bytes())
            assert read["metrics"] == pytest.approx(numbers["metrics"], rel=1e-4)
            for name, spread in numbers["spread"].items():
                assert read["spread"][name] == pytest.approx(spread, rel=1e-4)
    for _ in range(FUZZED // 2):
        packed.write_bytes(damaged(whole[packed], generator))
        try:
            read = arrays.read_arrays(packed)
        except arrays.ArraysError:
            continue
        assert all(np.array_equal(read[name], expected[name]) for name in read.keys() & expected.keys())
    assert time.process_time() - started < 40


def test_a_wrong_shape_from_a_damaged_head_is_no_array(tmp_path):
    path = tmp_path / "a.npz"
    for content in (b"", b"PK", b"\x93NUMPY", os.urandom(500)):
        path.write_bytes(content)
        with pytest.raises(arrays.ArraysError):
            arrays.read_arrays(path)


HOSTILE_NAMES = ["=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", "-2+3", "\u202etxt.exe", "a\x1b[31mred\x07",
                 "<script>alert(1)</script>"]


@pytest.mark.parametrize("text", HOSTILE_NAMES)
def test_what_a_student_wrote_is_cleaned(text, copy, facts, capsys):
    fake_suite.edit(copy / "results" / "q1_a_dset1.json", lambda content: content.update(notebook=text * 3))
    items = marking.mark(Submission.of(copy), facts)
    formats.show(items)
    outputs = [capsys.readouterr().out]
    for name, write in formats.WRITERS.items():
        write(items, copy / "out" / name)
        outputs.append((copy / "out" / name).read_text())
    for output in outputs:
        assert not set(output) & {"\x1b", "\x07", "\u202e", "\x00"}
    assert not cleaning.cell(text).startswith(("=", "+", "-", "@"))
    assert len(cleaning.clean("a" * 10_000)) <= cleaning.LONGEST
    assert cleaning.clean("e" + "\u0301" * 500) == "e" + "\u0301" * cleaning.MOST_MARKS


def make_class(folder, perfect):
    """Forty students: thirty honest ones, as folders, zips and one notebook, and ten that are spoilt or hostile."""
    folder.mkdir()
    for number in range(8):
        shutil.copytree(perfect, folder / f"honest_{number}")
    packed = shutil.make_archive(str(folder / "zip_0"), "zip", perfect)
    for number in range(1, 21):
        shutil.copy(packed, folder / f"zip_{number}.zip")
    shutil.copy(perfect / "notebooks" / "1_vae_2d.ipynb", folder / "alone.ipynb")
    (folder / "empty").mkdir()
    (folder / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with zipfile.ZipFile(folder / "escape.zip", "w") as archive:
        archive.writestr("../../outside.txt", "gone")
        archive.writestr("/etc/owned", "gone")
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("results/a.npz", "w") as stream:
        for _ in range(100):
            stream.write(bytes(2**20))
    (folder / "=HYPERLINK(1)").mkdir()
    (folder / "links").mkdir()
    (folder / "links" / "results").symlink_to("/etc")
    (folder / "text.ipynb").write_text("no notebook")
    for name in ("pipe", "deep", "noise"):
        (folder / name / "results").mkdir(parents=True)
    os.mkfifo(folder / "pipe" / "results" / "q1_a_dset1.json")
    (folder / "deep" / "results" / "q1_a_dset1.json").write_text("[" * 200_000)
    (folder / "noise" / "results" / "q1_a_dset1.json").write_bytes(os.urandom(10_000))
    return folder


def test_a_class_is_marked_whatever_some_copies_hold_and_goes_on_where_it_stopped(tmp_path, perfect, facts_file):
    folder = make_class(tmp_path / "class", perfect)
    everyone = classes.students(folder)
    assert len(everyone) == 40
    parts = tmp_path / "marks.parts"
    chosen = [student for student in everyone if not student.name.startswith(("zip_", "honest_"))]
    chosen += [student for student in everyone if student.name in ("zip_0", "honest_0", "honest_1")]
    first = {student.name: items for student, items, _ in classes.mark_class(chosen[:6], facts_file, parts, 2)}
    marked, again = {}, {}
    for student, items, anew in classes.mark_class(chosen, facts_file, parts, 2):
        marked[student.name], again[student.name] = items, anew
    assert {name for name, anew in again.items() if not anew} == set(first)
    possible = {sum(item.points for item in items) for items in marked.values()}
    assert len(possible) == 1  # of every copy, the whole assignment
    assert all(marking.passed(marked[name]) for name in ("zip_0", "honest_0", "honest_1"))
    assert not any(item.score for item in marked["empty"])
    assert not (tmp_path / "outside.txt").exists() and not (folder.parent.parent / "outside.txt").exists()
    classes.write_tables(marked, classes.copied(marked, set()), tmp_path / "marks.csv")
    rows = list(csv.DictReader((tmp_path / "marks.csv").open()))
    assert len(rows) == len(chosen) * len(marking.plan())
    assert not any(row["student"].startswith("=") for row in rows)
    totals = {row["student"]: row for row in csv.DictReader((tmp_path / "marks.totals.csv").open())}
    for name, row in totals.items():
        own = [float(other["score"]) for other in rows if other["student"] == name and other["score"]]
        assert float(row["points"]) == pytest.approx(sum(own))
    assert "honest_1" in totals["honest_0"]["same_records_as"]
    assert classes.copied(marked, classes.known_origins(facts_file)) == {}  # all were given the suite's own records


def test_the_command_marks_a_class_and_writes_pages(tmp_path, copy, facts_file):
    (tmp_path / "class").mkdir()
    shutil.move(copy, tmp_path / "class" / "jane")
    words = [sys.executable, "-m", "helpers", "grade", "--class", str(tmp_path / "class"), "--jobs", "2", "--csv",
             str(tmp_path / "out.csv"), "--html", str(tmp_path / "pages"), "--reference", str(facts_file)]
    done = subprocess.run(words, cwd=settings.PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = next(path for path in (tmp_path / "pages").glob("jane*.html")).read_text()
    assert "data:image/jpeg;base64," in page and "<script" not in page and "q1_a_dset1" in page
    assert "jane" in (tmp_path / "pages" / "index.html").read_text()


def test_the_folder_of_the_running_helpers_is_refused():
    words = [sys.executable, "-m", "helpers", "grade", "."]
    done = subprocess.run(words, cwd=settings.PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds the helpers that would mark it" in done.stderr


def test_two_copies_are_set_side_by_side(copy, perfect, capsys):
    class Words:
        first, second = str(perfect), str(copy)

    assert diff.diff(Words) == 0
    fake_suite.edit(copy / "results" / "q1_a_dset1.json", lambda content: content["metrics"].update(neg_elbo=4.45))
    (copy / "results" / "dirac.json").unlink()
    (copy / "results" / "mila_p1_vae.json").write_text("{")
    assert diff.diff(Words) == 1
    shown = capsys.readouterr().out
    assert "+0.02" in shown and "+2.0" in shown and "dirac: only in" in shown and "not a readable record" in shown
    if (settings.PROJECT_ROOT / ".git").exists():
        Words.first = Words.second = "HEAD"
        assert diff.diff(Words) == 0
    Words.second = str(settings.PROJECT_ROOT / "results" / "q1_a_dset1.json")
    diff.diff(Words)
    Words.second = "no such thing"
    with pytest.raises(Unreadable, match="no folder, zip, record or revision"):
        diff.diff(Words)
