"""Notebook 6: losses and penalties against closed forms, the alternating update, the Dirac games, the networks, the distances."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from helpers import notebooks, records, settings, standins, tables
from helpers.checkpoints import Checkpoint
from helpers.records import Run
from helpers.training import Batches, NonFiniteLoss, fit

CPU = torch.device("cpu")
OPTIMISERS = {"critic_steps": 2, "alpha": 0.9, "learning_rates": (2e-4, 4e-4), "betas": (0.0, 0.99), "weight_decay": 1e-6}


@pytest.fixture(scope="module")
def notebook():
    return notebooks.definitions("6_gan_critics")


def doubles(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_critic(seed=0):
    """A smooth convolutional critic of (N, 3, 8, 8) images in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Softplus(), nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)).double()


# ---------------------------------------------------------------- losses and regularisers


def test_jsd_is_zero_for_a_constant_critic_and_at_most_log_two(notebook):
    zeros = torch.zeros(50, dtype=torch.float64)
    assert notebook.jsd(zeros, zeros).item() == pytest.approx(0.0, abs=1e-15)
    assert notebook.jsd(zeros + 1e4, zeros - 1e4).item() == pytest.approx(math.log(2), abs=1e-15)
    for seed in range(20):
        real, fake = 10 * doubles(2, 50, seed=seed)
        assert notebook.jsd(real, fake) <= math.log(2)
    wrong = notebook.jsd(zeros - 1e4, zeros + 1e4)
    assert torch.isfinite(wrong) and wrong < 0  # a bound, so it may be negative


def test_jsd_of_the_best_critic_is_the_divergence(notebook):
    p, q = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]], dtype=torch.float64)
    middle = (p + q) / 2
    divergence = 0.5 * (p * (p / middle).log()).sum() + 0.5 * (q * (q / middle).log()).sum()
    counts = [(torch.tensor(10) * weights).round().long() for weights in (p, q)]
    best = torch.log(p / q)
    estimate = notebook.jsd(*(best.repeat_interleave(count) for count in counts))
    assert estimate.item() == pytest.approx(divergence.item(), abs=1e-12)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3, 4, 5)])
def test_metric_and_penalties_of_a_linear_critic_have_closed_forms(notebook, shape):
    real, fake, share = doubles(*shape), doubles(*shape, seed=1), torch.rand(6, dtype=torch.float64)
    weight = doubles(*shape[1:], seed=2)

    def critic(x):
        return (x * weight).reshape(6, -1).sum(1)

    norm = weight.square().sum().sqrt()
    assert notebook.w1(critic(real), critic(fake)).item() == pytest.approx(critic(real - fake).mean().item())
    mixed = notebook.mix(real, fake, share).requires_grad_()
    scores = critic(mixed)
    assert notebook.input_gradients(scores, mixed).shape == (6, weight.numel())
    assert notebook.r1_penalty(scores, mixed).item() == pytest.approx((norm**2).item(), abs=1e-12)
    assert notebook.one_centred_penalty(scores, mixed).item() == pytest.approx(((norm - 1) ** 2).item(), abs=1e-12)


def test_mixing_uses_one_share_an_example(notebook):
    real, fake = doubles(2, 3, 2, 4, 4)
    mixed = notebook.mix(real, fake, torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    assert torch.equal(mixed[0], fake[0])
    assert torch.equal(mixed[2], real[2])
    assert torch.allclose(mixed[1], 0.25 * real[1] + 0.75 * fake[1])


@pytest.mark.parametrize("penalty", ["r1_penalty", "one_centred_penalty"])
def test_second_derivatives_of_a_penalty_against_finite_differences(notebook, penalty):
    critic, x = small_critic(), doubles(5, 3, 8, 8)

    def value():
        inputs = x.clone().requires_grad_()
        return getattr(notebook, penalty)(critic(inputs), inputs)

    weight = critic[0].weight
    (gradient,) = torch.autograd.grad(value(), [weight])
    for index in (0, 17, 53, 107):
        flat, step, sides = weight.data.view(-1), 1e-6, []
        for sign in (1, -1):
            flat[index] += sign * step
            sides.append(value().item())
            flat[index] -= sign * step
        numerical = (sides[0] - sides[1]) / (2 * step)
        assert gradient.flatten()[index].item() == pytest.approx(numerical, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("shape", [(8, 3, 4, 4), (1, 8, 4, 4), (8, 8, 1, 1)])
def test_spectral_convolution_divides_by_the_largest_singular_value(notebook, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = notebook.SpectralConv2d(shape[1], shape[0], shape[2]).double()
    for _ in range(300):
        layer.iterate()
    exact = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    assert layer.largest_singular_value().item() == pytest.approx(exact.item(), rel=1e-9)
    x = doubles(2, shape[1], 9, 9)
    expected = nn.functional.conv2d(x, layer.weight / exact, layer.bias)
    assert torch.allclose(layer.eval()(x), expected, atol=1e-9)


def test_spectral_convolution_has_the_gradient_of_torchs_own(notebook):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = notebook.SpectralConv2d(3, 6, 3).double()
        theirs = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 6, 3).double(), n_power_iterations=1)
    inner = theirs.parametrizations.weight
    inner.original.data, theirs.bias.data = ours.weight.data.clone(), ours.bias.data.clone()
    x = doubles(4, 3, 8, 8)
    for _ in range(400):  # each training pass makes one power iteration; theirs starts with the other vector
        mine, other = ours(x), theirs(x)
    assert torch.allclose(mine, other, atol=1e-10)
    (gradient,) = torch.autograd.grad(mine.square().sum(), [ours.weight])
    (expected,) = torch.autograd.grad(other.square().sum(), [inner.original])
    assert torch.allclose(gradient, expected, atol=1e-8)


def test_spectral_vectors_move_only_in_training_and_stay_the_same_tensors(notebook):
    layer = notebook.SpectralConv2d(3, 6, 3)
    left, before = layer.left, layer.left.clone()
    layer.eval()(torch.ones(1, 3, 5, 5))
    assert torch.equal(layer.left, before)
    layer.train()(torch.ones(1, 3, 5, 5))
    assert layer.left is left  # a captured update reads and writes the same memory
    assert not torch.equal(layer.left, before)


# ---------------------------------------------------------------- the alternating update


def dirac_update(notebook, objective, alpha=0.5):
    generator, critic = notebook.DiracGenerator(0.8), notebook.DiracCritic(-0.4, 0.3)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (generator, critic)]
    return notebook.AlternatingUpdate(generator, critic, *optimizers, objective, latent_size=1, critic_steps=1, alpha=alpha)


def test_the_generator_sees_the_updated_critic_and_the_average_the_updated_generator(notebook):
    update = dirac_update(notebook, notebook.Objective("w1"))
    terms = update(torch.zeros(3, dtype=torch.float64), 0, torch.Generator().manual_seed(0))
    psi0 = -0.4 - 0.1 * 0.8
    theta = 0.8 + 0.1 * psi0
    assert update.critic.psi0.item() == pytest.approx(psi0, abs=1e-15)
    assert update.generator.theta.item() == pytest.approx(theta, abs=1e-15)
    assert update.average.module.theta.item() == pytest.approx(0.5 * 0.8 + 0.5 * theta, abs=1e-15)
    expected = [0.4 * 0.8, 0.0, 0.3, -0.4 * 0.8 + 0.3, psi0 * 0.8 + 0.3]
    assert terms.tolist() == pytest.approx(expected, abs=1e-15)


def test_the_generators_step_leaves_the_critic_alone(notebook):
    update = dirac_update(notebook, notebook.Objective("jsd"))
    after_critic = copy.deepcopy(update)
    after_critic.critic_step(torch.zeros(3, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64), None)
    update(torch.zeros(3, dtype=torch.float64), 0, torch.Generator().manual_seed(0))
    assert torch.equal(update.critic.psi0, after_critic.critic.psi0)


def gan(notebook, metric="jsd", regulariser="none", coefficient=0.0, seed=0):
    """A small GAN on random pixels: update and batches."""
    pair = notebook.build_pair(4, regulariser == "sn", seed, CPU)
    update = notebook.build_update(*pair, notebook.Objective(metric, regulariser, coefficient), **OPTIMISERS)
    pixels = torch.randint(0, 256, (32, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return update, Batches(pixels, 16, seed=0)


@pytest.mark.parametrize(("metric", "regulariser", "coefficient"), [
    ("jsd", "none", 0.0), ("w1", "sn", 0.0), ("w1", "r1", 1.0), ("jsd", "gp", 10.0)])
def test_an_interrupted_run_goes_on_to_the_same_bits(notebook, tmp_path, metric, regulariser, coefficient):
    arguments = {"metric": metric, "regulariser": regulariser, "coefficient": coefficient}
    whole, batches = gan(notebook, **arguments)
    history = fit(whole, batches, steps=4, seed=3)
    assert history.terms.shape == (4, 5)
    assert np.isfinite(history.terms).all()
    assert (history.terms[:, 1] > 0).all() == (regulariser in ("r1", "gp"))
    checkpoint = Checkpoint(tmp_path / "gan.pt", "fingerprint")
    fit(gan(notebook, **arguments)[0], batches, steps=4, seed=3, checkpoint=checkpoint, time_budget=1e-9)  # stops after a step
    resumed, batches = gan(notebook, **arguments, seed=9)  # another start: everything must come from the checkpoint
    assert np.array_equal(fit(resumed, batches, steps=4, seed=3, checkpoint=checkpoint).terms, history.terms)
    for name in ("generator", "critic", "average"):
        for mine, theirs in zip(whole.state_dict()[name].values(), resumed.state_dict()[name].values(), strict=True):
            assert torch.equal(mine, theirs)


def test_an_exploded_critic_stops_with_the_step_and_keeps_the_last_good_checkpoint(notebook, tmp_path):
    update, batches = gan(notebook, "w1")
    checkpoint = Checkpoint(tmp_path / "gan.pt", "fingerprint")
    fit(update, batches, steps=3, seed=0, checkpoint=checkpoint, time_budget=1e-9)
    good = checkpoint.path.read_bytes()
    exploding, _ = gan(notebook, "w1")
    step = exploding.step

    def poisoned(batch, latents):
        exploding.critic.head.weight.data.fill_(float("inf"))
        return step(batch, latents)

    exploding.run_step = poisoned
    with pytest.raises(NonFiniteLoss, match=rf"not finite at step 1: .*the last good checkpoint is {checkpoint.path}"):
        fit(exploding, batches, steps=3, seed=0, checkpoint=checkpoint)
    assert checkpoint.path.read_bytes() == good


@pytest.mark.parametrize(("arguments", "message"), [
    (("hinge",), "the metric 'hinge' is unknown; the metrics are jsd, w1"),
    (("jsd", "r2"), "the regulariser 'r2' is unknown; the regularisers are none, r1, gp, sn"),
    (("jsd", "r1", -1.0), "not negative, not -1.0"),
    (("jsd", "r1", math.nan), "not negative, not nan"),
])
def test_an_objective_refuses_what_it_does_not_know(notebook, arguments, message):
    with pytest.raises(ValueError, match=message):
        notebook.Objective(*arguments)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, 2.0])
def test_the_average_refuses_alpha_outside_its_range(notebook, alpha):
    with pytest.raises(ValueError, match=rf"lies in \[0, 1\), not {alpha}"):
        dirac_update(notebook, notebook.Objective("jsd"), alpha)


def test_pixels_and_images_are_inverse_and_refuse_other_ranges(notebook):
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    images = notebook.scale_pixels(pixels)
    assert (images.min().item(), images.max().item()) == (-1.0, 1.0)
    assert torch.equal(notebook.to_pixels(images), pixels)
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]; these reach from 0.0 to 255.0"):
        notebook.to_pixels(pixels.float())
    with pytest.raises(ValueError, match="from nan to nan"):
        notebook.to_pixels(torch.full((1, 3, 4, 4), math.nan))
    with pytest.raises(ValueError, match=r"must be uint8, 0 to 255, not torch.float32"):
        notebook.scale_pixels(images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("metric", "regulariser", "coefficient"), [("jsd", "none", 0.0), ("w1", "sn", 0.0), ("w1", "r1", 1.0)])
def test_a_captured_update_is_the_eager_one(notebook, metric, regulariser, coefficient):
    device = torch.device("cuda")
    terms = {}
    for captured in (False, True):
        pair = notebook.build_pair(16, regulariser == "sn", 0, device)
        objective = notebook.Objective(metric, regulariser, coefficient)
        update = notebook.build_update(*pair, objective, **OPTIMISERS, captured=captured)
        noise = torch.Generator(device).manual_seed(0)
        pixels = torch.randint(0, 256, (32, 3, 32, 32), generator=noise, device=device, dtype=torch.uint8)
        terms[captured] = torch.stack([update(pixels, step, noise) for step in range(12)])
    assert torch.allclose(terms[True], terms[False], rtol=0.05, atol=0.02)


# ---------------------------------------------------------------- Dirac games


@pytest.mark.parametrize("index", range(20))
def test_closed_form_games_are_those_of_autograd(notebook, index):
    game = notebook.DIRAC_GAMES[index]
    start = np.random.default_rng(index).normal(0, 0.7, 3)
    ours = notebook.play_dirac((game,), start[None], steps=30, rate=0.1)[..., 0, 0]
    assert np.abs(ours - notebook.play_dirac_by_autograd(game, start, steps=30, rate=0.1)).max() < 1e-13


def test_the_twenty_games_have_the_sheets_order(notebook):
    labels = {game.name: game.label for game in notebook.DIRAC_GAMES}
    assert len(labels) == 20
    assert labels["jsd_1"] == "JSD, no penalty"
    assert labels["jsd_4"] == "JSD, GP 0.01"
    assert labels["w1_8"] == "W1, R1 0.1, EMA 0.998"


@pytest.mark.parametrize("simultaneous", [False, True])
def test_the_linear_theory_is_the_jacobian_of_the_update(notebook, simultaneous):
    games = tuple(game for game in notebook.DIRAC_GAMES if game.objective.regulariser != "gp" and game.alpha == 0)
    assert len(games) == 6
    for game in games:
        moved = 1e-6 * np.array([[1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1.0]])
        after = notebook.play_dirac((game,), moved, steps=1, rate=0.1, simultaneous=simultaneous)[1, [0, 2], 0]
        numerical = np.stack([after[:, 0] - after[:, 1], after[:, 2] - after[:, 3]], axis=1) / 2e-6
        matrix = notebook.update_matrix(game.objective, 0.1, simultaneous)
        assert np.abs(numerical - matrix).max() < 1e-9
        if not simultaneous:
            coefficient = game.objective.coefficient
            assert np.abs(np.linalg.eigvals(matrix)) == pytest.approx([math.sqrt(1 - 0.2 * coefficient)] * 2)


def test_alternating_w1_conserves_its_quadratic_form_and_its_offset(notebook):
    path = notebook.play_dirac(notebook.DIRAC_GAMES[10:11], np.array([[0.3, -0.9, 1.1]]), steps=5000, rate=0.1)[..., 0, 0]
    psi0, psi1, theta = path[:, :3].T
    form = psi0**2 + theta**2 - 0.1 * psi0 * theta
    assert np.abs(form / form[0] - 1).max() < 1e-10
    assert (psi1 == -0.9).all()


def test_the_record_has_the_verdicts_asked_for(notebook):
    outcome = notebook.run_dirac(Run("dirac", 1, "fingerprint", None), steps=5000, rate=0.1, starts=16)
    expected = tables.deliverables()["dirac"]["verdicts"]
    found = outcome.facts["verdicts"]
    assert len(found) == 20
    for name, word in found.items():
        family, number = name.split("_")
        assert word == expected[f"{family}_{(int(number) - 1) % 5 + 1}"]
    assert outcome.facts["verdicts_simultaneous"]["w1_1"] == "diverges"
    assert len(outcome.values["final_radius_jsd_1"]) == 16
    cycles = [index for index, game in enumerate(notebook.DIRAC_GAMES) if game.objective.regulariser == "gp"]
    assert np.abs(outcome.arrays["alternating_final_radius"][cycles] - 4 / math.pi).max() < 0.12


@pytest.mark.parametrize(("first", "final", "word"), [
    ([1.0, 2.0], [1e-9, 1e-7], "converges"), ([1.0, 2.0], [0.02, 0.1], "spiral in"), ([1.0, 2.0], [1.12, 1.75], "orbit"),
    ([1.0, 2.0], [1.3, 1.25], "limit cycle"), ([1.0, 2.0], [3.0, 8.0], "diverges"), ([1.0, 2.0], [3.0, math.inf], "diverges"),
    ([1.0, 2.0], [0.4, 0.9], "undecided"), ([1.0, 2.0], [1e-9, 0.9], "undecided"),
])
def test_the_rule_of_the_verdicts(notebook, first, final, word):
    assert notebook.verdict(np.array(first), np.array(final)) == word


def test_the_factor_a_step_of_a_known_decay(notebook):
    radius = 3.0 * 0.99 ** np.arange(1001)[:, None, None]
    assert notebook.factor_per_step(radius) == pytest.approx(0.99, abs=1e-12)


@pytest.mark.parametrize("starts", [np.zeros((3, 2)), np.zeros(3), np.array([[0.0, np.nan, 1.0]])])
def test_games_refuse_bad_starts(notebook, starts):
    with pytest.raises(ValueError, match=r"finite rows of psi0, psi1, theta, shape \(S, 3\)"):
        notebook.play_dirac(notebook.DIRAC_GAMES[:1], starts, steps=1, rate=0.1)


# ---------------------------------------------------------------- networks


def test_parameter_counts_are_the_sheets(notebook):
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in notebook.build_pair(128, False, 0, CPU)]
    assert counts == [6_895_494, 6_079_108]
    spectral = notebook.build_pair(128, True, 0, CPU)[1]
    assert sum(parameter.numel() for parameter in spectral.parameters()) == 6_079_108
    convolutions = [module for module in spectral.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 10
    assert all(isinstance(module, notebook.SpectralConv2d) and module.bias is not None for module in convolutions)


def test_a_residual_block_starts_near_the_identity(notebook):
    block, x = notebook.Mixed(nn.Conv2d(2, 2, 1)).double(), doubles(3, 2, 4, 4)
    share = 1 / (1 + math.exp(3))
    assert torch.allclose(block(x), (1 - share) * x + share * block.branch(x), atol=1e-12)


def test_images_and_scores_have_their_shapes_and_ranges(notebook):
    generator, critic = notebook.build_pair(4, False, 0, CPU)
    images = generator(torch.randn(5, 100))
    assert images.shape == (5, 3, 32, 32)
    assert images.abs().max() <= 1
    assert critic(images).shape == (5,)
    assert torch.allclose(critic(images)[2:3], critic(images[2:3]), atol=1e-6)  # no image depends on another


def test_fresh_statistics_are_those_of_fresh_batches_and_leave_the_generator_as_it_was(notebook):
    generator, _ = notebook.build_pair(4, False, 0, CPU)
    before = copy.deepcopy(generator.state_dict())
    renewed = notebook.with_fresh_statistics(generator, batches=3, batch_size=8, seed=5)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name])
    latents = notebook.draw_latents(generator, 24, 5)
    means = torch.stack([generator.layers[0](batch[:, :, None, None]).mean((0, 2, 3)) for batch in latents.split(8)]).mean(0)
    assert torch.allclose(renewed.layers[1].running_mean, means, atol=1e-5)
    assert not renewed.training
    assert torch.equal(notebook.generate(renewed, 4, 1), notebook.generate(renewed, 4, 1, batch_size=3))


# ---------------------------------------------------------------- Inception Score and Fréchet distance


@pytest.fixture(scope="module")
def extractor(notebook, pixels):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = notebook.SmallNet().requires_grad_(False)
        for _ in range(20):  # running statistics of these images, so that the features have a size to speak of
            network(pixels[:64])
        network.eval()
    return notebook.Extractor("smallnet", "0123456789abcdef", network)


@pytest.fixture(scope="module")
def pixels(notebook):
    return notebook.resident_pixels(standins.photo_patches("train", 200)[0], CPU)


def test_the_same_images_are_at_distance_zero_and_more_noise_is_further(notebook, extractor, pixels):
    reference = {"fid": extractor.statistics(pixels), "fid_against_test": extractor.statistics(pixels[:100])}
    noise, distances = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)), []
    for strength in (0, 10, 30, 90):
        found = extractor.scores((pixels + strength * noise).clamp(0, 255).round().to(torch.uint8), reference)
        assert list(found) == ["inception_score_smallnet", "fid_smallnet", "fid_against_test_smallnet"]
        assert found["inception_score_smallnet"] >= 1 - 1e-9
        distances.append(found["fid_smallnet"])
    assert distances[0] == pytest.approx(0.0, abs=1e-6)
    assert distances == sorted(distances)
    assert distances[1] > 1e-6


def test_the_batch_size_does_not_matter(extractor, pixels):
    for whole, parts in zip(extractor(pixels), extractor(pixels, 17), strict=True):
        assert whole.dtype == torch.float64
        assert torch.allclose(whole, parts, atol=1e-5)


def test_our_calls_are_what_torch_fidelity_computes_for_the_registered_classifier(notebook, extractor, pixels, capsys):
    notebook.check_extractor(extractor, pixels)
    assert "fid_smallnet of noise" in capsys.readouterr().out
    assert notebook.register(extractor) == notebook.register(extractor) == "smallnet-0123456789ab"


def test_only_the_inception_network_gives_numbers_their_plain_names(notebook, extractor):
    assert notebook.Extractor("inception", "", extractor.network).suffix == ""
    assert extractor.suffix == "_smallnet"


def test_the_packed_classifier_is_the_classifier(notebook, extractor, pixels):
    weights = notebook.pack_weights(extractor.network)
    assert weights.dtype == np.float16
    again = notebook.unpack_weights(weights)
    assert np.array_equal(notebook.pack_weights(again), weights)
    assert torch.allclose(again(pixels[:8])[1], extractor.network(pixels[:8])[1], atol=1e-2)
    with pytest.raises(ValueError, match=r"not an array of shape \(7,\)"):
        notebook.unpack_weights(weights[:7])


def test_augmentation_shifts_and_mirrors_whole_images(notebook):
    picture = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(200, 3, 8, 8)
    moved = notebook.shifted_and_flipped(picture, torch.Generator().manual_seed(0), reach=1)
    padded = nn.functional.pad(picture[:1].float(), (1,) * 4, mode="replicate").to(torch.uint8)
    crops = [padded[0, :, down : down + 8, right : right + 8] for down in range(3) for right in range(3)]
    possible = {view.numpy().tobytes() for crop in crops for view in (crop, crop.flip(2))}
    seen = {image.numpy().tobytes() for image in moved}
    assert seen <= possible
    assert len(seen) > 12


def test_without_any_extractor_the_error_says_what_to_run(notebook, monkeypatch):
    monkeypatch.delenv("SUITE_INCEPTION", raising=False)
    with pytest.raises(records.RecordError, match="run cifar10_smallnet first"):
        notebook.load_extractor(CPU)
    monkeypatch.setenv("SUITE_INCEPTION", "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="SUITE_INCEPTION names nowhere.pth, which is not a file"):
        notebook.load_extractor(CPU)


# ---------------------------------------------------------------- whole runs


def test_a_gan_trains_evaluates_and_says_what_it_measured(notebook, monkeypatch):
    monkeypatch.setattr(settings, "device", lambda: CPU)
    suite = records.Suite("6_gan_critics")
    data = {"dataset": "photo_patches", "limit": {"train": 256, "test": 128}}
    suite.run("cifar10_smallnet", notebook.train_smallnet, data | {"epochs": 1, "batch_size": 64, "learning_rate": 1e-3})
    config = notebook.PLAN | data | {
        "metric": "w1", "regulariser": "r1", "coefficient": 1.0, "width": 4, "updates": 4, "evaluate_every": 2,
        "statistics_batches": 2, "curve_samples": 64, "final_samples": 128}
    record = suite.run("cifar10_w1_3", notebook.train_gan, config)
    assert record.arrays["samples"].shape == (100, 32, 32, 3)
    assert record.arrays["samples"].dtype == np.uint8
    assert record.arrays["evaluations"].shape == (len(record.arrays["evaluation_steps"]), 6)
    assert record.metrics["w1_test"] == pytest.approx(record.metrics["score_test"] - record.metrics["score_fake"], abs=1e-5)
    assert record["facts"]["extractor"] == "smallnet"
    assert record["facts"]["reference"] == {"fid": 256, "fid_against_test": 128}
    assert "fid" not in record.metrics
    assert record.metrics["fid_smallnet"] > 0
    assert "stand-in for cifar10" in record.remark
    first = record.content["metrics"]
    monkeypatch.setenv("SUITE_RETRAIN", "*")
    assert suite.run("cifar10_w1_3", notebook.train_gan, config).content["metrics"] == first  # bit for bit on a CPU


def test_a_cpu_starts_no_full_run_on_its_own(notebook, monkeypatch, capsys):
    monkeypatch.setenv("SUITE_PROFILE", "full")
    monkeypatch.setattr(settings, "device", lambda: CPU)
    monkeypatch.setattr(notebook, "suite", records.Suite("6_gan_critics"), raising=False)
    assert notebook.affordable("cifar10_jsd_1", notebook.train_gan, {"metric": "jsd"}) is None
    assert "not recorded yet" in capsys.readouterr().out
