"""Planar flows: a training step beside the flow libraries that have the layer, and a stack of flows beside one of theirs.

Every side does the same work: the negative log-likelihood of a batch of 128 points in the plane under k layers, its
gradient, and an RMSprop step. Before timing, normflows is given our parameters and must return our loss; pythae's layer
has a formula of its own (no constraint). zuko has no planar layer. A peer that is not installed is left out with a line
that says so.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.common import peak_megabytes, row, time_alternating
from helpers.data import synthetic
from helpers.publish import notebooks
from helpers.train.training import GradientUpdate

BATCH, DEPTHS, STACK = 128, (2, 8, 32), 10
STEPS = {2: 200, 8: 100, 32: 40}  # a timed call, so that each takes a few hundredths of a second on our side


def measure(repetitions: int) -> list[dict]:
    """Rows of rates: steps a second, and model-steps a second for the stack."""
    notebook, rows = notebooks.definitions("5_planar_flows"), []
    points = torch.from_numpy(synthetic.data_arcs(BATCH))
    normflows, pythae = (optional(name) for name in ("normflows", "pythae.models.normalizing_flows"))
    for k in DEPTHS:
        eager, stack = ours(notebook, points, k), ours(notebook, points, k, members=STACK)
        compiled = ours(notebook, points, k, compiled=True)
        deepest = k == max(DEPTHS)

        def compare(what: str, peer: str, first: Callable, second: Callable, models: int = 1, aim: float | None = None,
                    k: int = k) -> None:
            steps = STEPS[k]
            seconds = time_alternating(many(first, steps), many(second, steps), repetitions, warm_up=2)
            version = importlib.metadata.version(peer.split()[0])
            rows.append(row(f"planar flow, k = {k}, batch {BATCH}: {what}", peer, models * steps / seconds[0],
                            steps / seconds[1], "model-steps/s", peer_version=version, aim=aim,
                            peaks=peak_megabytes(first, second)))

        if normflows:
            theirs, theirs_compiled = (normflows_step(normflows, notebook, points, k, compiled) for compiled in (False, True))
            compare("step, eager", "normflows", eager, theirs, aim=4.0 if deepest else None)
            compare("step, compiled", "normflows", compiled, theirs, aim=8.0 if deepest else None)
            compare("step, both compiled", "normflows compiled", compiled, theirs_compiled)
            compare(f"stack of {STACK}, eager", "normflows", stack, theirs, models=STACK, aim=40.0 if deepest else None)
        if pythae:
            theirs = pythae_step(pythae, points, k)
            compare("step, eager", "pythae", eager, theirs)
            compare(f"stack of {STACK}, eager", "pythae", stack, theirs, models=STACK)
    return rows


def optional(module: str):
    """A peer's module, or None with a line saying that it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"left out: {module.split('.')[0]} ({error})")
        return None


def many(step: Callable[[], object], number: int) -> Callable[[], None]:
    """A call that makes so many steps."""

    def call() -> None:
        for _ in range(number):
            step()

    return call


def ours(notebook, points: Tensor, k: int, members: int = 1, compiled: bool = False) -> Callable[[], Tensor]:
    """A training step of the notebook's flow: its one-operation stack, or its plain layers fused by torch.compile."""
    flow = notebook.PlanarFlow(k, range(members))
    batch = points.expand(members, -1, -1).contiguous()

    def plain(x: Tensor) -> Tensor:
        z, log_det = flow.compose(x)
        return -(notebook.log_normal(z) + log_det).mean(-1)

    loss = torch.compile(plain, fullgraph=True) if compiled else (lambda x: notebook.nll(flow, x))
    update = GradientUpdate(flow, lambda x, generator, step: loss(x)[None], torch.optim.RMSprop(flow.parameters(), lr=5e-4))
    return lambda: update(batch, 0, None)


def peer_step(layers: nn.ModuleList, loss: Callable[[Tensor], Tensor], points: Tensor) -> Callable[[], None]:
    """A training step of a peer's layers with the same optimiser."""
    optimizer = torch.optim.RMSprop(layers.parameters(), lr=5e-4)

    def step() -> None:
        value = loss(points)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def normflows_step(normflows, notebook, points: Tensor, k: int, compiled: bool) -> Callable[[], None]:
    """normflows' Planar layers (tanh), started at our parameters; their loss must equal ours."""
    flow = notebook.PlanarFlow(k, [0])
    parts = zip(*(part.detach()[0].clone() for part in (flow.u, flow.w, flow.b)), strict=True)
    layers = nn.ModuleList(normflows.flows.Planar((2,), u=u[None], w=w[None], b=b) for u, w, b in parts)

    def loss(z: Tensor) -> Tensor:
        log_det = 0.0
        for layer in layers:
            z, term = layer(z)
            log_det = log_det + term
        return -(notebook.log_normal(z) + log_det).mean()

    with torch.no_grad():
        torch.testing.assert_close(loss(points), notebook.nll(flow, points[None])[0], rtol=1e-4, atol=1e-4)
    return peer_step(layers, torch.compile(loss) if compiled else loss, points)


def pythae_step(pythae, points: Tensor, k: int) -> Callable[[], None]:
    """pythae's PlanarFlow layers, as they come: without the constraint on u, and with 1e-4 added inside the logarithm."""
    logging.disable(logging.INFO)
    config = pythae.PlanarFlowConfig(input_dim=(2,), activation="tanh")
    layers = nn.ModuleList(pythae.PlanarFlow(config) for _ in range(k))

    def loss(z: Tensor) -> Tensor:
        log_det = 0.0
        for layer in layers:
            output = layer(z)
            z, log_det = output.out, log_det + output.log_abs_det_jac
        return (0.5 * (z * z).sum(-1) - log_det).mean()

    return peer_step(layers, loss, points)
