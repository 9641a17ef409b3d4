"""Notebook 3, parts A and B: bounds and flows against torch.distributions and autograd, masks, refused inputs."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from helpers.data import datasets
from helpers.fast import sampling
from helpers.suite import Run
from helpers.work.definitions import definitions

SMALL = {"dataset": "street_digits", "limit": {"train": 70, "test": 60}, "width": 4, "epochs": 1, "batch_size": 32,
         "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def notebook():
    return definitions("3_vae_images")


@pytest.fixture(scope="module")
def flow(notebook):
    """A flow over (3, 5, 6) maps whose last layer is far from zero."""
    torch.manual_seed(0)
    flow = notebook.FlowPrior(3, 8)
    return notebook.moved(flow, flow.last, 1, scale=0.5)


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(number, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)


def made(**splits):
    return datasets.Dataset("made", splits, None, False, None, "")


# Part A


def test_kl_to_unit_normal(notebook):
    mean, shift, log_std = doubles(3, 4, 12, 2, 2)
    expected = kl_divergence(Normal(mean + shift, log_std.exp()), Normal(mean, torch.ones_like(mean))).flatten(1).sum(1)
    assert torch.allclose(notebook.kl_to_unit_normal(shift, log_std), expected, atol=1e-11)
    assert notebook.kl_to_unit_normal(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


def test_second_level_kl_is_the_residual_normals(notebook):
    torch.manual_seed(0)
    model = notebook.HierarchicalVAE(width=4).double()
    for part in (model.second, model.prior):
        part[-1].weight.data *= 5
    x, noise = doubles(3, 3, 32, 32).tanh(), doubles(3, 2, 12, 2, 2, seed=1)
    with torch.no_grad():
        mean, log_std = model.first_posterior(x)
        z1 = mean + log_std.exp() * noise[:, 0]
        shift, second = model.second_posterior(z1, x)
        prior = model.prior_mean(z1)
        expected = kl_divergence(Normal(prior + shift, second.exp()), Normal(prior, torch.ones_like(prior))).sum() / 3
        neg_elbo, recon, kl, kl1, kl2 = model(x, noise).tolist()
        z2 = prior + shift + second.exp() * noise[:, 1]
        assert recon == pytest.approx(float((x - model.decode(z2)).square().sum() / 3), rel=1e-6)
    assert float(expected) > 1
    assert kl2 == pytest.approx(float(expected), rel=1e-5)
    assert neg_elbo == pytest.approx(recon + kl) and kl == pytest.approx(kl1 + kl2)


def test_the_plain_bound_is_a_gaussian_one_of_variance_one_half(notebook):
    torch.manual_seed(0)
    model = notebook.PlainVAE(width=2)
    x, noise = doubles(4, 3, 32, 32).tanh().float(), doubles(4, 16).float()
    with torch.no_grad():
        mean, log_std = model.posterior(x)
        log_px = Normal(model.decode(mean + log_std.exp() * noise), 0.5**0.5).log_prob(x).flatten(1).sum(1).mean()
        recon = model(x, noise)[1]
    assert float(recon) == pytest.approx(float(-log_px) - 3072 / 2 * math.log(math.pi), rel=1e-5)


def test_layer_norm_is_over_channels_in_any_memory_format(notebook):
    layer, x = notebook.ChannelNorm(6).double(), doubles(2, 6, 3, 5)
    torch.nn.init.normal_(layer.weight)
    scale = (x.var(1, unbiased=False, keepdim=True) + layer.eps).sqrt()
    expected = (x - x.mean(1, keepdim=True)) / scale * layer.weight[:, None, None] + layer.bias[:, None, None]
    assert torch.allclose(layer(x), expected, atol=1e-12)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(layer(last), expected, atol=1e-12)
    assert layer(last).is_contiguous(memory_format=torch.channels_last)


def test_evaluation_does_not_depend_on_the_batch_size(notebook):
    model, images = notebook.seeded(lambda: notebook.HierarchicalVAE(4), 0), torch.from_numpy(pictures(60))
    whole, parts = (notebook.mean_terms(model, images, seed=3, batch_size=size) for size in (60, 7))
    assert torch.allclose(whole, parts, rtol=1e-5)
    assert not torch.allclose(whole, notebook.mean_terms(model, images, seed=4), rtol=1e-5)


@pytest.mark.parametrize(("question", "steps"), [("q2_a", 1), ("q2_b", 3)])  # batches of at most 128, and of 32
def test_the_courses_contract(notebook, question, steps, monkeypatch):
    monkeypatch.setattr(notebook, "EPOCHS", 1)
    train, test = pictures(70), pictures(60, 1)
    results = getattr(notebook, question)(train, test, 1)
    assert [array.shape for array in results] == [(steps, 3), (2, 3)] + [(100, 32, 32, 3)] * 3
    losses, test_losses, samples, pairs, interpolations = results
    assert np.allclose(losses[:, 0], losses[:, 1] + losses[:, 2]) and np.allclose(test_losses[:, 0], test_losses[:, 1:].sum(1))
    assert all(images.min() >= 0 and images.max() <= 255 for images in (samples, pairs, interpolations))
    assert np.array_equal(pairs[::2], test[:50])
    again = getattr(notebook, question)(train / 255, test.astype(np.int64), 1)  # the same pixels in other forms
    assert all(np.array_equal(one, other) for one, other in zip(results, again, strict=True))


def test_interpolations_end_at_reconstructions(notebook):
    model, test = notebook.seeded(lambda: notebook.PlainVAE(4), 0), torch.from_numpy(pictures(50))
    sets = notebook.picture_sets(model, test, seed=0)
    rows, reconstructions = sets["interpolations"].reshape(10, 10, 32, 32, 3), sets["pairs"][1::2]
    for row in range(10):
        for column, image in ((0, 2 * row), (-1, 2 * row + 1)):
            assert np.abs(rows[row, column].astype(int) - reconstructions[image]).max() <= 1


@pytest.mark.parametrize(("architecture", "free"), [("plain", 0.0), ("hierarchical", 0.0), ("hierarchical", 4.0)])
def test_a_run_repeats_and_says_how_far_it_came(notebook, architecture, free):
    first = notebook.train_on_dataset(Run("q2_test", 0, "0" * 64, None), architecture, **SMALL, free=free)
    second = notebook.train_on_dataset(Run("q2_test", 0, "2" * 64, None), architecture, **SMALL, free=free)
    assert first.values == second.values and first.budget == (3, 3, "steps")
    assert first.dataset["stand_in"] and first.dataset["stands_for"] == "svhn"
    assert "valid_terms" not in first.arrays and "kept" not in first.facts
    terms = first.arrays["train_terms"]
    assert np.allclose(terms[:, 0], terms[:, 1] + terms[:, 2])  # free bits change what is minimised, not what is shown
    cut = notebook.train_on_dataset(Run("q2_test", 0, "1" * 64, 1e-9), architecture, **SMALL)
    assert cut.budget == (1, 3, "steps") and np.isfinite(cut.values["neg_elbo"])


def test_free_bits_leave_the_first_level_alone_below_them(notebook):
    """With more free nats than z1 ever has, nothing pulls its posterior to the prior: only the reconstruction does."""
    kept = [notebook.train_on_dataset(Run("q2_test", 0, f"{free:0<64}", None), "hierarchical", **SMALL | {"epochs": 6}, free=free)
            for free in (0.0, 1e4)]
    assert kept[1].values["kl_z1"] > kept[0].values["kl_z1"]


def test_the_kept_weights_are_the_best_on_the_validation_images(notebook, monkeypatch):
    config = SMALL | {"limit": {"train": 70, "test": 60}, "epochs": 3}
    bounds = iter([9.0, 5.0, 2.0, 7.0])  # at the start and after each of three epochs

    def invented(model, images, *, seed, precision="float32"):
        if precision == "float32" or len(images) == 60:
            return torch.zeros(3, dtype=torch.float64)
        return torch.tensor([next(bounds), 0.0, 0.0], dtype=torch.float64)

    monkeypatch.setattr(notebook, "mean_terms", invented)
    monkeypatch.setattr(notebook.settings, "half_precision", lambda device: "bfloat16")
    outcome = notebook.train_on_dataset(Run("q2_test", 0, "0" * 64, None), "plain", validation=True, **config)
    assert outcome.arrays["kept"] == 2 and outcome.arrays["valid_terms"][:, 0].tolist() == [9.0, 5.0, 2.0, 7.0]
    assert outcome.dataset["sizes"] == {"train": 63, "valid": 7, "test": 60}
    assert set(outcome.weights["model"].state_dict()) == set(notebook.PlainVAE(4).state_dict())


def test_shifted_images_are_the_same_moved_with_their_edges_repeated(notebook):
    images, generator = torch.from_numpy(pictures(200)), torch.Generator().manual_seed(0)
    moved = notebook.shifted(images, 1, generator)
    padded = np.pad(images.numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    seen = set()
    for before, after in zip(padded, moved.numpy(), strict=True):
        places = {(row, column) for row in range(3) for column in range(3)
                  if np.array_equal(before[row : row + 32, column : column + 32], after)}
        assert len(places) == 1
        seen |= places
    assert len(seen) == 9
    assert torch.equal(notebook.shifted(images, 0, generator), images)


def test_validation_images_are_whole_houses_and_always_the_same(notebook):
    houses = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 6, 40))
    held_out = notebook.validation_part(len(houses), houses)
    assert not set(houses[held_out]) & set(houses[~held_out])
    assert len(houses) / 10 <= held_out.sum() < len(houses) / 10 + 5
    assert np.array_equal(held_out, notebook.validation_part(len(houses), houses))
    assert not np.array_equal(np.flatnonzero(held_out), np.arange(held_out.sum()))  # not the first ones
    single = notebook.validation_part(73257, None)
    assert single.sum() == 7326 and np.array_equal(single, notebook.validation_part(73257, np.arange(73257)))


def test_records_say_how_validation_images_were_chosen(notebook, monkeypatch):
    def made(name, limit):
        images = {"train": pictures(40), "test": pictures(20)}
        data = datasets.Dataset(name, images, None, False, None, "")
        object.__setattr__(data, "groups", groups)
        return data

    monkeypatch.setattr(datasets, "load", made)
    groups = {"train": np.arange(40) // 4}
    about, splits = notebook.load_splits("made", None, validation=True)
    assert about["validation"] == "by house" and about["sizes"] == {"train": 36, "valid": 4, "test": 20}
    groups = None
    about, splits = notebook.load_splits("made", None, validation=True)
    assert about["validation"] == "at random" and [len(part) for part in splits.values()] == [36, 4, 20]
    about, splits = notebook.load_splits("made", None, validation=False)
    assert "validation" not in about and list(splits) == ["train", "test"]


# Part B


def test_dequantisation(notebook):
    images = torch.from_numpy(pictures(4))
    x = notebook.dequantize(images, torch.Generator().manual_seed(0), torch.float64)
    noise = (x + 1) * 128 - images.permute(0, 3, 1, 2)
    assert noise.min() >= 0 and noise.max() < 1
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.02) and float(noise.var()) == pytest.approx(1 / 12, abs=0.005)
    assert not torch.equal(x, notebook.dequantize(images, torch.Generator().manual_seed(1), torch.float64))
    uniform_nats = notebook.PIXELS * math.log(2)  # the density 1/2 on [-1, 1]
    assert uniform_nats * notebook.BITS + 7 == pytest.approx(8)


@pytest.mark.parametrize(("kind", "centre"), [("A", 0), ("B", 1)])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_masks_by_gradients(notebook, kind, centre, kernel):
    layer = notebook.MaskedConv2d(2, 3, kernel, kind).double()
    x = doubles(1, 2, 9, 9).requires_grad_()
    seen, reach = notebook.seen_from(layer(x), x, 4, 4), kernel // 2
    assert seen.sum() == reach * kernel + reach + centre
    assert seen[4, 4] == bool(centre) and not seen[4, 5:].any() and not seen[5:].any()
    assert layer(x).shape == (1, 3, 9, 9)
    with pytest.raises(ValueError, match="kind A or B and an odd kernel, not 'C' and 4"):
        notebook.MaskedConv2d(1, 1, 4, "C")


def test_the_flow_never_sees_the_present_or_the_future(notebook, flow):
    z = doubles(1, 3, 5, 6).requires_grad_()
    hidden = flow.first(z)
    for block in flow.blocks:
        hidden = block(hidden)
    for part in flow.shift_and_scale(hidden):
        views = [notebook.seen_from(part, z, row, column).ravel() for row in range(5) for column in range(6)]
        assert not any(view[place:].any() for place, view in enumerate(views))
        assert all(view[place - 1] for place, view in enumerate(views) if place % 6)  # the neighbour to the left is always seen


def test_inverse_against_forward_at_every_place(notebook, flow):
    z = doubles(3, 3, 5, 6, seed=2)
    noise, log_det = flow(z)
    assert (noise - z).abs().max() > 0.5  # it does change something
    assert torch.allclose(flow.inverse(noise), z, atol=1e-11)
    assert torch.allclose(sampling.inverse(flow, noise), flow.inverse(noise), atol=1e-12)
    assert torch.allclose(flow(flow.inverse(noise))[0], noise, atol=1e-11)
    expected = log_det + Normal(0.0, 1.0).log_prob(noise).flatten(1).sum(1)
    assert torch.allclose(flow.log_prob(z), expected, atol=1e-11)


def test_log_determinant_against_autograd(flow):
    z = doubles(1, 3, 3, 4, seed=3)
    jacobian = torch.autograd.functional.jacobian(lambda flat: flow(flat.reshape(z.shape))[0].flatten(), z.flatten())
    sign, value = torch.linalg.slogdet(jacobian)
    assert float(sign) == 1 and float(value) == pytest.approx(float(flow(z)[1].detach()), abs=1e-10) and abs(float(value)) > 0.1


def test_a_fresh_flow_is_the_standard_normal(notebook):
    fresh, z = notebook.FlowPrior(3, 8).double(), doubles(4, 3, 5, 6)
    expected = Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    assert torch.allclose(fresh.log_prob(z), expected, atol=1e-11)
    assert torch.allclose(notebook.StandardNormal().log_prob(z), expected, atol=1e-11)
    assert torch.equal(fresh.inverse(z), z) and notebook.StandardNormal().inverse(z) is z


@pytest.mark.parametrize(("log_std", "largest"), [("tanh", 1.0), ("free", 5.0)])
def test_residual_bound_against_torch_distributions(notebook, log_std, largest):
    torch.manual_seed(0)
    model, images = notebook.ResidualVAE(notebook.StandardNormal(), 16, 1, 4, log_std), torch.from_numpy(pictures(3))
    model.encoder[-1].bias.data[4:] = 3.0
    with torch.no_grad():
        bound, recon, kl, normal_kl = model(images, torch.Generator().manual_seed(5)).tolist()
        generator = torch.Generator().manual_seed(5)
        x = notebook.dequantize(images, generator)
        mean, spread = model.posterior(x)
        assert spread.abs().max() <= largest and spread.max() > 0.5 * largest
        z = mean + spread.exp() * torch.randn(mean.shape, generator=generator)
        decoded, decoded_log_std = model.decode(z)
        log_px = Normal(decoded, decoded_log_std.exp()).log_prob(x).sum() / 3
        ratio = (Normal(mean, spread.exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum() / 3
    assert recon == pytest.approx(float(-log_px) / (3072 * math.log(2)) + 7, abs=1e-4)
    assert kl == pytest.approx(float(ratio) / (3072 * math.log(2)), abs=1e-5) and kl == normal_kl
    assert bound == pytest.approx(recon + kl, abs=1e-5)


RESIDUAL = {"dataset": "street_digits", "limit": {"train": 100, "test": 30}, "width": 16, "blocks": 1, "epochs": 2,
            "batch_size": 32, "learning_rate": 2e-4, "evaluate_every": 3, "evaluated": 8}


def test_a_normal_prior_for_each_channel(notebook):
    prior, z = notebook.ChannelNormal(3).double(), doubles(4, 3, 5, 6)
    assert torch.equal(prior.log_prob(z), notebook.StandardNormal().log_prob(z))
    prior.mean.data, prior.log_std.data = doubles(3, 1, 1, seed=1), doubles(3, 1, 1, seed=2)
    expected = Normal(prior.mean, prior.log_std.exp()).log_prob(z).flatten(1).sum(1)
    assert torch.allclose(prior.log_prob(z), expected, atol=1e-11)
    drawn = prior.inverse(doubles(20000, 3, 1, 1, seed=3))
    assert torch.allclose(drawn.mean((0, 2, 3)), prior.mean.flatten(), atol=0.05)
    assert torch.allclose(drawn.std((0, 2, 3)), prior.log_std.exp().flatten(), rtol=0.03)


def test_codes_of_a_prior_use_the_quick_inverse_of_the_flow_alone(notebook, flow, monkeypatch):
    noise = doubles(2, 3, 5, 6)
    monkeypatch.setattr(notebook.FlowPrior, "inverse", None)
    assert torch.allclose(flow(notebook.codes_of(flow, noise))[0], noise, atol=1e-11)
    assert notebook.codes_of(notebook.StandardNormal(), noise) is noise


def test_all_priors_start_as_one_model_with_equal_budgets(notebook):
    config = {"latents": 4, "log_std": "free", **RESIDUAL}
    runs = [notebook.train_residual(Run("b19_2", 0, f"{prior:0<64}", None, stop_after=1), prior, **config)
            for prior in notebook.PRIORS]
    first = runs[0]
    assert {run.budget for run in runs} == {(1, 6, "updates")}
    assert first.dataset["sizes"] == {"train": 90, "valid": 10, "test": 30}
    assert first.values["test_kl_bpd"] == first.values["test_normal_kl_bpd"]
    assert first.values["test_bpd"] == pytest.approx(first.values["test_recon_bpd"] + first.values["test_kl_bpd"], abs=1e-5)
    for other in runs[1:]:
        assert np.allclose(first.arrays["looks"][0], other.arrays["looks"][0])
        assert np.allclose(first.arrays["train_terms"], other.arrays["train_terms"])
        encoder = {name: value for name, value in other.weights["model"].state_dict().items() if name.startswith("encoder")}
        assert encoder and all(first.weights["model"].state_dict()[name].shape == value.shape for name, value in encoder.items())


def test_a_prior_trained_afterwards_leaves_the_codes_as_they_are(notebook):
    before = {"prior": "normal", "latents": 2, "log_std": "free", "after": False}
    after = before | {"prior": "flow", "after": True}
    outcome = notebook.train_variants(Run("b19_2", 0, "0" * 64, None), [before, after], **RESIDUAL | {"learning_rate": 1e-2})
    first, second = (outcome.weights[name].state_dict() for name in ("normal_2", "flow_2_after"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert outcome.values["test_recon_bpd_normal_2"] == outcome.values["test_recon_bpd_flow_2_after"]
    assert outcome.values["test_kl_bpd_flow_2_after"] != outcome.values["test_kl_bpd_normal_2"]
    assert outcome.values["test_normal_kl_bpd_flow_2_after"] == pytest.approx(outcome.values["test_kl_bpd_normal_2"])
    assert outcome.budget == (18, 18, "updates")


def test_code_statistics(notebook):
    torch.manual_seed(0)
    model, images = notebook.ResidualVAE(notebook.StandardNormal(), 16, 1, 2, "free"), torch.from_numpy(pictures(3))
    square, variance, log_std = notebook.code_statistics(model, images, 0)
    with torch.no_grad():
        mean, spread = model.posterior(notebook.dequantize(images, torch.Generator().manual_seed(0)))
    assert square == pytest.approx(float((mean**2).mean()), rel=1e-5) and log_std == pytest.approx(float(spread.mean()), rel=1e-5)
    assert variance == pytest.approx(float((spread.exp() ** 2).mean()), rel=1e-5)


# Inputs that are refused


def test_other_sizes_channels_and_values_are_refused(notebook):
    with pytest.raises(datasets.DataError, match=r"shape \(60, 32, 32, 4\); expected \(N, 32, 32, 3\)"):
        notebook.q2_a(pictures(60), np.zeros((60, 32, 32, 4), np.uint8), 1)
    images = np.full((5, 32, 32, 3), 0.5)
    images[3, 0, 0, 0] = np.nan
    with pytest.raises(datasets.DataError, match="1 of the dataset 2 train images have NaN or infinite values.* index 3"):
        notebook.q2_b(images, pictures(60), 2)
    with pytest.raises(datasets.DataError, match="the dataset 1 train split is empty"):
        notebook.q2_a(pictures(5)[:0], pictures(60), 1)


def test_missing_and_small_test_splits_are_refused(notebook, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda name, limit: made(train=pictures(5)))
    with pytest.raises(datasets.DataError, match="made has no test split; it has train"):
        notebook.load_splits("made", None, validation=False)
    with pytest.raises(datasets.DataError, match="has 5 images; expected at least 50"):
        notebook.q2_a(pictures(60), pictures(5), 1)
