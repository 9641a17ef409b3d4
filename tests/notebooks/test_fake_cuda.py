"""Every training run on a GPU that does not exist: a tensor on the wrong device is seen without one.

A run's function is called with fake tensors, which have shapes and devices and no numbers, on a device called cuda. It builds its
data, networks and update; the first update is then made. Backward passes need a driver, so gradients are zeros here, and what a
function does after training (numbers, pictures) is not reached.
"""

import os
import traceback
import warnings
from contextlib import contextmanager

import pytest
import torch
import torch._dynamo  # every optimiser needs it, and a second each: the children find it here
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from helpers import settings
from helpers.data import standins, synthetic
from helpers.suite import Run, Suite
from helpers.train.graphs import CapturedStep
from helpers.work.definitions import definitions

CUDA = torch.device("cuda", 0)
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork"),
              pytest.mark.skipif(TORCH < (2, 14), reason="the fake tensors of torch 2.4 crash without a driver; tried with 2.14")]


class Enough(Exception):
    """The first update has been made."""


class CpuGenerators:
    """Stands for torch.Generator: gives generators on the CPU, whatever device is asked for."""

    make = torch.Generator

    def __call__(self, device=None):
        return self.make()

    def __or__(self, other):  # modules that are imported meanwhile annotate with it
        return self.make | other


def zeros_like_inputs(outputs, inputs, *unused, **options):
    """Stands for autograd.grad: gradients of the right shapes that still depend on the outputs."""
    whole = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    depends = sum(output.sum() for output in outputs)
    for given in whole:
        assert given.device == depends.device, f"a gradient on {depends.device} for a parameter on {given.device}"
    return tuple(torch.zeros_like(given) + 0 * depends.to(given.dtype) for given in whole)


def moved(module, *arguments, **options):
    """Stands for Module.to, which cannot swap fake parameters."""
    device, dtype, *_ = torch._C._nn._parse_to(*arguments, **options)
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                new = value.detach().to(device=device, dtype=dtype if value.is_floating_point() else None)
                part._parameters[name] = nn.Parameter(new, requires_grad=value.requires_grad)
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    return module


def with_numbers(function):
    """A function that works with true tensors on the CPU."""
    def called(*arguments, **options):
        with unset_fake_temporarily():
            return function(*arguments, **options)

    return called


def first_update(update, batches, **options):
    """Stands for fit: makes the first update."""
    terms = update(batches.at(0), 0, torch.Generator())
    assert terms.device == CUDA, f"the terms are on {terms.device}"
    raise Enough


def zero_gradients(output, *unused, inputs=(), **options):
    """Stands for Tensor.backward: gives the inputs gradients of zeros."""
    for given, gradient in zip(inputs, zeros_like_inputs(output, inputs) if inputs else (), strict=True):
        given.grad = gradient


@contextmanager
def a_fake_gpu():
    """Fake tensors, and stand-ins for all that needs a driver or numbers."""
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        patch.setattr(settings, "device", lambda: CUDA)
        patch.setattr(settings, "half_precision", lambda device: "bfloat16")
        patch.setattr(torch, "Generator", CpuGenerators())
        patch.setattr(torch.autograd, "grad", zeros_like_inputs)
        patch.setattr(torch.Tensor, "backward", zero_gradients)
        patch.setattr(nn.Module, "to", moved)
        patch.setattr(CapturedStep, "__call__", lambda self, *inputs: self.function(*inputs))
        patch.setattr(synthetic, "data_arcs", with_numbers(synthetic.data_arcs))
        yield patch


def in_a_child(function):
    """Call a function in a process of its own, since many fake graphs in one process end in its crash.

    Returns:
        What went wrong, as a text; empty where nothing did.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: none of them computes here
        child = os.fork()
    if child == 0:
        text = ""
        try:
            function()
        except BaseException:
            text = traceback.format_exc()
        os.write(writing, text[-4000:].encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    status = os.waitpid(child, 0)[1]
    return text or ("" if status == 0 else f"the process ended with status {status}")


DRAWN = {  # functions that draw data or choose part of it, with numbers
    "3_vae_images": ("load_splits",),
}
UNTRAINED = {  # runs without a fit: closed forms, estimates of known densities, numpy alone, measurements of other runs
    "1_vae_2d": set(),
    "2_vae_mnist": {"mit_p3_verify", "haifa_q2"},
    "3_vae_images": set(),
    "4_vqvae": set(),
    "5_planar_flows": {"mila_p3_transformations"},
    "6_gan_critics": {"dirac", "cifar10_fid_noise"},
}
RUNS = [(notebook, run_id) for notebook in UNTRAINED
        for run_id in sorted(set(definitions(notebook).RUNS) - UNTRAINED[notebook])]


@pytest.fixture(autouse=True, scope="module")
def loaded():
    """What takes a child seconds and that it finds here: drawn digits, and the library that has the small ones."""
    standins.glyph_fields()
    standins.digits()


@pytest.fixture
def needed(request):
    """The records that a run needs, made for real at the smoke profile."""
    notebook, run_id = request.param
    module = definitions(notebook)
    for other in module.RUNS[run_id].needs:
        Suite(notebook, module.RUNS).run(other)
    return module, run_id


@pytest.mark.parametrize("needed", RUNS, indirect=True, ids=[run_id for _, run_id in RUNS])
def test_the_first_update_of_a_run_stays_on_its_device(needed):
    notebook, run_id = needed
    declaration = notebook.RUNS[run_id]
    run = Run(run_id, 0, "0" * 64, None, needs=declaration.needs)

    def call():
        with a_fake_gpu() as patch:
            patch.setattr(notebook, "fit", first_update)
            for name in DRAWN.get(notebook.__name__.removeprefix("notebook_"), ()):
                patch.setattr(notebook, name, with_numbers(getattr(notebook, name)))
            if hasattr(notebook, "require_finite"):  # looks at numbers
                patch.setattr(notebook, "require_finite", lambda **unused: None)
            if hasattr(notebook, "Extractor"):  # ends on the CPU, in numbers
                patch.setattr(notebook.Extractor, "statistics", lambda self, pixels: {})
            with pytest.raises(Enough):
                declaration.function(run, **declaration.config("smoke"))

    assert in_a_child(call) == ""


def test_a_tensor_on_the_wrong_device_is_seen():
    def call():
        with a_fake_gpu():
            model = nn.Linear(3, 3).to(CUDA)
            with pytest.raises(RuntimeError, match="device"):
                model(torch.zeros(2, 3))
            with pytest.raises(AssertionError, match="a gradient on cuda:0 for a parameter on cpu"):
                torch.autograd.grad(model(torch.zeros(2, 3, device=CUDA)).sum(), [torch.zeros(3, requires_grad=True)])

    assert in_a_child(call) == ""


def test_what_goes_wrong_in_a_child_is_told():
    assert "ZeroDivisionError" in in_a_child(lambda: 1 / 0)
    assert in_a_child(lambda: os._exit(3)) == "the process ended with status 768"
