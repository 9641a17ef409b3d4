"""Data in the places of other tools is found and verified; caches of unknown origin are refused, whatever their form."""

import dataclasses
import hashlib
import io
import os
import pickle
import random
import warnings

import numpy as np
import pytest
from scipy.io import savemat

from helpers.data import datasets, published
from helpers.data.downloads import DataError, write_cache

RANDOM = np.random.default_rng(0)


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty data folder, and no server to download from."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("SUITE_DATA", str(folder))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("MNIST_URL", "MNIST_MIRROR", "BINARIZED_MNIST_URL", "CIFAR10_URL", "SVHN_URL"):
        monkeypatch.setattr(published, name, "http://127.0.0.1:9/files/")
    return folder


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest(), len(content)


def shrink(monkeypatch, name, **sizes):
    monkeypatch.setitem(datasets.KNOWN, name, dataclasses.replace(datasets.KNOWN[name], sizes=sizes))


def colours(number):
    return RANDOM.integers(0, 256, (number, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("place", ["", "SVHN", "svhndataset/versions/1", "torchvision/SVHN"])
def test_svhn_where_torchvision_or_kaggle_put_it(data_folder, monkeypatch, place):
    images = {"train": colours(4), "test": colours(3)}
    for split, pixels in images.items():
        stream = io.BytesIO()
        savemat(stream, {"X": pixels.transpose(1, 2, 3, 0), "y": np.ones((len(pixels), 1), np.uint8)})
        entry = put(data_folder / place / f"{split}_32x32.mat", stream.getvalue())
        monkeypatch.setitem(published.SVHN_FILES, split, entry)
    shrink(monkeypatch, "svhn", train=4, test=3)
    dataset = datasets.load("svhn")
    assert all(np.array_equal(dataset.images[split], images[split]) for split in images)
    assert not (data_folder / "svhn" / "train_32x32.mat").exists()


@pytest.mark.parametrize("form", ["MNIST/raw/{}-ubyte", "{}-ubyte/{}-ubyte", "mnist-dataset/{}-ubyte"])
def test_mnist_unpacked_by_torchvision_or_kaggle(data_folder, monkeypatch, form):
    images = {"train": RANDOM.integers(0, 256, (5, 28, 28)), "t10k": RANDOM.integers(0, 256, (2, 28, 28))}
    for prefix, pixels in images.items():
        for kind, values, axes in (("images", pixels, 3), ("labels", np.arange(len(pixels)), 1)):
            content = bytes(16 if kind == "images" else 8) + values.astype(np.uint8).tobytes()
            part = f"{prefix}-{kind}-idx{axes}"
            name = part.replace("-idx", ".idx") if "dataset" in form else part
            monkeypatch.setitem(published.MNIST_UNPACKED, part, put(data_folder / form.format(name, name), content))
    shrink(monkeypatch, "mnist", train=5, test=2)
    dataset = datasets.load("mnist")
    assert np.array_equal(dataset.images["train"], images["train"])
    assert dataset.labels["test"].tolist() == [0, 1]


def batches(images):
    """CIFAR-10's six files, two images each."""
    return {name: pickle.dumps({b"data": images[2 * part : 2 * part + 2].transpose(0, 3, 1, 2).reshape(2, 3072), b"labels": [1, 2]})
            for part, name in enumerate(published.CIFAR10_BATCHES_MD5)}


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "cifar10-python/cifar-10-batches-py"])
def test_cifar10_unpacked_is_read_file_by_file(data_folder, monkeypatch, place):
    images = colours(12)
    for name, content in batches(images).items():
        put(data_folder / place / name, content)
        monkeypatch.setitem(published.CIFAR10_BATCHES_MD5, name, hashlib.md5(content).hexdigest())
    shrink(monkeypatch, "cifar10", train=10, test=2)
    dataset = datasets.load("cifar10")
    assert np.array_equal(np.concatenate([dataset.images["train"], dataset.images["test"]]), images)


def test_another_file_of_the_name_is_not_taken_and_is_named(data_folder):
    put(data_folder / "elsewhere" / "train_32x32.mat", b"another file")
    with pytest.raises(DataError, match=r"elsewhere/train_32x32\.mat is another file \(12 bytes\)"):
        datasets.load("svhn")


class Old:
    """Warns as numpy 2.4 does of an array of 2009."""

    def __reduce__(self):
        return np.dtype, ("u1", 0)


def test_an_array_of_2009_is_read_without_a_word(monkeypatch):
    content = io.BytesIO(pickle.dumps([Old()]))
    monkeypatch.setattr(published._Arrays, "find_class", lambda self, module, name: warning_dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert published._Arrays(content, encoding="bytes").load() == [np.dtype("u1")]


def warning_dtype(*arguments):
    warnings.warn("dtype(): align should be passed as Python or NumPy boolean but got `align=0`", DeprecationWarning, 2)
    return np.dtype(arguments[0])


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("content", [Evil(), [len], {b"data": Evil()}])
def test_a_pickle_that_runs_something_runs_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="which no array needs"):
        published._Arrays(io.BytesIO(pickle.dumps(content)), encoding="bytes").load()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["plain", "with a digest", "compressed", "with an origin"])
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_black_images_are_no_photographs(data_folder, monkeypatch, name, form):
    sizes = {"train": 50, "test": 20}
    if form == "with an origin":  # as many as there are, and with the origin's digests written in by hand: the first images tell
        sizes |= {"train": 50000} if name == "cifar10" else {"test": 26032}
    shrink(monkeypatch, name, **sizes)
    images = {f"{split}_images": np.zeros((1, 32, 32, 3), np.uint8) for split in sizes}
    images = {key: np.broadcast_to(array, (sizes[key[:-7]], 32, 32, 3)) for key, array in images.items()}
    arrays = images | {f"{split}_labels": np.zeros(number, int) for split, number in sizes.items()}
    path = data_folder / "cache" / f"{name}.npz"
    path.parent.mkdir()
    if form == "plain":
        np.savez(path, **arrays)
    elif form == "compressed":
        np.savez_compressed(path, **arrays)
    else:
        files = {"cifar10": [published.CIFAR10_FILE], "svhn": published.SVHN_FILES.values()}[name]
        write_cache(path, arrays, " ".join(sha256 for sha256, _ in files) if "origin" in form else "")
    known = {"cifar10": published.CIFAR10_COPY_SHA256, "svhn": published.SVHN_PART_SHA256}[name]
    with pytest.raises(DataError, match="not decoded from the published files") as caught:
        datasets.load(name)
    found = published.image_digests({split: arrays[f"{split}_images"] for split in sizes})
    for expected in (str(path), str(sizes), *found.values(), *known.values()):
        assert expected in str(caught.value)


def test_black_digits_are_no_binarised_mnist(data_folder, monkeypatch):
    rows = {"train": np.zeros((5, 98), np.uint8), "valid": np.zeros((2, 98), np.uint8), "test": np.zeros((2, 98), np.uint8)}
    shrink(monkeypatch, "binarized_mnist", train=5, valid=2, test=2)
    write_cache(data_folder / "cache" / "binarized_mnist.npz", rows)
    with pytest.raises(DataError, match="not decoded from the published files"):
        datasets.load("binarized_mnist")
    write_cache(data_folder / "cache" / "binarized_mnist.npz", rows | {"valid": np.zeros((2, 784))})
    with pytest.raises(DataError, match=r"valid float64 \(2, 784\).*expected rows of 98 bytes"):
        datasets.load("binarized_mnist")


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "an array", "a pickle", "empty", "text"])
def test_whatever_lies_in_a_caches_place_is_named(data_folder, kind):
    path = data_folder / "cache" / "svhn.npz"
    path.parent.mkdir()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "an array":
        with open(path, "wb") as stream:
            np.save(stream, np.zeros(3))
    else:
        path.write_bytes({"a pickle": pickle.dumps([1, 2]), "empty": b"", "text": b"SVHN"}[kind])
    with pytest.raises(DataError, match="truncated or corrupt.*Delete it"):
        datasets.load("svhn")


def damaged(content, generator):
    """One of many ways in which a file is broken."""
    content, at, length = bytearray(content), generator.randrange(len(content)), generator.randrange(1, 100)
    kind = generator.randrange(7)
    if kind == 0:
        content[at] ^= 1 << generator.randrange(8)
    elif kind == 1:
        for _ in range(length):
            content[generator.randrange(len(content))] = generator.randrange(256)
    elif kind == 2:
        del content[at:]
    elif kind == 3:
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif kind == 4:
        content[at:at] = generator.randbytes(length)
    elif kind == 5:
        content[:] = content[at:] + content[:at]
    else:  # near the end is the directory of the archive
        place = len(content) - 1 - generator.randrange(min(600, len(content)))
        content[place] = generator.randrange(256)
    return bytes(content)


@pytest.mark.parametrize("form", ["of this suite", "made elsewhere"])
def test_no_damage_loads_as_other_data_or_ends_in_another_error(data_folder, monkeypatch, form):
    """``SUITE_FUZZ`` files, few by default."""
    images = {"train": colours(3), "test": colours(2)}
    arrays = {f"{split}_images": array for split, array in images.items()}
    arrays |= {f"{split}_labels": np.arange(len(array)) for split, array in images.items()}
    monkeypatch.setattr(published, "SVHN_PART_SHA256", published.image_digests(images))
    path = data_folder / "cache" / "svhn.npz"
    write_cache(path, arrays)
    if form == "made elsewhere":
        np.savez(path, **arrays)
    content, generator = path.read_bytes(), random.Random(1)
    whole = datasets.load("svhn")
    for _ in range(int(os.environ.get("SUITE_FUZZ", "150"))):
        path.write_bytes(damaged(content, generator))
        try:
            found = datasets.load("svhn")
        except DataError as error:
            said = str(error)
        else:
            assert found.digest == whole.digest  # the damage is where no data is
            continue
        assert str(path) in said
        assert "\n" not in said
