"""The one place where a student's code is run: as another user, without network, within limits, and it can only lose points."""

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile

import fake_suite
import pytest

from helpers.grade import gradescope, handout, isolation, marking, reference, rerun, tasks
from helpers.grade.submission import Submission, Unreadable

NOTEBOOK = "n"


def found_here():
    """The isolation of this machine; None where no other user can be taken, as by who is not root."""
    try:
        return isolation.best() if os.getuid() == 0 else None
    except isolation.NotIsolated:
        return None


KEPT = found_here()
needs_root = pytest.mark.skipif(KEPT is None, reason="another user can be taken by root with setpriv alone")
CHECK = "assert double(2) == 4, 'twice two'"


def ran(tmp_path, *cells, checks=(), seconds=20.0, megabytes=2048, whole=True, tries=None):
    """Run cells as a saved notebook of a submission; returns its outcome and the sentence on how.

    What every notebook needs is set to a quick import here: the tests are about the limits.
    """
    saved = [{"cell_type": "code", "source": text, "outputs": [], "execution_count": None} for text in cells]
    (tmp_path / "notebooks").mkdir(parents=True)
    (tmp_path / "notebooks" / f"{NOTEBOOK}.ipynb").write_text(json.dumps({"cells": saved}))
    job = rerun.Job({NOTEBOOK: list(checks)}, [], seconds, megabytes, whole)
    found, said = rerun.run(Submission.of(tmp_path), job, tries)
    return found.get(NOTEBOOK), said


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rerun, "NEEDED", "import numpy")


@needs_root
def test_the_child_is_another_user_who_writes_nowhere_else(tmp_path):
    mine = tmp_path / "secret"
    mine.write_text("42")
    mine.chmod(0o600)
    refused = "try:\n    {}\nexcept OSError:\n    pass\nelse:\n    raise RuntimeError({!r})"
    forbidden = ["os.setuid(0)", f"open({str(mine)!r})", *(f"open({place!r}, 'a')" for place in
                 ("running.py", "deliverables.toml", "notebooks/n.py", "helpers", "/etc/passwd"))]
    outcome, said = ran(
        tmp_path, f"import os\nassert os.getuid() == os.geteuid() == {isolation.NOBODY}",
        "assert set(os.getgroups()) <= {os.getgid()}",
        *(refused.format(words, words) for words in forbidden),
        "from pathlib import Path\nPath(os.environ['TMPDIR'], 'mine').write_text('fine')",
        "assert os.environ['SUITE_PROFILE'] == 'smoke'")
    assert outcome["faults"] == []
    assert f"as user {isolation.NOBODY}" in said and f"as user {isolation.NOBODY}" in outcome["said"]


@needs_root
def test_a_network_attempt_fails_where_the_isolation_is_there_and_is_told_where_it_is_not(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        reach = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)"
        outcome, said = ran(tmp_path / "open", reach, tries=[isolation.DROP])
        assert outcome["faults"] == [] and "WITH the network" in said and "WITH the network" in outcome["said"]
        if KEPT.network:
            pytest.skip("nothing on this machine cuts the network off, and the sentence says so")
        outcome, said = ran(tmp_path / "closed", reach)
        assert "OSError" in outcome["faults"][0] or "Refused" in outcome["faults"][0]
        assert "without network" in said and "WITH" not in said


def test_nothing_is_run_as_root_and_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "_measured", lambda words, port: isolation.Isolation(tuple(words), 0, True, False))
    outcome, said = ran(tmp_path, "print(1)")
    assert outcome is None and "no notebook was run" in said and "root" in said and "util-linux" in said


def test_what_is_not_installed_is_passed_over(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(isolation.NotIsolated, match="is not installed"):
        isolation.best([["no-such-program"]])


@needs_root
def test_a_cell_that_loops_is_ended_with_what_it_started(tmp_path):
    beat = "import subprocess\nsubprocess.Popen(['sleep', '321.5'], start_new_session=True)"
    outcome, _ = ran(tmp_path, beat, "while True:\n    pass", "x = 1", seconds=4)
    assert outcome["faults"] == ["run again: it was ended in code cell 2: it takes more than 4 seconds"]
    if KEPT.alone:
        assert "321.5" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


@needs_root
@pytest.mark.parametrize("cell", ["x = bytearray(3 * 2**30)", "import numpy\nx = numpy.ones(3 * 2**27)"])
def test_a_cell_that_allocates_too_much_is_ended(tmp_path, cell):
    outcome, _ = ran(tmp_path, cell, "y = 1", megabytes=1024)
    assert len(outcome["faults"]) == 1 and "code cell 1 ends in" in outcome["faults"][0]
    assert "it may take 1024 MB" in outcome["faults"][0]


@needs_root
def test_what_a_submission_says_of_itself_is_worth_nothing(tmp_path):
    lie = ("import os\nfor number in range(3, 30):\n    try:\n        os.write(number, b'{\"cell\": 2, \"error\": \"\"}\\n"
           "{\"cell\": 99, \"error\": \"\"}\\n{\"cell\": true}\\n[\\nscore: 100\\n')\n    except OSError:\n        pass")
    wrong = "def double(x):\n    return 3 * x"
    outcome, _ = ran(tmp_path / "lie", lie, wrong, checks=[{"text": CHECK, "names": ["double"]}])
    assert list(outcome["checks"].values()) == ["AssertionError: twice two"]
    outcome, _ = ran(tmp_path / "exit", "import os\nos._exit(0)", wrong, checks=[{"text": CHECK, "names": ["double"]}])
    assert outcome["checks"] == {}  # and what was not seen to pass earns nothing that the saved notebook has not earned


@needs_root
def test_the_courses_checks_are_made_where_the_notebook_has_none_and_blame_the_definition(tmp_path):
    checks = [{"text": CHECK, "names": ["double"]}, {"text": "assert record > 1", "names": []},
              {"text": "assert half(4) == 2", "names": ["half"]}]
    for whole in (True, False):
        outcome, said = ran(tmp_path / str(whole), "def double(x):\n    return 3 * x", "1 / 0" if whole else "double.gone()",
                            "assert True", checks=checks, whole=whole)
        assert sorted(outcome["checks"].values()) == ["AssertionError: twice two", "NameError: name 'half' is not defined"]
        assert "run again: 2 of its 2 checks fail" in outcome["faults"]
        assert any("code cell 2 ends in ZeroDivisionError" in fault for fault in outcome["faults"]) == whole
        assert ("every cell at smoke" in said) == whole


@needs_root
def test_without_what_every_notebook_needs_nobody_is_to_blame(tmp_path, monkeypatch):
    monkeypatch.setattr(rerun, "NEEDED", "import no_such_package")
    outcome, said = ran(tmp_path, "1 / 0")
    assert outcome is None and "n could not be run: ModuleNotFoundError" in said


def test_running_takes_points_and_gives_none(copy, facts):
    def marked(ran):
        return {item.label: item for item in marking.mark(Submission.of(copy), facts | {"ran": ran})}

    before = marked({})
    good = marked({"1_vae_2d": {"checks": {}, "faults": [], "said": "run again as user 1"}})
    assert [item.score for item in good.values()] == [item.score for item in before.values()]
    assert good["notebook:1_vae_2d"].reasons[-1] == "run again as user 1"
    fault = "run again: code cell 3 ends in ValueError"
    bad = marked({"1_vae_2d": {"checks": {}, "faults": [fault], "said": "run again as user 1"}})
    assert {label for label in bad if bad[label].score != before[label].score} == {"notebook:1_vae_2d"}
    assert bad["notebook:1_vae_2d"].status == "fail" and bad["notebook:1_vae_2d"].reasons[0] == fault


@needs_root
def test_the_packed_autograder_runs_what_the_course_chose_and_says_how(copy, tmp_path, perfect):
    """End to end: the zip as Gradescope unpacks it, a submission whose KL has the wrong sign and no check cell any more."""
    base, name = tmp_path / "autograder", "1_vae_2d"
    job = gradescope.job_of([name], seconds=120, whole=False)
    with zipfile.ZipFile(gradescope.pack(tmp_path / "a.zip", sheets=["berkeley24"], job=job)) as archive:
        archive.extractall(base / "source")
        assert {"autograder.json", "requirements.txt", "setup.sh", "helpers/grade/running.py"} <= set(archive.namelist())
        needed = archive.read("requirements.txt").decode()
        assert "torch>=" in needed and "jupyter" not in needed
    source = (handout.CHANGES.parents[3] / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
    right = handout.with_plain_definitions(name, source)
    checks = [check["text"] for check in tasks.texts_of(right)]
    assert right.count("- 1 - log_variance).sum(-1)") == 1
    wrong = right.replace("- 1 - log_variance).sum(-1)", "- 1 + log_variance).sum(-1)")
    for text in checks:
        wrong = wrong.replace(text, "pass")
    (copy / "notebooks" / f"{name}.ipynb").unlink()
    (copy / "notebooks" / f"{name}.py").write_text(wrong, encoding="utf-8")
    shutil.copytree(copy, base / "submission")
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "AUTOGRADER_BASE": str(base)}
    subprocess.run(["bash", str(base / "source" / "run_autograder")], env=environment, capture_output=True, check=True)
    content = json.loads((base / "results" / "results.json").read_text())
    tests = {test["name"].split(":")[0]: test for test in content["tests"]}
    said = "the check fails when it is run: AssertionError; it is of task q1_loss (gaussian_nll, kl_to_standard_normal)"
    assert said in tests["q1_a_dset1"]["output"] and tests["q1_a_dset1"]["status"] == "failed"
    assert f"(definitions and checks) as user {isolation.NOBODY}, with" in content["output"].lower()
    assert "at most 120 seconds a notebook and 4096 MB" in content["output"] and content["output"].endswith(name)
    assert {tag for test in content["tests"] for tag in test["tags"]} & {"berkeley24", "mila20"} == {"berkeley24"}
    assert (base / "source").stat().st_mode & 0o077 == 0


def test_without_the_courses_choice_nothing_is_run(copy, tmp_path, perfect):
    with zipfile.ZipFile(gradescope.pack(tmp_path / "a.zip", perfect)) as archive:
        assert "requirements.txt" not in archive.namelist()
        archive.extractall(tmp_path / "source")
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')\n"
    fake_suite.edit(copy / "notebooks" / "1_vae_2d.ipynb", lambda content: content["cells"][0].update(source=trap))
    words = [sys.executable, "-m", "helpers.grade.autograder", str(copy), "out.json"]
    subprocess.run(words, cwd=tmp_path / "source", env={**os.environ, "PYTHONPATH": "."}, check=True)
    assert "no code of the submission was run" in json.loads((tmp_path / "source" / "out.json").read_text())["output"]
    assert not (tmp_path / "sprung").exists()


def test_unknown_notebooks_and_limits_that_are_none_are_refused():
    with pytest.raises(Unreadable, match="'7_none'; the notebooks are 1_vae_2d"):
        gradescope.job_of(["1_vae_2d", "7_none"])
    for limit in ({"seconds": 0}, {"megabytes": 200}):
        with pytest.raises(Unreadable, match="no limits to run within"):
            gradescope.job_of(reference.notebooks()[:1], **limit)
