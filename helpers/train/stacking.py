"""Many small models as one: S copies of a module, trained and evaluated in one vectorised pass.

A 2-D VAE does not fill a core; sixteen of them, stacked, do. References: https://docs.pytorch.org/docs/stable/func.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class Stack(nn.Module):
    """S independent copies of a module; each parameter has a leading dimension S.

    Args:
        build: makes one copy; its initialisation draws from torch's global generator, seeded with each of ``seeds``.
        seeds: one a copy.

    Member s of the stack computes what ``build()`` under ``seeds[s]`` would.
    """

    def __init__(self, build: Callable[[], nn.Module], seeds: Sequence[int]) -> None:
        super().__init__()
        members = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                members.append(build())
        if not members:
            raise ValueError("a stack needs at least one seed")
        parameters, buffers = torch.func.stack_module_state(members)
        # Names with dots are not allowed in a ParameterDict; the template keeps the true ones.
        self.names = {name: name.replace(".", "/") for name in (*parameters, *buffers)}
        self.weights = nn.ParameterDict({self.names[name]: nn.Parameter(value) for name, value in parameters.items()})
        for name, value in buffers.items():
            self.register_buffer(self.names[name], value)
        self.buffer_names = list(buffers)
        self.template = [members[0].to("meta")]  # in a list: not a submodule, so not in parameters() or state_dict()
        self.size = len(members)

    def _state(self) -> dict[str, Tensor]:
        state = {name: self.weights[self.names[name]] for name in self.names if name not in self.buffer_names}
        return state | {name: getattr(self, self.names[name]) for name in self.buffer_names}

    def forward(self, *inputs: Tensor):
        """Apply member s to ``inputs[...][s]``: every input and output has the leading dimension S."""
        return self.call("forward", *inputs)

    def call(self, method: str, *inputs: Tensor):
        """Apply a named method of the members, as :meth:`forward` does."""
        template = _Method(self.template[0], method)
        state = {f"module.{name}": value for name, value in self._state().items()}
        return vmap(lambda member, *rows: functional_call(template, member, rows))(state, *inputs)

    def member(self, index: int, build: Callable[[], nn.Module]) -> nn.Module:
        """Copy ``index`` of the stack as a module of its own."""
        module = build()
        module.load_state_dict({name: value[index].detach().cpu() for name, value in self._state().items()})
        return module


class _Method(nn.Module):
    """Calls a method of a module, so that ``functional_call`` can reach methods other than ``forward``."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Tensor):
        return getattr(self.module, self.method)(*inputs)
