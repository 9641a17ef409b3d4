"""Notebook 6: losses and penalties against closed forms, the alternating update."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from helpers.fast.gan import CapturedUpdate, float32_convolutions, full_float32
from helpers.train.checkpoints import Checkpoint
from helpers.train.training import Batches, NonFiniteLoss, fit
from helpers.work.definitions import definitions

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
OPTIMISERS = {"critic_steps": 2, "alpha": 0.9, "learning_rates": (2e-4, 4e-4), "betas": (0.0, 0.99), "weight_decay": 1e-6}


@pytest.fixture(scope="module")
def notebook():
    return definitions("6_gan_critics")


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


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (4, 2, 1)])
def test_the_norm_of_a_convolution_is_that_of_its_dense_matrix_and_bounded_by_its_kernels(notebook, kernel, stride, padding):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Conv2d(2, 3, kernel, stride, padding, bias=False).double()
    columns = layer(torch.eye(2 * 36, dtype=torch.float64).reshape(-1, 2, 6, 6)).flatten(1)
    dense = torch.linalg.matrix_norm(columns.detach(), 2).item()
    assert notebook.convolution_norm(layer, 6, times=2000) == pytest.approx(dense, rel=1e-6)
    matrix = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
    assert matrix * (1 - 1e-9) <= dense <= kernel / stride * matrix * (1 + 1e-9)


# ---------------------------------------------------------------- the alternating update


def dirac_update(notebook, objective, alpha=0.5, precision="float32"):
    generator, critic = notebook.DiracGenerator(0.8), notebook.DiracCritic(-0.4, 0.3)
    players = [notebook.Player(network, torch.optim.SGD(network.parameters(), lr=0.1), precision)
               for network in (generator, critic)]
    return notebook.AlternatingUpdate(*players, objective, latent_size=1, critic_steps=1, alpha=alpha)


def test_the_generator_sees_the_updated_critic_and_the_average_the_updated_generator(notebook):
    update = dirac_update(notebook, notebook.Objective("w1"))
    terms = update(torch.zeros(3, dtype=torch.float64), 0, torch.Generator().manual_seed(0))
    psi0 = -0.4 - 0.1 * 0.8
    theta = 0.8 + 0.1 * psi0
    assert update.critic.network.psi0.item() == pytest.approx(psi0, abs=1e-15)
    assert update.generator.network.theta.item() == pytest.approx(theta, abs=1e-15)
    assert update.average.module.theta.item() == pytest.approx(0.5 * 0.8 + 0.5 * theta, abs=1e-15)
    expected = [0.4 * 0.8, 0.0, 0.3, -0.4 * 0.8 + 0.3, psi0 * 0.8 + 0.3]
    assert terms.tolist() == pytest.approx(expected, abs=1e-15)


def test_the_generators_step_leaves_the_critic_alone(notebook):
    update = dirac_update(notebook, notebook.Objective("jsd"))
    after_critic = copy.deepcopy(update)
    after_critic.critic_step(torch.zeros(3, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64), None)
    update(torch.zeros(3, dtype=torch.float64), 0, torch.Generator().manual_seed(0))
    assert torch.equal(update.critic.network.psi0, after_critic.critic.network.psi0)


def weights_of(update):
    """Every weight, average and buffer of an update."""
    networks = (update.generator.network, update.critic.network, update.average.module)
    return [value for network in networks for value in network.state_dict().values()]


def gan(notebook, metric="jsd", regulariser="none", coefficient=0.0, seed=0):
    """A small GAN on random pixels: update and batches."""
    pair = notebook.build_pair(4, regulariser == "sn", seed)
    update = notebook.build_update(*pair, notebook.Objective(metric, regulariser, coefficient), **OPTIMISERS)
    pixels = torch.randint(0, 256, (32, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
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
    for mine, theirs in zip(weights_of(whole), weights_of(resumed), strict=True):
        assert torch.equal(mine, theirs)


def test_an_exploded_critic_stops_with_the_step_and_keeps_the_last_good_checkpoint(notebook, tmp_path):
    update, batches = gan(notebook, "w1")
    checkpoint = Checkpoint(tmp_path / "gan.pt", "fingerprint")
    fit(update, batches, steps=3, seed=0, checkpoint=checkpoint, time_budget=1e-9)
    good = checkpoint.path.read_bytes()
    exploding, _ = gan(notebook, "w1")
    step = exploding.step

    def poisoned(batch, latents):
        exploding.critic.network.head.weight.data.fill_(float("inf"))
        return step(batch, latents)

    exploding.step = poisoned
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
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(2, 16, 16, 3)
    images = notebook.to_signed(pixels)
    assert (images.min().item(), images.max().item()) == (-1.0, 1.0)
    assert torch.equal(notebook.to_pixels(images), pixels.permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]; these reach from 0.0 to 255.0"):
        notebook.to_pixels(pixels.float())
    with pytest.raises(ValueError, match="from nan to nan"):
        notebook.to_pixels(torch.full((1, 3, 4, 4), math.nan))


# ---------------------------------------------------------------- float16: a scale for each player


@pytest.mark.parametrize(("metric", "regulariser", "coefficient"), [("jsd", "none", 0.0), ("w1", "r1", 0.1), ("w1", "gp", 0.1)])
def test_scaled_losses_make_the_steps_of_unscaled_ones(notebook, metric, regulariser, coefficient):
    objective, updates = notebook.Objective(metric, regulariser, coefficient), []
    for precision in ("float32", "float16"):  # a scale is a power of two, and these games have nothing that autocast changes
        update, noise = dirac_update(notebook, objective, precision=precision), torch.Generator().manual_seed(0)
        terms = [update(torch.zeros(3, dtype=torch.float64), step, noise) for step in range(20)]
        updates.append((torch.stack(terms), torch.stack(weights_of(update))))
    assert update.critic.scaler.is_enabled()
    assert torch.equal(updates[0][0], updates[1][0])
    assert torch.equal(updates[0][1], updates[1][1])


def test_a_player_whose_gradients_overflow_stands_still_and_halves_its_own_scale(notebook):
    update = dirac_update(notebook, notebook.Objective("w1"), precision="float16")
    update.critic.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    update.critic.network.psi0.data.fill_(-1e299)
    update.generator.network.theta.data.fill_(1e300)  # the critic's gradient, times its scale, is beyond float64
    update(torch.zeros(3, dtype=torch.float64), 0, torch.Generator().manual_seed(0))
    assert update.critic.network.psi0.item() == -1e299
    assert update.generator.network.theta.item() == pytest.approx(0.99e300, rel=1e-12)
    assert update.critic.scaler.get_scale() == 2.0**59
    assert update.generator.scaler.get_scale() == 2.0**16


def test_scales_are_saved_and_resumed(notebook):
    update = dirac_update(notebook, notebook.Objective("w1"), precision="float16")
    update.critic.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    update(torch.zeros(3, dtype=torch.float64), 0, torch.Generator().manual_seed(0))
    again = dirac_update(notebook, notebook.Objective("w1"), precision="float16")
    again.load_state_dict(update.state_dict())
    assert again.critic.scaler.get_scale() == 8.0
    assert again.generator.scaler.get_scale() == 2.0**16
    assert all(torch.equal(*pair) for pair in zip(weights_of(update), weights_of(again), strict=True))


# ---------------------------------------------------------------- the quick twin


class Recorded:
    """Stands for a CUDA graph on a machine without one: counts, and may fail while recording."""

    def __init__(self, function, fails=False):
        self.function, self.fails, self.calls, self.graph, self.recorded = function, fails, 0, None, False

    def __call__(self, *inputs):
        self.calls += 1
        if self.calls > 1:
            self.graph = "begun"
            if self.fails:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            self.recorded = True
        return self.function(*inputs)


def captured(update, **options):
    """A quick twin that believes to be on a GPU."""
    quick = CapturedUpdate(update, lambda function: Recorded(function, **options))
    quick.captured = True
    return quick


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("metric", "regulariser", "coefficient"), [("jsd", "none", 0.0), ("w1", "r1", 0.1), ("jsd", "gp", 0.1)])
def test_the_quick_twin_is_the_plain_update_in_float64(notebook, capsys, metric, regulariser, coefficient, fails):
    objective = notebook.Objective(metric, regulariser, coefficient)
    plain, twin = (dirac_update(notebook, objective) for _ in range(2))
    quick, real = captured(twin, fails=fails), torch.zeros(3, dtype=torch.float64)
    noises = [torch.Generator().manual_seed(4) for _ in range(2)]
    for step in range(10):
        assert torch.equal(plain(real, step, noises[0]), quick(real, step, noises[1]))
    assert torch.equal(torch.stack(weights_of(plain)), torch.stack(weights_of(twin)))
    assert quick.captured is not fails
    assert ("run one by one: operation not permitted when stream is capturing\n" in capsys.readouterr().out) is fails


def test_the_quick_twin_records_anew_after_loading_and_lets_other_errors_pass(notebook):
    quick = captured(dirac_update(notebook, notebook.Objective("w1")))
    real, noise = torch.zeros(3, dtype=torch.float64), torch.Generator().manual_seed(0)
    quick(real, 0, noise)
    first = quick.replay
    quick.load_state_dict(quick.state_dict())
    quick(real, 1, noise)
    assert quick.replay is not first
    quick(real, 2, noise)
    quick.plain.step = quick.replay.function = lambda *inputs: torch.zeros(2) + torch.zeros(3)
    with pytest.raises(RuntimeError, match="size of tensor"):
        quick(real, 3, noise)


def test_float32_is_full_on_a_cpu():
    with full_float32(torch.device("cpu")):
        assert float32_convolutions(torch.device("cpu")) == "float32"


@GPU
@pytest.mark.parametrize(("metric", "regulariser", "coefficient"), [
    ("jsd", "none", 0.0), ("w1", "sn", 0.0), ("w1", "r1", 1.0), ("jsd", "gp", 1.0)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_captured_update_is_the_eager_one(notebook, monkeypatch, metric, regulariser, coefficient, precision):
    monkeypatch.setenv("SUITE_DEVICE", "cuda")
    device, terms = torch.device("cuda"), []
    for quick in (False, True):
        pair = notebook.build_pair(16, regulariser == "sn", 0)
        update = notebook.build_update(*pair, notebook.Objective(metric, regulariser, coefficient), **OPTIMISERS,
                                       precision=precision)
        noise = torch.Generator(device).manual_seed(0)
        pixels = torch.randint(0, 256, (32, 32, 32, 3), generator=noise, device=device, dtype=torch.uint8)
        run = CapturedUpdate(update) if quick else update
        terms.append(torch.stack([run(pixels, step, noise) for step in range(12)]))
    assert run.captured, "the update could not be recorded"
    assert run.replay.recorded
    assert torch.allclose(*terms, rtol=0.05, atol=0.02)


@GPU
def test_a_checkpoint_of_a_captured_update_goes_on_as_the_uninterrupted_one(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("SUITE_DEVICE", "cuda")
    pixels = torch.randint(0, 256, (64, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).cuda()
    batches, histories = Batches(pixels, 32, seed=0), []
    for checkpoint in (None, Checkpoint(tmp_path / "gan.pt", "fingerprint")):
        for stop_after in (12,) if checkpoint is None else (6, 12):
            pair = notebook.build_pair(16, False, 0)
            update = notebook.build_update(*pair, notebook.Objective("w1", "r1", 1.0), **OPTIMISERS)
            history = fit(CapturedUpdate(update), batches, steps=12, seed=3, checkpoint=checkpoint, stop_after=stop_after)
        histories.append(history.terms)
    assert np.allclose(*histories, rtol=0.05, atol=0.02)


@GPU
def test_the_penalty_in_tf32_has_the_gradient_of_full_float32(notebook, monkeypatch):
    monkeypatch.setenv("SUITE_DEVICE", "cuda")
    device = torch.device("cuda")
    critic = notebook.build_pair(128, False, 0)[1]
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(device)

    def gradient():
        inputs = images.clone().requires_grad_()
        gradients = torch.autograd.grad(notebook.r1_penalty(critic(inputs), inputs), list(critic.parameters()), allow_unused=True)
        return torch.cat([part.flatten() for part in gradients if part is not None])

    quick = gradient()
    with full_float32(device):
        assert float32_convolutions(device) == "float32"
        exact = gradient()
    assert (quick - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(("metric", "regulariser"), [("jsd", "none"), ("w1", "sn"), ("w1", "r1")])
def test_gradients_lie_in_memory_as_their_parameters_do(notebook, metric, regulariser):
    """A fused optimiser on a GPU refuses a gradient whose strides are not its parameter's."""
    pair = notebook.build_pair(8, regulariser == "sn", 0)
    update = notebook.build_update(*pair, notebook.Objective(metric, regulariser, 1.0), critic_steps=1, alpha=0.9,
                                   learning_rates=(1e-4, 1e-4), betas=(0.0, 0.99), weight_decay=0.0)
    for player in (update.generator, update.critic):
        player.parameters[0].register_hook(lambda gradient: gradient.contiguous())  # as a kernel of a GPU may give it
    update(torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8), 0, torch.Generator().manual_seed(0))
    for player in (update.generator, update.critic):
        assert all(parameter.grad.stride() == parameter.stride() for parameter in player.parameters)
