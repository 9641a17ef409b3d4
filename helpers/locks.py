"""One process a run: two that work in one folder (two tabs on one Drive, two tasks of a cluster) share the runs out.

A lock is a small file beside the checkpoints with machine, process and a token; its holder touches it every few seconds. A lock
whose process is gone, or on another machine gives no sign any more, is taken over. Mounted drives know no locks but plain files.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from helpers.files import HOST, WriteError, age, free_space, process_lives, temporary_beside

BEAT_SECONDS = 10.0
POLL_SECONDS = 5.0  # between two looks at a lock that somebody holds
STALE_SECONDS = 120.0  # without a beat, after which the holder on another machine counts as dead


def machine() -> str:
    """This machine as far as process numbers mean the same: host, boot and, in a container, its own count of processes."""
    parts = [HOST]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8])
        parts.append("".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid"))))
    return "-".join(parts)


def started(pid: int) -> str:
    """When a process of this machine began, in ticks since the boot; empty where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its file says."""

    machine: str
    pid: int
    started: str
    token: str
    since: str = ""

    def lives(self, path: Path) -> bool:
        """Whether the holder is still at work."""
        if self.machine != machine():
            return age(path) < STALE_SECONDS
        if self.pid == os.getpid():
            return self.started == started(self.pid) and self.token in _held
        return process_lives(HOST, self.pid, 0.0) and started(self.pid) == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine}, since {self.since}"


_held: set[str] = set()  # tokens of this process


def read(path: Path) -> Holder | None:
    """Who holds a lock; None where nobody does. A file that cannot be read is a holder of no machine: only its age counts."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Holder(*(str(content["machine"]), int(content["pid"]), str(content["started"]), str(content["token"])),
                      since=str(content["since"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return Holder("unknown", 0, "", "")


@dataclass
class Lock:
    """A lock on what is named by a path, which this process holds from :meth:`take` to :meth:`release`."""

    path: Path
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    taken_from: Holder | None = None  # the dead holder whose lock it was
    _over: threading.Event = field(default_factory=threading.Event)

    def take(self) -> Holder | None:
        """Try to take it; a dead holder's is taken over.

        Returns:
            None where this process has it now, else who holds it.

        Raises:
            WriteError: the folder cannot be written to.
        """
        while not self._create():
            holder = read(self.path)
            if holder is None:
                continue  # released in this moment
            if holder.lives(self.path):
                return holder
            self._push_aside(holder)
            self.taken_from = holder
        _held.add(self.token)
        self._over.clear()
        threading.Thread(target=self._beat, daemon=True, name=f"lock {self.path.name}").start()
        return None

    def release(self) -> None:
        """Give it back, if this process has it; what another one has taken over meanwhile is left to that."""
        self._over.set()
        _held.discard(self.token)
        holder = read(self.path)
        if holder is not None and holder.token == self.token:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        content = {"machine": machine(), "pid": os.getpid(), "started": started(os.getpid()), "token": self.token,
                   "since": time.strftime("%Y-%m-%d %H:%M")}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_beside(self.path) as whole:
                whole.write_text(json.dumps(content), encoding="utf-8")
                try:
                    os.link(whole, self.path)  # there at once with its content, or not at all
                except FileExistsError:
                    return False
                except OSError:  # a drive without hard links
                    try:
                        with open(self.path, "x", encoding="utf-8") as stream:
                            json.dump(content, stream)
                    except FileExistsError:
                        return False
        except OSError as error:
            raise WriteError(f"could not write {self.path}: {error.strerror or error}; {free_space(self.path.parent)}") from error
        return True

    def _push_aside(self, dead: Holder) -> None:
        """Remove a dead holder's lock, and put it back where another process has taken it over in between."""
        aside = self.path.with_name(f"{self.path.name}.{self.token}")
        with suppress(OSError):
            os.rename(self.path, aside)
            now = read(aside)
            if now is not None and now.token != dead.token:
                with suppress(OSError):
                    os.link(aside, self.path)
            aside.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self.path)


def remove_of(pid: int, folder: Path) -> None:
    """Remove the locks in a folder that a process of this machine held, after it was killed."""
    for path in folder.glob("*.lock"):
        holder = read(path)
        if holder is not None and (holder.machine, holder.pid) == (machine(), pid):
            path.unlink(missing_ok=True)


def take_turn(lock: Lock, what: str, meanwhile: Callable[[], None] | None) -> bool:
    """Take a lock, after the process that has it where there is something to do meanwhile; whether it was taken.

    Args:
        lock: of this process.
        what: a name for the sentences that say who has it.
        meanwhile: what to do before waiting; None: do not wait.
    """
    holder = lock.take()
    if holder is not None:
        print(f"{what}: {holder} is training it; this process goes on to the next run", flush=True)
        if meanwhile is None:
            return False
        meanwhile()
        if lock.take() is not None:
            print(f"{what}: waiting for the process that is training it", flush=True)
            while lock.take() is not None:
                time.sleep(POLL_SECONDS)
    if lock.taken_from is not None:
        print(f"{what}: {lock.taken_from} is gone; this one takes over, from the last checkpoint where there is one", flush=True)
    return True


@contextmanager
def waiting(path: Path, poll_seconds: float = 0.05) -> Iterator[None]:
    """Hold a lock for a moment, after whoever has it: around reading a file and writing it back."""
    lock = Lock(path)
    try:
        while lock.take() is not None:
            time.sleep(poll_seconds)
        yield
    finally:
        lock.release()
