"""A bundle for a node without network: ``python -m helpers bundle OUT``; what comes back: ``python -m helpers bring FILE...``.

``OUT`` gets parts of limited size with their digests in ``bundle.json``, the script ``unpack.py`` that checks and lays them out,
and ``run.sh``: it unpacks, runs the tests that need a GPU, trains what is asked, and packs the new records.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from helpers import settings
from helpers.data import datasets
from helpers.files import write_together
from helpers.work import definitions
from helpers.work.sheets import as_sheets

SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
WHEELS = "torch-fidelity"  # what a node with PyTorch and the usual packages lacks of what training imports
LEFT_OUT = (".ipynb", ".pdf", ".png", ".npz", ".safetensors")
CODE = ("helpers", "notebooks", "benchmarks", "tests", "results", "deliverables.toml", "pyproject.toml", "requirements.txt")
RUN = '''#!/usr/bin/env bash
# Lay the suite out, test it on the GPU, train, pack the new records: bash run.sh [words of "python -m helpers train"]
# The folder work/ beside this script may be given as WORK; without words, only the tests run.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
export WORK="${WORK:-$here/work}" SUITE_PROGRESS="${SUITE_PROGRESS:-off}"
python3 "$here/unpack.py" "$WORK"
export SUITE_DATA="$WORK/data" PYTHONPATH="$WORK/site:$WORK/suite"
cd "$WORK/suite"
python3 -m pytest -q -k "gpu or cuda or device" tests/train tests/notebooks || echo "some tests failed: their messages are above"
if [ $# -gt 0 ]; then
    python3 -m helpers train "$@" || echo "the training ended early: what it recorded is packed all the same"
    python3 -m helpers bring --pack "$WORK/records"
fi
'''


class BundleError(RuntimeError):
    """A bundle cannot be made."""

    explained = True


def register(commands) -> None:
    """Add the command ``bundle``."""
    command = commands.add_parser("bundle", help=bundle.__doc__.splitlines()[0])
    command.add_argument("folder", help="gets the parts, unpack.py and run.sh")
    command.add_argument("--part-size", default="56M", metavar="SIZE", help="of a part at most; 56M by default")
    command.add_argument("--data", default="", metavar="NAMES", help="data sets to take along, for example cifar10,svhn")
    command.add_argument("--wheels", default=WHEELS, metavar="NAMES",
                         help=f"packages that the node may lack, {WHEELS} by default (the GANs' distances); '' for none")
    command.set_defaults(function=bundle, default_profile="full")


def bundle(arguments) -> int:
    """Write the suite, data and wheels as self-checking parts for a node without network."""
    folder = Path(arguments.folder)
    names, wheels = ([name for name in text.split(",") if name] for text in (arguments.data, arguments.wheels))
    sizes = write(folder, part_size(arguments.part_size), names, wheels)
    print(f"{folder}: {len(sizes)} parts of at most {max(sizes) / 2**20:.1f} MiB; on the node: bash run.sh ID...")
    return 0


def part_size(text: str) -> int:
    """A size such as ``56M`` in bytes.

    Raises:
        BundleError: it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", text)
    if not match or (size := int(float(match[1]) * SUFFIXES[match[2]])) < 1 << 20:
        raise BundleError(f"--part-size {text!r} is not a size of at least 1M; for example 56M")
    return size


def write(folder: Path, limit: int, data: list[str], wheels: list[str]) -> list[int]:
    """Write a bundle; returns the sizes of its parts in bytes.

    Raises:
        BundleError: the folder holds something else, or a wheel cannot be had.
        DataError: a data set is not here.
    """
    if folder.exists() and any(path.name not in ("run.sh", "unpack.py", "bundle.json") and not path.name.startswith("part_")
                               for path in folder.iterdir()):
        raise BundleError(f"{folder} holds other files than a bundle's: name an empty folder")
    shutil.rmtree(folder, ignore_errors=True)
    whole = archive(data, wheels)
    pieces = [whole[start : start + limit] for start in range(0, len(whole), limit)]
    parts = {f"part_{index:02d}": piece for index, piece in enumerate(pieces)}
    listed = [{"name": name, "bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()} for name, piece in parts.items()]
    needs = {"disk_bytes": 3 * len(whole) + sum(data_bytes(name) for name in data), "python": [3, 11]}
    content = {"parts": listed, "data": data, "needs": needs}
    files = parts | {
        "bundle.json": json.dumps(content, indent=1).encode(), "run.sh": RUN.encode(),
        "unpack.py": Path(__file__).with_name("unpack.py").read_bytes(),
    }
    folder.mkdir(parents=True)
    write_together({folder / name: piece for name, piece in files.items()})
    return [len(piece) for piece in pieces]


def archive(data: list[str], wheels: list[str]) -> bytes:
    """The whole bundle as one zip: ``suite/``, ``data/`` as sheets of PNG, ``wheels/``; the same sources give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        def add(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
            packed.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, method)

        for path in code_files():
            add(f"suite/{path.relative_to(settings.PROJECT_ROOT).as_posix()}", path.read_bytes())
        for name in data:
            dataset = datasets.load(name)
            if name == "mnist":  # kept as its four published files, which are small
                for path in sorted((settings.data_folder() / "MNIST" / "raw").glob("*.gz")):
                    add(f"files/MNIST/raw/{path.name}", path.read_bytes(), zipfile.ZIP_STORED)
                continue
            for split, images in dataset.images.items():
                for index, sheet in enumerate(as_sheets(images)):
                    add(f"data/{name}/{split}_{index:04d}.png", sheet, zipfile.ZIP_STORED)
            arrays = {f"{split}_count": np.array(len(images)) for split, images in dataset.images.items()}
            arrays |= {f"{split}_labels": labels for split, labels in (dataset.labels or {}).items()}
            arrays |= {f"{split}_groups": groups for split, groups in (dataset.groups or {}).items() if groups is not None}
            stream = io.BytesIO()
            np.savez_compressed(stream, **arrays)
            add(f"data/{name}/labels.npz", stream.getvalue(), zipfile.ZIP_STORED)
        for path, content in wheel_files(wheels):
            add(f"wheels/{path}", content, zipfile.ZIP_STORED)
    return buffer.getvalue()


def code_files() -> list[Path]:
    """What the training and its tests need of the project: sources, and the records with the arrays that other runs rest on."""
    needed = {run_id for name in definitions.names() for declared in definitions.declared(name, settings.profile()).values()
              for run_id in declared.needs}
    found = []
    for name in CODE:
        path = settings.PROJECT_ROOT / name
        found += sorted(path.rglob("*")) if path.is_dir() else [path]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts
            and (path.suffix not in LEFT_OUT or (path.suffix == ".npz" and path.stem in needed))]


def data_bytes(name: str) -> int:
    """Size of a data set once it is laid out, in bytes."""
    known = datasets.KNOWN[name]
    return sum(known.sizes.values()) * known.side**2 * known.channels


def wheel_files(names: list[str]) -> list[tuple[str, bytes]]:
    """Name and content of the wheels of packages, without what they depend on.

    Raises:
        BundleError: pip cannot get one.
    """
    if not names:
        return []
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command = [*pip, "--only-binary=:all:", "--dest", folder, *names]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1]
            raise BundleError(f"pip cannot get {', '.join(names)} as wheels: {said}; --wheels '' takes none along")
        return [(path.name, path.read_bytes()) for path in sorted(Path(folder).glob("*.whl"))]
