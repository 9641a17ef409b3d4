"""The VAE of notebook 2 (part A): an epoch of our loop beside pythae's VAE and trainer, same network, data and batches.

Both sides train the 128-32-16 network with a 2-d code on 60000 images of 28 x 28 pixels, batches of 256, Adam, closed-form KL;
pythae gets the network as its encoder and decoder. Its reconstruction term is a sum where the course has a mean: the same
work. The pixels are random, which costs what digits cost. The second peer is the course's own DataLoader loop, and the only
one where pythae cannot be imported.
"""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import peak_megabytes, row, time_alternating
from helpers.publish import notebooks
from helpers.train.training import Batches, GradientUpdate

BATCH, IMAGES = 256, 60000


def measure(repetitions: int) -> list[dict]:
    """Rows of images a second, an epoch a call: our loop in float32 and in bfloat16 beside each peer."""
    notebook = notebooks.definitions("2_vae_mnist")
    images = torch.randint(0, 256, (IMAGES, notebook.PIXELS), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    peers = [("the course's loop: DataLoader, Adam, loss.item() a step", f"torch {torch.__version__}",
              course_epoch(notebook, images))]
    try:
        version = importlib.metadata.version("pythae")
        peers.insert(0, ("pythae: VAE and BaseTrainer", f"{version}, torch {torch.__version__}", pythae_epoch(notebook, images)))
    except ImportError as error:
        print(f"pythae cannot be imported ({error}): the course's own loop is the only peer")
    rows = []
    for precision in ("float32", "bfloat16"):
        for peer, version, theirs in peers:
            ours = our_epoch(notebook, images, precision)
            seconds = time_alternating(ours, theirs, repetitions)
            rows.append(row(f"VAE 784-128-32-16-2, batch {BATCH}: an epoch of {IMAGES} images, ours in {precision}", peer,
                            IMAGES / seconds[0], IMAGES / seconds[1], "images/s", peer_version=version, aim=2.0,
                            peaks=peak_megabytes(ours, theirs)))
    return rows


def our_epoch(notebook, images: torch.Tensor, precision: str):
    """Resident uint8 batches and a fused optimiser; in bfloat16, the matrix products only."""
    model = notebook.VAE()

    def loss(batch: torch.Tensor, generator: torch.Generator, step: int) -> torch.Tensor:
        return notebook.vae_terms(model, batch.float() / 255, torch.randn(len(batch), 2, generator=generator), "analytic")

    update = GradientUpdate(model, loss, torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-8, fused=True),
                            precision=precision)
    batches, generator, done = Batches(images, BATCH, seed=0), torch.Generator().manual_seed(0), [0]

    def epoch() -> None:
        for step in range(done[0], done[0] + batches.per_epoch):
            update(batches.at(step), step, generator)
        done[0] += batches.per_epoch

    return epoch


def course_epoch(notebook, images: torch.Tensor):
    """The same model and loss trained as the course's notebook does."""
    model = notebook.VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-8)
    loader = DataLoader(TensorDataset(images.float() / 255), batch_size=BATCH, shuffle=True)

    def epoch() -> None:
        total = 0.0
        for (batch,) in loader:
            terms = notebook.vae_terms(model, batch, torch.randn(len(batch), 2), "analytic")
            optimizer.zero_grad()
            terms[0].backward()
            optimizer.step()
            total += terms[0].item()

    return epoch


def pythae_epoch(notebook, images: torch.Tensor):
    """pythae's VAE with the notebook's network, trained by an epoch of its trainer.

    Raises:
        ImportError: pythae is not there, or does not work with the installed versions.
    """
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.getLogger("pythae").setLevel(logging.ERROR)
    network = notebook.VAE()

    class Encoder(BaseEncoder):
        """The notebook's encoder, as pythae wants its output."""

        def __init__(self) -> None:
            super().__init__()
            self.layers: nn.Module = network.encoder

        def forward(self, x: torch.Tensor) -> ModelOutput:
            mean, log_variance = self.layers(x).chunk(2, dim=-1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        """The notebook's decoder, as pythae wants its output."""

        def __init__(self) -> None:
            super().__init__()
            self.layers: nn.Module = network.decoder

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.layers(z))

    pixels = images.float() / 255
    config = VAEConfig(input_dim=(notebook.PIXELS,), latent_dim=2, reconstruction_loss="mse")
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=BATCH, num_epochs=1, learning_rate=1e-4,
                                     optimizer_cls="Adam", optimizer_params={"weight_decay": 1e-8}, no_cuda=True)
        trainer = BaseTrainer(VAE(config, Encoder(), Decoder()), BaseDataset(pixels, torch.zeros(len(pixels))),
                              training_config=settings)
        trainer.prepare_training()
    trainer.callback_handler.callbacks = []  # the progress bar is not what is timed
    return lambda: trainer.train_step(epoch=1)
