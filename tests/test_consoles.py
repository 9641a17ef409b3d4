"""Consoles without some signs, of another encoding, or whose reader has gone: no command ends in a traceback."""

import errno
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from helpers import __main__ as command_line
from helpers import settings
from helpers.files import WriteError

CONSOLES = {"cp1252": {"PYTHONIOENCODING": "cp1252"}, "C": {"PYTHONIOENCODING": ""}}  # C: ASCII
COMMANDS = [("status",), ("check",), ("colab",), ("diff", "results/q1_a_dset1.json", "results/q1_a_dset2.json"),
            ("check-run", "q1_a_dset1"), ("readme", "--check"), ("train", "no_such_run"), ("--help",)]


def called(*words, output=subprocess.PIPE, **variables):
    """Process of a command at the full profile, in the locale C without Python's own switch to UTF-8."""
    return subprocess.Popen([sys.executable, "-m", "helpers", "--profile", "full", *words], cwd=settings.PROJECT_ROOT,
                            env=environment(**variables), stdout=output, stderr=subprocess.PIPE)


def environment(**variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "SUITE_OUTPUT"))}
    return kept | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} | variables


ONE_AFTER_ANOTHER = """if True:
    import json, sys, traceback
    from helpers.__main__ import main
    for words in json.loads(sys.argv[1]):
        print("#### asked:", *words, flush=True)
        sys.argv = ["helpers", "--profile", "full", *words]
        try:
            status = main()
        except SystemExit as end:
            status = end.code
        except Exception:
            traceback.print_exc()
            status = "a traceback"
        print("status", status, flush=True)
"""


@pytest.mark.parametrize("console", CONSOLES)
def test_every_command_says_what_it_has_to_say(console):
    done = subprocess.run([sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(COMMANDS)], cwd=settings.PROJECT_ROOT,
                          env=environment(**CONSOLES[console]), capture_output=True, timeout=300, check=False)
    assert b"Traceback" not in done.stderr, done.stderr
    said = done.stdout.split(b"#### asked: ")[1:]
    assert [part.split(None, 1)[0].decode() for part in said] == [words[0] for words in COMMANDS]
    for part in said:
        lines = part.split(b"\n")
        assert lines[-2] in (b"status 0", b"status 1", b"status 2"), part
        assert len(lines) > 3 or b"error: there is no run" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_grade_writes_its_files_whatever_becomes_of_the_console(unbuffered, tmp_path):
    files = [tmp_path / f"grade.{kind}" for kind in ("csv", "json", "html")]
    asked = [word for path, kind in zip(files, ("csv", "gradescope", "html"), strict=True) for word in (f"--{kind}", str(path))]
    process = called("grade", "--sheet", "mila20", *asked, PYTHONUNBUFFERED=unbuffered)
    process.stdout.close()  # a reader that goes at once
    _, errors = process.communicate(timeout=300)
    assert b"Traceback" not in errors and process.returncode == 141, errors
    assert [path.stat().st_size > 1000 for path in files] == [True] * 3
    assert "±" in files[2].read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [("status",), ("diff", "results/q1_a_dset1.json", "results/q1_a_dset2.json")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_read_enough_ends_a_command_quietly(words, unbuffered):
    process = called(*words, PYTHONUNBUFFERED=unbuffered)
    process.stdout.close()
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_is_one_clear_error(unbuffered):
    with open("/dev/full", "wb") as full:
        process = called("diff", "results/q1_a_dset1.json", "results/q1_a_dset2.json", output=full, PYTHONUNBUFFERED=unbuffered)
        _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (2, b"error: the output could not be written where it goes: No space left on device\n")


@pytest.fixture
def ending(monkeypatch):
    """The command line with a command that ends in a given error."""

    def end(error: Exception) -> int:
        def function(arguments):
            raise error

        asked = SimpleNamespace(profile=None, function=function)
        monkeypatch.setattr(command_line, "parser_for", lambda words: SimpleNamespace(parse_args=lambda: asked))
        monkeypatch.setattr(command_line, "end_as_interrupted", lambda: None)
        return command_line.main()

    return end


def test_a_full_disk_under_a_file_keeps_the_message_that_names_the_file(ending, capsys):
    full = WriteError(errno.ENOSPC, "could not write results/a.json: No space left on device; 0.00 GiB are free there")
    assert ending(full) == 2
    assert str(full) in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(errno.EPIPE, "Broken pipe"),
                                   KeyError("a fault of ours")])
def test_an_error_that_the_console_has_no_part_in_is_shown_whole(ending, error):
    with pytest.raises(type(error)) as caught:
        ending(error)
    assert caught.value is error
