"""The generated sets are the courses' own numbers, and their densities and bounds are what quadrature says."""

import math

import numpy as np
import pytest
import torch

from helpers.data import synthetic


@pytest.mark.parametrize("part", ["a", "b"])
@pytest.mark.parametrize("dataset_id", [1, 2])
def test_berkeley24(part, dataset_id):
    train, test = synthetic.berkeley24(part, dataset_id)
    assert train.shape == (10000, 2)
    assert train.dtype == test.dtype == np.float32
    assert np.array_equal(test, train[:2500])  # the course's own quirk
    np.random.seed(0)
    noise = np.random.randn(10000, 2)  # as the course draws it
    scale, centre = {1: ((5, 1), (1, 2)), 2: ((1, 5), (-1, 2))}[dataset_id]
    half = math.sqrt(2) / 2
    turn = np.array([[half, half], [-half, half]]) if part == "a" else np.eye(2)
    np.testing.assert_allclose(train, np.array(centre) + (noise * scale) @ turn, rtol=1e-5, atol=1e-5)
    name = f"berkeley24_{part}{dataset_id}"
    assert synthetic.true_neg_log_density(train, name).mean() == pytest.approx(4.428, abs=5e-4)
    assert synthetic.true_neg_log_density(test, name).mean() == pytest.approx(4.418, abs=5e-4)


@pytest.mark.parametrize("dataset_id", [1, 2])
def test_berkeley19_pair(dataset_id):
    train, test = synthetic.berkeley19_pair(dataset_id)
    assert (train.shape, test.shape) == ((80000, 2), (20000, 2))
    nats = synthetic.true_neg_log_density(test, f"berkeley19_{dataset_id}").mean()
    assert nats == pytest.approx(4.4468, abs=5e-5)
    assert nats / (2 * math.log(2)) == pytest.approx(3.2077, abs=5e-5)
    correlation = np.corrcoef(train.T)[0, 1]
    assert correlation == pytest.approx(0 if dataset_id == 1 else 24 / 26, abs=0.01)


def test_berkeley19_clusters():
    x_train, y_train, x_test, y_test = synthetic.berkeley19_clusters()
    np.testing.assert_allclose(x_train[0], (1.90731679, 0.15225274), rtol=1e-6)
    assert y_train[:10].tolist() == [2, 2, 0, 2, 2, 2, 0, 1, 2, 2]
    assert (x_train.shape, y_train.shape, x_test.shape, y_test.shape) == ((79999, 2), (79999,), (20000, 2), (20000,))
    assert np.bincount(np.concatenate([y_train, y_test])).tolist() == [33333] * 3

    def bits_per_dimension(points):
        return synthetic.true_neg_log_density(points, "berkeley19_clusters").mean() / (2 * math.log(2))

    assert bits_per_dimension(x_train) == pytest.approx(0.9600, abs=5e-5)
    assert bits_per_dimension(x_test) == pytest.approx(0.9555, abs=6e-5)
    assert bits_per_dimension(x_test[:100]) == pytest.approx(0.9854, abs=6e-5)


@pytest.mark.parametrize("name", [*synthetic.GAUSSIANS, "berkeley19_clusters"])
def test_densities_integrate_to_one(name):
    half_width, cells = (4.0, 200) if name == "berkeley19_clusters" else (32.0, 300)
    axis = ((np.arange(cells) + 0.5) / cells * 2 - 1) * half_width
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    density = np.exp(-synthetic.true_neg_log_density(grid, name))
    assert density.sum() * (2 * half_width / cells) ** 2 == pytest.approx(1, abs=1e-6)


def test_unknown_sets_are_refused():
    with pytest.raises(ValueError, match="'a' and 'b'"):
        synthetic.berkeley24("c", 1)
    with pytest.raises(ValueError, match="1 and 2"):
        synthetic.berkeley19_pair(3)


def test_torus():
    points = synthetic.torus()
    assert points.shape == (3000, 3)
    assert points.dtype == np.float32
    np.random.seed(1234)
    u = np.random.uniform(0, 2 * np.pi, 3000)
    np.random.seed(1235)
    v = np.random.uniform(0, 2 * np.pi, 3000)
    assert points[:, 2] == pytest.approx(0.5 * np.sin(v), abs=1e-6)
    assert np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi) == pytest.approx(u, abs=1e-5)
    assert synthetic.torus_distance(points).max() < 1e-6
    # Inside, outside, on the axis, and the course's end point: known by hand.
    by_hand = {(1, 0, 0): 0.5, (2, 0, 0): 0.5, (0, 0, 0): 0.5, (0, -1, 0): 0.5, (0, 1.5, 0): 0, (1, 0, 2): 1.5}
    assert synthetic.torus_distance(np.array(list(by_hand))) == pytest.approx(list(by_hand.values()))
    assert synthetic.torus_distance(np.array([[3.0, 0, 0]]), major=2, minor=0.25) == pytest.approx([0.75])


def test_arcs_constants_by_quadrature():
    log_normaliser, entropy = synthetic.arcs_log_normaliser_and_entropy()
    assert log_normaliser == pytest.approx(1.8775, abs=5e-5)
    assert entropy == pytest.approx(2.660, abs=5e-4)
    assert synthetic.arcs_log_normaliser_and_entropy(cells=250) == pytest.approx((log_normaliser, entropy), abs=1e-9)


def test_sine_entropy():
    assert synthetic.sine_entropy() == pytest.approx(2.805, abs=5e-4)
    points = torch.from_numpy(synthetic.data_sine(200000, seed=7)).double()
    neg_log_density = synthetic.sine_energy(points) + 0.5 * synthetic.LOG_2PI + math.log(0.4) + math.log(10)
    standard_error = neg_log_density.std() / math.sqrt(len(points))
    assert abs(neg_log_density.mean() - synthetic.sine_entropy()) < 4 * standard_error


def test_energies_at_points_known_by_hand():
    z = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)
    between = (2 / 0.6) ** 2 / 2 - math.log(2)
    assert synthetic.arcs_energy(z).tolist() == pytest.approx([0, between, 0], abs=1e-8)
    z = torch.tensor([[1.0, 1.0], [0.0, 0.4], [3.0, -0.6]], dtype=torch.float64)
    assert synthetic.sine_energy(z).tolist() == pytest.approx([0, 0.5, 0.5], abs=1e-12)
    far = torch.tensor([[60.0, 0.0]], requires_grad=True)  # exp(-U) underflows here, the energy must not
    assert synthetic.arcs_energy(far).isfinite().all()
    assert torch.autograd.grad(synthetic.arcs_energy(far).sum(), far)[0].isfinite().all()


def test_data_arcs_follow_the_density():
    points = synthetic.data_arcs(50000, seed=5)
    energy = synthetic.arcs_energy(torch.from_numpy(points).double())
    log_normaliser, entropy = synthetic.arcs_log_normaliser_and_entropy()
    neg_log_density = energy + log_normaliser
    assert abs(neg_log_density.mean() - entropy) < 4 * neg_log_density.std() / math.sqrt(len(points))
    assert abs((points[:, 0] > 0).mean() - 0.5) < 4 * 0.5 / math.sqrt(len(points))
    # The share of each cell of a coarse grid, against the density integrated over it.
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)[:-1] + 0.01
    grid = torch.cartesian_prod(axis, axis)
    mass = torch.exp(-synthetic.arcs_energy(grid) - log_normaliser) * 0.02**2
    mass = mass.reshape(8, 50, 8, 50).sum(dim=(1, 3)).numpy()
    share = np.histogram2d(*points.T.astype(float), bins=8, range=[[-4, 4]] * 2)[0] / len(points)
    assert np.abs(share - mass).max() < 5 * math.sqrt(mass.max() / len(points))


@pytest.mark.parametrize("draw", [synthetic.data_arcs, synthetic.data_sine])
def test_flow_data_have_a_seed_each(draw):
    points = draw()
    assert points.shape == (10000, 2)
    assert points.dtype == np.float32
    assert np.array_equal(points, draw(10000, seed=43))
    held_out = draw(500, seed=44)
    assert held_out.shape == (500, 2)
    assert not set(map(tuple, held_out)) & set(map(tuple, points))


def test_data_arcs_begin_alike_whatever_the_number():
    assert np.array_equal(synthetic.data_arcs(10), synthetic.data_arcs(9000)[:10])
