"""The grade as an autograder for Gradescope: a zip with ``setup.sh``, ``run_autograder`` and what they call."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

from helpers import settings
from helpers.files import write_together
from helpers.grade import autograder, handout, marking, reference, release, rerun, tasks
from helpers.grade.submission import Unreadable

SCRIPTS = ("setup.sh", "run_autograder")
FOR_PEOPLE = ("jupyter", "jupytext", "nbclient")  # requirements of editing and building: the cells are run without them
LEAST_MEGABYTES = 1024
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold: the same sources give the same bytes


def contents() -> dict[str, Path]:
    """Name in the zip -> file: the scripts, ``deliverables.toml``, and the helpers (the digest of a record reads them)."""
    root = settings.PROJECT_ROOT
    files = {name: root / "gradescope" / name for name in SCRIPTS}
    files["deliverables.toml"] = root / "deliverables.toml"
    files |= {path.relative_to(root).as_posix(): path for path in sorted((root / "helpers").rglob("*.py"))}
    return files


def job_of(notebooks: Sequence[str], *, seconds: float = rerun.SECONDS, megabytes: int = rerun.MEGABYTES, whole: bool = True
           ) -> rerun.Job:
    """What is run of a submission: some notebooks, with their checks as students have them.

    Raises:
        Unreadable: there is no such notebook, or a limit is none.
    """
    known = reference.notebooks()
    if unknown := [name for name in notebooks if name not in known]:
        raise Unreadable(f"there is no notebook {', '.join(map(repr, unknown))}; the notebooks are {', '.join(known)}")
    if seconds <= 0 or megabytes < LEAST_MEGABYTES:
        raise Unreadable(f"{seconds:g} seconds and {megabytes} MB are no limits to run within: torch alone takes "
                         f"{LEAST_MEGABYTES} MB")
    sources = {name: (settings.PROJECT_ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8") for name in notebooks}
    plain = {name: handout.with_plain_definitions(name, text) for name, text in sources.items()}
    main = release.student_commands((settings.PROJECT_ROOT / "helpers" / "__main__.py").read_text(encoding="utf-8"))
    return rerun.Job({name: tasks.texts_of(text) for name, text in plain.items()}, release.reached([main, *plain.values()]),
                     seconds, megabytes, whole)


def requirements() -> bytes:
    """What the notebooks' cells need, a line each."""
    lines = (settings.PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith("#") or not line.startswith(FOR_PEOPLE)).encode()


def pack(target: Path, suite: Path = settings.PROJECT_ROOT, *, sheets: Collection[str] = (),
         job: rerun.Job | None = None) -> Path:
    """Write the zip; returns its path.

    Args:
        target: the zip.
        suite: folder of the suite whose facts copies are marked against; none of its sources or numbers go into the zip's
            ``reference.json`` but what :func:`helpers.grade.reference.facts` says.
        sheets: that are marked; all by default.
        job: what is run of a submission; nothing by default.
    """
    contents_of_files = {name: path.read_bytes() for name, path in contents().items()}
    contents_of_files[reference.FILE] = reference.to_json(reference.facts(suite)).encode()
    contents_of_files[autograder.SETTINGS] = autograder.to_json(sheets, job).encode()
    if job is not None:
        contents_of_files["requirements.txt"] = requirements()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents_of_files.items():
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if name in SCRIPTS else 0o644) << 16
            archive.writestr(entry, content)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_together({target: buffer.getvalue()})
    return target


def register(commands) -> None:
    """Add the command ``gradescope``."""
    command = commands.add_parser("gradescope", help=gradescope.__doc__)
    command.add_argument("--output", metavar="FILE", help="build/autograder.zip by default")
    command.add_argument("--sheet", metavar="NAME,...", help="mark these sheets alone; all by default")
    command.add_argument("--run", metavar="NOTEBOOK,...", help="run these notebooks of a submission, small: docs/grading.md")
    command.add_argument("--checks-only", action="store_true", help="of these, run definitions and the course's checks alone")
    command.add_argument("--seconds", type=float, default=rerun.SECONDS, help="for each notebook (%(default)g)")
    command.add_argument("--megabytes", type=int, default=rerun.MEGABYTES, help="of memory of each process (%(default)s)")
    command.set_defaults(function=gradescope, default_profile="full")


def gradescope(arguments) -> int:
    """Pack the grade as an autograder for Gradescope."""
    sheets = marking.sheets_named(arguments.sheet)
    job = None
    if arguments.run:
        job = job_of(arguments.run.split(","), seconds=arguments.seconds, megabytes=arguments.megabytes,
                     whole=not arguments.checks_only)
    target = Path(arguments.output) if arguments.output else settings.PROJECT_ROOT / "build" / "autograder.zip"
    path = pack(target, sheets=sheets, job=job)
    runs = f"runs {', '.join(job.checks)} of a submission" if job else "runs no code of a submission"
    print(f"{path}: {path.stat().st_size / 2**10:.0f} KiB, {runs}")
    return 0
