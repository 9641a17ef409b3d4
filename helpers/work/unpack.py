"""Check the parts of a bundle and lay them out: ``python3 unpack.py FOLDER``. It needs numpy and Pillow, and no network.

It stands beside the parts on a node where the suite is not yet, so it imports nothing of the suite.
"""

import hashlib
import io
import json
import shutil
import sys
import zipfile
from pathlib import Path


def fail(message: str) -> None:
    """End with a message and status 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def whole(here: Path) -> bytes:
    """All parts put together; each missing or damaged one is named."""
    if not (here / "bundle.json").is_file():
        fail(f"{here / 'bundle.json'} is missing: copy the whole bundle")
    listed, wrong, pieces = json.loads((here / "bundle.json").read_text(encoding="utf-8"))["parts"], [], []
    for part in listed:
        path = here / part["name"]
        if not path.is_file():
            wrong.append(f"{part['name']} is missing")
            continue
        content = path.read_bytes()
        if len(content) != part["bytes"]:
            wrong.append(f"{part['name']} has {len(content):,} bytes, expected {part['bytes']:,}")
        elif hashlib.sha256(content).hexdigest() != part["sha256"]:
            wrong.append(f"{part['name']} is damaged (its sha256 differs)")
        pieces.append(content)
    if wrong:
        fail("; ".join(wrong) + ": copy these again")
    return b"".join(pieces)


def enough_room(here: Path, target: Path) -> None:
    """Say before anything is written that the disk is too full."""
    needed = json.loads((here / "bundle.json").read_text(encoding="utf-8"))["needs"]["disk_bytes"]
    free = shutil.disk_usage(target).free
    if free < needed:
        fail(f"{target} has {free / 2**20:,.0f} MiB free, and the bundle needs {needed / 2**20:,.0f} MiB")


def lay_out_data(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    """Write ``data/cache/<name>.npz`` from a data set's sheets and labels."""
    import numpy as np
    from PIL import Image

    folder = f"data/{name}/"
    with np.load(io.BytesIO(archive.read(folder + "labels.npz")), allow_pickle=False) as content:
        extra = dict(content)
    arrays = {}
    for key in [key for key in extra if key.endswith("_count")]:
        split, number = key.removesuffix("_count"), int(extra.pop(key))
        sheets = []
        for member in sorted(item for item in archive.namelist() if item.startswith(f"{folder}{split}_")):
            picture = np.asarray(Image.open(io.BytesIO(archive.read(member))))
            side = picture.shape[0] // 50
            grid = picture.reshape(50, side, 50, side, *picture.shape[2:]).swapaxes(1, 2)
            sheets.append(grid.reshape(2500, side, side, *picture.shape[2:]))
        arrays[split] = np.concatenate(sheets)[:number]
    target.mkdir(parents=True, exist_ok=True)
    if name == "binarized_mnist":  # eight pixels a byte, as the suite keeps it
        content = {split: np.packbits(images.reshape(len(images), -1), axis=1) for split, images in arrays.items()}
    else:
        content = {f"{split}_images": images for split, images in arrays.items()} | extra
    np.savez(target / f"{name}.npz", **content)


def main() -> None:
    """Check, then write ``suite/``, ``data/`` and ``site/`` under the folder named."""
    here, target = Path(__file__).resolve().parent, Path(sys.argv[1])
    content = whole(here)
    target.mkdir(parents=True, exist_ok=True)
    enough_room(here, target)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if name.startswith("suite/"):
                archive.extract(name, target)
            elif name.startswith("files/"):
                place = target / "data" / name.removeprefix("files/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))
            elif name.startswith("wheels/"):
                with zipfile.ZipFile(io.BytesIO(archive.read(name))) as wheel:  # pure Python wheels need no more than that
                    wheel.extractall(target / "site")
        for name in json.loads((here / "bundle.json").read_text(encoding="utf-8"))["data"]:
            if f"data/{name}/labels.npz" in archive.namelist():
                lay_out_data(archive, name, target / "data" / "cache")
    print(f"laid out under {target}")


if __name__ == "__main__":
    main()
