"""Downloads are verified and whole or an error that says what to do; caches likewise. The server is in a thread."""

import hashlib
import http.server
import threading

import numpy as np
import pytest

from helpers import settings
from helpers.data import network
from helpers.data.downloads import DataError, digest_of_arrays, fetch, read_cache, verify, write_cache

CONTENT = bytes(range(256)) * 8192  # two chunks of a download
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the file whole, cut short, changed, or not at all, by the address's name."""

    def do_GET(self):
        body = {"/good": CONTENT, "/truncated": CONTENT[:-1000], "/wrong": CONTENT[::-1]}.get(self.path)
        if body is None:
            self.send_error(404, "Not Here")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    """Address of a server in a thread."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SUITE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(network, "PAUSES", (0.0,) * 4)
    return tmp_path / "data"


def test_good_file_arrives_whole_with_progress_on_stdout(server, data_folder, monkeypatch, capfd):
    monkeypatch.setattr(settings, "show_progress", lambda: True)
    path = data_folder / "deep" / "file.bin"
    assert fetch(f"{server}/good", path, SHA256, what="numbers") == path
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]
    output = capfd.readouterr()
    assert "downloading numbers" in output.out
    assert output.err == ""
    path.unlink()
    monkeypatch.setattr(settings, "show_progress", lambda: False)
    fetch(f"{server}/good", path, SHA256, what="numbers")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "arrived"), [("truncated", CONTENT[:-1000]), ("wrong", CONTENT[::-1])])
def test_truncated_or_wrong_file_is_named_and_removed(server, data_folder, name, arrived):
    path = data_folder / "file.bin"
    with pytest.raises(DataError) as caught:
        fetch(f"{server}/{name}", path, SHA256, what="numbers", size=len(CONTENT))
    message = str(caught.value)
    found = hashlib.sha256(arrived).hexdigest()
    for expected in (str(path), f"{server}/{name}", SHA256, found, f"{len(CONTENT)} bytes", f"{len(arrived)} bytes"):
        assert expected in message
    assert list(data_folder.iterdir()) == []


def test_a_file_address_works_too(tmp_path, data_folder):
    (tmp_path / "source").write_bytes(CONTENT)
    path = fetch((tmp_path / "source").as_uri(), data_folder / "file.bin", SHA256, what="numbers")
    assert path.read_bytes() == CONTENT


def test_no_network_names_folder_variable_address_and_stand_in(data_folder):
    address = "http://127.0.0.1:9/file.bin"  # nothing listens on the discard port
    with pytest.raises(DataError) as caught:
        fetch(address, data_folder / "sub" / "file.bin", SHA256, what="numbers", stand_in="drawn_numbers")
    for expected in ("SUITE_DATA", str(data_folder / "sub"), address, "'drawn_numbers'"):
        assert expected in str(caught.value)
    assert not (data_folder / "sub" / "file.bin").exists()


def test_error_of_the_server_is_named(server, data_folder):
    with pytest.raises(DataError, match="HTTP 404 Not Here"):
        fetch(f"{server}/missing", data_folder / "file.bin", SHA256, what="numbers")


def test_file_on_disk_needs_no_network_and_is_verified(data_folder):
    data_folder.mkdir()
    path = data_folder / "file.bin"
    path.write_bytes(CONTENT)
    address = "http://127.0.0.1:9/file.bin"
    assert fetch(address, path, SHA256, what="numbers") == path
    path.write_bytes(CONTENT[:100])
    with pytest.raises(DataError, match=r"100 bytes.*Delete it.*127\.0\.0\.1:9") as caught:
        fetch(address, path, SHA256, what="numbers", size=len(CONTENT))
    assert SHA256 in str(caught.value)
    assert path.read_bytes() == CONTENT[:100]  # a file that somebody put there is theirs to delete
    with pytest.raises(DataError):
        verify(path, SHA256, address)


def test_folder_that_cannot_be_written_to_is_named(server, tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="SUITE_DATA"):
        fetch(f"{server}/good", tmp_path / "taken" / "file.bin", SHA256, what="numbers")


@pytest.fixture
def arrays():
    return {"first": np.arange(5000, dtype=np.int64), "second": np.ones((30, 7), np.uint8)}


def test_cache_round_trip(data_folder, arrays):
    path = data_folder / "cache" / "some.npz"
    write_cache(path, arrays)
    found = read_cache(path, ["first", "second"])
    assert all(np.array_equal(found[name], arrays[name]) and found[name].dtype == arrays[name].dtype for name in arrays)
    np.savez(path, **arrays)  # as made elsewhere, without a digest
    assert np.array_equal(read_cache(path, ["second"])["second"], arrays["second"])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "lacking", "other digest"])
def test_damaged_cache_is_an_error_that_names_it(data_folder, arrays, damage):
    path = data_folder / "some.npz"
    write_cache(path, arrays)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "lacking":
        write_cache(path, {"first": arrays["first"]})
    else:
        np.savez(path, **arrays, digest=np.array(digest_of_arrays({**arrays, "first": arrays["first"] + 1})))
    with pytest.raises(DataError, match="Delete it") as caught:
        read_cache(path, ["first", "second"])
    assert str(path) in str(caught.value)


def test_pickled_objects_in_a_cache_are_refused(data_folder):
    data_folder.mkdir()
    np.savez(data_folder / "some.npz", first=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="allow_pickle"):
        read_cache(data_folder / "some.npz", ["first"])


def test_interrupted_write_leaves_the_old_cache(data_folder, arrays, monkeypatch):
    path = data_folder / "some.npz"
    write_cache(path, arrays)

    def half_a_file(stream, **_):
        stream.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half_a_file)
    with pytest.raises(KeyboardInterrupt):
        write_cache(path, {"first": np.zeros(3)})
    assert np.array_equal(read_cache(path, ["first", "second"])["first"], arrays["first"])
    assert [entry.name for entry in data_folder.iterdir()] == ["some.npz"]


def test_digest_of_arrays_sees_names_types_shapes_and_values(arrays):
    changed = [
        {"first": arrays["first"]},
        {"first": arrays["first"], "third": arrays["second"]},
        {**arrays, "second": arrays["second"].reshape(7, 30)},
        {**arrays, "second": arrays["second"].astype(np.int8)},
        {**arrays, "second": arrays["second"] * np.uint8(2)},
    ]
    assert len({digest_of_arrays(variant) for variant in [arrays, *changed]}) == 6
    assert digest_of_arrays(dict(reversed(arrays.items()))) == digest_of_arrays(arrays)
    transposed = np.arange(6).reshape(2, 3).T
    assert digest_of_arrays({"a": transposed}) == digest_of_arrays({"a": transposed.copy()})
