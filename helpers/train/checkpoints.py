"""Checkpoints: written atomically with a digest of their content, read without executing anything, refused when they are damaged
or belong to another run.

A file is what ``torch.save`` writes, followed by ``TRAILER``, the sha256 of all before it: ``torch.load`` reads it as it is.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from helpers.files import write_atomically

TRAILER = "\nsha256 {}\n"  # of the bytes before it
TRAILER_BYTES = len(TRAILER.format("0" * 64))
CHUNK_BYTES = 1 << 20
STATE_KEYS = ("update", "noise", "loop", "terms", "best_state")  # what a training saves
LOOP_KEYS = ("step", "seconds", "evaluations", "evaluation_steps", "best", "stopped")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or belongs to another configuration. It is left where it is."""

    explained = True  # the message says what to mend: the command line shows it alone


class _Hashing:
    """A stream that only passes on what is written, with its digest: ``torch.save`` asks for no more."""

    def __init__(self, stream) -> None:
        self.stream, self.digest, self.failed = stream, hashlib.sha256(), None

    def write(self, data) -> int:
        self.digest.update(data)
        try:
            return self.stream.write(data)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        self.stream.flush()


@dataclass(frozen=True)
class Checkpoint:
    """The place of one training's checkpoint and the fingerprint of the configuration it belongs to."""

    path: Path
    fingerprint: str

    def save(self, state: dict) -> None:
        """Replace the checkpoint by ``state`` (tensors, numbers, strings, lists and dicts of them).

        Raises:
            CheckpointError: it cannot be written; the one that was there is as it was.
        """
        content = {"fingerprint": self.fingerprint, "state": state}

        def write(stream) -> None:
            hashing = _Hashing(stream)
            try:
                torch.save(content, hashing)
            except RuntimeError as error:  # torch hides the reason: "unexpected pos"
                raise hashing.failed or error from None
            stream.write(TRAILER.format(hashing.digest.hexdigest()).encode())

        try:
            write_atomically(self.path, write)
        except OSError as error:
            raise CheckpointError(str(error)) from error

    def load(self, device: torch.device | str = "cpu") -> dict | None:
        """The saved state, or None where there is none.

        Raises:
            CheckpointError: the file is damaged, or was written by another configuration.
        """
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise ValueError("it is no regular file")
            _check_digest(self.path)
            content = torch.load(self.path, map_location=device, weights_only=True)
            fingerprint, state = content["fingerprint"], content["state"]
            if not isinstance(state, dict):
                raise TypeError(f"its state is a {type(state).__name__}")
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a broken file makes its reader raise
            raise CheckpointError(f"{self.path} is not a readable checkpoint ({_short(error)}); nothing was loaded or "
                                  "overwritten: remove it to start anew") from error
        if fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{self.path} belongs to another configuration (fingerprint {_short(fingerprint)}, expected {self.fingerprint}); "
                "nothing was loaded or overwritten: move it away to start anew"
            )
        return state

    @contextmanager
    def restoring(self, saved: dict, update) -> Iterator[None]:
        """Around the lines that take over a saved state: whatever does not fit is one error that names it.

        Args:
            saved: from :meth:`load`.
            update: what trains, as :func:`helpers.train.training.fit` has it.

        Raises:
            CheckpointError: keys are missing, or tensors have other shapes than the model, its averages or its optimiser.
        """
        try:
            _check_state(saved, update)
            yield
        except CheckpointError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"{self.path} does not fit this training ({_short(error)}); nothing was overwritten: "
                                  "move it away to start anew") from error

    def remove(self) -> None:
        """Delete the checkpoint, once the record that it served is written."""
        self.path.unlink(missing_ok=True)


def _check_digest(path: Path) -> None:
    """Compare the digest at a file's end with that of all before it.

    Raises:
        ValueError: they differ, or there is none.
    """
    digest, left = hashlib.sha256(), path.stat().st_size - TRAILER_BYTES
    if left < 0:
        raise ValueError("it is too short")
    with open(path, "rb") as stream:
        while left > 0 and (chunk := stream.read(min(left, CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
        trailer = stream.read()
    if trailer != TRAILER.format(digest.hexdigest()).encode():
        known = trailer.startswith(TRAILER.split("{")[0].encode())
        raise ValueError("its content has another digest than it had when it was written" if known else
                         "it has no digest at its end: it was cut, or not written by this suite")


def _check_state(saved: dict, update) -> None:
    """Compare a saved state with what it is to be loaded into.

    Raises:
        KeyError, ValueError: the first thing that is missing or of another shape.
    """
    for what, content, keys in (("the checkpoint", saved, STATE_KEYS), ("its loop", saved.get("loop", {}), LOOP_KEYS)):
        if missing := [key for key in keys if key not in content]:
            raise ValueError(f"{what} lacks {', '.join(missing)}")
    step, terms = saved["loop"]["step"], saved["terms"]
    if terms is not None and len(terms) != step:
        raise ValueError(f"it has {len(terms)} rows of losses for {step} steps")
    mine = update.state_dict()
    _compare("update", saved["update"], mine)
    if saved["best_state"] is not None and "model" in mine:
        _compare("best_state", saved["best_state"], mine["model"])
    parameters = dict(enumerate(getattr(update, "parameters", [])))  # of a GradientUpdate, as its optimiser counts them
    for index, slots in saved["update"]["optimizer"]["state"].items() if parameters and "optimizer" in mine else ():
        for name, value in slots.items():
            if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape != parameters[index].shape:
                raise ValueError(f"{name} of the optimiser has shape {tuple(value.shape)} for a parameter of shape "
                                 f"{tuple(parameters[index].shape)}")


def _compare(place: str, saved, mine) -> None:
    """Raise a ValueError where two trees of dicts and tensors have other keys or shapes; an optimiser's grows."""
    if isinstance(mine, dict) and set(mine) != {"state", "param_groups"}:
        if not isinstance(saved, dict) or set(saved) != set(mine):
            found = ", ".join(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
            raise ValueError(f"{place} has {_short(found)}; expected {_short(', '.join(map(str, mine)))}")
        for key, value in mine.items():
            _compare(f"{place}.{key}", saved[key], value)
    elif isinstance(mine, torch.Tensor) and getattr(saved, "shape", None) != mine.shape:
        raise ValueError(f"{place} has shape {tuple(getattr(saved, 'shape', ()))}; expected {tuple(mine.shape)}")


def _short(error: object, limit: int = 300) -> str:
    """The message on one line, cut."""
    text = re.sub(r"\s+", " ", str(error) if not isinstance(error, KeyError) else f"it lacks {error}").strip()
    text = text or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."
