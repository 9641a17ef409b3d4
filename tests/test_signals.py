"""Ctrl-C, a request to end and a closed terminal: one sentence, status 130, no child that goes on alone, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import settings
from helpers.publish import notebooks

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see children")]


def children(pid: int) -> set[int]:
    """All processes below one."""
    found, waiting = set(), [pid]
    while waiting:
        try:
            below = {int(child) for task in Path(f"/proc/{waiting.pop()}/task").iterdir()
                     for child in (task / "children").read_text().split()}
        except OSError:
            continue
        waiting += below - found
        found |= below
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, process, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def begin(tmp_path, *words, profile):
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"SUITE_OUTPUT": str(tmp_path / "output"), "SUITE_PROFILE": profile, "SUITE_HOUSE_NUMBERS": "",
                                "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-m", "helpers", "--profile", profile, *words]
    return subprocess.Popen(command, cwd=settings.PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            encoding="utf-8", start_new_session=True, preexec_fn=heed_all)


def heed_all():
    """In a child: heed what the test sends, which it would not where the tests run under nohup or in the background."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def end(process, number, tmp_path):
    """Send a signal to the command alone, and look at how it ends."""
    below = children(process.pid)
    assert below
    process.send_signal(number)
    try:
        output, errors = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 130, (output, errors)
    assert errors.count("interrupted: the same command goes on from the checkpoints") >= 1
    assert "Traceback" not in errors + output
    deadline = time.monotonic() + 20
    while any(map(lives, below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in below if lives(pid)]
    left = [path for path in tmp_path.rglob(".*") if path.suffix in (".part", ".download")]
    assert left == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_training_child_ends_with_its_parent(tmp_path, number):
    process = begin(tmp_path, "full", profile="full")
    until(lambda: list(tmp_path.rglob("*.lock")), process)
    end(process, number, tmp_path)
    assert list(tmp_path.rglob("*.lock")) == []


@pytest.mark.parametrize(("number", "wanted"), [
    (signal.SIGINT, ["5_planar_flows"]), (signal.SIGTERM, ["5_planar_flows"]),
    (signal.SIGHUP, ["5_planar_flows", "6_gan_critics", "--jobs", "2"]),
])
def test_no_kernel_is_left_by_a_build(tmp_path, number, wanted):
    process = begin(tmp_path, "build", *wanted, profile="quick")
    begun = sum(name in notebooks.names() for name in wanted)
    until(lambda: len({path.stem.partition("_")[0] for path in tmp_path.rglob("*.lock")}) >= begun, process)
    connected = list((tmp_path / "temporary").glob("*.json"))
    end(process, number, tmp_path)
    assert list(tmp_path.rglob("*.ipynb")) == []
    assert connected and not any(path.exists() for path in connected)  # the files that say how to reach a kernel
