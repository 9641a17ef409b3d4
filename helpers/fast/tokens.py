"""Sampling from the transformer of notebook 4 with a cache of keys and values: each step passes one token, not all so far.

The notebook's own sampler passes the whole beginning through the network at each step. What earlier positions offer to
attention does not change, because nothing they see does: it is kept. Logits, gradients and, from the same noise, tokens are those
of the plain sampler (tested in float64). References: Shazeer, fast transformer decoding, arXiv:1911.02150, section 2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Memory = list[tuple[Tensor, Tensor] | None]  # keys and values (B, heads, T, d) of each layer so far


def attend(attention: nn.Module, x: Tensor, memory: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Attention of one position (B, 1, width) to itself and those in memory; returns its output and the longer memory."""
    query, key, value = attention.inputs(x).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    if memory is not None:
        key, value = torch.cat([memory[0], key], 2), torch.cat([memory[1], value], 2)
    y = F.scaled_dot_product_attention(query, key, value)
    return attention.output(y.transpose(1, 2).flatten(2)), (key, value)


def step(prior: nn.Module, previous: Tensor, position: int, memory: Memory) -> Tensor:
    """Logits (B, K) of the token at a position.

    Args:
        prior: a TokenPrior of notebook 4.
        previous: (B,) the token before it; at position 0 the start token.
        position: from 0.
        memory: one entry a layer, None before position 0; replaced in place.
    """
    x = (prior.embedding(previous) + prior.positions[position])[:, None]
    for index, block in enumerate(prior.blocks):
        y, memory[index] = attend(block.attention, block.norms[0](x), memory[index])
        x = x + y
        x = x + block.mixer(block.norms[1](x))
    return prior.head(prior.norm(x))[:, 0]


@torch.no_grad()
def sample(prior: nn.Module, rows: int, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Sequences (rows, length) of tokens, all rows at once.

    Args:
        prior: a TokenPrior of notebook 4.
        rows: how many sequences.
        draw: from logits (rows, K) to tokens (rows,).
    """
    memory: Memory = [None] * len(prior.blocks)
    token, tokens = torch.full((rows,), prior.number, device=prior.positions.device), []  # the start token
    for position in range(prior.length):
        token = draw(step(prior, token, position, memory))
        tokens.append(token)
    return torch.stack(tokens, 1)
