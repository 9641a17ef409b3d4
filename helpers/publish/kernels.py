"""The kernels that execute notebooks: always this Python's own, and their end explained when they die."""

from __future__ import annotations

import atexit
import itertools
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

PATIENCE_SECONDS = 15.0  # with a kernel that was interrupted
COUNTERS = (  # Linux counts there how often it ended a process for lack of memory: on the machine, in a container of either kind
    (Path("/proc/vmstat"), "oom_kill"), (Path("/sys/fs/cgroup/memory.events"), "oom_kill"),
    (Path("/sys/fs/cgroup/memory/memory.oom_control"), "oom_kill"),
)
KILLED = (-9, 137)  # SIGKILL, and what a shell or container makes of it
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE")
LESS = "Close other programs, or give it a smaller profile"


def client(notebook, folder: Path):
    """A client that executes a notebook in ``folder``, in a kernel of the Python that runs this.

    A kernel that is registered as ``python3`` for the user or the machine may belong to another Python, without the suite's
    packages: no registered kernel is asked.

    Args:
        notebook: as nbformat reads it.
        folder: the kernel's working folder.

    Returns:
        An ``nbclient.NotebookClient``; its ``cell_begun`` is the index of the cell in work, its ``process`` the kernel's.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class OwnKernel(AsyncKernelManager):
        def __init__(self, **options) -> None:
            own = KernelSpecManager(data_dir="")
            own.kernel_dirs = []  # what is left is the Python that imports ipykernel here
            super().__init__(**{**options, "kernel_spec_manager": own})

    made = NotebookClient(
        notebook, timeout=None, kernel_name="python3", kernel_manager_class=OwnKernel, record_timing=False,
        resources={"metadata": {"path": str(folder)}}, extra_arguments=["--log-level=ERROR"],  # no remarks on how kernels connect
    )
    made.cell_begun, made.process, made.stopped = 0, None, False

    def begin(cell, cell_index: int) -> None:
        if made.stopped:
            raise KeyboardInterrupt
        made.cell_begun, made.process = cell_index, getattr(made.km.provisioner, "process", None)

    made.on_cell_start = begin
    return made


def execute(clients: Iterable, jobs: int = 1) -> Iterator[tuple[object, BaseException | None]]:
    """Execute the notebooks of clients, some at a time; whoever ends this process ends their kernels first.

    A client works in a thread: there it leaves signals alone, so that they reach this one as everywhere else. A kernel is
    interrupted, which lets it put in order what it is writing, and ended only where it does not listen.

    Args:
        clients: of :func:`client`, begun in this order.
        jobs: how many work at once.

    Yields:
        Each client as it ends, and the error that ended it, or None.

    Raises:
        KeyboardInterrupt: this process was interrupted; the kernels have ended.
    """
    waiting, running, ended = iter(clients), {}, queue.SimpleQueue()

    def work(made) -> None:
        try:
            made.execute()
        except BaseException as error:
            ended.put((made, error))
        else:
            ended.put((made, None))

    def begin() -> None:
        for made in itertools.islice(waiting, jobs - len(running)):
            running[made] = threading.Thread(target=work, args=(made,), daemon=True, name="notebook")
            running[made].start()

    try:
        begin()
        while running:
            with suppress(queue.Empty):
                made, error = ended.get(timeout=0.5)
                del running[made]
                yield made, error
                begin()
    except BaseException:  # an interrupt, or whoever asked will not go on: no kernel is left alone
        _end(running)
        raise


def _end(running: dict[object, threading.Thread]) -> None:
    """Interrupt the kernels of clients, each at work in a thread, and end those that do not listen."""
    for made in running:
        made.stopped, made.shutdown_kernel = True, "immediate"
    for number in (signal.SIGINT, getattr(signal, "SIGKILL", signal.SIGTERM)):
        for made, thread in running.items():
            pid = getattr(getattr(made.km, "provisioner", None), "pid", None)
            with suppress(OSError, TypeError):  # it has ended, or has not begun
                if thread.is_alive():
                    os.kill(pid, number)
        deadline = time.monotonic() + PATIENCE_SECONDS
        for thread in running.values():
            thread.join(max(0.0, deadline - time.monotonic()))
    for made in running:
        atexit.unregister(made._cleanup_kernel)  # nothing is left of the kernel, and this would wait for its sockets
        if made.km is not None:
            made.km.cleanup_connection_file()  # as that would have done


def kills() -> int | None:
    """A count that rises when the system ends a process for lack of memory; None where it does not say."""
    counts = []
    for path, name in COUNTERS:
        with suppress(OSError):
            counts += re.findall(rf"^{name} (\d+)$", path.read_text(encoding="ascii"), flags=re.MULTILINE)
    return sum(map(int, counts)) if counts else None


def death(name: str, notebook, index: int, status: int | None, kills_before: int | None) -> str:
    """A sentence on a kernel that died: in which notebook and cell, and of what, where the system says so.

    Args:
        name: of the notebook.
        notebook: as nbformat reads it.
        index: of the cell in ``notebook.cells``.
        status: of the kernel's process, negative for a signal; None where it is not known.
        kills_before: :func:`kills` from before the notebook was executed.
    """
    number = sum(cell.cell_type == "code" for cell in notebook.cells[: index + 1])
    first_line = next((line for line in notebook.cells[index].source.splitlines() if line.strip()), "")
    cause = cause_of(status, kills_before)
    return f"{name}: the kernel died in code cell {number} ({first_line[:80]}): {cause}. Checkpoints are kept"


def cause_of(status: int | None, kills_before: int | None) -> str:
    """Of what a process died, in words; arguments as for :func:`death`."""
    after = kills()
    if status in (None, *KILLED) and kills_before is not None and after is not None and after > kills_before:
        return f"out of memory: the system ended a process to get some back. {LESS}"
    if status in KILLED:
        return f"its process was killed (SIGKILL), as systems do that run out of memory; this one does not say. {LESS}"
    if status is None:
        return f"something ended its process; the system does not say what. Lack of memory is the usual cause. {LESS}"
    if status >= 0:
        return f"its process ended itself with status {status}"
    try:
        known = signal.Signals(-status).name
    except ValueError:
        known = f"signal {-status}"
    return f"its process ended by {known}" + (", a crash in compiled code" if known in CRASHES else "")
