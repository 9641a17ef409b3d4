"""The grade as an autograder for Gradescope: a zip with ``setup.sh``, ``run_autograder`` and what they call."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from helpers import settings
from helpers.files import write_together

SCRIPTS = ("setup.sh", "run_autograder")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold: the same sources give the same bytes


def contents() -> dict[str, Path]:
    """Name in the zip -> file: the two scripts, ``deliverables.toml``, and the helpers (the digest of a record reads them)."""
    root = settings.PROJECT_ROOT
    files = {name: root / "gradescope" / name for name in SCRIPTS}
    files["deliverables.toml"] = root / "deliverables.toml"
    files |= {path.relative_to(root).as_posix(): path for path in sorted((root / "helpers").rglob("*.py"))}
    return files


def pack(target: Path) -> Path:
    """Write the zip; returns its path."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in contents().items():
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if name in SCRIPTS else 0o644) << 16
            archive.writestr(entry, path.read_bytes())
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
