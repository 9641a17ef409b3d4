"""Notebook 1: the losses against closed forms, the estimators' properties, the toroidal code, the course's contract."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from helpers import settings
from helpers.data import synthetic
from helpers.publish import notebooks
from helpers.train.stacking import Stack


@pytest.fixture(scope="module")
def notebook():
    return notebooks.definitions("1_vae_2d")


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaussian_nll_and_kl_against_torch_distributions(notebook):
    x, mean, log_variance = doubles(3, 40, 2)
    normal = Normal(mean, torch.exp(0.5 * log_variance))
    assert torch.allclose(notebook.gaussian_nll(x, mean, log_variance), -normal.log_prob(x).sum(-1), atol=1e-12)
    expected = kl_divergence(normal, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(-1)
    assert torch.allclose(notebook.kl_to_standard_normal(mean, log_variance), expected, atol=1e-12)


def test_a_scalar_variance_counts_once_a_dimension(notebook):
    x, mean, log_variance = doubles(3, 40, 2)
    shared = log_variance[:, :1]
    expected = -Normal(mean, torch.exp(0.5 * shared).expand(-1, 2)).log_prob(x).sum(-1)
    assert torch.allclose(notebook.gaussian_nll(x, mean, shared), expected, atol=1e-12)


def test_terms_of_a_stack_are_those_of_its_members(notebook):
    stack = Stack(notebook.GaussianVAE, [0, 1, 2]).double()
    x, noise = doubles(3, 9, 2), doubles(3, 9, 2, seed=1)
    terms = notebook.vae_terms(stack, x, noise)
    assert terms.shape == (3, 3)
    for index in range(3):
        alone = notebook.vae_terms(stack.member(index, lambda: notebook.GaussianVAE().double()), x[index], noise[index])
        assert torch.allclose(terms[:, index], alone, atol=1e-12)


def test_the_elbo_is_below_the_likelihood_of_a_linear_gaussian_model(notebook):
    class Linear(notebook.LinearGaussian):
        def forward(self, x, noise):
            mean, log_variance = self.encode(x)
            return mean, log_variance, *self.decode(mean + noise * torch.exp(0.5 * log_variance))

    x = math.sqrt(2) * doubles(2000, 2)
    likelihood = Normal(0.0, math.sqrt(2.0)).log_prob(x).sum(-1).mean()
    tight = -notebook.evaluate_terms(Linear(math.log(0.5)), x.float(), seed=0, draws=200)[0]
    loose = -notebook.evaluate_terms(Linear(math.log(2.0)), x.float(), seed=0, draws=200)[0]
    assert tight.item() == pytest.approx(likelihood.item(), abs=0.01)
    exact_gap = 2 * 0.5 * (4 - 1 - math.log(4))  # KL(N(m, 2) || N(m, 1/2)) in two dimensions
    assert likelihood.item() - loose.item() == pytest.approx(exact_gap, abs=0.02)


def test_importance_bound_is_a_log_mean_and_survives_huge_weights(notebook):
    weights = doubles(12, 5)
    expected = torch.log(torch.exp(weights[:4]).mean(0))
    assert torch.allclose(notebook.importance_bound(weights, 4)[0], expected, atol=1e-12)
    assert torch.equal(notebook.importance_bound(weights, 1), weights)
    assert torch.allclose(notebook.importance_bound(weights + 1e4, 12) - 1e4, notebook.importance_bound(weights, 12), atol=1e-9)


def test_importance_bound_rises_with_the_number_of_samples(notebook):
    x = math.sqrt(2) * doubles(100, 2)
    weights = notebook.log_weights(notebook.LinearGaussian(0.3), x, doubles(2000, 100, 2, seed=1))
    bounds = [notebook.importance_bound(weights, samples).mean().item() for samples in (1, 5, 50)]
    assert bounds[0] < bounds[1] < bounds[2] < Normal(0.0, math.sqrt(2.0)).log_prob(x).sum(-1).mean().item() + 0.01


def test_positional_encoding_has_sixty_features_of_a_point(notebook):
    x = doubles(7, 3)
    features = notebook.positional_encoding(x)
    assert features.shape == (7, 60)
    assert torch.allclose(features[:, 0], torch.sin(x[:, 0]))
    assert torch.allclose(features[:, 10 + 9], torch.cos(512 * x[:, 0]))


@pytest.mark.parametrize("log_variance", [-9.0, -2.0, 0.0, 3.0])
def test_the_wrapped_normal_is_a_density_of_period_two_pi(notebook, log_variance):
    angles = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1]
    mean, spread = torch.tensor(3.0).double(), torch.full_like(angles, log_variance)
    log_q = notebook.wrapped_normal_log_density(angles, mean, spread)
    assert (torch.exp(log_q).mean() * 2 * math.pi).item() == pytest.approx(1.0, abs=1e-6)
    assert torch.allclose(log_q, notebook.wrapped_normal_log_density(angles + 2 * math.pi, mean, spread), atol=1e-9)


def test_toroidal_decoder_is_periodic_and_interpolation_takes_the_shorter_arc(notebook):
    model = notebook.ToroidalVAE().double()
    angles = doubles(5, 2)
    assert torch.allclose(model.decode(angles), model.decode(angles + 2 * math.pi), atol=1e-9)
    start, end = torch.tensor([3.0, 0.1]).double(), torch.tensor([-3.0, 0.3]).double()
    model.encode = lambda point: (point, None)
    seen = []
    model.decode = lambda path: seen.append(path) or path
    model.interpolate(start, end, 100)
    assert torch.allclose(seen[0][-1, 0], torch.tensor(2 * math.pi - 3.0).double())  # onwards through pi, not back through 0
    assert seen[0].diff(dim=0).abs().max() < 0.01


def test_chamfer_distance_of_shifted_points(notebook):
    points = torch.tensor([[0.0, 0, 0], [10.0, 0, 0]])
    assert notebook.chamfer(points, points).item() == pytest.approx(0.0, abs=1e-6)
    assert notebook.chamfer(points, points + torch.tensor([0.0, 0.5, 0.0])).item() == pytest.approx(0.5, abs=1e-5)


def test_q1_keeps_the_courses_contract(notebook, monkeypatch):
    monkeypatch.setattr(settings, "device", lambda: torch.device("cpu"))
    train, test = synthetic.berkeley24("a", 1)
    train_losses, test_losses, noisy, clean = notebook.q1(train[:1000].astype(np.float64), test[:200], "a", 1)
    assert train_losses.shape == (8, 3)
    assert test_losses.shape == (2, 3)
    assert noisy.shape == clean.shape == (1000, 2)
    assert np.allclose(train_losses[:, 0], train_losses[:, 1] + train_losses[:, 2], atol=1e-4)
    assert test_losses[1, 0] < test_losses[0, 0]
    assert not np.allclose(noisy.std(0), clean.std(0), atol=0.1)


@pytest.mark.parametrize(("points", "message"), [
    (np.zeros((5, 3)), r"train_data must be points in the plane, shape \(N, 2\) with N > 0, not \(5, 3\)"),
    (np.zeros((0, 2)), r"not \(0, 2\)"),
    (np.array([[0.0, np.nan]]), "train_data has 1 values that are not finite"),
])
def test_q1_refuses_bad_points(notebook, points, message):
    with pytest.raises(ValueError, match=message):
        notebook.q1(points, np.zeros((5, 2)), "a", 1)
