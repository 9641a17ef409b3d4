"""The loop: resident batches against a DataLoader, and a stack of models against one after another."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import peak_megabytes, row, time_alternating
from helpers.data import synthetic
from helpers.publish import notebooks
from helpers.train.stacking import Stack
from helpers.train.training import Batches, GradientUpdate

BATCH = 128
COURSES = "the courses' loop: DataLoader, Adam, loss.item() a step"


def measure(repetitions: int) -> list[dict]:
    """Rows for the 2-D VAE of notebook 1 at batch 128, an epoch of 10000 points a call."""
    notebook = notebooks.definitions("1_vae_2d")
    points = torch.from_numpy(synthetic.berkeley24("a", 1)[0])

    def update_for(model: torch.nn.Module, terms=notebook.vae_terms) -> GradientUpdate:
        def loss(batch, generator, step):
            return terms(model, batch, torch.randn(batch.shape, generator=generator))

        return GradientUpdate(model, loss, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True))

    def resident(update: GradientUpdate, stack: int | None = None):
        batches, generator, done = Batches(points, BATCH, seed=0, stack=stack), torch.Generator().manual_seed(0), [0]

        def epoch() -> None:
            for step in range(done[0], done[0] + batches.per_epoch):
                update(batches.at(step), step, generator)
            done[0] += batches.per_epoch

        return epoch, batches.per_epoch

    epoch, steps = resident(update_for(notebook.GaussianVAE()))
    peer = loader_epoch(notebook, points)
    ours, theirs = time_alternating(epoch, peer, repetitions)
    rows = [row(f"2-D VAE, batch {BATCH}: resident batches", COURSES, steps / ours, steps / theirs, "steps/s",
                peer_version=f"torch {torch.__version__}", aim=1.6, peaks=peak_megabytes(epoch, peer))]
    compiled = compiled_terms(notebook, points[:BATCH])
    epoch, steps = resident(update_for(notebook.GaussianVAE(), compiled))
    ours, theirs = time_alternating(epoch, peer, repetitions)
    rows.append(row(f"2-D VAE, batch {BATCH}: resident batches, compiled loss", COURSES, steps / ours, steps / theirs, "steps/s",
                    peer_version=f"torch {torch.__version__}", aim=1.6, peaks=peak_megabytes(epoch, peer)))
    for size in (5, 16):
        stacked, _ = resident(update_for(Stack(notebook.GaussianVAE, range(size))), size)
        singles = [resident(update_for(notebook.GaussianVAE()))[0] for _ in range(size)]
        in_turn = lambda singles=singles: [single() for single in singles]  # noqa: E731
        ours, theirs = time_alternating(stacked, in_turn, repetitions)
        rows.append(row(f"2-D VAE, batch {BATCH}: a stack of {size}", f"our own loop, {size} models one after another",
                        size * steps / ours, size * steps / theirs, "model-steps/s", aim=2.0 if size == 16 else None,
                        peaks=peak_megabytes(stacked, in_turn)))
    return rows


def compiled_terms(notebook, points: torch.Tensor):
    """The notebook's loss by ``torch.compile``, which is to give the eager loss and gradient."""
    compiled, noise = torch.compile(notebook.vae_terms), torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
    model, gradients, values = notebook.GaussianVAE(), [], []
    for terms in (notebook.vae_terms, compiled):
        model.zero_grad()
        values.append(terms(model, points, noise))
        values[-1][0].backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    for eager, fast in (values, gradients):
        torch.testing.assert_close(fast, eager, rtol=1e-4, atol=1e-4)
    return compiled


def loader_epoch(notebook, points: torch.Tensor):
    """The same model and loss trained as the courses' notebooks do."""
    model = notebook.GaussianVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(points), batch_size=BATCH, shuffle=True)

    def epoch() -> None:
        losses = []
        for (batch,) in loader:
            terms = notebook.vae_terms(model, batch, torch.randn_like(batch))
            optimizer.zero_grad()
            terms[0].backward()
            optimizer.step()
            losses.append([term.item() for term in terms])

    return epoch
