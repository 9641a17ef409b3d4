"""Notebook 3, part C: the discretised mixture, the limited receptive field, sampling by crops, the blind start."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from helpers.fast import sampling
from helpers.results.records import load
from helpers.settings import PROJECT_ROOT
from helpers.suite import Run
from helpers.work.definitions import definitions


@pytest.fixture(scope="module")
def notebook():
    return definitions("3_vae_images")


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniforms(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).clamp(1e-9, 1 - 1e-9)


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 3.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, 0.013, 1.0])
def test_the_bins_of_one_logistic(notebook, mean, log_scale):
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    probabilities = notebook.log_bin_probability(x, torch.tensor(mean), torch.tensor(log_scale, dtype=torch.float64)).exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    with np.errstate(over="ignore"):
        expected = torch.from_numpy(np.diff(1 / (1 + np.exp(-(edges - mean) / np.exp(log_scale)))))
    assert torch.allclose(probabilities, expected, atol=1e-12)


def test_each_colour_sums_to_one_given_those_before_it(notebook):
    raw = 2 * doubles(2, notebook.MIXTURE_CHANNELS, 1, 1)
    log_weights, means, log_scales, coefficients = notebook.mixture_parameters(raw)
    every = (torch.arange(256, dtype=torch.float64) / 127.5 - 1)[:, None]
    for colour in range(3):
        x = torch.tensor([0.3, -0.9, 0.5], dtype=torch.float64).repeat(256, 1)
        x[:, colour] = every[:, 0]
        chained = notebook.chained_means(means, coefficients, x[:, None, None, None, :, None])
        parts = chained[..., colour, :], log_scales[..., colour, :]
        sums = notebook.log_bin_probability(every[:, None, None, None], *parts).exp().sum(0)
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-12)
    assert torch.allclose(log_weights.exp().sum(-1), torch.ones(2, 1, 1, dtype=torch.float64))


def test_a_colour_is_chained_to_those_before_it_only(notebook):
    raw = 2 * doubles(1, notebook.MIXTURE_CHANNELS, 1, 1)
    _, means, _, coefficients = notebook.mixture_parameters(raw)
    x = doubles(1, 1, 1, 3, 1).requires_grad_()
    chained = notebook.chained_means(means, coefficients, x)
    for colour in range(3):
        (gradient,) = torch.autograd.grad(chained[..., colour, :].sum(), x, retain_graph=True, allow_unused=True)
        assert (gradient.flatten() != 0).tolist() == [place < colour for place in range(3)]


def test_the_mixture_sums_over_all_colours_that_share_two(notebook):
    raw, values = 2 * doubles(1, notebook.MIXTURE_CHANNELS, 1, 1), torch.arange(256)
    pixels = torch.stack([torch.full((256,), 17), torch.full((256,), 200), values], 1)[:, None, None]
    with_blue = torch.exp(-notebook.mixture_nats(pixels, raw.expand(256, -1, -1, -1))).sum()
    log_weights, means, log_scales, coefficients = notebook.mixture_parameters(raw)
    x = (torch.tensor([17.0, 200.0, 0.0], dtype=torch.float64) / 127.5 - 1)[:, None]
    parts = notebook.log_bin_probability(x, notebook.chained_means(means, coefficients, x), log_scales)[..., :2, :].sum(-2)
    assert float(with_blue) == pytest.approx(float(torch.logsumexp(parts + log_weights, -1).exp()), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_gradients_are_finite_at_extremes(notebook, value, dtype):
    for seed in range(3):
        raw = (80 * doubles(1, notebook.MIXTURE_CHANNELS, 1, 1, seed=seed)).to(dtype).requires_grad_()
        nats = notebook.mixture_nats(torch.full((1, 1, 1, 3), value, dtype=torch.uint8), raw)
        nats.sum().backward()
        assert torch.isfinite(nats).all() and torch.isfinite(raw.grad).all() and raw.grad.abs().sum() > 0


def test_draws_follow_the_probabilities(notebook):
    raw, number = doubles(1, notebook.MIXTURE_CHANNELS, 1, 1, seed=4), 40_000
    drawn = notebook.mixture_sample(raw.expand(number, -1, -1, -1), uniforms(number, 4)).long()
    assert drawn.min() >= 0 and drawn.max() <= 255
    log_weights, means, log_scales, _ = notebook.mixture_parameters(raw)
    x = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).reshape(256, 1, 1, 1)
    log_red = notebook.log_bin_probability(x, means[..., 0, :], log_scales[..., 0, :])
    expected = torch.logsumexp(log_red + log_weights, -1).exp().flatten()
    frequency = torch.bincount(drawn[:, 0], minlength=256) / number
    assert ((frequency - expected).abs() <= 5 * (expected / number).sqrt() + 1e-3).all()


@pytest.mark.parametrize(("kernel", "number"), [(3, 4), (5, 12), (7, 24)])
def test_receptive_field_by_gradients(notebook, kernel, number):
    torch.manual_seed(0)
    decoder = notebook.PixelDecoder(kernel, 8, 4, 2).double()
    x, features = doubles(1, 3, 11, 11).requires_grad_(), doubles(1, 4, 11, 11).requires_grad_()
    seen, reach = notebook.seen_from(decoder(x, features), x, 5, 5), kernel // 2
    rows, columns = seen.nonzero()
    assert seen.sum() == number and not seen[5, 5:].any() and not seen[6:].any()
    assert (rows.min(), columns.min(), columns.max()) == (5 - reach, 5 - reach, 5 + reach)
    assert notebook.seen_from(decoder(x, features), features, 5, 5).sum() == 1 + number  # its own, and the neighbours' sketch


def test_mixture_about_a_centre_is_the_mixture_of_what_is_left(notebook):
    raw, x, centre = doubles(2, notebook.MIXTURE_CHANNELS, 3, 4, seed=1), doubles(2, 3, 3, 4, seed=2), doubles(2, 3, 3, 4, seed=3)

    def means_at(raw, x):
        _, means, _, coefficients = notebook.mixture_parameters(raw)
        return notebook.chained_means(means, coefficients, x.permute(0, 2, 3, 1)[..., None])

    about = notebook.mixture_about(centre, raw)
    expected = centre.permute(0, 2, 3, 1)[..., None] + means_at(raw, x - centre)
    assert torch.allclose(means_at(about, x), expected, atol=1e-12)
    for kept in (slice(0, notebook.MIXTURES), slice(4 * notebook.MIXTURES, None)):  # weights; log scales and coefficients
        assert torch.equal(about[:, kept], raw[:, kept])


def test_a_blind_decoder_sees_no_neighbour_and_its_sight_is_an_images_own(notebook):
    torch.manual_seed(0)
    decoder = notebook.PixelDecoder(5, 8, 4, 2).double()
    x, features = doubles(2, 3, 8, 8).requires_grad_(), doubles(2, 4, 8, 8).requires_grad_()
    assert not notebook.seen_from(decoder(x, features, 0.0), x, 4, 4).any()
    assert notebook.seen_from(decoder(x, features, 0.0), features, 4, 4).sum() == 1
    one = decoder(x, features, torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1).double())
    assert torch.equal(one[:1], decoder(x, features)[:1]) and torch.equal(one[1:], decoder(x, features, 0.0)[1:])


def test_blind_start_opens_its_eyes_once_and_gradually(notebook):
    sights = [notebook.sight_at(step, 20) for step in range(60)]
    assert sights[:21] == [0.0] * 21 and sights[25] == pytest.approx(0.5) and sights[30:] == [1.0] * 30
    assert all(earlier <= later for earlier, later in pairwise(sights))
    assert {notebook.sight_at(step, 0) for step in range(5)} == {1.0}

    asked, weight = [], torch.nn.Linear(1, 1)

    class Model(torch.nn.Module):
        inner = weight

        def forward(self, batch, generator, sight):
            asked.append(sight)
            return weight(batch).reshape(1)

    loss = notebook.blind_start(Model(), 2)
    for step in range(4):
        loss(torch.ones(1, 1), torch.Generator(), step)
    assert asked == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("kernel", [3, 7])
def test_sampling_by_crops_equals_full_passes(notebook, kernel):
    torch.manual_seed(1)
    decoder = notebook.PixelDecoder(kernel, 8, 4, 2).double()
    features, uniform = 3 * doubles(3, 4, 8, 10), uniforms(3, 4, 8, 10)
    quick = sampling.draw_pixels(decoder, features, uniform, notebook.mixture_sample)
    assert torch.equal(quick, decoder.sample(features, uniform))
    assert quick.dtype == torch.uint8 and len(quick.unique()) > 50


def test_free_bits_are_a_blind_decoders_and_change_the_objective_not_the_bound(notebook):
    torch.manual_seed(0)
    model = notebook.LossyVAE(3, 16, 1, 2, 8, free=0.5)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))

    def terms(sight):
        return model(images, torch.Generator().manual_seed(0), sight).detach().tolist()

    objective, recon, kl, bound = terms(0.0)
    assert kl < 0.5 and bound == pytest.approx(recon + kl) and objective == pytest.approx(recon + 0.5)
    objective, recon, kl, bound = terms(0.9)
    assert objective == pytest.approx(recon + max(kl, 0.05))
    objective, recon, kl, bound = terms(1.0)
    assert objective == pytest.approx(recon + max(kl, 0.0)) and bound == pytest.approx(recon + kl)


def test_both_fields_get_equal_budgets_within_the_time(notebook):
    config = notebook.RUNS["b19_3_bonus"].config("smoke") | {"limit": {"train": 100, "test": 20}, "epochs": 2}
    outcome = notebook.train_lossy(Run("b19_3_bonus", 0, "0" * 64, 1e-9), **config)
    assert outcome.budget == (2, 12, "updates") and list(outcome.weights) == ["kernel_7", "kernel_3"]
    assert len(outcome.arrays["train_terms"]) == len(outcome.arrays["train_terms_small_field"]) == 1
    assert outcome.arrays["samples"].shape == (50, 32, 32, 3) and outcome.arrays["decoded"].shape == (80, 32, 32, 3)
    assert outcome.values["test_bpd"] == pytest.approx(outcome.values["recon_bpd"] + outcome.values["kl"] * notebook.BITS)


# ---------------------------------------------------------------- what is said of several seeds


def seeds_of(run_id):
    """The metrics of each root of a recorded run."""
    return [part["metrics"] for part in load(run_id, PROJECT_ROOT / "results")["repeats"].values()]


def test_the_answers_hold_for_every_seed_that_they_speak_of():
    normal, flow, bonus = map(seeds_of, ("b19_2a", "b19_2b", "b19_3_bonus"))
    assert len(normal) == len(flow) == len(bonus) == 3
    assert all(one["test_bpd"] < other["test_bpd"] for one, other in zip(flow, normal, strict=True))
    assert max(seed["test_bpd"] for seed in flow) < min(seed["test_bpd"] for seed in normal)
    assert all(seed["kl_small_field"] > seed["kl"] for seed in bonus)
    lead = sorted(seed["test_bpd_small_field"] - seed["test_bpd"] for seed in bonus)  # below zero: the small field's is lower
    assert -0.05 < lead[0] < lead[1] < 0 and lead[2] > 0.1
    below = min(seed["test_bpd"] for seed in flow)
    assert all(max(seed["test_bpd"], seed["test_bpd_small_field"]) < below for seed in bonus)
