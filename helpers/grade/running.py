"""The child that runs the cells of a submission. It knows nothing of the marks, and nothing that it says raises one.

It reads a job from standard input, limits itself, and writes one line a cell. What the cells print goes nowhere.
"""

from __future__ import annotations

import json
import os
import sys
import types

LONGEST = 300  # signs of an error's text
PROCESSES, OPEN_FILES, FILE_BYTES = 256, 512, 256 * 2**20


def main() -> None:
    """Run the cells of a job: ``cells`` (texts), ``name``, ``seconds``, ``megabytes``."""
    job = json.load(sys.stdin)
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    limit(job["seconds"], job["megabytes"])
    sys.path.insert(0, os.getcwd())
    module = types.ModuleType("__main__")  # as a notebook's cells see themselves
    module.__file__ = os.path.join(os.getcwd(), "notebooks", f"{job['name']}.py")
    sys.modules["__main__"] = module
    for number, text in enumerate(job["cells"]):
        error = run(text, f"{job['name']}, cell {number + 1}", module)
        lines.write(json.dumps({"cell": number, "error": error}) + "\n")
        lines.flush()
    lines.flush()
    os._exit(0)  # threads and handlers that a cell left behind are nobody's


def run(text: str, name: str, module: types.ModuleType) -> str:
    """Run one cell; returns its error as a text, or nothing."""
    try:
        exec(compile(text, name, "exec"), module.__dict__)
    except BaseException as error:  # a cell may raise anything, SystemExit too
        try:
            return f"{type(error).__name__}: {error}"[:LONGEST].rstrip(": ")
        except BaseException:
            return "an error that has no text"
    return ""


def limit(seconds: float, megabytes: int) -> None:
    """Limit this process and what it starts; what is not root cannot lift a limit again."""
    import resource

    limits = {"RLIMIT_DATA": megabytes * 2**20, "RLIMIT_CPU": int(seconds) + 1, "RLIMIT_FSIZE": FILE_BYTES, "RLIMIT_CORE": 0,
              "RLIMIT_NPROC": PROCESSES, "RLIMIT_NOFILE": OPEN_FILES}
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main()
