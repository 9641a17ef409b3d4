"""Said once: pixels to tensors and back, the precision of convolutions, models whose weights come from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from helpers import settings
from helpers.data.datasets import check_images
from helpers.data.downloads import DataError


def pixels(images: np.ndarray, split: str, *, side: int = 32, channels: int = 3) -> np.ndarray:
    """Images as bytes, from any of the forms in which a course hands them out.

    Args:
        images: (N, side, side, channels), or (N, side, side) for one channel: integers in 0..255, whole floats in 0..255,
            or floats in 0..1, which are scaled by 255 and rounded, and a line says so. Floats that are all 0 or 1 count as the
            latter. Read-only and non-contiguous arrays are fine.
        split: its name, for messages.

    Returns:
        The same images, uint8, contiguous; the same memory where they were that already.

    Raises:
        DataError: another shape, no numbers, NaN, or values of another range; the message names both sides.
    """
    images = np.asarray(images)
    if images.dtype.kind != "f" or not np.isfinite(images).all() or images.size == 0:
        check_images(images, side=side, channels=channels, split=split)
    else:
        check_images(np.broadcast_to(np.uint8(0), images.shape), side=side, channels=channels, split=split)
        low, high = images.min(), images.max()
        if low < 0 or high > 255 or (high > 1 and not np.array_equal(images, np.rint(images))):
            raise DataError(f"the {split} images are {images.dtype} with values from {low} to {high}; expected integers in "
                            "0..255, whole floats in 0..255, or floats in 0..1")
        if high <= 1:
            print(f"the {split} images are {images.dtype} in 0..1: scaled to 0..255 and rounded")
            images = np.rint(255.0 * images.astype(np.float64))
    return np.ascontiguousarray(images, dtype=np.uint8)


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
