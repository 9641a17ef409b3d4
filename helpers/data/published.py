"""The published image datasets: where they are, what their files must be, and how they are decoded.

Each reader fetches what is missing into ``settings.data_folder()`` and returns images, labels and a note. Larger sets
are decoded once into ``cache/``; a cache is used without the original files and without the network.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from helpers import settings
from helpers.data.downloads import DataError, fetch, read_cache, write_cache

Arrays = dict[str, np.ndarray]  # by split


@dataclass(frozen=True)
class Content:
    """What a reader gives.

    Attributes:
        images: split -> images.
        labels: split -> labels, or None.
        note: what the records must say of it, or an empty text.
        is_part: whether it is a known part of the published set, with sizes of its own.
        groups: split -> which images belong together, or None where that is not known.
    """

    images: Arrays
    labels: Arrays | None = None
    note: str = ""
    is_part: bool = False
    groups: Arrays | None = None


# Published files: split or part -> address under the first one, SHA-256, bytes. data/README.md has the same list.
BINARIZED_MNIST_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
BINARIZED_MNIST_FILES = {
    "train": ("ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d", 78400000),
    "valid": ("1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2", 15680000),
    "test": ("e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c", 15680000),
}
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = {
    "train-images-idx3": ("440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422),
    "train-labels-idx1": ("3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881),
    "t10k-images-idx3": ("8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877),
    "t10k-labels-idx1": ("f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542),
}
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_FILE = ("6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce", 170498071)
SVHN_URL = "http://ufldl.stanford.edu/housenumbers/"
SVHN_FILES = {
    "train": ("435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8", 182040794),
    "test": ("cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b", 64275384),
}
# A copy of CIFAR-10 that is not quite the published one, known by the SHA-256 of its image arrays.
CIFAR10_COPY_SHA256 = {
    "train": "c461bd4536fb85ed1eb486daab6efe1841bd78a4c1eb300d5c7b5ac7f9c941b4",
    "test": "dd196733635ac3d0f4c445e795db547dab61206e0207b39a0a886085d4ba339b",
}
CIFAR10_COPY_NOTE = (
    "not quite the published CIFAR-10: 111 of the 60000 images (86 train, 25 test) come from a JPEG copy and are not "
    "exact, and the test order is a fixed shuffle, not the original one"
)
# The part of SVHN that this suite's recorded runs had, known likewise: no house is in both of its splits.
SVHN_PART_SHA256 = {
    "train": "6ba24b5461ffe583d6607c721a66ec71fe4489028ebfcd68ffa64475042e8afd",
    "test": "4b307ed0588be726a03af625f7549e9bec844b0e286536acb3e30393ff36a7c9",
}
SVHN_PART_NOTE = "real photographs, the first 10000 of the published test split in their order, cut where a house begins"


def mnist() -> Content:
    """The original files, kept compressed where torchvision keeps them (LeCun et al., yann.lecun.com/exdb/mnist)."""
    arrays = {}
    for part, (sha256, size) in MNIST_FILES.items():
        file = f"{part}-ubyte.gz"
        path = settings.data_folder() / "MNIST" / "raw" / file
        fetch(MNIST_URL + file, path, sha256, what=f"MNIST {part}", size=size, stand_in="digits")
        header = 16 if "images" in part else 8  # magic number and dimensions, four bytes each
        arrays[part] = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
    prefixes = {"train": "train", "test": "t10k"}
    images = {split: arrays[f"{prefix}-images-idx3"].reshape(-1, 28, 28).copy() for split, prefix in prefixes.items()}
    return Content(images, {split: arrays[f"{prefix}-labels-idx1"].astype(np.int64) for split, prefix in prefixes.items()})


def binarized_mnist() -> Content:
    """Larochelle's static binarisation (Salakhutdinov and Murray 2008), eight pixels a byte in the cache."""
    path = settings.data_folder() / "cache" / "binarized_mnist.npz"
    if not path.exists():
        write_cache(path, {split: np.packbits(_decode_amat(split), axis=1) for split in BINARIZED_MNIST_FILES})
    packed = read_cache(path, list(BINARIZED_MNIST_FILES))
    return Content({split: np.unpackbits(rows, axis=1).reshape(-1, 28, 28) for split, rows in packed.items()})


def _decode_amat(split: str) -> np.ndarray:
    """Pixels (N, 784) of a text file of ``0`` and ``1``, each followed by a blank or a line's end."""
    file, (sha256, size) = f"binarized_mnist_{split}.amat", BINARIZED_MNIST_FILES[split]
    path = settings.data_folder() / "binarized_mnist" / file
    what = f"binarised MNIST, {split}"
    fetch(BINARIZED_MNIST_URL + file, path, sha256, what=what, size=size, stand_in="digits_binarized")
    return (np.fromfile(path, np.uint8)[::2] - ord("0")).reshape(-1, 784)


def cifar10() -> Content:
    """CIFAR-10 (Krizhevsky 2009), in the published order."""
    content = read_colour_cache("cifar10", _decode_cifar10)
    return replace(content, note=CIFAR10_COPY_NOTE if image_digests(content.images) == CIFAR10_COPY_SHA256 else "")


def image_digests(images: Arrays) -> dict[str, str]:
    """Split -> SHA-256 of the bytes of its images."""
    return {split: hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for split, array in images.items()}


def _decode_cifar10() -> Arrays:
    path = settings.data_folder() / "cifar-10-python.tar.gz"
    fetch(CIFAR10_URL, path, CIFAR10_FILE[0], what="CIFAR-10", size=CIFAR10_FILE[1], stand_in="photo_patches")
    batches = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    decoded = {}
    with tarfile.open(path) as archive:
        for split, names in batches.items():
            # Unpickling runs what a file says; this one is known by its digest.
            files = [archive.extractfile(f"cifar-10-batches-py/{name}") for name in names]
            parts = [pickle.load(file, encoding="bytes") for file in files]
            pixels = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
            decoded[f"{split}_images"] = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
            decoded[f"{split}_labels"] = np.concatenate([part[b"labels"] for part in parts]).astype(np.int64)
    return decoded


def svhn() -> Content:
    """SVHN's cropped digits, format 2 (Netzer et al. 2011): all of them, or the known part where the cache holds that."""
    content = read_colour_cache("svhn", _decode_svhn)
    is_part = image_digests(content.images) == SVHN_PART_SHA256
    return replace(content, note=SVHN_PART_NOTE, is_part=True) if is_part else content


def _decode_svhn() -> Arrays:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError("SVHN's .mat files need scipy, which comes with scikit-learn: pip install scipy") from error
    decoded = {}
    for split, (sha256, size) in SVHN_FILES.items():
        file = f"{split}_32x32.mat"
        path = settings.data_folder() / "svhn" / file
        fetch(SVHN_URL + file, path, sha256, what=f"SVHN {split}", size=size, stand_in="street_digits")
        content = loadmat(path)
        decoded[f"{split}_images"] = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
        decoded[f"{split}_labels"] = content["y"].ravel().astype(np.int64) % 10  # the files call the digit 0 "10"
    return decoded


def read_colour_cache(name: str, decode: Callable[[], Arrays]) -> Content:
    """Images, labels and, where they are there, groups of a decoded cache, which is made where there is none."""
    path = settings.data_folder() / "cache" / f"{name}.npz"
    if not path.exists():
        write_cache(path, decode())
    arrays = read_cache(path, ["train_images", "train_labels", "test_images", "test_labels"])
    kinds = {kind: {split: arrays[f"{split}_{kind}"] for split in ("train", "test") if f"{split}_{kind}" in arrays}
             for kind in ("images", "labels", "groups")}
    return Content(kinds["images"], kinds["labels"], groups=kinds["groups"] or None)
