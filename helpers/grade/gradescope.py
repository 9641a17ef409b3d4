"""The grade as an autograder for Gradescope: a zip with ``setup.sh``, ``run_autograder`` and what they call."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from helpers import settings
from helpers.files import write_together
from helpers.grade import reference

SCRIPTS = ("setup.sh", "run_autograder")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold: the same sources give the same bytes


def contents() -> dict[str, Path]:
    """Name in the zip -> file: the scripts, ``deliverables.toml``, and the helpers (the digest of a record reads them)."""
    root = settings.PROJECT_ROOT
    files = {name: root / "gradescope" / name for name in SCRIPTS}
    files["deliverables.toml"] = root / "deliverables.toml"
    files |= {path.relative_to(root).as_posix(): path for path in sorted((root / "helpers").rglob("*.py"))}
    return files


def pack(target: Path, suite: Path = settings.PROJECT_ROOT) -> Path:
    """Write the zip; returns its path.

    Args:
        target: the zip.
        suite: folder of the suite whose facts copies are marked against; none of its sources or numbers go into the zip's
            ``reference.json`` but what :func:`helpers.grade.reference.facts` says.
    """
    contents_of_files = {name: path.read_bytes() for name, path in contents().items()}
    contents_of_files[reference.FILE] = reference.to_json(reference.facts(suite)).encode()
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
    command.set_defaults(function=gradescope, default_profile="full")


def gradescope(arguments) -> int:
    """Pack the grade as an autograder for Gradescope."""
    path = pack(Path(arguments.output) if arguments.output else settings.PROJECT_ROOT / "build" / "autograder.zip")
    print(f"{path}: {path.stat().st_size / 2**10:.0f} KiB")
    return 0
