"""Runs on Ray: two nodes of Ray's own cluster utility, records equal to the bit to sequential ones, lost nodes and drivers."""

import os
import signal
import subprocess
import sys
import time

import pytest

from helpers import settings
from helpers.results import records
from helpers.work import cluster, runs

ray = pytest.importorskip("ray", reason="Ray is not installed (requirements-cluster.txt)")
SMALL = ["q1_a_dset1", "q1_b_dset1"]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "SUITE_PROFILE": "smoke", "SUITE_PROGRESS": "off", "RAY_DISABLE_IMPORT_WARNING": "1"}


def add_node(made, **options):
    """One more node of one core. Ray gives it thirty seconds to begin, which is little on a busy machine: it may try again."""
    for left in (3, 2, 1, 0):
        try:
            return made.add_node(num_cpus=1, **options)
        except Exception as error:  # Ray raises no narrower one
            if not left or "timed out" not in str(error):
                raise
            if made.head_node is None:
                made.shutdown()


def of_two_nodes():
    """A cluster of two nodes of one core each."""
    from ray.cluster_utils import Cluster

    subprocess.run([sys.executable, "-c", "import ray.dashboard.agent"], check=True)  # compiled once, not while Ray waits
    made = Cluster()
    add_node(made, include_dashboard=False)
    add_node(made)
    made.wait_for_nodes(timeout=120)
    return made


@pytest.fixture(scope="module")
def nodes():
    made = of_two_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def joined(nodes, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return nodes


def content_of(run_id):
    record = records.load(run_id)
    kept = ("id", "config", "profile", "seed", "source", "metrics", "spread", "arrays", "budget", "seeds", "weights", "dataset")
    return {key: record[key] for key in kept}


def test_a_lost_node_costs_a_retry_and_the_records_are_those_of_one_process_to_the_bit(joined, tmp_path, monkeypatch):
    from threading import Timer

    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path / "ray"))
    wanted = [*SMALL, "q1_a_dset2"]
    third = add_node(joined)
    Timer(2.0, lambda: joined.remove_node(third, allow_graceful=False)).start()  # its worker begins or works
    jobs = cluster.train(wanted, address=joined.address)
    assert [job.state for job in jobs] == ["done"] * 3
    there = {run_id: content_of(run_id) for run_id in wanted}
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path / "alone"))
    for run_id in wanted:
        runs.train_one(run_id)
        assert content_of(run_id) == there[run_id]


def test_a_run_that_always_fails_ends_clearly_and_the_others_go_on(joined, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "PASSED_ON", ("SUITE_MINUTES",))
    monkeypatch.setenv("SUITE_MINUTES", "never")  # a setting that every training refuses
    jobs = cluster.train(["q1_a_dset1"], address=joined.address)
    assert jobs[0].state == "failed" and "SUITE_MINUTES='never' is not a positive number of minutes" in jobs[0].note
    assert records.load("q1_a_dset1") is None
    assert "q1_a_dset1: failed" in capsys.readouterr().out


def test_what_rests_on_a_failed_run_is_held_back():
    failed, waiting = cluster.Job("a"), cluster.Job("b", needs=("a",))
    failed.state = "failed"
    assert not cluster.ready(waiting, [failed, waiting])
    assert (waiting.state, waiting.note) == ("held back", "rests on a, which failed")
    failed.state, waiting.state = "running", "waiting"
    assert not cluster.ready(waiting, [failed, waiting]) and waiting.state == "waiting"
    failed.state = "done"
    assert cluster.ready(waiting, [failed, waiting])


def test_a_driver_that_is_killed_leaves_what_had_come_back_and_goes_on(joined, tmp_path):
    output = tmp_path / "driver"
    script = ("from helpers.work import cluster, runs\nfrom helpers.results import records\n"
              f"wanted = [name for name in {[*SMALL, 'q1_b_dset2']} if records.load(name) is None]\n"
              f"print('left', len(wanted), flush=True)\ncluster.train(wanted, address={joined.address!r})")
    environment = os.environ | ENVIRONMENT | {"SUITE_OUTPUT": str(output), "PYTHONPATH": str(settings.PROJECT_ROOT)}
    command = [sys.executable, "-c", script]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    driver = subprocess.Popen(command, cwd=settings.PROJECT_ROOT, env=environment, **quiet)
    deadline = time.monotonic() + 400
    while not list((output / "results").glob("*.json")):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = {path.name: path.read_bytes() for path in (output / "results").glob("*.json")}
    again = subprocess.run(command, cwd=settings.PROJECT_ROOT, env=environment, capture_output=True, text=True, check=True)
    assert f"left {3 - len(kept)}" in again.stdout
    found = {path.name: path.read_bytes() for path in (output / "results").glob("*.json")}
    assert len(found) == 3 and found.items() >= kept.items()


def test_an_address_where_nobody_answers_is_said():
    with pytest.raises(cluster.ClusterError, match="no Ray cluster could be used at 127.0.0.1:9: nobody answers there"):
        cluster.connect("127.0.0.1:9")


@pytest.mark.parametrize(("message", "said"), [
    ("The current node timed out during startup. This could happen because ...\nmore", "The current node timed out"),
    ("", "Exception"),
])
def test_a_ray_that_does_not_begin_is_said(monkeypatch, message, said):
    def slow(**options):
        raise Exception(message)

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(cluster.ClusterError, match=f"no Ray cluster could be used at this machine: {said}"):
        cluster.connect(None)
