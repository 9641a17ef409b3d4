"""Notebook 6's GAN update made quick on a GPU, with the numbers of the plain one that stands in the notebook.

The plain update draws its noise (``draw``) and then does its arithmetic (``step``). At a batch of 64 starting a thousand small
kernels takes longer than running them, so here the arithmetic is recorded once as a CUDA graph and replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from helpers.train.graphs import CapturedStep


class CapturedUpdate:
    """An update for :func:`helpers.train.training.fit` that replays another one's arithmetic as a CUDA graph.

    Args:
        plain: with ``device`` and ``precision``; ``draw(batch, noise)`` makes the tensors of an update, ``step(*tensors)`` does
            all the rest on the device, without waiting for it; ``state_dict`` and ``load_state_dict``.
        record: makes a replaying function of ``plain.step``.

    Not on a GPU, or with scaled float16 losses, the plain steps run one by one; so they do after a recording that failed, since
    a recording runs nothing and leaves the weights as they were.
    """

    def __init__(self, plain, record=CapturedStep) -> None:
        self.plain, self.record, self.replay = plain, record, None
        self.captured = plain.device.type == "cuda" and plain.precision != "float16"

    def __call__(self, batch: Tensor, step: int, noise: torch.Generator) -> Tensor:
        """One update; returns the terms that ``plain.step`` does."""
        inputs = self.plain.draw(batch, noise)
        if not self.captured:
            return self.plain.step(*inputs)
        if self.replay is None:
            self.replay = self.record(self.plain.step)
        try:
            return self.replay(*inputs)
        except RuntimeError as error:
            if self.replay.graph is None or self.replay.recorded:
                raise
            print(f"the updates are not recorded as a CUDA graph, but run one by one: {str(error).splitlines()[0]}")
            self.captured = False
            return self.plain.step(*inputs)

    def state_dict(self) -> dict:
        """The plain update's state."""
        return self.plain.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Load the plain update's state; a recording of other tensors is dropped."""
        self.plain.load_state_dict(state)
        self.replay = None


def let_cudnn_choose(device: torch.device) -> None:
    """Let cuDNN time its algorithms once for each shape, for the whole process: a GAN's shapes are few and fixed."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def _float32_switch() -> tuple[object, str, object, object]:
    """Where PyTorch keeps the precision of float32 convolutions: owner, name, and the values for TF32 and for full float32."""
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    if hasattr(convolutions, "fp32_precision"):
        return convolutions, "fp32_precision", "tf32", "ieee"
    return torch.backends.cudnn, "allow_tf32", True, False


def float32_convolutions(device: torch.device) -> str:
    """What convolutions of float32 tensors are computed in: "TF32" (10 bits of mantissa) or "float32"."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return "float32"
    owner, name, _, exact = _float32_switch()
    return "float32" if getattr(owner, name) == exact else "TF32"


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Convolutions of float32 tensors in full float32: cuDNN's default on recent GPUs is TF32, which has 10 bits."""
    if device.type != "cuda":
        yield
        return
    owner, name, _, exact = _float32_switch()
    before = getattr(owner, name)
    setattr(owner, name, exact)
    try:
        yield
    finally:
        setattr(owner, name, before)
