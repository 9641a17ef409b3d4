"""CUDA graphs: a step of many small kernels, recorded once and replayed with one call.

A small model keeps a GPU waiting for the next launch; a replayed graph does not. The numbers are those of the eager step.
References: https://docs.pytorch.org/docs/stable/notes/cuda.html (CUDA graphs)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class CapturedStep:
    """A function of tensors of fixed shapes, recorded as one CUDA graph and replayed.

    The first calls run as they are, on a stream of their own, while libraries choose their algorithms and optimisers make their
    state; the next one is recorded. What the function changes in place (weights, averages) a replay changes too. Numbers that
    Python computes are frozen into the recording: what changes from call to call must be a tensor.

    Args:
        function: from tensors to a tensor, without waiting for the device.
        eager_calls: calls before the recording.
        generators: of random numbers that the function draws, on its device; each replay draws on.
    """

    def __init__(self, function: Callable[..., Tensor], eager_calls: int = 3, generators: Sequence[torch.Generator] = ()) -> None:
        self.function, self.eager_calls, self.generators, self.graph = function, eager_calls, generators, None
        self.recorded = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self.eager_calls > 0:
            self.eager_calls -= 1
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                output = self.function(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            return output
        if self.graph is None:
            self.inputs = [given.clone() for given in inputs]
            self.graph = torch.cuda.CUDAGraph()
            for generator in self.generators:
                self.graph.register_generator_state(generator)
            with torch.cuda.graph(self.graph):  # records, runs nothing
                self.output = self.function(*self.inputs)
            self.recorded = True
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.graph.replay()
        return self.output.clone()
