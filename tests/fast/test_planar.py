"""The quick twin of planar layers: equal to the notebook's definition in values and gradients, also where softplus underflows."""

import pytest
import torch
from torch.nn.functional import softplus

from helpers.fast.planar import PlanarStack
from helpers.work.definitions import definitions


@pytest.fixture(scope="module")
def notebook():
    return definitions("5_planar_flows")


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(notebook, flow, z):
    """Image, log-determinant and all gradients of a loss that uses both: quick, then layer by layer."""
    weights, results = doubles(*z.shape, seed=1).to(z.dtype), []
    for transform in (flow.transform, flow.compose):
        start = z.clone().requires_grad_()
        image, log_det = transform(start)
        loss = (weights * image).sum() + (log_det * weights[..., 0]).sum()
        results.append([image, log_det, *torch.autograd.grad(loss, [start, flow.u, flow.w, flow.b])])
    return zip(*results, strict=True)


@pytest.mark.parametrize("layers", [1, 2, 8, 32])
@pytest.mark.parametrize("dimension", [2, 3])
def test_values_and_gradients_are_those_of_the_definition(notebook, layers, dimension):
    flow = notebook.PlanarFlow(layers, range(3), dimension, scale=0.7).double()
    for quick, plain in both(notebook, flow, doubles(3, 17, dimension)):
        assert torch.allclose(quick, plain, atol=1e-10)


def test_gradients_against_finite_differences(notebook):
    flow = notebook.PlanarFlow(4, range(2), 2, scale=0.7).double()
    u_hat, product = notebook.planar_direction(flow.u, flow.w)
    inputs = [part.detach().requires_grad_() for part in (doubles(2, 3, 2), u_hat, flow.w, flow.b, product)]
    assert torch.autograd.gradcheck(PlanarStack.apply, inputs)


@pytest.mark.parametrize("product", [-2000.0, -800.0, -720.0])
def test_equal_where_softplus_underflows(notebook, product):
    flow = notebook.PlanarFlow(3, range(2), 2, scale=0.7).double()
    z = doubles(2, 9, 2)
    with torch.no_grad():
        flow.u[0, 0], flow.w[0, 0], flow.b[0, 0] = notebook.extreme_parameters(product, 1.0, seed=3)
        z[0, 0] = -flow.b[0, 0] * flow.w[0, 0]  # on its line
        z[0, 1] = z[0, 0] + 1e-200 * flow.w[0, 0]
    assert softplus(torch.tensor(product).double()) < 1e-300
    pairs = list(both(notebook, flow, z))
    assert torch.isfinite(pairs[1][0]).all()
    assert pairs[1][0][0, 0] < product + 10  # the one layer's log-slope; the others add little
    for quick, plain in pairs:
        assert torch.allclose(quick, plain, rtol=1e-9, atol=1e-9)


def test_single_precision_follows_double_where_only_it_underflows(notebook):
    flow = notebook.PlanarFlow(1, [0])
    with torch.no_grad():
        flow.u[0, 0], flow.w[0, 0] = torch.tensor([-200.0, 0.3]), torch.tensor([1.0, 0.0])
    z = torch.tensor([[[0.0, 1.0], [1e-25, 0.5], [0.3, -1.0]]])
    single = list(both(notebook, flow, z))
    double = list(both(notebook, flow.double(), z.double()))
    for (quick, _), (expected, _) in zip(single, double, strict=True):
        assert torch.allclose(quick.double(), expected, rtol=1e-4, atol=1e-4)
    assert single[1][0][0, 0].item() == pytest.approx(-200.0)


def test_members_share_nothing(notebook):
    z = doubles(3, 11, 2)
    together = notebook.PlanarFlow(4, [5, 6, 7], scale=0.8).double().transform(z)
    alone = notebook.PlanarFlow(4, [6], scale=0.8).double().transform(z[1:2])
    for one, all_of_them in zip(alone, together, strict=True):
        assert torch.allclose(one[0], all_of_them[1], atol=1e-12)
