"""Files are whole or as they were: killed writers, full disks, drives that know neither modes nor flushing."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers import files, settings
from helpers.files import WriteError, left_overs, process_lives, remove_left_overs, write_atomically, write_together
from helpers.suite import Suite
from helpers.train.checkpoints import Checkpoint, CheckpointError

SLOW_WRITER = """
import sys, time
from pathlib import Path
from helpers.files import write_atomically, write_together
def write(stream):
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    time.sleep(60)
write_atomically(Path(sys.argv[1]), write)
"""


def killed_writer(path: Path) -> None:
    """A process that is killed in the middle of writing."""
    process = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(path)], cwd=settings.PROJECT_ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert left_overs(path.parent) == []  # it still lives
    process.kill()
    process.wait()


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_what_a_killed_writer_left_goes_at_the_next_start_and_nothing_else_does(tmp_path, monkeypatch):
    results = tmp_path / "output" / "results"
    results.mkdir(parents=True)
    (results / "a.json").write_text("old")
    killed_writer(results / "a.json")
    assert (results / "a.json").read_text() == "old"
    other = results / ".a.json.another-machine.17.0123abcd.part"  # may still be at work there
    for kept in (".hidden", ".a.part", "b.json"):
        (results / kept).write_text("kept")
    other.write_text("half")
    assert len(names(results)) == 6
    Suite("1_vae_2d", {})
    assert names(results) == [".a.json.another-machine.17.0123abcd.part", ".a.part", ".hidden", "a.json", "b.json"]
    hour_ago = time.time() - 3601
    os.utime(other, (hour_ago, hour_ago))
    remove_left_overs(results)
    assert names(results) == [".a.part", ".hidden", "a.json", "b.json"]


def test_a_process_that_has_ended_and_was_not_waited_for_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 20
    while not files.is_zombie(process.pid) and sys.platform == "linux" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not process_lives(files.HOST, process.pid, 0.0) or sys.platform != "linux"
    process.wait()
    assert not process_lives(files.HOST, process.pid, 0.0)
    assert process_lives(files.HOST, os.getppid(), 1e9)
    assert process_lives("elsewhere", process.pid, 10.0)
    assert not process_lives("elsewhere", process.pid, 4000.0)


@pytest.mark.parametrize("refused", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_drive_that_knows_neither_modes_nor_flushing_is_taken_as_it_is(tmp_path, monkeypatch, refused):
    def refuse(*arguments, **options):
        raise OSError(refused, os.strerror(refused))

    monkeypatch.setattr(files.os, "fsync", refuse)
    monkeypatch.setattr(files.os, "chmod", refuse)
    write_atomically(tmp_path / "a", lambda stream: stream.write(b"whole"))
    write_together({tmp_path / "b": b"first", tmp_path / "c": b"second"})
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"whole", b"first", b"second"]
    Checkpoint(tmp_path / "d.pt", "same").save({"step": torch.ones(3)})
    assert names(tmp_path) == ["a", "b", "c", "d.pt"]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_write_that_fails_is_one_sentence_with_path_reason_and_free_space(tmp_path, reason):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write(stream):
        stream.write(b"new")
        raise OSError(reason, os.strerror(reason))

    for attempt in (lambda: write_atomically(path, write), lambda: write_atomically(tmp_path / "deep" / "a", write)):
        with pytest.raises(WriteError, match=r"could not write .*: .*; \d+\.\d\d GiB are free there") as caught:
            attempt()
        assert os.strerror(reason) in str(caught.value)
        assert caught.value.errno == reason
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a", "deep"]


class FullDisk:
    """A file on a disk that takes so many bytes."""

    def __init__(self, stream, left):
        self.stream, self.left = stream, left

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, data):
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.stream.write(data)


@pytest.mark.parametrize("left", [0, 100, 3000, 40000])
def test_a_full_disk_is_named_by_a_checkpoint_too_and_the_old_one_stays(tmp_path, monkeypatch, left):
    checkpoint = Checkpoint(tmp_path / "run.pt", "same")
    checkpoint.save({"step": 1})
    write = files._write
    monkeypatch.setattr(files, "_write", lambda waiting, inner: write(waiting, lambda stream: inner(FullDisk(stream, left))))
    with pytest.raises(CheckpointError, match=r"could not write .*run\.pt: No space left on device; .* GiB are free there"):
        checkpoint.save({"step": 2, "weights": torch.zeros(10**5)})
    assert checkpoint.load() == {"step": 1}
    assert names(tmp_path) == ["run.pt"]


def test_a_folder_in_a_files_place_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(WriteError, match="could not write .*a: Is a directory"):
        write_together({tmp_path / "b": b"1", tmp_path / "a": b"2"})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match=r"could not write .*inner: "):
        write_atomically(tmp_path / "file" / "inner", lambda stream: None)
    assert not [name for name in names(tmp_path) if name.startswith(".")]
