"""Published files are decoded as published, from small files of the same formats; real ones where they are."""

import dataclasses
import gzip
import hashlib
import io
import pickle
import sys
import tarfile

import numpy as np
import pytest

from helpers import settings
from helpers.data import datasets, published, standins
from helpers.data.downloads import DataError, write_cache

RANDOM = np.random.default_rng(0)


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty data folder, and no server to download from."""
    folder = tmp_path / "data"
    monkeypatch.setenv("SUITE_DATA", str(folder))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("MNIST_URL", "MNIST_MIRROR", "BINARIZED_MNIST_URL", "CIFAR10_URL", "SVHN_URL"):
        monkeypatch.setattr(published, name, "http://127.0.0.1:9/files/")
    return folder


def put(path, content):
    """Write a file as a download would have; its entry in a table of ``published``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest(), len(content)


def shrink(monkeypatch, name, **sizes):
    monkeypatch.setitem(datasets.KNOWN, name, dataclasses.replace(datasets.KNOWN[name], sizes=sizes))


def colour_images(number):
    return RANDOM.integers(0, 256, (number, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [
        ("mnist", "digits"),
        ("binarized_mnist", "digits_binarized"),
        ("cifar10", "photo_patches"),
        ("svhn", "street_digits"),
    ],
)
def test_no_data_and_no_network_names_the_stand_in(data_folder, name, stand_in):
    with pytest.raises(DataError) as caught:
        datasets.load(name)
    for expected in ("SUITE_DATA", str(data_folder), "http://127.0.0.1:9/files/", repr(stand_in)):
        assert expected in str(caught.value)
    assert ("SUITE_HOUSE_NUMBERS=street_digits" in str(caught.value)) is (name == "svhn")
    assert datasets.KNOWN[stand_in].stands_for == name
    assert not list(data_folder.rglob("*.npz"))


def test_binarized_mnist_is_decoded_once(data_folder, monkeypatch):
    pixels = {split: RANDOM.integers(0, 2, (size, 784)) for split, size in {"train": 6, "valid": 3, "test": 2}.items()}
    files = {}
    for split, rows in pixels.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        files[split] = put(data_folder / "binarized_mnist" / f"binarized_mnist_{split}.amat", text.encode())
    monkeypatch.setattr(published, "BINARIZED_MNIST_FILES", files)
    shrink(monkeypatch, "binarized_mnist", train=6, valid=3, test=2)
    dataset = datasets.load("binarized_mnist")
    for split, rows in pixels.items():
        assert np.array_equal(dataset.images[split], rows.reshape(-1, 28, 28))
        assert dataset.images[split].dtype == np.uint8
        (data_folder / "binarized_mnist" / f"binarized_mnist_{split}.amat").unlink()
    assert dataset.labels is None
    again = datasets.load("binarized_mnist", limit={"train": 4})  # from the cache, the text being gone
    assert again.sizes == {"train": 4, "valid": 3, "test": 2}
    assert np.array_equal(again.images["train"], dataset.images["train"][:4])
    cache = data_folder / "cache" / "binarized_mnist.npz"
    cache.write_bytes(cache.read_bytes()[:-50])
    with pytest.raises(DataError, match="truncated or corrupt"):
        datasets.load("binarized_mnist")


def test_truncated_text_is_never_decoded(data_folder, monkeypatch):
    sha256, size = put(data_folder / "binarized_mnist" / "binarized_mnist_train.amat", b"0 1 " * 784)
    put(data_folder / "binarized_mnist" / "binarized_mnist_train.amat", b"0 1 " * 392)
    monkeypatch.setitem(published.BINARIZED_MNIST_FILES, "train", (sha256, size))
    with pytest.raises(DataError, match=f"{size} bytes.*{size // 2} bytes"):
        datasets.load("binarized_mnist")
    assert not (data_folder / "cache").exists()


def test_mnist_is_decoded_from_the_original_files(data_folder, monkeypatch):
    images = {"train": RANDOM.integers(0, 256, (5, 28, 28)), "t10k": RANDOM.integers(0, 256, (2, 28, 28))}
    labels = {"train": np.array([5, 0, 4, 1, 9]), "t10k": np.array([7, 2])}
    for prefix in images:
        number = len(labels[prefix]).to_bytes(4, "big")
        header = {"images": b"\0\0\x08\x03" + number + (28).to_bytes(4, "big") * 2, "labels": b"\0\0\x08\x01" + number}
        for kind, values, axes in (("images", images, 3), ("labels", labels, 1)):
            content = gzip.compress(header[kind] + values[prefix].astype(np.uint8).tobytes())
            entry = put(data_folder / "MNIST" / "raw" / f"{prefix}-{kind}-idx{axes}-ubyte.gz", content)
            monkeypatch.setitem(published.MNIST_FILES, f"{prefix}-{kind}-idx{axes}", entry)
    shrink(monkeypatch, "mnist", train=5, test=2)
    dataset = datasets.load("mnist", limit={"train": 3})
    assert np.array_equal(dataset.images["train"], images["train"][:3])
    assert np.array_equal(dataset.images["test"], images["t10k"])
    assert dataset.labels["train"].tolist() == [5, 0, 4]
    assert dataset.labels["test"].dtype == np.int64
    shrink(monkeypatch, "mnist", train=6, test=2)
    with pytest.raises(DataError, match="6"):
        datasets.load("mnist")


def test_cifar10_is_decoded_from_the_archive_and_cached(data_folder, monkeypatch):
    images, labels = colour_images(12), RANDOM.integers(0, 10, 12).tolist()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for part, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
            rows = slice(2 * part, 2 * part + 2)
            data = images[rows].transpose(0, 3, 1, 2).reshape(2, 3072)
            content = pickle.dumps({b"data": data, b"labels": labels[rows]})
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    path = data_folder / "cifar-10-python.tar.gz"
    monkeypatch.setattr(published, "CIFAR10_FILE", put(path, archive.getvalue()))
    shrink(monkeypatch, "cifar10", train=10, test=2)
    dataset = datasets.load("cifar10")
    assert np.array_equal(np.concatenate([dataset.images["train"], dataset.images["test"]]), images)
    assert np.concatenate([dataset.labels["train"], dataset.labels["test"]]).tolist() == labels
    assert dataset.note == ""
    path.unlink()
    assert datasets.load("cifar10").digest == dataset.digest
    # The copy that is not quite CIFAR-10 is known by its images, whatever part of it is asked for.
    copy = {split: hashlib.sha256(array.tobytes()).hexdigest() for split, array in dataset.images.items()}
    monkeypatch.setattr(published, "CIFAR10_COPY_SHA256", copy)
    for words in ("111 of the 60000", "86 train, 25 test", "not exact", "not the original"):
        assert words in datasets.load("cifar10", limit={"train": 3}).describe()["note"]


def test_svhn_is_decoded_from_matlab_files(data_folder, monkeypatch):
    from scipy.io import savemat

    images, labels = {"train": colour_images(4), "test": colour_images(3)}, {"train": [1, 10, 9, 2], "test": [10, 3, 5]}
    for split in images:
        stream = io.BytesIO()
        savemat(stream, {"X": images[split].transpose(1, 2, 3, 0), "y": np.array(labels[split], np.uint8)[:, None]})
        entry = put(data_folder / "svhn" / f"{split}_32x32.mat", stream.getvalue())
        monkeypatch.setitem(published.SVHN_FILES, split, entry)
    shrink(monkeypatch, "svhn", train=4, test=3)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "scipy.io", None)
        with pytest.raises(DataError, match="pip install scipy"):
            datasets.load("svhn")
    dataset = datasets.load("svhn")
    assert all(np.array_equal(dataset.images[split], images[split]) for split in images)
    assert dataset.labels["train"].tolist() == [1, 0, 9, 2]
    assert dataset.labels["test"].tolist() == [0, 3, 5]
    assert (data_folder / "cache" / "svhn.npz").exists()


def test_cache_of_another_form_is_refused(data_folder):
    images = {f"{split}_images": np.zeros((3, 28, 28), np.uint8) for split in ("train", "test")}
    labels = {f"{split}_labels": np.zeros(3, int) for split in ("train", "test")}
    write_cache(data_folder / "cache" / "svhn.npz", images | labels)
    with pytest.raises(DataError, match=r"svhn train images have shape \(3, 28, 28\); expected \(N, 32, 32, 3\)"):
        datasets.load("svhn")


@pytest.fixture
def part(data_folder, monkeypatch):
    """A cache with a part of SVHN that is known by its images: five to train on, in two houses, three to test on."""
    images = {"train": colour_images(5), "test": colour_images(3)}
    arrays = {f"{split}_images": array for split, array in images.items()}
    arrays |= {f"{split}_labels": np.arange(len(array)) for split, array in images.items()}
    monkeypatch.setattr(published, "SVHN_PART_SHA256", published.image_digests(images))
    path = data_folder / "cache" / "svhn.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **arrays)
    return path, arrays


def test_the_known_part_of_svhn_is_real_data_that_says_how_much_it_is(part):
    dataset = datasets.load("svhn")
    facts = dataset.describe()
    assert (dataset.title, facts["part"], facts["stand_in"]) == ("SVHN, 5 training images", "5 training images", False)
    assert facts["note"].startswith("SVHN, 5 training images: real photographs, the first 10000 of the published test split")
    assert facts["sizes"] == {"train": 5, "test": 3}
    assert dataset.groups is None
    fewer = datasets.load("svhn", limit={"train": 2})
    assert (fewer.title, fewer.sizes) == ("SVHN, 2 training images", {"train": 2, "test": 3})


def test_what_is_at_hand_is_told_without_loading_it(part, data_folder, monkeypatch):
    path, arrays = part
    assert datasets.part_at_hand("svhn") == "5 training images"
    shrink(monkeypatch, "svhn", train=5, test=3)
    assert datasets.part_at_hand("svhn") == ""
    assert [datasets.part_at_hand(name) for name in ("cifar10", "binarized_mnist", "street_digits", "digits", "2-d", None)] == [""] * 6
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="truncated or corrupt"):
        datasets.part_at_hand("svhn")


def test_houses_of_the_part_come_along_where_the_cache_has_them(part):
    path, arrays = part
    np.savez(path, **arrays, train_groups=np.array([1, 1, 1, 2, 2]), test_groups=np.array([3, 3, 4]))
    dataset = datasets.load("svhn", limit={"train": 4})
    assert {split: groups.tolist() for split, groups in dataset.groups.items()} == {"train": [1, 1, 1, 2], "test": [3, 3, 4]}
    np.savez(path, **arrays, train_groups=np.array([1, 2]))
    with pytest.raises(DataError, match=r"svhn has train groups of shape \(2,\); expected \(5,\)"):
        datasets.load("svhn")


@pytest.mark.parametrize("change", ["a pixel", "an image less", "its order"])
def test_another_part_of_svhn_is_refused_with_sizes_and_digests_of_both(part, change):
    path, arrays = part
    images = arrays["train_images"].copy()
    if change == "a pixel":
        images[0, 0, 0, 0] ^= 1
    images = {"an image less": images[:-1], "its order": images[::-1]}.get(change, images)
    write_cache(path, arrays | {"train_images": images, "train_labels": np.zeros(len(images), int)})
    with pytest.raises(DataError) as caught:
        datasets.load("svhn")
    found = published.image_digests({"train": images})["train"]
    for expected in ("'train': 73257", "'test': 26032", f"'train': {len(images)}", found, *published.SVHN_PART_SHA256.values()):
        assert expected in str(caught.value)


def real(name, *places):
    """Skip where the data folder has none of the places that the dataset could be read from."""
    folder = settings.data_folder()
    if not any((folder / place).exists() for place in places):
        pytest.skip(f"SUITE_DATA ({folder}) does not hold {name}: none of {', '.join(places)}")
    return datasets.load(name)


@pytest.mark.real_data
def test_real_mnist():
    dataset = real("mnist", "MNIST/raw/train-images-idx3-ubyte.gz")
    assert dataset.labels["train"][:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.images["train"].mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert not dataset.stand_in
    assert dataset.title == "mnist"


@pytest.mark.real_data
def test_real_binarized_mnist():
    dataset = real("binarized_mnist", "cache/binarized_mnist.npz", "binarized_mnist/binarized_mnist_train.amat")
    assert all(set(np.unique(images)) == {0, 1} for images in dataset.images.values())
    assert dataset.images["train"].mean() == pytest.approx(0.1307, abs=2e-3)  # of MNIST's own brightness


@pytest.mark.real_data
def test_real_cifar10():
    dataset = real("cifar10", "cache/cifar10.npz", "cifar-10-python.tar.gz")
    means = dataset.images["train"].mean(axis=(0, 1, 2)) / 255
    assert means == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)
    assert np.bincount(dataset.labels["train"]).tolist() == [5000] * 10
    copied = hashlib.sha256(dataset.images["test"].tobytes()).hexdigest() == published.CIFAR10_COPY_SHA256["test"]
    assert ("111 of the 60000 images" in dataset.note) is copied


@pytest.mark.real_data
def test_real_svhn():
    dataset = real("svhn", "cache/svhn.npz", "svhn/train_32x32.mat")
    if dataset.part:
        assert (dataset.title, dataset.sizes) == ("SVHN, 7,999 training images", {"train": 7999, "test": 2001})
        assert dataset.groups is None or not set(dataset.groups["train"]) & set(dataset.groups["test"])
        return
    assert np.bincount(dataset.labels["train"]).tolist() == list(standins.SVHN_LABEL_COUNTS)
