"""How code that nobody trusts is run: as which user, with or without a network; measured before it starts, not assumed.

The means are util-linux's ``unshare`` and ``setpriv``. Where one of them is missing or not allowed, the next best is taken,
and :attr:`Isolation.said` tells what was really there.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

NOBODY = 65534  # the user that owns nothing
SECONDS = 60  # for one measurement: the machine may be busy
DROP = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
        "--bounding-set=-all")
OWN_PROCESSES = ("unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child")
# From the most to the least that is kept away.
OF_ROOT = ((*OWN_PROCESSES, *DROP), ("unshare", "--net", *DROP), DROP)
OF_OTHERS = (("unshare", "--map-current-user", *OWN_PROCESSES[1:]), ("unshare", "--map-current-user", "--net"), ())
PROBE = """import json, os, socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2).close()
    network = True
except OSError:
    network = False
print(json.dumps({"user": os.getuid(), "network": network, "alone": os.getpid() < 10}))
"""


class NotIsolated(RuntimeError):
    """Nothing here runs code as another user than root; the message says what was tried."""


@dataclass(frozen=True)
class Isolation:
    """What stands between foreign code and this machine.

    Attributes:
        words: what a command begins with.
        user: number of the user that it runs as, as it said itself.
        network: whether it reached a server on this machine.
        alone: whether its processes are in a space of their own, in which all end with the first.
    """

    words: tuple[str, ...]
    user: int
    network: bool
    alone: bool

    @property
    def said(self) -> str:
        """In words."""
        own = " (the user that marks)" if self.user == os.getuid() else ""
        network = "WITH the network: nothing here can cut it off" if self.network else "without network"
        space = "in a space of its own" if self.alone else "among the other processes"
        return f"as user {self.user}{own}, {network}, {space}"


def best(tries: Sequence[Sequence[str]] | None = None) -> Isolation:
    """The best isolation that works on this machine.

    Args:
        tries: beginnings of a command, the best first; those for this user by default.

    Raises:
        NotIsolated: what is left would run as root.
    """
    root = os.getuid() == 0
    tries = tries if tries is not None else OF_ROOT if root else OF_OTHERS
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        for words in tries:
            found = _measured(tuple(words), server.getsockname()[1])
            if isinstance(found, Isolation) and found.user != 0:
                return found
            seen.append(f"{' '.join(words[:2])}: {'it runs as root' if isinstance(found, Isolation) else found}")
    raise NotIsolated("no code of a submission is run as root, and nothing here runs it as another user "
                      f"({'; '.join(seen) or 'nothing was tried'}): install util-linux (unshare, setpriv)")


def _measured(words: tuple[str, ...], port: int) -> Isolation | str:
    """What a process that begins with these words can do, told by one; or why there is none."""
    if words and shutil.which(words[0]) is None:
        return f"{words[0]} is not installed"
    try:
        done = subprocess.run([*words, sys.executable, "-I", "-c", PROBE, str(port)], cwd="/", stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=SECONDS, check=True)
        return Isolation(words, **json.loads(done.stdout))
    except subprocess.CalledProcessError as error:
        return error.stderr.decode("utf-8", "replace").strip()[-120:] or f"status {error.returncode}"
    except (OSError, ValueError, TypeError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
