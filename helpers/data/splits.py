"""Parts of a training set: which images to choose a model by, so that the test images choose nothing."""

from __future__ import annotations

import numpy as np


def split_by_group(groups: np.ndarray | None, number: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on, with no group (of SVHN: no house) in both.

    Neighbouring digits of a house share its paint, light and font: split by image, the validation would reward memory.

    Args:
        groups: (N,) integers, images of one group have the same; None where that is not known: the split is by image then.
        number: N, how many images there are.
        share: of the images to validate on, in (0, 1); whole groups are taken until there are at least so many.
        seed: of the choice of groups.

    Returns:
        Rows (T,) to train on and rows (V,) to validate on, each in increasing order, T + V = N, both int64.

    Raises:
        ValueError: the share is out of range, the groups are not one an image, or one of both sides would be empty.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"the share of images to validate on lies in (0, 1), not {share}")
    groups = np.arange(number) if groups is None else np.asarray(groups)
    if groups.shape != (number,):
        raise ValueError(f"the groups have shape {groups.shape}; expected ({number},), one an image")
    names, members, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(names))
    taken = int(np.searchsorted(np.cumsum(counts[order]), np.ceil(share * number - 1e-9))) + 1
    chosen = np.zeros(len(names), bool)
    chosen[order[:taken]] = True
    valid = chosen[members]
    if valid.all() or not valid.any():
        raise ValueError(f"{number} images in {len(names)} groups leave nothing on one side of a split with share {share}")
    return np.flatnonzero(~valid), np.flatnonzero(valid)
