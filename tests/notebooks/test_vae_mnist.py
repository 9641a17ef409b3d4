"""Notebook 2: estimators against torch.distributions and autograd, bounds that rise, extremes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from helpers.publish import notebooks
from helpers.train.stacking import Stack


@pytest.fixture(scope="module")
def notebook():
    return notebooks.definitions("2_vae_mnist")


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def binary(*shape, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.3).double()


# Densities and divergences


@pytest.mark.parametrize("shape", [(7, 5), (7, 3, 2)])
def test_densities_against_torch_distributions(notebook, shape):
    z, mu, logvar = doubles(3, *shape)
    expected = Normal(mu, torch.exp(0.5 * logvar)).log_prob(z).flatten(1).sum(1)
    assert torch.allclose(notebook.log_likelihood_normal(mu, logvar, z), expected, atol=1e-12)
    flat = notebook.log_normal_pdf(z.flatten(1), mu.flatten(1), logvar.flatten(1))
    assert torch.allclose(flat, expected, atol=1e-12)
    standard = Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).flatten(1).sum(1)
    assert torch.allclose(notebook.log_standard_normal(z.flatten(1)), standard, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 5), (7, 3, 2)])
def test_bernoulli_by_means_and_by_logits(notebook, shape):
    logits, target = 3 * doubles(*shape), binary(*shape)
    expected = Bernoulli(logits=logits).log_prob(target).flatten(1).sum(1)
    assert torch.allclose(notebook.log_likelihood_bernoulli(torch.sigmoid(logits), target), expected, atol=1e-10)
    assert torch.allclose(notebook.bernoulli_log_prob(logits.flatten(1), target.flatten(1)), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_is_finite_for_huge_logits(notebook, dtype):
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    value = notebook.bernoulli_log_prob(logits, target)
    value.sum().backward()
    assert value.tolist() == [0.0, -2e4]
    assert logits.grad.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_certain_and_impossible_means(notebook):
    mu, target = torch.tensor([[0.0, 1.0], [0.0, 0.5]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert notebook.log_likelihood_bernoulli(mu, target).tolist() == [0.0, -math.inf]


def test_kl_by_three_ways(notebook):
    mu_q, logvar_q, mu_p, logvar_p = doubles(4, 6, 2, 3)
    expected = kl_divergence(Normal(mu_q, torch.exp(0.5 * logvar_q)), Normal(mu_p, torch.exp(0.5 * logvar_p))).flatten(1).sum(1)
    analytic = notebook.kl_gaussian_gaussian_analytic(mu_q, logvar_q, mu_p, logvar_p)
    assert torch.allclose(analytic, expected, atol=1e-12)
    generator = torch.Generator().manual_seed(0)
    estimate = notebook.kl_gaussian_gaussian_mc(mu_q, logvar_q, mu_p, logvar_p, 40_000, generator)
    assert estimate.shape == (6,)
    assert torch.allclose(estimate, expected, rtol=0.05)
    zeros = torch.zeros(6, 6, dtype=torch.float64)
    to_standard = notebook.kl_to_standard_normal(mu_q.flatten(1), logvar_q.flatten(1))
    assert torch.allclose(to_standard, notebook.kl_gaussian_gaussian_analytic(mu_q, logvar_q, zeros, zeros), atol=1e-12)


def test_kl_is_not_negative_and_zero_for_equals(notebook):
    mu_q, logvar_q, mu_p, logvar_p = doubles(4, 100, 3)
    assert (notebook.kl_gaussian_gaussian_analytic(mu_q, logvar_q, mu_p, logvar_p) > 0).all()
    assert notebook.kl_gaussian_gaussian_analytic(mu_q, logvar_q, mu_q, logvar_q).abs().max() < 1e-12
    assert notebook.kl_gaussian_gaussian_mc(mu_q, logvar_q, mu_q, logvar_q, 3).abs().max() < 1e-12


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_log_mean_exp(notebook, shift):
    y = doubles(5, 7)
    expected = torch.logsumexp(y, 1) - math.log(7) + shift
    assert torch.allclose(notebook.log_mean_exp(y + shift), expected, atol=1e-9)
    assert torch.isfinite(notebook.log_mean_exp((y + shift).float())).all()
    assert (notebook.log_mean_exp(y) >= y.mean(1)).all()  # not the mean of the logarithms


def test_reparameterize_has_the_moments_and_gradients(notebook):
    mean, log_variance = torch.tensor([0.5, -2.0], requires_grad=True), torch.tensor([1.0, -1.0], requires_grad=True)
    z = notebook.reparameterize(mean, log_variance, torch.tensor([2.0, -1.0]))
    assert torch.allclose(z, mean + torch.exp(log_variance / 2) * torch.tensor([2.0, -1.0]))
    z.sum().backward()
    assert mean.grad.tolist() == [1.0, 1.0]
    assert torch.allclose(log_variance.grad, 0.5 * torch.exp(log_variance.detach() / 2) * torch.tensor([2.0, -1.0]))


# Models


def test_both_estimators_have_the_same_expectation(notebook):
    torch.manual_seed(0)
    model = notebook.VAE().double()
    model.encoder[-1].weight.data *= 20  # posteriors far from the prior
    x, noise = binary(1, 784).expand(10_000, -1), doubles(10_000, 2)
    with torch.no_grad():
        sgvb, analytic = (notebook.vae_terms(model, x, noise, estimator) for estimator in ("sgvb", "analytic"))
    assert float(analytic[2]) > 0.1
    assert float(sgvb[2]) == pytest.approx(float(analytic[2]), rel=0.05)
    assert float(sgvb[1]) == float(analytic[1])
    assert float(sgvb[0]) == pytest.approx(float(sgvb[1] + 1e-3 * sgvb[2]))


def test_terms_of_a_stack_are_those_of_its_members(notebook):
    stack, x, noise = Stack(notebook.VAE, [0, 1]), torch.rand(2, 9, 784), torch.randn(2, 9, 2)
    terms = notebook.vae_terms(stack, x, noise, "sgvb")
    alone = [notebook.vae_terms(stack.member(s, notebook.VAE), x[s], noise[s], "sgvb") for s in range(2)]
    assert torch.allclose(terms, torch.stack(alone, 1), atol=1e-5)


def test_mean_squared_error_is_a_mean_over_images_and_pixels(notebook):
    x, y = torch.rand(2, 3, 6, 784)
    expected = torch.stack([torch.nn.functional.mse_loss(x[s], y[s]) for s in range(3)])
    assert torch.allclose(notebook.mean_squared_error(x, y), expected)


def test_unknown_estimator(notebook):
    with pytest.raises(ValueError, match="'iwae' is unknown; the estimators are analytic, sgvb"):
        notebook.vae_terms(notebook.VAE(), torch.rand(2, 784), torch.randn(2, 2), "iwae")


def test_calc_elbo_terms_and_fresh_noise(notebook):
    torch.manual_seed(0)
    model = notebook.ConvVAE().double()
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    neg_elbo, recon, kl = model.calc_elbo(images, torch.Generator().manual_seed(0))
    assert neg_elbo.shape == (3,)
    assert torch.equal(neg_elbo, recon + kl)
    generator = torch.Generator().manual_seed(0)
    x = notebook.dequantize(images, generator, torch.float64)
    mean, log_std = model.encode(x)
    q = Normal(mean, log_std.exp())
    z = mean + log_std.exp() * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
    assert torch.allclose(recon, -Normal(model.decoder(z), 0.1).log_prob(x).flatten(1).sum(1), atol=1e-8)
    assert torch.allclose(kl, kl_divergence(q, Normal(0.0, 1.0)).sum(1), atol=1e-10)
    assert not torch.equal(model.calc_elbo(images)[0], model.calc_elbo(images)[0])


def test_samples_and_the_floor_of_a_constant_sigma(notebook):
    model = notebook.ConvVAE()
    assert model.sample(3).shape == (3, 1, 28, 28)
    perfect = 784 * math.log(0.1 * math.sqrt(2 * math.pi))
    assert notebook.bits_per_dimension(perfect) == pytest.approx(6.0038, abs=1e-4)
    assert notebook.bits_per_dimension(0.0) == 8.0  # the uniform density


def test_dequantised_values_keep_their_grey_level(notebook):
    images = torch.arange(256, dtype=torch.uint8).repeat(50)
    x = notebook.dequantize(images, torch.Generator().manual_seed(0), torch.float64)
    assert torch.equal((256 * x).floor().to(torch.uint8), images)
    assert float(x.min()) >= 0
    assert float(x.max()) < 1


def test_code_grid_reads_like_a_plot(notebook):
    grid = notebook.code_grid(torch.tensor([[0.0, 10.0], [1.0, 20.0]]), 3, share=0.0).reshape(3, 3, 2)
    assert grid[0].tolist() == [[0.0, 20.0], [0.5, 20.0], [1.0, 20.0]]
    assert grid[:, 0, 1].tolist() == [20.0, 15.0, 10.0]


# Importance sampling and the flow posterior


def moved_flow(notebook, length, latent_size):
    """A flow whose layers are away from the identity that they start as."""
    torch.manual_seed(length)
    model = notebook.FlowVAE(length, latent_size, 20).double().requires_grad_(False)
    if length:
        torch.nn.init.normal_(model.flow[-1].weight, std=0.5 / model.GAIN)
    return model


def test_importance_bounds_rise_to_the_truth(notebook):
    images = torch.zeros(40, 784, dtype=torch.uint8)
    truth = -784 * math.log(2)
    exact = notebook.importance_bounds(notebook.KnownLikelihood(1.0), images, 0)
    assert exact.shape == (4, 40)
    assert (exact - truth).abs().max() < 1e-3
    bounds = notebook.importance_bounds(notebook.KnownLikelihood(3.0), images, 0).mean(1)
    assert (bounds.diff() > 0).all()
    assert truth - 0.05 < bounds[-1] < truth + 0.01


def test_importance_bounds_against_their_definition(notebook):
    torch.manual_seed(0)
    model, rows = notebook.BernoulliVAE(5, 20), binary(30, 784).to(torch.uint8)
    assert torch.equal(notebook.importance_bounds(model, rows, 3, (1, 5)), notebook.importance_bounds(model, rows, 3, (1, 5)))
    one = notebook.importance_bounds(model, rows[:1], 3, (1, 2000))
    with torch.no_grad():
        z, log_q = model.posterior(rows[:1].float(), torch.randn(2000, 1, 5, generator=torch.Generator().manual_seed(3)))
        weights = notebook.bernoulli_log_prob(model.decode(z), rows[:1].float()) + notebook.log_standard_normal(z) - log_q
    assert float(one[1]) == pytest.approx(float(torch.logsumexp(weights.double(), 0) - math.log(2000)), abs=1e-4)
    assert float(one[0]) == pytest.approx(float(weights.double().mean()), abs=1e-4)


def test_planar_log_determinant_against_autograd(notebook):
    u, w, z = 3 * doubles(3, 50, 6)
    b = doubles(50, seed=1)
    u_hat, slope = notebook.invertible_direction(u, w)
    assert torch.allclose((w * u_hat).sum(-1), slope - 1, atol=1e-9)
    moved, log_det = notebook.planar_layer(z, u_hat, slope, w, b)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda *inputs: notebook.planar_layer(*inputs)[0]))(z, u_hat, slope, w, b)
    sign, expected = torch.linalg.slogdet(jacobian)
    assert (sign > 0).all()  # invertible although w.u is far below -1 for some
    assert (w * u).sum(-1).min() < -10
    assert torch.allclose(log_det, expected, atol=1e-9)
    assert moved.shape == z.shape


def test_planar_layer_is_finite_at_the_edge_of_invertibility(notebook):
    w = torch.full((1, 4), 30.0)
    u_hat, slope = notebook.invertible_direction(-w, w)
    for z in (torch.full((1, 4), 1e-3), torch.ones(1, 4)):
        moved, log_det = notebook.planar_layer(z, u_hat, slope, w, torch.zeros(1))
        assert torch.isfinite(moved).all()
        assert torch.isfinite(log_det).all()


@pytest.mark.parametrize("length", [0, 1, 8])
def test_flow_posterior_density_against_autograd(notebook, length):
    model = moved_flow(notebook, length, 4)
    x, noise = binary(2, 784), doubles(2, 4)
    _, log_q = model.posterior(x, noise)
    for row in range(2):
        jacobian = torch.func.jacrev(lambda e, row=row: model.posterior(x[row : row + 1], e[None])[0][0])(noise[row])
        expected = notebook.log_standard_normal(noise[row]) - torch.linalg.slogdet(jacobian)[1]
        assert float(log_q[row]) == pytest.approx(float(expected), abs=1e-9)


def test_no_layers_is_the_plain_vae(notebook):
    flow, plain = notebook.FlowVAE(0, 3, 20).double(), notebook.BernoulliVAE(3, 20).double()
    plain.load_state_dict(flow.state_dict())
    x, noise = binary(50, 784), doubles(50, 3)
    assert torch.allclose(flow(x, noise), plain(x, noise), atol=1e-10)
    for ours, theirs in zip(flow.posterior(x, noise), plain.posterior(x, noise), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_fresh_layers_are_the_identity(notebook):
    flow, z = notebook.FlowVAE(8, 4, 20).double(), doubles(5, 4)
    moved, log_det = flow.transform(doubles(5, 20, seed=1), z)
    assert torch.allclose(moved, z, atol=1e-12)
    assert log_det.abs().max() < 1e-12


def test_the_loss_of_the_flow_is_the_one_draw_loss_in_expectation(notebook):
    model, x, noise = moved_flow(notebook, 4, 3), binary(1, 784).expand(20_000, -1), doubles(20_000, 3)
    z, log_q = model.posterior(x, noise)
    one_draw = log_q - notebook.log_standard_normal(z)
    plain = notebook.kl_to_standard_normal(*model.encode(x[:1]))
    kl = float(model(x, noise)[2])
    assert abs(kl - float(plain)) > 0.05  # the flow does change something
    assert kl == pytest.approx(float(one_draw.mean()), abs=4 * float(one_draw.std()) / len(noise) ** 0.5)


# The importance-weighted bound as a loss


def importance_vae(notebook):
    torch.manual_seed(0)
    return notebook.ImportanceVAE(5, 20).double()


def test_the_importance_weighted_loss_is_the_bound_that_is_reported(notebook):
    model, x, noise = importance_vae(notebook), binary(6, 784), doubles(16, 6, 5)
    model.requires_grad_(False)
    weights = notebook.log_weights(model, x, noise)
    loss, one_draw = model(x, noise)
    assert float(loss) == pytest.approx(float(-(weights.logsumexp(0) - math.log(16)).mean()), abs=1e-10)
    assert float(one_draw) == pytest.approx(float(-weights.mean()), abs=1e-10)
    assert float(loss) < float(one_draw)
    smaller = torch.stack([model(x, part)[0] for part in noise.split(4)]).mean()
    assert float(loss) <= float(smaller) <= float(one_draw)


def test_with_one_draw_the_loss_is_the_elbo_in_expectation(notebook):
    model = importance_vae(notebook)
    plain = notebook.BernoulliVAE(5, 20).double()
    plain.load_state_dict(model.state_dict())
    x, noise = binary(1, 784).expand(20_000, -1), doubles(1, 20_000, 5)
    with torch.no_grad():
        loss, sgvb = model(x, noise)
        weights = notebook.log_weights(model, x, noise)
        elbo = plain(x, noise[0])[0]
    assert float(loss) == pytest.approx(float(sgvb), abs=1e-9)
    assert float(loss) == pytest.approx(float(elbo), abs=4 * float(weights.std()) / len(x) ** 0.5)


def test_the_gradient_weighs_draws_by_how_well_they_explain(notebook):
    model, x, noise = importance_vae(notebook), binary(3, 784), doubles(8, 3, 5)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(model(x, noise)[0], parameters)
    weights = notebook.log_weights(model, x, noise)
    expected = torch.autograd.grad(-(weights.softmax(0).detach() * weights).sum(0).mean(), parameters)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_a_stack_trains_its_members_on_the_bound_alone(notebook):
    def build():
        return notebook.ImportanceVAE(5, 20)

    stack, x, noise = Stack(build, [0, 1]), torch.rand(2, 4, 784).round(), torch.randn(2, 3, 4, 5)
    alone = torch.stack([stack.member(s, build)(x[s], noise[s]) for s in range(2)])
    assert torch.allclose(stack(x, noise), alone, rtol=1e-5)


# What the tables of the answers are made of


def noted(**metrics):
    """A record as far as the tables look at it: metric -> (mean, deviation, seeds)."""
    return SimpleNamespace(metrics={name: mean for name, (mean, _, _) in metrics.items()},
                           spread={name: {"std": std, "n": n} for name, (_, std, n) in metrics.items()})


def test_a_difference_and_its_standard_error(notebook):
    first, second = noted(a=(3.0, 0.6, 9)), noted(b=(1.0, 0.4, 4))
    assert notebook.mean_difference(first, "a", second, "b") == pytest.approx((2.0, math.hypot(0.2, 0.2)))
    assert notebook.mean_difference(noted(a=(1.0, 0.0, 1)), "a", second, "b")[1] == pytest.approx(0.2)


def test_agreement_with_chance(notebook):
    generator = np.random.default_rng(0)
    results = np.ones((5, 4001, 3))
    results[..., 1] += 0.1 * generator.standard_normal((5, 4001))
    results[..., 2] = 0.1
    results[:, 0, 1] = 100  # a single draw is left out
    (_, one, by_chance), (_, two, _) = notebook.agreement(results)
    assert by_chance == pytest.approx(0.6827, abs=1e-4)
    assert one == pytest.approx(by_chance, abs=0.02)
    assert two == pytest.approx(0.9545, abs=0.01)
    results[..., 2] = 0.05  # errors that are too small are found out
    assert notebook.agreement(results)[0][1] < 0.5


def test_what_a_bound_pays_above_its_floor(notebook):
    least = 784 * math.log(0.1 * math.sqrt(2 * math.pi))
    record = noted(neg_elbo=(least + 30, 0, 1), recon=(least + 20, 0, 1), kl=(10.0, 0, 1))
    record = type("Noted", (), {"metrics": record.metrics, "__getitem__": lambda self, key: {"sigma": 0.1}})()
    (_, whole, bits), (_, kl, _), (_, squares, _) = notebook.above_the_floor(record)
    assert (whole, kl, squares) == pytest.approx((30.0, 10.0, 20.0))
    assert bits == pytest.approx(notebook.bits_per_dimension(least + 30) - notebook.bits_per_dimension(least))


def test_a_flow_s_gain_is_split_into_model_and_posterior(notebook):
    plain = np.array([[-96.0, 0.0, -92.0], [-94.0, 0.0, -90.0]])
    better_model = plain + 1.0  # both bounds rise: the gap stays
    better_posterior = plain + np.array([1.0, 0.0, 0.0])
    for other, changes in ((better_model, (-1.0, -1.0, 0.0)), (better_posterior, (-1.0, 0.0, -1.0))):
        rows = notebook.flow_gain({"bounds_0": plain, "bounds_8": other}, 8)
        assert [row[0] for row in rows] == ["-ELBO", "-log p(x)", "gap"]
        assert [row[3] for row in rows] == pytest.approx(changes)
        assert [row[4] for row in rows] == pytest.approx([2**0.5, 2**0.5, 0.0])
        assert [row[1] for row in rows] == pytest.approx([95.0, 91.0, 4.0])
