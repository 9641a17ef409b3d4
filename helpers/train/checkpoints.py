"""Checkpoints: written atomically, read without executing anything, refused when they belong to another run."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from helpers.files import write_atomically


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or belongs to another configuration. It is left where it is."""

    explained = True  # the message says what to mend: the command line shows it alone


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
        try:
            write_atomically(self.path, lambda stream: torch.save(content, stream))
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
            raise CheckpointError(f"{self.path} could not be written ({error})") from error

    def load(self, device: torch.device | str = "cpu") -> dict | None:
        """The saved state, or None where there is none.

        Raises:
            CheckpointError: the file is damaged, or was written by another configuration.
        """
        if not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location=device, weights_only=True)
            fingerprint, state = content["fingerprint"], content["state"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self.path} is not a readable checkpoint ({error}); remove it to start anew") from error
        if fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{self.path} belongs to another configuration (fingerprint {fingerprint}, expected {self.fingerprint}); "
                "nothing was loaded or overwritten: move it away to start anew"
            )
        return state
