"""Two processes in one folder share the runs out, and a dead one's run is taken over. Processes are really killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from helpers import files, locks, settings
from helpers.locks import Lock

NOTEBOOK = '''
import sys, time
from pathlib import Path
import torch
from helpers import settings
from helpers.suite import Outcome, Suite, run
from helpers.train.training import Batches, GradientUpdate, fit

settings.PROJECT_ROOT = Path(sys.argv[1])

def train(run, steps):
    print(f"training {run.id}", flush=True)
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    def loss(batch, noise, step):
        while run.id == "alpha" and step == 30 and (settings.PROJECT_ROOT / "hold").exists():
            time.sleep(0.01)
        return ((model(batch) - 1) ** 2).mean()[None]
    update = GradientUpdate(model, loss, torch.optim.SGD(model.parameters(), 0.01))
    history = fit(update, Batches(torch.ones(4, 1), 2, seed=0), steps=steps, checkpoint_seconds=0, **run.training())
    budget = (history.done, history.planned, "steps")
    return Outcome({"loss": float(history.terms[-1, 0])}, {"terms": history.terms}, budget=budget)

RUNS = {name: run(train, full={"steps": 60}) for name in ("alpha", "beta", "gamma")}

if __name__ == "__main__":
    from helpers import locks
    locks.POLL_SECONDS = 0.1
    suite = Suite("9_test", RUNS)
    print("started", flush=True)
    for name in RUNS:
        print(name, "has", suite.run(name)["budget"]["done"], flush=True)
'''


@pytest.fixture
def start(tmp_path):
    """Start the notebook in a process; returns the process."""
    (tmp_path / "notebooks").mkdir()
    script = tmp_path / "notebooks" / "9_test.py"
    script.write_text(NOTEBOOK)
    (tmp_path / "hold").touch()  # keeps the first run in the middle until the other process is where it should be
    environment = os.environ | {"PYTHONPATH": str(settings.PROJECT_ROOT), "SUITE_OUTPUT": str(tmp_path / "output")}
    running = []

    def begin():
        running.append(subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def until(process, line):
    """Read a process's output up to a line."""
    read = []
    while not read or read[-1] != line:
        read.append(process.stdout.readline().rstrip())
        assert process.poll() is None, (read, process.stderr.read())
    return read


def test_the_second_process_goes_on_to_the_next_run_and_both_end_with_every_record(start, tmp_path):
    first = start()
    until(first, "training alpha")
    second = start()
    said = until(second, "training gamma")
    (tmp_path / "hold").unlink()
    assert any(f"alpha: process {first.pid} on " in line and "goes on to the next run" in line for line in said)
    outputs = [process.communicate(timeout=120) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    trained = "\n".join([*said, *(output for output, _ in outputs)])
    assert [trained.count(f"training {name}") for name in ("alpha", "beta", "gamma")] == [0, 1, 1]  # alpha was read by ``until``
    for name in ("alpha", "beta", "gamma"):
        assert f"{name} has 60" in outputs[0][0] and f"{name} has 60" in outputs[1][0]
        assert json.loads((tmp_path / "output" / "results" / f"{name}.json").read_text())["budget"]["done"] == 60
    assert list((tmp_path / "output" / "build" / "checkpoints").iterdir()) == []


def test_a_dead_ones_run_is_taken_over_from_its_checkpoint(start, tmp_path):
    first = start()
    until(first, "training alpha")
    checkpoints = tmp_path / "output" / "build" / "checkpoints"
    while not list(checkpoints.glob("alpha-*.pt")):
        time.sleep(0.01)
    first.kill()
    first.wait()
    (tmp_path / "hold").unlink()
    assert (checkpoints / "alpha-0.lock").exists()
    second = start()
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert f"alpha: process {first.pid} on " in output and "is gone; this one takes over" in output
    assert "alpha: resumed at step" in output and "alpha has 60" in output
    assert list(checkpoints.iterdir()) == []


def test_a_process_that_waits_takes_over_when_the_other_one_dies(start, tmp_path):
    first = start()
    until(first, "training alpha")
    second = start()
    until(second, "alpha: waiting for the process that is training it")
    (tmp_path / "hold").unlink()
    first.send_signal(signal.SIGKILL)
    first.wait()
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "is gone; this one takes over" in output
    assert all(f"{name} has 60" in output for name in ("alpha", "beta", "gamma"))


@pytest.fixture
def held(tmp_path):
    """A lock of this process: what its file says may be changed."""
    lock = Lock(tmp_path / "a.lock")
    assert lock.take() is None
    yield lock
    lock.release()


def rewrite(lock, **changes):
    lock.path.write_text(json.dumps(json.loads(lock.path.read_text()) | changes))


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_one_process_cannot_take_what_it_holds(held):
    other = Lock(held.path)
    assert other.take().pid == os.getpid()
    held.release()
    assert other.take() is None
    other.release()
    assert not held.path.exists()


@pytest.mark.parametrize(("changes", "seconds", "lives"), [
    ({"machine": "another"}, 30, True),
    ({"machine": "another"}, 200, False),
    ({"pid": os.getppid(), "started": locks.started(os.getppid())}, 10**6, True),  # stopped, not dead
    ({"pid": os.getppid(), "started": "1"}, 0, False),  # the number was given to another process
    ({"token": "of the process that had this number before"}, 0, False),
])
def test_who_lives_keeps_a_lock_and_who_is_dead_loses_it(held, changes, seconds, lives):
    if sys.platform != "linux" and "started" in changes:
        pytest.skip("only Linux tells when a process began")
    rewrite(held, **changes)
    age(held.path, seconds)
    other = Lock(held.path)
    assert (other.take() is not None) is lives
    if not lives:
        assert other.taken_from is not None
        held.release()  # leaves the lock of the other one
        assert locks.read(held.path).token == other.token
        other.release()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"machine": 3}', b"\xff\xfe", b'{"machine":"a","pid":"x"}'])
def test_a_file_that_says_nothing_counts_by_its_age(tmp_path, content):
    path = tmp_path / "a.lock"
    path.write_bytes(content)
    assert Lock(path).take() is not None
    age(path, 200)
    lock = Lock(path)
    assert lock.take() is None
    lock.release()


def test_a_holder_gives_a_sign_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    lock = Lock(tmp_path / "a.lock")
    lock.take()
    age(lock.path, 1000)
    deadline = time.monotonic() + 20
    while files.age(lock.path) > 500 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert files.age(lock.path) < 500
    lock.release()


def test_only_one_of_many_takes_over_a_dead_ones_lock(tmp_path):
    path = tmp_path / "a.lock"
    code = ("import sys, time\nfrom pathlib import Path\nfrom helpers.locks import Lock\nlock = Lock(Path(sys.argv[1]))\n"
            "print('ready', flush=True)\nsys.stdin.readline()\nprint(lock.take() is None, flush=True)\ntime.sleep(60)\n")
    many = [subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=settings.PROJECT_ROOT, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True) for _ in range(6)]
    for process in many:
        process.stdout.readline()
    path.write_text(json.dumps({"machine": locks.machine(), "pid": 2**22 + 1, "started": "1", "token": "dead", "since": ""}))
    for process in many:
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(process.stdout.readline().strip() for process in many) == ["False"] * 5 + ["True"]
    for process in many:
        process.kill()
        process.wait()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.lock"]


def test_a_short_lock_keeps_every_change(tmp_path):
    (tmp_path / "number").write_text("0")
    code = """if True:
        import sys
        from pathlib import Path
        from helpers.locks import waiting
        folder = Path(sys.argv[1])
        for _ in range(20):
            with waiting(folder / "a.lock", 0.001):
                number = int((folder / "number").read_text())
                (folder / "number").write_text(str(number + 1))
    """
    many = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=settings.PROJECT_ROOT) for _ in range(3)]
    assert [process.wait() for process in many] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "60"


def test_a_drive_without_hard_links_will_do(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.os, "link", refuse)
    lock, other = Lock(tmp_path / "a.lock"), Lock(tmp_path / "a.lock")
    assert lock.take() is None
    assert other.take().token == lock.token
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(files.WriteError, match=r"could not write .*a\.lock: "):
        Lock(tmp_path / "file" / "a.lock").take()
