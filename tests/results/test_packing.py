"""The file of a record's arrays: pictures come back to the bit, curves nearly, and what is announced falsely is refused."""

import io
import zipfile

import numpy as np
import PIL.Image
import pytest

from helpers.grade.arrays import ArraysError, read_arrays
from helpers.results import packing


@pytest.fixture
def generator():
    return np.random.default_rng(7)


def photographs(generator, *shape: int) -> np.ndarray:
    """Smooth pictures with a little noise, (..., H, W, 3)."""
    slope = np.linspace(0, 200, shape[-2])[:, None]
    return (slope + generator.integers(0, 20, shape)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(5, 32, 32, 3), (2, 3, 8, 12, 3), (9, 28, 28), (3, 4, 28, 28), (1, 8, 8, 3)])
def test_pictures_lie_in_the_file_as_webp_and_come_back_to_the_bit(tmp_path, generator, shape):
    images = photographs(generator, *shape)
    path = tmp_path / "a.npz"
    path.write_bytes(packing.pack({"images": images}))
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
        assert member == f"images.{'x'.join(map(str, shape))}.webp"
        assert PIL.Image.open(io.BytesIO(archive.read(member))).format == "WEBP"
    for read in (packing.unpack, read_arrays):
        (name, back), = read(path).items()
        assert name == "images" and back.dtype == np.uint8 and np.array_equal(back, images) and back.flags.writeable


def test_photographs_take_less_room_than_in_numpy_s_own_file(generator):
    images = photographs(generator, 50, 32, 32, 3)
    plain = io.BytesIO()
    np.savez_compressed(plain, images=images)
    assert len(packing.pack({"images": images})) < 0.8 * len(plain.getvalue())


@pytest.mark.parametrize("array", [
    np.zeros((3, 7, 7), np.uint8), np.zeros((0, 32, 32, 3), np.uint8), np.zeros((600, 32, 32, 3), np.uint8),
    np.arange(6.0), np.array(3), np.array(["a", "b"]), np.zeros((2, 32, 32, 3), np.float32), np.arange(12, dtype=np.uint8),
], ids=["small", "empty", "tall", "numbers", "scalar", "words", "floats", "row"])
def test_all_else_lies_in_the_file_as_numpy_has_it(tmp_path, array):
    path = tmp_path / "a.npz"
    path.write_bytes(packing.pack({"thing": array}))
    with np.load(path, allow_pickle=False) as content:
        assert content.files == ["thing"] and np.array_equal(content["thing"], array)
    assert packing.unpack(path)["thing"].dtype == array.dtype


def test_long_measurements_keep_twelve_bits_and_their_exceptions(tmp_path, generator):
    values = generator.normal(100, 30, (2500, 2)).astype(np.float32)
    values[3], values[4], values[5] = np.nan, np.inf, np.finfo(np.float32).max
    path = tmp_path / "a.npz"
    path.write_bytes(packing.pack({"train_terms": values, "test_terms": values, "training_set": values}))
    back = packing.unpack(path)
    assert np.array_equal(back["test_terms"], values, equal_nan=True)
    assert np.array_equal(back["training_set"], values, equal_nan=True)
    kept, finite = back["train_terms"], np.isfinite(values)
    assert np.array_equal(np.isnan(kept), np.isnan(values)) and np.array_equal(np.isinf(kept), np.isinf(values))
    error = np.abs(kept[finite].astype(np.float64) / values[finite] - 1)
    assert 1e-5 < error.max() <= 2.0**-12
    assert np.array_equal(packing.rounded(kept), kept, equal_nan=True)


def test_short_measurements_are_kept_whole(tmp_path, generator):
    values = generator.normal(size=(1999, 2)).astype(np.float32)
    path = tmp_path / "a.npz"
    path.write_bytes(packing.pack({"train_terms": values}))
    assert np.array_equal(packing.unpack(path)["train_terms"], values)


def test_rounding_goes_to_the_nearest_and_ties_to_even():
    step = 2.0**-11  # between neighbours of 1 with 12 significant bits
    values = np.array([1 + 0.49 * step, 1 + 0.51 * step, 1 + 0.5 * step, 1 + 1.5 * step, -1 - 0.51 * step, 0.0], np.float32)
    assert packing.rounded(values).tolist() == [1, 1 + step, 1, 1 + 2 * step, -1 - step, 0]


def test_the_same_arrays_give_the_same_bytes(generator):
    arrays = {"images": photographs(generator, 4, 32, 32, 3), "train_terms": np.ones((2000, 1), np.float32)}
    assert packing.pack(arrays) == packing.pack(dict(arrays))


def webp(width: int, height: int, **options) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (width, height), "teal").save(stream, "webp", lossless=True, **options)
    return stream.getvalue()


def png() -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (8, 16)).save(stream, "png")
    return stream.getvalue()


def animated() -> bytes:
    stream = io.BytesIO()
    frames = [PIL.Image.new("RGB", (8, 16), colour) for colour in ("teal", "plum")]
    frames[0].save(stream, "webp", save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize(("member", "content", "complaint"), [
    ("a.2x8x8x3.webp", webp(8, 24), "has 8 x 24"),
    ("a.2x8x8x3.webp", webp(16, 8), "has 16 x 8"),
    ("a.2x8x8x3.webp", animated(), "announces 8 x 16"),
    ("a.2x8x8x3.webp", png(), "cannot be read as a WebP"),
    ("a.2x8x8x3.webp", b"", "cannot be read as a WebP"),
    ("a.2x8x8x3.webp", webp(8, 16)[:20], "cannot be read as a WebP"),
    ("a.99999x99999x3x3.webp", webp(8, 8), "announce more than"),
    ("a.0x8x8x3.webp", webp(8, 8), "or none"),
    ("a.8x8.webp", webp(8, 8), "is not the name of one array"),
    ("a.webp", webp(8, 8), "is not the name of one array"),
    ("a" * 300 + ".2x8x8x3.webp", webp(8, 16), "is not the name of one array"),
])
def test_the_grade_refuses_pictures_that_are_not_what_their_name_announces(tmp_path, member, content, complaint):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    with pytest.raises(ArraysError, match=complaint):
        read_arrays(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content.getvalue())
        archive.writestr("a.2x8x8x3.webp", webp(8, 16))
    with pytest.raises(ArraysError, match="not the name of one array"):
        read_arrays(path)
