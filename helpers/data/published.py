"""The published image datasets: where they are, what their files must be, and how they are decoded.

Each reader fetches what is missing into ``settings.data_folder()`` and returns images, labels and a note. Larger sets
are decoded once into ``cache/``; a cache is used without the original files and without the network.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import tarfile
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from helpers import settings
from helpers.data.downloads import SOURCE, DataError, fetch, find, read_cache, write_cache
from helpers.files import remove_left_overs

Arrays = dict[str, np.ndarray]  # by split


@dataclass(frozen=True)
class Content:
    """What a reader gives.

    Attributes:
        images: split -> images.
        labels: split -> labels, or None.
        note: what the records must say of it, or an empty text.
        is_part: whether it is a known part of the published set, with sizes of its own.
        doubt: why it cannot be taken for the published set; empty where its origin is known.
        groups: split -> which images belong together, or None where that is not known.
    """

    images: Arrays
    labels: Arrays | None = None
    note: str = ""
    is_part: bool = False
    groups: Arrays | None = None
    doubt: str = ""


# Published files: split or part -> address under the first one, SHA-256, bytes. data/README.md has the same list.
BINARIZED_MNIST_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
BINARIZED_MNIST_FILES = {
    "train": ("ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d", 78400000),
    "valid": ("1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2", 15680000),
    "test": ("e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c", 15680000),
}
BINARIZED_MNIST_SHA256 = {  # of the decoded pixels, eight a byte
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"  # the one that TensorFlow's datasets use
MNIST_FILES = {
    "train-images-idx3": ("440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422),
    "train-labels-idx1": ("3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881),
    "t10k-images-idx3": ("8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877),
    "t10k-labels-idx1": ("f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542),
}
MNIST_UNPACKED = {  # the same files without gzip, as torchvision and Kaggle have them
    "train-images-idx3": ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47040016),
    "train-labels-idx1": ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60008),
    "t10k-images-idx3": ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7840016),
    "t10k-labels-idx1": ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10008),
}
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_FILE = ("6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce", 170498071)
CIFAR10_BATCHES_MD5 = {  # the same archive unpacked, by the digests that torchvision publishes
    "data_batch_1": "c99cafc152244af753f735de768cd75f", "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751", "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb", "test_batch": "40351d587109b95175f43aff81a1287e",
}  # fmt: skip
CIFAR10_FIRST = (4298, "c735e86a157b64d49d0759d750c5958e9e898fd70f265a38952f32c21a1bd495")  # of the training images, in its order
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
        unpacked = {f"{part}-ubyte": MNIST_UNPACKED[part], f"{part.replace('-idx', '.idx')}-ubyte": MNIST_UNPACKED[part]}
        found = fetch(MNIST_URL + file, path, sha256, what=f"MNIST {part}", size=size, stand_in="digits",
                      mirrors=[MNIST_MIRROR + file], also=unpacked)  # fmt: skip
        content = found.read_bytes()
        header = 16 if "images" in part else 8  # magic number and dimensions, four bytes each
        arrays[part] = np.frombuffer(gzip.decompress(content) if found.suffix == ".gz" else content, np.uint8, offset=header)
    prefixes = {"train": "train", "test": "t10k"}
    images = {split: arrays[f"{prefix}-images-idx3"].reshape(-1, 28, 28).copy() for split, prefix in prefixes.items()}
    return Content(images, {split: arrays[f"{prefix}-labels-idx1"].astype(np.int64) for split, prefix in prefixes.items()})


def binarized_mnist() -> Content:
    """Larochelle's static binarisation (Salakhutdinov and Murray 2008), eight pixels a byte in the cache."""
    path, source = settings.data_folder() / "cache" / "binarized_mnist.npz", _source(BINARIZED_MNIST_FILES.values())
    if not path.exists():
        write_cache(path, {split: np.packbits(_decode_amat(split), axis=1) for split in BINARIZED_MNIST_FILES}, source)
    arrays = read_cache(path, list(BINARIZED_MNIST_FILES))
    packed = {split: arrays[split] for split in BINARIZED_MNIST_FILES}
    if any(rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 98 for rows in packed.values()):
        raise DataError(f"{path} has {', '.join(f'{split} {rows.dtype} {rows.shape}' for split, rows in packed.items())}; expected "
                        "rows of 98 bytes, eight pixels each. Delete it and run again to decode the original files anew")
    known = image_digests(packed) == BINARIZED_MNIST_SHA256 or _says(arrays) == source
    images = {split: np.unpackbits(rows, axis=1).reshape(-1, 28, 28) for split, rows in packed.items()}
    return Content(images, doubt="" if known else _doubt(path, packed, BINARIZED_MNIST_SHA256))


def _decode_amat(split: str) -> np.ndarray:
    """Pixels (N, 784) of a text file of ``0`` and ``1``, each followed by a blank or a line's end."""
    file, (sha256, size) = f"binarized_mnist_{split}.amat", BINARIZED_MNIST_FILES[split]
    path = settings.data_folder() / "binarized_mnist" / file
    what = f"binarised MNIST, {split}"
    path = fetch(BINARIZED_MNIST_URL + file, path, sha256, what=what, size=size, stand_in="digits_binarized")
    return (np.fromfile(path, np.uint8)[::2] - ord("0")).reshape(-1, 784)


def cifar10() -> Content:
    """CIFAR-10 (Krizhevsky 2009), in the published order."""
    source, number = _source([CIFAR10_FILE]), CIFAR10_FIRST[0]
    content, said = _read_colours("cifar10", _decode_cifar10, source)
    if image_digests(content.images) == CIFAR10_COPY_SHA256:
        return replace(content, note=CIFAR10_COPY_NOTE)
    train = content.images["train"]
    other = len(train) == 50000 and image_digests({"train": train[:number]})["train"] != CIFAR10_FIRST[1]
    return content if said == source and not other else _doubtful("cifar10", content, CIFAR10_COPY_SHA256)


def image_digests(images: Arrays) -> dict[str, str]:
    """Split -> SHA-256 of the bytes of its images."""
    return {split: hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for split, array in images.items()}


def _decode_cifar10() -> Arrays:
    batches = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    unpacked = {name: find(name, md5, None, method="md5") for name, md5 in CIFAR10_BATCHES_MD5.items()}
    decoded = {}
    with ExitStack() as open_files:
        if None in unpacked.values():
            path = settings.data_folder() / "cifar-10-python.tar.gz"
            path = fetch(CIFAR10_URL, path, CIFAR10_FILE[0], what="CIFAR-10", size=CIFAR10_FILE[1], stand_in="photo_patches")
            archive = open_files.enter_context(tarfile.open(path))
            files = {name: archive.extractfile(f"cifar-10-batches-py/{name}") for name in unpacked}
        else:
            files = {name: open_files.enter_context(open(path, "rb")) for name, path in unpacked.items()}
        for split, names in batches.items():
            parts = [_Arrays(files[name], encoding="bytes").load() for name in names]
            pixels = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
            decoded[f"{split}_images"] = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
            decoded[f"{split}_labels"] = np.concatenate([part[b"labels"] for part in parts]).astype(np.int64)
    return decoded


class _Arrays(pickle.Unpickler):
    """Reads arrays, numbers, texts and lists, and runs nothing else that a file names."""

    KNOWN = ("_reconstruct", "ndarray", "dtype", "encode", "_frombuffer", "scalar")

    def load(self):
        with warnings.catch_warnings():  # numpy 2.4 warns of how arrays were pickled in 2009
            warnings.filterwarnings("ignore", message=".*align")
            return super().load()

    def find_class(self, module: str, name: str):
        if module.split(".")[0] not in ("numpy", "_codecs") or name not in self.KNOWN:
            raise DataError(f"a file of CIFAR-10 asks for {module}.{name}, which no array needs")
        return super().find_class(module, name)


def svhn() -> Content:
    """SVHN's cropped digits, format 2 (Netzer et al. 2011): all of them, or the known part where the cache holds that."""
    source = _source(SVHN_FILES.values())
    content, said = _read_colours("svhn", _decode_svhn, source)
    if image_digests(content.images) == SVHN_PART_SHA256:
        return replace(content, note=SVHN_PART_NOTE, is_part=True)
    test, cut = content.images["test"], 7999  # the known part is the beginning of the published test split
    first = image_digests({"train": test[:cut], "test": test[cut:10000]})
    other = len(test) == 26032 and first != SVHN_PART_SHA256
    return content if said == source and not other else _doubtful("svhn", content, SVHN_PART_SHA256)


def _decode_svhn() -> Arrays:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError("SVHN's .mat files need scipy, which comes with scikit-learn: pip install scipy") from error
    decoded = {}
    for split, (sha256, size) in SVHN_FILES.items():
        file = f"{split}_32x32.mat"
        path = settings.data_folder() / "svhn" / file
        path = fetch(SVHN_URL + file, path, sha256, what=f"SVHN {split}", size=size, stand_in="street_digits")
        content = loadmat(path)
        decoded[f"{split}_images"] = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
        decoded[f"{split}_labels"] = content["y"].ravel().astype(np.int64) % 10  # the files call the digit 0 "10"
    return decoded


def read_colour_cache(name: str, decode: Callable[[], Arrays]) -> Content:
    """Images, labels and, where they are there, groups of a decoded cache, which is made where there is none."""
    return _read_colours(name, decode, "")[0]


def _read_colours(name: str, decode: Callable[[], Arrays], source: str) -> tuple[Content, str]:
    """The content of a decoded cache, and what it says that it was decoded from."""
    path = settings.data_folder() / "cache" / f"{name}.npz"
    remove_left_overs(path.parent)
    if not path.exists():
        write_cache(path, decode(), source)
    arrays = read_cache(path, ["train_images", "train_labels", "test_images", "test_labels"])
    kinds = {kind: {split: arrays[f"{split}_{kind}"] for split in ("train", "test") if f"{split}_{kind}" in arrays}
             for kind in ("images", "labels", "groups")}
    return Content(kinds["images"], kinds["labels"], groups=kinds["groups"] or None), _says(arrays)


def _source(files: Iterable[tuple[str, int]]) -> str:
    """The digests of published files, as a cache made of them names its origin."""
    return " ".join(sha256 for sha256, _ in files)


def _says(arrays: Arrays) -> str:
    return str(arrays[SOURCE]) if SOURCE in arrays else ""


def _doubtful(name: str, content: Content, known: dict[str, str]) -> Content:
    return replace(content, doubt=_doubt(settings.data_folder() / "cache" / f"{name}.npz", content.images, known))


def _doubt(path: Path, images: Arrays, known: dict[str, str]) -> str:
    """Why a cache is not taken for the published set: both sizes and digests."""
    sizes = {split: len(array) for split, array in images.items()}
    return (f"{path} was not decoded from the published files, as far as can be told: it has {sizes} images with SHA-256 "
            f"{image_digests(images)}, and a copy that is known has {known}. Delete it and run again to decode the published files")
