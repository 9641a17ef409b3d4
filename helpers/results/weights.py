"""Trained weights beside their records, so that a model can be sampled from without training it.

One safetensors file a run: float32 where that is small enough for git, else float16. Small files lie in ``results/``, larger
ones in ``build/weights/`` (or the data folder), from where ``python -m helpers weights`` packs them as one archive for a release.
A record holds the digest of its file, and nothing that does not match it is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from helpers import settings
from helpers.results.records import Record, RecordError

LIMIT = 256 * 1024  # bytes of a file that goes into git
SEPARATOR = ":"  # between the name of a model and the name of a tensor


def pack(models: Mapping[str, object]) -> bytes:
    """A safetensors file of modules or flat dicts of tensors, by name; empty where there are none.

    Floating-point numbers are float32 where the whole file then has at most ``LIMIT`` bytes, else float16.
    """
    if not models:
        return b""
    import torch
    from safetensors.torch import save

    tensors = {}
    for name, model in models.items():
        state = model.state_dict() if hasattr(model, "state_dict") else model
        tensors |= {f"{name}{SEPARATOR}{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    size = sum(value.numel() * (4 if value.is_floating_point() else value.element_size()) for value in tensors.values())
    kind = torch.float32 if size + 128 * len(tensors) <= LIMIT else torch.float16
    return save({key: value.to(kind) if value.is_floating_point() else value.clone() for key, value in tensors.items()})


def place(record_path: Path, packed: bytes) -> Path:
    """Where a file of weights belongs: beside its record if it is small, else in the folder that stays out of git."""
    beside = record_path.with_suffix(".safetensors")
    return beside if len(packed) <= LIMIT else heavy_folder() / beside.name


def heavy_folder() -> Path:
    """Folder of the weights that are too large for git."""
    return settings.checkpoint_folder().parent / "weights"


def find(record: Record) -> dict[str, dict] | None:
    """The weights that a record names: name of the model -> state dict with floating-point numbers as float32.

    Looked for beside the record, in ``build/weights/`` and in ``weights/`` of the data folder.

    Returns:
        None where the record names none, or none of the places has them.

    Raises:
        RecordError: a file of that name is there and is another one.
    """
    named = record.content.get("weights")
    if not named:
        return None
    name = f"{record.id}.safetensors"
    places = (record.path.with_suffix(".safetensors"), heavy_folder() / name, settings.data_folder() / "weights" / name)
    there = [place for place in places if place.is_file()]
    content = next((read for read in map(Path.read_bytes, there) if hashlib.sha256(read).hexdigest() == named["sha256"]), None)
    if content is None and there:
        raise RecordError(f"{there[0]} is not the file that {record.path.name} names (sha256 {named['sha256']}): move it away, "
                          f"or train the run again with python -m helpers train {record.id} --again")
    if content is None:
        return None
    from safetensors.torch import load

    models: dict[str, dict] = {}
    for key, value in load(content).items():
        model, _, parameter = key.partition(SEPARATOR)
        models.setdefault(model, {})[parameter] = value.float() if value.is_floating_point() else value
    return models
