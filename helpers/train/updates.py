"""Updates: what one step of training does to a model.

:func:`helpers.train.training.fit` calls an update with a batch; :class:`GradientUpdate` is the usual one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from helpers.train.graphs import CapturedStep

HALF_TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class GradientUpdate:
    """One step of an optimiser on a loss.

    Args:
        model: the module whose state is saved; its parameters are the ones clipped and averaged.
        loss: ``loss(batch, generator, step)`` returns the terms (T,), or (T, S) for a stack of S models; the first is minimised
            and the others are recorded. ``generator`` draws the noise; ``step`` serves losses that change as training goes on.
        optimizer: over the model's parameters.
        schedule: learning-rate factor as a function of the step, see :mod:`helpers.train.schedules`.
        clip: largest gradient norm, over all parameters.
        average: decay of an exponential moving average of the model, kept in ``self.average.module``.
        precision: "float32", or for autocast "bfloat16" where the hardware gains from it, or "float16" with a scaled loss on
            GPUs that have no bfloat16; a step whose float16 gradients overflow is left out, and the scale is halved.
        captured: replay the steps on a GPU as one CUDA graph: for models so small that launching their kernels takes longer than
            running them. The loss may then use no number that Python computes anew for each step, ``step`` among them.
    """

    def __init__(self, model: nn.Module, loss: Callable[[object, torch.Generator, int], Tensor],
                 optimizer: torch.optim.Optimizer, *, schedule: Callable[[int], float] | None = None,
                 clip: float | None = None, average: float | None = None, precision: str = "float32",
                 captured: bool = False) -> None:
        if precision not in HALF_TYPES:
            raise ValueError(f"precision {precision!r} is unknown; the precisions are {', '.join(HALF_TYPES)}")
        self.model, self.loss, self.optimizer, self.schedule, self.clip = model, loss, optimizer, schedule, clip
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.average = None if average is None else ExponentialAverage(model, average)
        self.device_type, self.half_type = self.parameters[0].device.type, HALF_TYPES[precision]
        self.scaler = torch.amp.GradScaler(self.device_type) if precision == "float16" else None
        self.first, self.graphs = None, {}
        self.captured = captured and self.device_type == "cuda" and self.scaler is None
        self._place_rates()

    def __call__(self, batch, step: int, generator: torch.Generator) -> Tensor:
        if self.schedule is not None:
            factor = self.schedule(step)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                if self.captured:
                    group["lr"].fill_(rate * factor)
                else:
                    group["lr"] = rate * factor
        return self._replayed(batch, step, generator) if self.captured else self._step(batch, step, generator)

    def _step(self, batch, step: int, generator: torch.Generator) -> Tensor:
        with nullcontext() if self.half_type is None else torch.autocast(self.device_type, self.half_type):
            terms = self.loss(batch, generator, step)
        if self.first is None:  # the gradient of the first term; members of a stack share no parameter: each trains alone
            self.first = torch.zeros_like(terms)
            self.first[0] = 1.0
        for parameter in self.parameters:
            parameter.grad = None
        if self.scaler is None:
            terms.backward(self.first)
        else:
            self.scaler.scale(terms).backward(self.first)
        if self.clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update(self.model)
        return terms.detach()

    def _place_rates(self) -> None:
        """Keep the rates where the steps read them: recorded steps on the device, others in Python."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if self.captured:
                group["lr"], group["capturable"] = torch.tensor(rate, device=self.parameters[0].device), True
            else:
                group["lr"] = rate
                group.update({"capturable": False} if "capturable" in group else {})

    def _replayed(self, batch, step: int, generator: torch.Generator) -> Tensor:
        """The same step, from a recording for the shapes of this batch."""
        tensors = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self.graphs:
            single = isinstance(batch, Tensor)
            self.graphs[shapes] = CapturedStep(lambda *inputs: self._step(inputs[0] if single else inputs, step, generator),
                                               generators=(generator,))
        replay = self.graphs[shapes]
        try:
            return replay(*tensors)
        except RuntimeError as error:
            if replay.graph is None or replay.recorded:
                raise
            print(f"the steps are not recorded as a CUDA graph, but run one by one: {str(error).splitlines()[0]}")
            self.captured = False
            return self._step(batch, step, generator)

    def state_dict(self) -> dict:
        """Everything that a resumed run needs."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.module.state_dict(),
                "scaler": None if self.scaler is None else self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take over a state written by :meth:`state_dict`, on this device or on one of another kind."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._place_rates()
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


class ExponentialAverage:
    """A copy of a module whose parameters follow as ``t <- decay t + (1 - decay) s``; its buffers are copied."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the decay of an exponential average lies in [0, 1), not {decay}")
        self.module, self.decay = copy.deepcopy(module).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Move a step towards ``source``."""
        torch._foreach_lerp_(list(self.module.parameters()), list(source.parameters()), 1.0 - self.decay)
        for mine, theirs in zip(self.module.buffers(), source.buffers(), strict=True):
            mine.copy_(theirs)
