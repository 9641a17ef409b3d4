"""Generator updates a second of the five CIFAR-10 GANs, against a plain eager float32 loop with a DataLoader."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import count, islice

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import peak_megabytes, row, time_alternating
from helpers import settings
from helpers.data import standins
from helpers.publish import notebooks
from helpers.train.training import Batches

IMAGES = 1280  # photo patches: speed does not depend on what the pixels show


def measure(repetitions: int) -> list[dict]:
    """A row for each configuration, the sheet's networks and batch sizes: 1 generator update a call, on a GPU 50."""
    notebook, device = notebooks.definitions("6_gan_critics"), settings.device()
    updates = 50 if device.type == "cuda" else 1
    pixels = notebook.resident_pixels(standins.photo_patches("train", IMAGES)[0], device)
    rows = []
    for run_id, (metric, regulariser, coefficient) in notebook.CIFAR_RUNS.items():
        objective = notebook.Objective(metric, regulariser, coefficient)
        mine = notebook.build_pair(128, regulariser == "sn", 0, device)
        theirs = [copy.deepcopy(module).to(memory_format=torch.contiguous_format) for module in mine]
        if regulariser == "sn":
            theirs[1] = with_torchs_spectral_norm(notebook, theirs[1])
        sides = (resident_loop(notebook, *mine, objective, pixels, updates),
                 eager_loop(notebook, *theirs, objective, pixels, updates))
        ours, peer = time_alternating(*sides, repetitions)
        precision = notebook.precision_of(device)
        rows.append(row(f"{run_id}, batch 64, 2 critic steps: resident uint8 images, channels last, {precision}"
                        + ", CUDA graph" * (device.type == "cuda"),
                        "plain eager float32 loop: DataLoader, two passes of the critic, loss.item() a step", updates / ours,
                        updates / peer, "generator updates/s", peer_version=f"torch {torch.__version__}",
                        aim=2.0 if device.type == "cuda" else None, peaks=peak_megabytes(*sides)))
    return rows


def resident_loop(notebook, generator: nn.Module, critic: nn.Module, objective, pixels: torch.Tensor,
                  updates: int) -> Callable[[], None]:
    """The suite's update."""
    plan, device = notebook.PLAN, pixels.device
    update = notebook.build_update(
        generator, critic, objective, captured=device.type == "cuda",
        **{name: plan[name] for name in ("critic_steps", "alpha", "learning_rates", "betas", "weight_decay")})
    batches = Batches(pixels, plan["critic_steps"] * plan["batch_size"], seed=0, drop_last=True)
    noise, steps = torch.Generator(device).manual_seed(0), count()

    def call() -> None:
        for step in islice(steps, updates):
            terms = update(batches.at(step), step, noise)
        terms.tolist()  # waits for the device

    if device.type == "cuda":
        call()  # the first updates are eager, and one is captured
    return call


def eager_loop(notebook, generator: nn.Module, critic: nn.Module, objective, pixels: torch.Tensor,
               updates: int) -> Callable[[], None]:
    """The same arithmetic as a course's notebook writes it."""
    plan, device = notebook.PLAN, pixels.device
    images = pixels.cpu().contiguous().float() / 127.5 - 1
    loader = DataLoader(TensorDataset(images), batch_size=plan["batch_size"], shuffle=True, drop_last=True)
    average = copy.deepcopy(generator)
    rates = plan["learning_rates"]
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=rates[0], betas=plan["betas"], fused=False)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=rates[1], betas=plan["betas"],
                                        weight_decay=plan["weight_decay"], fused=False)
    metric, losses = notebook.METRICS[objective.metric], []

    def forever() -> Iterator[torch.Tensor]:
        while True:
            for (batch,) in loader:
                yield batch

    stream = forever()

    def update() -> None:
        for _ in range(plan["critic_steps"]):
            real = next(stream).to(device).requires_grad_(objective.regulariser == "r1")
            fake = generator(torch.randn(len(real), 100, device=device)).detach()
            real_scores = critic(real)
            loss = -metric(real_scores, critic(fake))
            if objective.regulariser == "r1":
                (gradients,) = torch.autograd.grad(real_scores.sum(), real, create_graph=True)
                loss = loss + objective.coefficient * gradients.flatten(1).square().sum(1).mean()
            critic_optimizer.zero_grad()
            loss.backward()
            critic_optimizer.step()
            losses.append(loss.item())
        loss = metric(critic(real), critic(generator(torch.randn(len(real), 100, device=device))))
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), generator.parameters(), strict=True):
                slow.mul_(plan["alpha"]).add_(fast, alpha=1 - plan["alpha"])

    def call() -> None:
        for _ in range(updates):
            update()

    return call


def with_torchs_spectral_norm(notebook, critic: nn.Module) -> nn.Module:
    """A copy of a critic's plain form, normalised by PyTorch."""
    plain = notebook.Critic().to(next(critic.parameters()).device)
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            nn.utils.parametrizations.spectral_norm(module)
    return plain
