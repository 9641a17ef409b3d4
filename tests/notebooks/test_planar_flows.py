"""Notebook 5: the layer against autograd's Jacobian, the fast stack against the definition, inverses, densities, bad input."""

import math

import numpy as np
import pytest
import torch

from helpers import settings
from helpers.data import synthetic
from helpers.publish import notebooks
from helpers.suite import Run

EXTREMES = [(product, norm) for product in (-100.0, -1.0, 0.0, 1.0, 100.0) for norm in (1e-4, 1.0, 10.0)]


@pytest.fixture(scope="module")
def notebook():
    return notebooks.definitions("5_planar_flows")


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow_of(notebook, layers=5, members=3, scale=0.7, dimension=2):
    return notebook.PlanarFlow(layers, range(members), dimension, scale).double()


@pytest.mark.parametrize(("product", "norm"), EXTREMES)
@pytest.mark.parametrize("dimension", [2, 5])
def test_log_det_is_that_of_autograds_jacobian(notebook, product, norm, dimension):
    u, w, b = notebook.extreme_parameters(product, norm, seed=1, dimension=dimension)
    assert w @ u == pytest.approx(product, rel=1e-9, abs=1e-9)
    assert w.norm() == pytest.approx(norm)
    points = doubles(10, dimension)
    assert notebook.jacobian_error(u, w, b, points) < 1e-11
    assert torch.isfinite(notebook.planar(points, u, w, b)[1]).all()


def test_log_det_of_ordinary_layers_to_rounding(notebook):
    u, w, b, points = doubles(2), doubles(2, seed=1), doubles(1, seed=2), doubles(20, 2, seed=3)
    log_det = notebook.planar(points, u, w, b)[1]
    jacobians = torch.stack([torch.func.jacrev(lambda z: notebook.planar(z[None], u, w, b)[0][0])(point) for point in points])
    assert torch.allclose(log_det, torch.linalg.slogdet(jacobians).logabsdet, atol=1e-12)


@pytest.mark.parametrize("product", [-100.0, -30.0, 0.0, 30.0, 100.0])
def test_constraint_keeps_the_slope_positive_in_single_precision(notebook, product):
    u, w, b = (part.float() for part in notebook.extreme_parameters(product, 1.0, seed=2))
    on_the_line = (-b * w / (w @ w))[None]  # where the layer is flattest
    u_hat, p = notebook.planar_direction(u, w)
    assert p > 0
    assert w @ u_hat == pytest.approx(p.item() - 1, abs=1e-4)
    assert torch.isfinite(notebook.planar(on_the_line, u, w, b)[1]).all()
    assert p.item() == pytest.approx(math.log1p(math.exp(product)), rel=1e-4)


def test_one_operation_is_the_layers_one_after_the_other(notebook):
    flow, z = flow_of(notebook, dimension=3), doubles(3, 17, 3)
    weights = doubles(3, 17, 3, seed=1)
    results = []
    for transform in (flow.transform, flow.compose):
        start = z.clone().requires_grad_()
        image, log_det = transform(start)
        loss = (weights * image).sum() + (log_det**2).sum()
        results.append([image, log_det, *torch.autograd.grad(loss, [start, flow.u, flow.w, flow.b])])
    for fast, plain in zip(*results, strict=True):
        assert torch.allclose(fast, plain, atol=1e-10)


def test_gradients_against_finite_differences(notebook):
    flow = flow_of(notebook, layers=4, members=2)
    parts = (doubles(2, 3, 2), *notebook.planar_direction(flow.u, flow.w), flow.w, flow.b)
    inputs = [part.detach().requires_grad_() for part in parts]
    assert torch.autograd.gradcheck(lambda z, u, p, w, b: notebook.PlanarStack.apply(z, u, w, b, p), inputs)


def test_a_stack_is_its_members(notebook):
    seeds, z = [5, 6, 7], doubles(3, 11, 2)
    together = notebook.PlanarFlow(4, seeds, scale=0.8).double()(z)
    for index, seed in enumerate(seeds):
        alone = notebook.PlanarFlow(4, [seed], scale=0.8).double()(z[index : index + 1])
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.allclose(one[0], all_of_them[index], atol=1e-12)


def test_training_a_stack_trains_each_member_alone(notebook):
    data = synthetic.data_arcs(512)
    plan = {"steps": 5, "batch_size": 512, "learning_rate": 5e-3, "decay": True, "order_seed": 0, "training": {"seed": 0}}
    together, alone = notebook.PlanarFlow(3, [1, 2]), notebook.PlanarFlow(3, [2])
    notebook.train_flow(together, data, data, **plan)
    notebook.train_flow(alone, data, data, **plan)  # a batch is the whole set, so that the order does not matter
    assert torch.allclose(together.u[1], alone.u[0], atol=1e-5)


def test_inverse_undoes_the_flow(notebook):
    flow, z = flow_of(notebook, layers=8), doubles(3, 200, 2)
    image = flow(z)[0].detach()
    assert torch.allclose(flow.inverse(image), z, atol=1e-9)
    path = flow.inverse_path(image)
    assert len(path) == 9
    assert torch.equal(path[0], image)


@pytest.mark.parametrize(("product", "norm"), [(-100.0, 1.0), (100.0, 1.0), (100.0, 1e-4), (-5.0, 1e-4)])
def test_inverse_of_extreme_layers(notebook, product, norm):
    flow, z = flow_of(notebook, layers=1, members=1), doubles(1, 100, 2)
    with torch.no_grad():
        flow.u[0, 0], flow.w[0, 0], flow.b[0, 0] = notebook.extreme_parameters(product, norm, seed=3)
    image = flow(z)[0].detach()
    assert torch.allclose(flow(flow.inverse(image))[0], image, atol=1e-6 * max(1.0, float(image.abs().max())))


def test_both_densities_integrate_to_one(notebook):
    flow = flow_of(notebook, layers=4)
    reach = 1.5 * float(flow.inverse(doubles(3, 500, 2)).abs().max())
    assert torch.allclose(notebook.integrate(flow, reach, 400), torch.ones(3).double(), atol=0.01)
    grid = notebook.centres(8.0, 300)
    mass = notebook.pushforward_log_prob(flow, grid.expand(3, -1, -1)).exp().sum(1) * (16.0 / 300) ** 2
    assert torch.allclose(mass, torch.ones(3).double(), atol=0.01)


def test_later_layers_alone_are_a_flow_too(notebook):
    flow, x = flow_of(notebook, layers=6), doubles(3, 9, 2)
    tail = flow_of(notebook, layers=4)
    tail.load_state_dict({name: value[:, 2:] for name, value in flow.state_dict().items()})
    assert torch.allclose(flow.log_prob(x, start=2), tail.log_prob(x), atol=1e-12)


def test_a_short_training_improves_and_stays_above_the_entropy(notebook):
    train, test = synthetic.data_arcs(10000), synthetic.data_arcs(10000, seed=44)
    flow = notebook.PlanarFlow(8, [0, 1])
    history = notebook.train_flow(flow, train, test, steps=600, batch_size=128, learning_rate=5e-3, decay=True, order_seed=0,
                                  training={"seed": 0})
    log_prob = flow.double().log_prob(torch.from_numpy(test).double().expand(2, -1, -1)).detach().numpy()
    entropy = synthetic.arcs_log_normaliser_and_entropy()[1]
    assert (history.evaluations[-1] < history.evaluations[0] - 0.5).all()
    assert (-log_prob.mean(1) >= entropy - 3 * log_prob.std(1) / math.sqrt(len(test))).all()


@pytest.mark.parametrize("data", ["arcs", "sine"])
def test_true_nll_averages_to_the_entropy(notebook, data):
    generate, entropy = {"arcs": (synthetic.data_arcs, synthetic.arcs_log_normaliser_and_entropy()[1]),
                         "sine": (synthetic.data_sine, synthetic.sine_entropy())}[data]
    values = notebook.true_nll(data, generate(20000))
    assert values.mean() == pytest.approx(entropy, abs=4 * values.std() / math.sqrt(len(values)))


@pytest.mark.parametrize("energy", ["arcs", "sine"])
def test_normalisers_by_summing(notebook, energy):
    summed = torch.logsumexp(-notebook.ENERGIES[energy](notebook.centres(8.0, 800)), dim=0) + 2 * math.log(16 / 800)
    assert summed.item() == pytest.approx(notebook.log_normaliser(energy), abs=1e-4)


def test_the_sine_without_walls_has_no_normaliser(notebook):
    assert notebook.log_normaliser("sine without walls") is None
    flow = flow_of(notebook, layers=1, members=1)
    z = doubles(1, 1000, 2)
    with torch.no_grad():  # pulled along z1, the loss of the bounded energy rises and that of the improper one does not
        flow.u[0, 0], flow.w[0, 0] = torch.tensor([60.0, 0.0]), torch.tensor([1.0, 0.0])
    bounded, improper = (notebook.final_loss(flow, z, energy)[0][0] for energy in ("sine", "sine without walls"))
    assert bounded > improper + 100


def test_reverse_loss_is_bounded_by_the_normaliser(notebook):
    flow, z = flow_of(notebook), doubles(3, 20000, 2)
    loss = notebook.final_loss(flow, z, "arcs")[0]
    assert (loss > -notebook.log_normaliser("arcs")).all()


def test_annealing_fades_the_energy_in(notebook):
    seen = []

    def loss(beta, generator):
        seen.append(beta)
        return flow.u.square().sum()[None]

    flow = flow_of(notebook)
    update = notebook.AnnealedUpdate(flow, loss, torch.optim.SGD(flow.parameters(), lr=0.1), steps=8)
    for step in range(8):
        update(None, step, None)
    assert seen[0] == 0.01
    assert seen[:5] == sorted(seen[:5])
    assert seen[4:] == [1.0] * 4


def test_the_best_gaussian_is_no_better_than_the_normaliser(notebook):
    for energy in ("arcs", "sine"):
        assert notebook.best_gaussian_loss(energy) > -notebook.log_normaliser(energy)


@pytest.mark.parametrize(("arguments", "message"), [
    ((0, [0]), "layers of at least 1, not 0"), ((-3, [0]), "layers of at least 1, not -3"),
    ((2, []), "members of at least 1, not 0"), ((2, [0], 0), "dimension of at least 1, not 0"),
])
def test_sizes_below_one_are_refused(notebook, arguments, message):
    with pytest.raises(ValueError, match=message):
        notebook.PlanarFlow(*arguments)


@pytest.mark.parametrize("shape", [(3, 10, 3), (2, 10, 2), (10, 2)])
@pytest.mark.parametrize("method", ["forward", "log_prob", "inverse"])
def test_points_of_another_shape_are_refused(notebook, shape, method):
    with pytest.raises(ValueError, match=r"\(3, N, 2\), not \("):
        getattr(flow_of(notebook), method)(torch.zeros(shape).double())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused_by_name(notebook, value):
    z = doubles(3, 10, 2)
    z[1, 4, 0] = value
    with pytest.raises(ValueError, match="points has 1 values that are not finite, of 60"):
        flow_of(notebook)(z)
    for name in ("u", "w", "b"):
        flow = flow_of(notebook)
        with torch.no_grad():
            getattr(flow, name)[0, 1, 0] = value
        with pytest.raises(ValueError, match=f"^{name} has 1 values that are not finite"):
            flow.log_prob(doubles(3, 10, 2))


def test_a_zero_w_is_refused(notebook):
    flow = flow_of(notebook)
    with torch.no_grad():
        flow.w[1, 2] = 0
    with pytest.raises(ValueError, match="w is zero in some layer"):
        flow(doubles(3, 10, 2))


def test_a_layer_refuses_other_dimensions(notebook):
    with pytest.raises(ValueError, match="one dimension, not 3, 2 and 2"):
        notebook.planar(doubles(5, 3), doubles(2), doubles(2), doubles(1))


def test_data_that_is_not_finite_is_refused(notebook):
    data = synthetic.data_arcs(256)
    data[3, 1] = np.nan
    with pytest.raises(ValueError, match="train has 1 values that are not finite, of 512"):
        notebook.train_flow(notebook.PlanarFlow(2, [0]), data, data, steps=1, batch_size=8, learning_rate=1e-3, decay=False,
                            order_seed=0, training={"seed": 0})


def test_runs_repeat_and_their_arrays_are_small(notebook, tmp_path):
    config = {"data": "sine", "layers": 2, "steps": 4, "batch_size": 64, "learning_rate": 5e-3, "sheet_learning_rate": 5e-4,
              "members": 2, "mass_cells": 60}
    outcomes = []
    for attempt in ("first", "second"):
        run = Run("mila_p3_data_sine_k2", 0, attempt, None)  # another fingerprint, so no checkpoint is shared
        outcomes.append(notebook.run_samples(run, **config))
    assert np.array_equal(outcomes[0].values["nll"], outcomes[1].values["nll"])
    for name, array in outcomes[0].arrays.items():
        assert np.array_equal(array, outcomes[1].arrays[name]), name
    assert sum(array.nbytes for array in outcomes[0].arrays.values()) < 2**20
    assert settings.output_folder().is_relative_to(tmp_path)
