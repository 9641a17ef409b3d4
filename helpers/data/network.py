"""One file from the network, through what networks do: pauses, errors that pass, connections that break.

What has arrived stays in a partial file, from which the next attempt goes on where the server can; nothing here knows what the
file should be. References: RFC 9110, section 14 (range requests).
"""

from __future__ import annotations

import http.client
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from helpers import settings

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0  # without a byte from the server
TOTAL_SECONDS = 3600.0  # of one file, all attempts together
LARGEST_BYTES = 1 << 31  # of a file whose size is not known
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may be another one in a moment


class NetworkError(Exception):
    """The server could not be reached, refused, or sent what cannot be the file."""


class _Passing(Exception):
    """What a further attempt may mend."""


@dataclass
class Received:
    """How an attempt ended: whether all announced bytes came, and whether the server can go on in the middle of a file."""

    whole: bool
    resumable: bool


def receive(url: str, partial: Path, what: str, size: int | None = None) -> Received:
    """Bring what is at an address into a file, going on from what that holds already.

    Args:
        url: ``http:``, ``https:`` or ``file:``.
        partial: grows as bytes come; may be there, and stays there.
        what: the data in words, for the progress bar.
        size: the number of bytes that there must be, where it is known: no more are taken.

    Raises:
        NetworkError: nobody answers, the answer is an error, more comes than there must be, or it takes too long.
        OSError: the disk refuses.
    """
    deadline, answered = time.monotonic() + TOTAL_SECONDS, False
    ended = Received(False, False)
    for pause in (*PAUSES, None):
        try:
            ended = _once(url, partial, what, size, deadline)
            if ended.whole or pause is None:
                return ended
            answered = True
        except _Passing as error:
            answered = answered or "no answer" not in error.args
            if pause is None or not answered:  # without a network one is told so at once
                raise NetworkError(str(error.args[0])) from error
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
    return ended


def _once(url: str, partial: Path, what: str, size: int | None, deadline: float) -> Received:
    """One attempt."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "Python-urllib"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-") and response.status == 206
            resumable = goes_on or response.headers.get("Accept-Ranges") == "bytes"
            return Received(_copy(response, partial, have if goes_on else 0, what, size, deadline), resumable)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left of it from there on: it is whole, or another one
            whole = have == size
            if not whole:
                partial.unlink()
            return Received(whole, True)
        said = f"HTTP {error.code} {error.reason}"
        raise (_Passing(said) if error.code in PASSING else NetworkError(said)) from error
    except (ConnectionError, TimeoutError) as error:  # somebody answered, and then no more
        raise _Passing(f"{type(error).__name__}: {error}") from error
    except urllib.error.URLError as error:
        raise _Passing(str(error), "no answer") from error
    except (http.client.HTTPException, ValueError) as error:
        raise NetworkError(f"{type(error).__name__}: {error}") from error


def _copy(response, partial: Path, start: int, what: str, size: int | None, deadline: float) -> bool:
    """Append what comes to the file, from byte ``start`` on; whether as much came as was announced."""
    from tqdm import tqdm

    announced = int(response.headers.get("Content-Length") or 0) or None
    total, received = size or (start + announced if announced else None), start
    limit = size or LARGEST_BYTES
    options = {"file": sys.stdout, "disable": not settings.show_progress(), "unit": "B", "unit_scale": True}
    read = getattr(response, "read1", response.read)  # returns what is there: a server that drips cannot hold it for ever
    with (open(partial, "r+b" if start else "wb") as stream,
          tqdm(total=total, initial=start, desc=f"downloading {what}", **options) as bar):
        stream.seek(start)
        stream.truncate()
        while True:
            try:
                chunk = read(CHUNK_BYTES)
            except (TimeoutError, ConnectionError, http.client.HTTPException):
                return False  # the connection broke
            if not chunk:
                return announced is None or received >= start + announced
            received += len(chunk)
            if received > limit:
                stream.truncate(0)
                raise NetworkError(f"it sends more than the {limit:,} bytes of the file")
            stream.write(chunk)
            bar.update(len(chunk))
            if time.monotonic() > deadline:
                raise NetworkError(f"after {TOTAL_SECONDS / 60:g} minutes only {received:,} bytes had come; they are kept, and the "
                                   "same command goes on from there")
