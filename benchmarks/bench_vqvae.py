"""Notebook 4: the quantiser beside vector-quantize-pytorch, cached beside uncached sampling, a training step in two precisions.

All at the sheet's sizes: batches of 128 images, maps of 8 x 8 vectors, 128 codes of 256 dimensions, 64 tokens an image.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import torch

from benchmarks.common import peak_megabytes, row, time_alternating
from helpers import settings
from helpers.publish import notebooks
from helpers.train.training import GradientUpdate

BATCH, SAMPLES = 128, 100


def measure(repetitions: int) -> list[dict]:
    """Rows of quantiser passes, sampled images and training steps a second."""
    notebook, device = notebooks.definitions("4_vqvae"), settings.device()
    rows = quantiser_rows(notebook, device, repetitions)

    prior = notebook.build_prior(notebook.K, 64, 128, 4, 0, device)
    sides = [sampling(notebook, prior, cached) for cached in (True, False)]
    ours, theirs = time_alternating(*sides, repetitions)
    rows.append(row(f"sampling the 64 tokens of {SAMPLES} images, 4 layers of width 128, key/value cache",
                    "our own sampling without the cache", SAMPLES / ours, SAMPLES / theirs, "images/s",
                    peer_version=f"torch {torch.__version__}", aim=5.0, peaks=peak_megabytes(*sides)))

    precision = settings.half_precision(device)
    sides = [training_step(notebook, device, precision, torch.channels_last),
             training_step(notebook, device, "float32", torch.contiguous_format)]
    ours, theirs = time_alternating(*sides, repetitions)
    rows.append(row(f"VQ-VAE, batch {BATCH}: a training step in {precision}, channels last", "the same step in plain float32",
                    1 / ours, 1 / theirs, "steps/s", peer_version=f"torch {torch.__version__}", peaks=peak_megabytes(*sides)))
    return rows


def quantiser_rows(notebook, device: torch.device, repetitions: int) -> list[dict]:
    """Forward and backward in training, codes as running means with restarts and codes with a gradient; none without the peer."""
    try:
        version = importlib.metadata.version("vector-quantize-pytorch")
        from vector_quantize_pytorch import VectorQuantize
    except ImportError as error:
        print(f"vector-quantize-pytorch cannot be imported ({error}): no row for the quantiser")
        return []
    number, size = notebook.K, notebook.CODE_SIZE
    z = torch.randn(BATCH, size, 8, 8, generator=torch.Generator().manual_seed(0)).to(device, memory_format=torch.channels_last)
    even = z.numel() // size / number
    rows = []
    for name, mine, options in (
        ("running means, dead codes restarted", notebook.TrackingQuantizer(decay=0.98, dead=0.1),
         {"decay": 0.98, "threshold_ema_dead_code": 0.1 * even}),
        ("codes with a gradient", notebook.Quantizer(), {"learnable_codebook": True, "ema_update": False}),
    ):
        peer = VectorQuantize(dim=size, codebook_size=number, accept_image_fmap=True, commitment_weight=1.0, rotation_trick=False,
                              **options)
        mine, peer = mine.to(device), peer.to(device)
        agree(notebook, mine, peer, z)
        sides = ours_pass(mine, z), peer_pass(peer, z)
        ours, theirs = time_alternating(*sides, repetitions)
        rows.append(row(f"quantiser, {BATCH} maps of 8 x 8, {number} codes of {size}: forward and backward, {name}",
                        "vector-quantize-pytorch", 1 / ours, 1 / theirs, "passes/s", peer_version=version, aim=1.5,
                        peaks=peak_megabytes(*sides)))
    return rows


def agree(notebook, mine: torch.nn.Module, peer: torch.nn.Module, z: torch.Tensor) -> None:
    """Give both the same codes, and check that they choose the same."""
    with torch.no_grad():
        mine.codes.copy_(torch.randn(mine.codes.shape, generator=torch.Generator().manual_seed(1)))
        peer._codebook.embed.copy_(mine.codes[None])
        same = mine.eval()(z).tokens == peer.eval()(z)[1]
    if same.float().mean() < 0.999:  # a tie may be broken either way
        raise RuntimeError(f"the two quantisers choose the same code for {same.float().mean():.4f} of the vectors only")
    mine.train()
    peer.train()


def ours_pass(quantizer: torch.nn.Module, z: torch.Tensor) -> Callable[[], None]:
    """Quantise, and go back from a decoder's gradient at the codes and from both quantisation terms."""
    inputs, gradient, noise = z.clone().requires_grad_(), torch.randn_like(z), torch.Generator(z.device).manual_seed(0)

    def call() -> None:
        quantized = quantizer(inputs, noise)
        torch.autograd.backward([quantized.codes, quantized.codebook + quantized.commitment], [gradient, None])
        inputs.grad[0, 0, 0, 0].item()  # waits for the device
        inputs.grad = quantizer.codes.grad = None

    return call


def peer_pass(quantizer: torch.nn.Module, z: torch.Tensor) -> Callable[[], None]:
    """The same by the peer, whose loss has its own terms."""
    inputs, gradient = z.clone().requires_grad_(), torch.randn_like(z)

    def call() -> None:
        codes, _, loss = quantizer(inputs)
        torch.autograd.backward([codes, loss.sum()], [gradient, None])
        inputs.grad[0, 0, 0, 0].item()
        inputs.grad = None
        quantizer.zero_grad(set_to_none=True)

    return call


def sampling(notebook, prior: torch.nn.Module, cached: bool) -> Callable[[], None]:
    """Draw the tokens of all images in one batch."""
    device = prior.positions.device

    def call() -> None:
        tokens = notebook.sample_tokens(prior, SAMPLES, torch.Generator(device).manual_seed(0), cached=cached)
        tokens.sum().item()

    return call


def training_step(notebook, device: torch.device, precision: str, memory_format: torch.memory_format) -> Callable[[], None]:
    """A step of the notebook's VQ-VAE on random pixels, which cost what photographs cost."""
    model = notebook.build_vqvae(notebook.K, notebook.CODE_SIZE, True, 0, device).to(memory_format=memory_format)
    pixels = torch.randint(0, 256, (BATCH, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(device)
    generator = torch.Generator(device).manual_seed(0)

    def loss(batch: torch.Tensor, noise: torch.Generator, step: int) -> torch.Tensor:
        x = notebook.scale_pixels(batch).contiguous(memory_format=memory_format)
        return notebook.vqvae_terms(x, *model(x, noise))

    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    update = GradientUpdate(model, loss, torch.optim.Adam(learned, lr=1e-3, fused=True), precision=precision)

    def call() -> None:
        update(pixels, 0, generator).tolist()

    return call
