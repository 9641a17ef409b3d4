"""Sampling in notebook 3: what is recomputed, against the plain way of one whole pass for each place.

The autoregressive-flow prior inverts 64 places in order, remembering what each layer has computed; the plain inverse runs the
whole PixelCNN 64 times. The PixelCNN decoder draws 1024 pixels in order, each from a crop of its receptive field; the plain
sampler runs the whole decoder 1024 times. Before timing, both ways must give the same result in float64.
"""

from __future__ import annotations

import copy

import torch

from benchmarks.common import row, time_alternating
from helpers import settings
from helpers.publish import notebooks

SAMPLES = {"flow": 100, "pixels": 1}  # drawn at a time


def measure(repetitions: int) -> list[dict]:
    """Rows of samples a second: the flow prior and the PixelCNN decoder with both receptive fields."""
    notebook, device = notebooks.definitions("3_vae_images"), settings.device()
    torch.manual_seed(0)
    flow = notebook.FlowPrior(16)
    torch.nn.init.normal_(flow.last[-1].weight, std=0.1)
    flow.to(device)
    noise = torch.randn(SAMPLES["flow"], 16, 8, 8, device=device)
    must_agree(copy.deepcopy(flow).double().inverse, notebook.inverse_by_full_passes, flow, noise[:4])
    rows = [compare("flow prior, 8 x 8 places of 16 channels", "64 full passes", lambda: flow.inverse(noise),
                    lambda: notebook.inverse_by_full_passes(flow, noise), SAMPLES["flow"], repetitions)]
    for kernel in (7, 3):
        decoder = notebook.PixelDecoder(kernel, 64, 64, 3).to(device)
        features = torch.randn(SAMPLES["pixels"], 64, 32, 32, device=device)
        uniform = torch.rand(SAMPLES["pixels"], 4, 32, 32, device=device).clamp(1e-6, 1 - 1e-6)
        arguments = features, uniform
        must_agree(copy.deepcopy(decoder).double().sample, notebook.sample_by_full_passes, decoder,
                   *(part[..., :9, :9] for part in arguments))
        rows.append(compare(f"PixelCNN decoder, 32 x 32 pixels, field {kernel} x {kernel // 2 + 1}", "1024 full passes",
                            lambda decoder=decoder, arguments=arguments: decoder.sample(*arguments),
                            lambda decoder=decoder, arguments=arguments: notebook.sample_by_full_passes(decoder, *arguments),
                            SAMPLES["pixels"], min(repetitions, 3)))
    return rows


def must_agree(quick, plain, module: torch.nn.Module, *inputs: torch.Tensor) -> None:
    """Stop where the two ways differ, in float64."""
    inputs = [part.double() for part in inputs]
    difference = float((quick(*inputs).double() - plain(copy.deepcopy(module).double(), *inputs).double()).abs().max())
    if difference > 1e-9:
        raise AssertionError(f"the quick and the plain way differ by {difference:.1e}")


def compare(what: str, peer: str, ours, plain, samples: int, repetitions: int) -> dict:
    """A row of samples a second for both ways."""
    seconds = time_alternating(ours, plain, repetitions)
    return row(f"{what}: {samples} samples at a time", peer, samples / seconds[0], samples / seconds[1], "samples/s",
               peer_version=f"torch {torch.__version__}", aim=3.0)
