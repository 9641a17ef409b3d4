"""Quick samplers of notebook 3: each computes the one place that is due, and remembers or crops what it needs.

The notebook's own samplers run the whole network once for each place; these give the same numbers (tested in float64).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def inverse(flow: nn.Module, noise: Tensor) -> Tensor:
    """The code z of a noise under an autoregressive flow; what each masked layer has read is kept, so that a place costs a crop.

    Args:
        flow: a FlowPrior of notebook 3: a masked layer ``first``, ``blocks`` of ``reduce``, ``masked`` and ``expand``, and
            ``shift_and_scale``; its masked kernels are 3 x 3.
        noise: (N, C, H, W), standard normal.

    Returns:
        z, (N, C, H, W), with ``flow(z)[0] == noise``.
    """
    height, width = noise.shape[2:]
    seen = [noise.new_zeros(len(noise), layer.in_channels, height + 2, width + 2)  # what each masked layer has read, padded
            for layer in (flow.first, *(block.masked for block in flow.blocks))]
    for row in range(height):
        for column in range(width):
            crop, place = (..., slice(row, row + 3), slice(column, column + 3)), (..., row + 1, column + 1)
            hidden = flow.first.inside(seen[0][crop])
            for block, memory in zip(flow.blocks, seen[1:], strict=True):
                memory[place] = block.reduce(hidden)[..., 0, 0]
                hidden = hidden + block.expand(block.masked.inside(memory[crop]))
            shift, log_scale = flow.shift_and_scale(hidden)
            seen[0][place] = (noise[..., row, column] - shift[..., 0, 0]) * torch.exp(-log_scale[..., 0, 0])
    return seen[0][..., 1:-1, 1:-1].contiguous()


@torch.no_grad()
def draw_pixels(decoder: nn.Module, features: Tensor, uniform: Tensor, draw: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Images of a PixelCNN decoder, pixel by pixel; each step reads a crop of its one masked kernel's size.

    Args:
        decoder: a PixelDecoder of notebook 3: ``sketch``, the masked layer ``context``, and ``mixture``.
        features: (N, F, H, W).
        uniform: (N, 4, H, W) numbers in (0, 1).
        draw: from mixture parameters (N, P, 1, 1) and uniform numbers (N, 4) to bytes (N, 3) as floats.

    Returns:
        (N, H, W, 3) uint8.
    """
    number, _, height, width = features.shape
    kernel, reach, sketch = decoder.context.kernel_size[0], decoder.context.kernel_size[0] // 2, decoder.sketch(features)
    padded = features.new_zeros(number, 3, height + 2 * reach, width + 2 * reach)  # of x - sketch
    images = torch.zeros(number, height, width, 3, dtype=torch.uint8, device=features.device)
    for row in range(height):
        for column in range(width):
            crop = padded[..., row : row + kernel, column : column + kernel]
            here = slice(row, row + 1), slice(column, column + 1)
            raw = decoder.mixture(decoder.context.inside(crop), features[..., *here], sketch[..., *here])
            values = draw(raw, uniform[..., row, column])
            padded[..., row + reach, column + reach] = values / 127.5 - 1 - sketch[..., row, column]
            images[:, row, column] = values.to(torch.uint8)
    return images
