"""Said once: pixels to tensors and back, the precision of convolutions, models whose weights come from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from helpers import settings


def to_signed(images: Tensor) -> Tensor:
    """Bytes (B, 32, 32, 3) as floats (B, 3, 32, 32) in [-1, 1], in channels-last memory."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_bytes(x: Tensor) -> np.ndarray:
    """Floats (N, 3, 32, 32) in [-1, 1], clipped, as images (N, 32, 32, 3) uint8 for a record."""
    return x.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which convolutions compute in ``precision``; "float32" changes nothing."""
    return torch.autocast(device.type, getattr(torch, precision) if precision != "float32" else None,
                          enabled=precision != "float32")


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model whose weights come from a seed, channels last, on the device in use; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    return model.to(settings.device(), memory_format=torch.channels_last)
