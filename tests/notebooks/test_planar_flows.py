"""Notebook 5: the layer against autograd's Jacobian, the quick twin against the definition, inverses, densities, bad input."""

import math

import numpy as np
import pytest
import torch

from helpers import settings
from helpers.data import synthetic
from helpers.results import records
from helpers.settings import PROJECT_ROOT
from helpers.suite import Run, Suite
from helpers.work.definitions import definitions

EXTREMES = [(product, norm) for product in (-100.0, -1.0, 0.0, 1.0, 100.0) for norm in (1e-4, 1.0, 10.0)]


@pytest.fixture(scope="module")
def notebook():
    return definitions("5_planar_flows")


@pytest.fixture(scope="module")
def recorded(notebook):
    """The records in results/: (data, k) -> record, and energy -> record."""
    def there(run_id):
        return records.load(run_id, PROJECT_ROOT / "results")

    samples = {(data, k): there(f"mila_p3_data_{data}_k{k}") for data in ("arcs", "sine") for k in notebook.DEPTHS}
    return samples, {energy: there(f"mila_p3_density_{energy}") for energy in ("arcs", "sine")}


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
    u_hat, free = notebook.planar_direction(u, w)
    assert free.item() == pytest.approx(product, rel=1e-4, abs=1e-4)
    assert w @ u_hat == pytest.approx(math.log1p(math.exp(product)) - 1, abs=1e-4)
    assert torch.isfinite(notebook.planar(on_the_line, u, w, b)[1]).all()


@pytest.mark.parametrize("product", [-600.0, -200.0, -104.0, -95.0, -88.0, -80.0])
def test_log_slope_where_softplus_underflows(notebook, product):
    """Single precision against double, which still holds exp(-600): values and both gradients, on the line and near it."""
    h = torch.tensor([0.0, 1e-30, 1e-22, -1e-18, 1e-3, 0.9, 1.0])
    found = []
    for dtype in (torch.float32, torch.float64):
        inputs = [h.to(dtype).requires_grad_(), torch.full((7,), product, dtype=dtype, requires_grad=True)]
        value = notebook.log_slope(*inputs)
        found.append([value, *torch.autograd.grad(value.sum(), inputs)])
    for single, double in zip(*found, strict=True):
        assert torch.isfinite(single).all()
        assert torch.allclose(single.double(), double, rtol=1e-4, atol=1e-6)
    assert found[0][0][0].item() == pytest.approx(product)


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
    assert torch.allclose(notebook.inverse(flow, image), z, atol=1e-9)
    path = notebook.inverse_path(flow, image)
    assert len(path) == 9
    assert torch.equal(path[0], image)


@pytest.mark.parametrize(("product", "norm"), [(-100.0, 1.0), (100.0, 1.0), (100.0, 1e-4), (-5.0, 1e-4)])
def test_inverse_of_extreme_layers(notebook, product, norm):
    flow, z = flow_of(notebook, layers=1, members=1), doubles(1, 100, 2)
    with torch.no_grad():
        flow.u[0, 0], flow.w[0, 0], flow.b[0, 0] = notebook.extreme_parameters(product, norm, seed=3)
    image = flow(z)[0].detach()
    assert torch.allclose(flow(notebook.inverse(flow, image))[0], image, atol=1e-6 * max(1.0, float(image.abs().max())))


def test_both_densities_integrate_to_one(notebook):
    flow = flow_of(notebook, layers=4)
    reach = 1.5 * float(notebook.inverse(flow, doubles(3, 500, 2)).abs().max())
    assert torch.allclose(notebook.integrate(flow, reach, 400), torch.ones(3).double(), atol=0.01)
    grid = notebook.centres(8.0, 300)
    mass = notebook.pushforward_log_prob(flow, grid.expand(3, -1, -1)).exp().sum(1) * (16.0 / 300) ** 2
    assert torch.allclose(mass, torch.ones(3).double(), atol=0.01)


def test_later_layers_alone_are_a_flow_too(notebook):
    flow, x = flow_of(notebook, layers=6), doubles(3, 9, 2)
    tail = flow_of(notebook, layers=4)
    tail.load_state_dict({name: value[:, 2:] for name, value in flow.state_dict().items()})
    assert torch.allclose(notebook.log_prob(flow, x, start=2), notebook.log_prob(tail, x), atol=1e-12)


def test_a_short_training_improves_and_stays_above_the_entropy(notebook):
    train, test = synthetic.data_arcs(10000), synthetic.data_arcs(10000, seed=44)
    flow = notebook.PlanarFlow(8, [0, 1])
    history = notebook.train_flow(flow, train, test, steps=600, batch_size=128, learning_rate=5e-3, decay=True, order_seed=0,
                                  training={"seed": 0})
    held_out = torch.from_numpy(test).double().expand(2, -1, -1)
    log_prob = notebook.log_prob(flow.double(), held_out).detach().numpy()
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


def test_the_energy_is_faded_in(notebook):
    weights = [notebook.fade_in(step, 8) for step in range(8)]
    assert weights[0] == 0.01
    assert weights[:5] == sorted(set(weights[:5]))
    assert weights[4:] == [1.0] * 4
    assert notebook.fade_in(0, 1) == 0.01


def test_a_faded_training_minimises_the_faded_loss_and_records_the_loss_itself(notebook):
    plan = {"steps": 4, "batch_size": 32, "learning_rate": 1e-3, "training": {"seed": 0}}
    terms = {anneal: notebook.train_on_energy(flow_of(notebook).float(), "arcs", anneal=anneal, **plan).terms
             for anneal in (True, False)}
    assert np.allclose(terms[False][:, 0], terms[False][:, 1])
    assert np.allclose(terms[True][2:, 0], terms[True][2:, 1])  # from half time on
    assert not np.allclose(terms[True][0, 0], terms[True][0, 1])
    assert np.allclose(terms[True][0, 1], terms[False][0, 1])  # the same first draw, whatever its weight


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
@pytest.mark.parametrize("method", ["__call__", "log_prob", "inverse"])
def test_points_of_another_shape_are_refused(notebook, shape, method):
    flow = flow_of(notebook)
    apply = flow if method == "__call__" else lambda points: getattr(notebook, method)(flow, points)
    with pytest.raises(ValueError, match=r"\(3, N, 2\), not \("):
        apply(torch.zeros(shape).double())


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
            notebook.log_prob(flow, doubles(3, 10, 2))


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
    config = notebook.RUNS["mila_p3_data_sine_k2"].config("smoke") | {"steps": 4, "mass_cells": 60}
    outcomes = []
    for attempt in ("first", "second"):
        run = Run("mila_p3_data_sine_k2", 0, attempt, None)  # another fingerprint, so no checkpoint is shared
        outcomes.append(notebook.run_samples(run, **config))
    assert np.array_equal(outcomes[0].values["nll"], outcomes[1].values["nll"])
    for name, array in outcomes[0].arrays.items():
        assert np.array_equal(array, outcomes[1].arrays[name]), name
    assert sum(array.nbytes for array in outcomes[0].arrays.values()) < 2**20
    assert settings.output_folder().is_relative_to(tmp_path)
    assert sum(value.numel() for value in outcomes[0].weights["flow"].state_dict().values()) == 2 * 2 * 5


def test_declared_runs_are_the_recorded_ones(notebook):
    for run_id, declared in notebook.RUNS.items():
        assert declared.config("full") == records.load(run_id, PROJECT_ROOT / "results")["config"], run_id


def test_samples_of_saved_weights_are_those_of_the_flow(notebook, tmp_path):
    suite = Suite("5_planar_flows", notebook.RUNS, tmp_path)
    record = suite.run("mila_p3_data_sine_k2")
    state = suite.weights(record.id)["flow"]
    alone = notebook.loaded_member(state, record["shown"])
    density = notebook.log_prob(alone, notebook.centres(5.0, 100)[None])[0].exp().reshape(100, 100).detach().numpy()
    assert np.allclose(density, record.arrays["density"], rtol=2e-3, atol=1e-6)  # float32 weights, an array in float16
    base = torch.randn(1, 1000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for backwards, back in ((True, lambda points: alone(points)[0]), (False, lambda points: notebook.inverse(alone, points))):
        points = torch.from_numpy(notebook.new_samples(state, record["shown"], seed=3, backwards=backwards))[None]
        assert torch.allclose(back(points), base, atol=1e-8)


def test_analysis_rows_are_the_records_arithmetic(notebook, recorded):
    samples, energies = recorded
    first, second = samples["arcs", 2], samples["arcs", 8]
    assert notebook.gain_rows(samples)[0][:3] == ["data_arcs", "2 to 8", f"{first.metrics['nll'] - second.metrics['nll']:+.3f}"]
    rows = notebook.likelihood_rows(samples)
    assert len(rows) == 6
    assert rows[0][4:6] == [f"{first.spread['nll'][key]:.4f}" for key in ("min", "max")]
    assert len(notebook.energy_rows(energies)) == 6
    assert [row[1] for row in notebook.fading_rows(energies)] == ["faded in", "full from the start"] * 2
    assert notebook.fading_rows(energies)[1][-1] == "5 of 5"  # without fading every seed misses an arc
    assert notebook.wall_rows(energies["sine"])[0][2] == f"{-notebook.log_normaliser('sine'):.3f}"
    choices = notebook.choice_rows(*recorded)
    assert {len(row) for row in choices} == {5}
    assert f"arcs 2: {first.metrics['nll'] - first.metrics['nll_constant_rate']:+.3f}" in choices[0][4]


@pytest.mark.parametrize(("name", "spoil", "message"), [
    ("mass", lambda values: values + 0.02, "integrate to"),
    ("nll_by_seed", lambda values: values - 1.0, "standard errors below the entropy"),
])
def test_a_likelihood_that_breaks_a_law_is_seen(notebook, recorded, name, spoil, message):
    record = records.load("mila_p3_data_arcs_k8", PROJECT_ROOT / "results")
    assert notebook.likelihood_laws(record)[0] == record.id
    record.arrays[name] = spoil(record.arrays[name])
    with pytest.raises(AssertionError, match=message):
        notebook.likelihood_laws(record)


def test_a_loss_below_the_bound_is_seen(notebook, recorded):
    record = records.load("mila_p3_density_arcs", PROJECT_ROOT / "results")
    record.arrays["loss_by_seed_k8"][1] -= 1.0
    with pytest.raises(AssertionError, match="passes -log Z"):
        notebook.energy_rows({"arcs": record})


def test_transformations_report_the_constraint(notebook):
    outcome = notebook.run_transformations(Run("mila_p3_transformations", 0, "x", None), 50)
    parameters = outcome.arrays["parameters"]
    u_hat, w, p = parameters[:, 2:4], parameters[:, 4:6], parameters[:, 7]
    small = slice(-len(notebook.SMALL_SETTINGS), None)
    assert np.allclose((u_hat * w).sum(1)[small], p[small] - 1, atol=1e-5)
    assert np.isfinite(outcome.arrays["log_dets"]).all()
