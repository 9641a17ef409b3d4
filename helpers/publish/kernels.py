"""The kernel that executes a notebook: always this Python's own, and its end explained when it dies."""

from __future__ import annotations

import atexit
import os
import re
import signal
import threading
from contextlib import suppress
from pathlib import Path

PATIENCE_SECONDS = 15.0  # with a kernel that was interrupted
COUNTERS = Path("/proc/vmstat")  # Linux counts there how often it ended a process for lack of memory


def client(notebook, folder: Path):
    """A client that executes a notebook in ``folder``, in a kernel of the Python that runs this.

    A kernel that is registered as ``python3`` for the user or the machine may belong to another Python, without the suite's
    packages: no registered kernel is asked.

    Args:
        notebook: as nbformat reads it.
        folder: the kernel's working folder.

    Returns:
        An ``nbclient.NotebookClient``; its ``cell_begun`` is the index of the cell that it works on.
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
    made.cell_begun, made.stopped = 0, False

    def begin(cell, cell_index: int) -> None:
        if made.stopped:
            raise KeyboardInterrupt
        made.cell_begun = cell_index

    made.on_cell_start = begin
    return made


def execute(made) -> None:
    """Execute a client's notebook; whoever ends this process ends the kernel first.

    The client works in a thread: there it leaves signals alone, so that they reach this one as everywhere else. The kernel is
    interrupted, which lets it put in order what it is writing, and ended only where it does not listen.

    Raises:
        KeyboardInterrupt: this process was interrupted; the kernel has ended.
    """
    ended: list[BaseException] = []

    def work() -> None:
        try:
            made.execute()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True, name="notebook")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.5)
    except KeyboardInterrupt:
        made.stopped, made.shutdown_kernel = True, "immediate"
        for number in (signal.SIGINT, getattr(signal, "SIGKILL", signal.SIGTERM)):
            pid = getattr(getattr(made.km, "provisioner", None), "pid", None)
            with suppress(OSError, TypeError):  # it has ended, or has not begun
                os.kill(pid, number)
            thread.join(PATIENCE_SECONDS)
            if not thread.is_alive():
                break
        atexit.unregister(made._cleanup_kernel)  # nothing is left of the kernel, and this would wait for its sockets
        raise
    if ended:
        raise ended[0]


def kills() -> int | None:
    """How many processes the system has ended for lack of memory since it started; None where it does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", COUNTERS.read_text(encoding="ascii"), flags=re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def death(name: str, notebook, index: int, kills_before: int | None) -> str:
    """A sentence on a kernel that died: in which notebook and cell, and of what, where the system says so.

    Args:
        name: of the notebook.
        notebook: as nbformat reads it.
        index: of the cell in ``notebook.cells``.
        kills_before: :func:`kills` from before the notebook was executed.
    """
    number = sum(cell.cell_type == "code" for cell in notebook.cells[: index + 1])
    first_line = next((line for line in notebook.cells[index].source.splitlines() if line.strip()), "")
    after = kills()
    if kills_before is not None and after is not None and after > kills_before:
        cause = "out of memory: the system ended a process to get some back. Close other programs, or give it a smaller profile"
    else:
        cause = "something ended its process; the system does not say what. Lack of memory is the usual cause"
    return f"{name}: the kernel died in code cell {number} ({first_line[:80]}): {cause}. Checkpoints are kept"
