"""Networks as they are: answers that pass, connections that break, servers that drip, send too much, or send something else."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time

import pytest

from helpers import settings
from helpers.data import network
from helpers.data.downloads import DataError, fetch
from helpers.files import HOST

CONTENT = bytes(range(256)) * 12288  # three chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the address's name; ``server.asked`` has the ranges asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked[6:-1]) if asked and "ranges" in self.path else 0
        name, number = self.path.split("/")[-1], len(self.server.asked)
        self.close_connection = True
        if name == "busy" and number <= 2:
            return self.send_error(503, "Busy", "come back")
        if name == "gone":
            return self.send_error(404, "Not Here")
        if name == "never":
            return self.send_error(503, "Busy")
        if name == "reset" and number <= 2:
            return None  # no answer at all
        if start >= len(CONTENT):
            return self.send_error(416, "Range Not Satisfiable")
        self.send_response(206 if start else 200)
        if "ranges" in self.path:
            self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        body = CONTENT[start:]
        if name == "endless":
            self.end_headers()
            for _ in range(100):
                self.wfile.write(CONTENT)
            return None
        self.send_header("Content-Length", str(len(b"<html>") if name == "page" else len(body)))
        self.end_headers()
        if name == "breaks" and number <= 3:
            body = body[: HALF // 2]
        elif name == "always":
            body = body[:1000]
        elif name == "page":
            body = b"<html>"
        if name in ("drips", "slow"):
            for place in range(0, len(body), 1 << 16):
                self.wfile.write(body[place : place + (1 << 16)])
                self.wfile.flush()
                time.sleep(0.02)
            return None
        self.wfile.write(body)
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """A server in a thread."""
    class Quiet(http.server.ThreadingHTTPServer):
        asked: list

        def handle_error(self, request, client_address):
            pass  # the client has hung up, as it should

    with Quiet(("127.0.0.1", 0), Handler) as running:
        running.asked, running.address = [], f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SUITE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(network, "PAUSES", (0.0,) * 4)
    return tmp_path / "data"


def get(server, name, path, **options):
    return fetch(f"{server.address}/{name}", path, SHA256, what="numbers", size=len(CONTENT), **options)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(("name", "attempts"), [("busy", 3), ("reset", 3), ("breaks", 4), ("ranges/breaks", 4), ("drips", 1)])
def test_what_passes_is_tried_again_until_the_file_is_whole(server, data_folder, name, attempts):
    assert get(server, name, data_folder / "file").read_bytes() == CONTENT
    assert names(data_folder) == ["file"]
    assert len(server.asked) == attempts
    if name == "ranges/breaks":
        quarter = HALF // 2
        assert server.asked == [None, *(f"bytes={part * quarter}-" for part in (1, 2, 3))]


@pytest.mark.parametrize(("name", "attempts", "message"), [("gone", 1, "HTTP 404 Not Here"), ("never", 5, "HTTP 503 Busy")])
def test_an_error_that_stays_is_named(server, data_folder, name, attempts, message):
    with pytest.raises(DataError, match=message):
        get(server, name, data_folder / "file")
    assert len(server.asked) == attempts
    assert names(data_folder) == []


def test_pauses_grow(server, data_folder, monkeypatch):
    pauses = []
    monkeypatch.undo()
    monkeypatch.setenv("SUITE_DATA", str(data_folder))
    monkeypatch.setattr(network.time, "sleep", pauses.append)
    get(server, "busy", data_folder / "file")
    assert pauses == [1.0, 2.0]


def test_no_more_is_taken_than_the_file_has(server, data_folder):
    with pytest.raises(DataError, match=f"sends more than the {len(CONTENT):,} bytes"):
        get(server, "endless", data_folder / "file")
    assert names(data_folder) == []


def test_a_page_in_the_files_place_is_another_file(server, data_folder):
    with pytest.raises(DataError, match=r"another file.*\(6 bytes\).*It was removed"):
        get(server, "page", data_folder / "file")
    assert names(data_folder) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["ranges/slow", "ranges/always"])
def test_what_came_is_kept_where_the_server_can_go_on_from_it(server, data_folder, monkeypatch, name):
    monkeypatch.setattr(network, "TOTAL_SECONDS", 0.1 if name.endswith("slow") else 60.0)
    with pytest.raises(DataError, match="kept, and the same command goes on from there"):
        get(server, name, data_folder / "file")
    assert [entry.endswith(".download") for entry in names(data_folder)] == [True]
    had = next(data_folder.iterdir()).stat().st_size
    assert 0 < had < len(CONTENT)
    server.asked.clear()
    assert get(server, "ranges/good", data_folder / "file").read_bytes() == CONTENT
    assert server.asked == [f"bytes={had}-"]
    assert names(data_folder) == ["file"]


def test_a_killed_download_goes_on_and_damage_in_its_part_is_seen(server, data_folder):
    code = ("import sys\nfrom pathlib import Path\nfrom helpers.data.downloads import fetch\n"
            f"fetch(sys.argv[1], Path(sys.argv[2]), {SHA256!r}, what='numbers', size={len(CONTENT)})\n")
    for damage in (False, True):
        process = subprocess.Popen([sys.executable, "-c", code, f"{server.address}/ranges/slow", str(data_folder / "file")],
                                   cwd=settings.PROJECT_ROOT, env=os.environ | {"SUITE_DATA": str(data_folder)})
        while not any(entry.stat().st_size for entry in data_folder.glob("*.download") if data_folder.exists()):
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
        part = next(data_folder.glob(".file.*.download"))
        had = part.stat().st_size
        server.asked.clear()
        if damage:
            part.write_bytes(b"\0" * had)
            with pytest.raises(DataError, match="another file"):
                get(server, "ranges/good", data_folder / "file")
            assert names(data_folder) == []
        assert get(server, "ranges/good", data_folder / "file").read_bytes() == CONTENT
        assert server.asked[0] == f"bytes={had}-"
        assert names(data_folder) == ["file"]
        (data_folder / "file").unlink()


def test_a_part_that_is_whole_already_needs_no_byte(server, data_folder):
    data_folder.mkdir()
    (data_folder / ".file.host.0.00000000.download").write_bytes(b"of another machine, may be at work")
    (data_folder / f".file.{HOST}.0.00000000.download").write_bytes(CONTENT)
    assert get(server, "ranges/good", data_folder / "file").read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_mirror_is_asked_where_the_first_address_fails(server, data_folder):
    for number, name in enumerate(("gone", "page")):
        path = data_folder / f"file{number}"
        assert get(server, name, path, mirrors=[f"{server.address}/good"]).read_bytes() == CONTENT
    with pytest.raises(DataError, match=r"/gone \(HTTP 404 Not Here\) or .*/never \(HTTP 503 Busy\)"):
        get(server, "gone", data_folder / "file", mirrors=[f"{server.address}/never"])


def test_without_a_network_one_is_told_at_once(data_folder, monkeypatch):
    monkeypatch.setattr(network, "PAUSES", (1e6,))
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch("http://127.0.0.1:9/file", data_folder / "file", SHA256, what="numbers")
