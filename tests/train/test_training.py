"""The training loop: what it computes, how it resumes, and how it stops."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.train import schedules
from helpers.train.checkpoints import Checkpoint, CheckpointError
from helpers.train.training import Batches, ExponentialAverage, GradientUpdate, NonFiniteLoss, OutOfMemory, fit


def regression(seed=0, schedule=None, average=None, poison_at=None, members=None):
    """A noisy linear regression: model, batches and update; with ``members`` a stack of them by hand."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(3, 1)
    batches = Batches((x, y), 8, seed=seed)
    calls = 0

    def loss(batch, noise, step):
        nonlocal calls
        calls += 1
        inputs, targets = batch
        error = model(inputs) + 0.01 * torch.randn(targets.shape, generator=noise) - targets
        value = (error**2).mean()
        if poison_at is not None and calls == poison_at + 1:
            value = value * float("nan")
        return torch.stack([value, value.detach().sqrt()])

    update = GradientUpdate(model, loss, torch.optim.Adam(model.parameters(), lr=0.05), schedule=schedule, average=average)
    return model, batches, update


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def test_batches_serve_every_example_once_an_epoch_in_a_new_order():
    data = torch.arange(10)
    batches = Batches(data, 4, seed=1)
    epochs = [torch.cat([batches.at(3 * epoch + step) for step in range(3)]) for epoch in range(2)]
    assert [len(batches.at(step)) for step in range(3)] == [4, 4, 2]
    assert all(torch.equal(epoch.sort().values, data) for epoch in epochs)
    assert not torch.equal(*epochs)
    assert torch.equal(Batches(data, 4, seed=1).at(4), epochs[1][4:8])  # any step can be asked for first


def test_batches_of_a_stack_have_an_order_for_each_member():
    batches = Batches((torch.arange(10), torch.arange(10) * 10), 5, seed=1, stack=3)
    first, second = batches.at(0)
    assert first.shape == (3, 5)
    assert torch.equal(second, first * 10)
    assert not torch.equal(first[0], first[1])


def test_batches_drop_the_last_short_one_when_asked():
    assert Batches(torch.arange(10), 4, seed=0, drop_last=True).per_epoch == 2


@pytest.mark.parametrize("size", [0, 11])
def test_batches_refuse_a_batch_size_that_does_not_fit(size):
    with pytest.raises(ValueError, match=f"batch_size {size} is not between 1 and the number of examples, 10"):
        Batches(torch.arange(10), size, seed=0)


def test_fit_solves_a_regression_and_reports_every_step():
    model, batches, update = regression()
    history = fit(update, batches, steps=300, seed=0, evaluate=lambda: [1.0, 2.0], evaluate_every=100)
    assert history.terms.shape == (300, 2)
    assert history.evaluation_steps.tolist() == [0, 100, 200, 300]
    assert (history.done, history.planned) == (300, 300)
    assert torch.allclose(model.weight, torch.tensor([[1.0, -2.0, 0.5]]), atol=0.05)


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, average):
    schedule = schedules.one_cycle(60)
    plain, batches, update = regression(schedule=schedule, average=average)
    expected = fit(update, batches, steps=60, seed=3, evaluate=lambda: plain.weight.sum())

    checkpoint = Checkpoint(tmp_path / "run.pt", "same")
    _, batches, update = regression(schedule=schedule, average=average)

    class KilledUpdate:
        """The update, killed at step 41."""

        def __init__(self):
            self.model = update.model

        def __call__(self, batch, step, generator):
            if step == 41:
                raise Killed
            return update(batch, step, generator)

        state_dict, load_state_dict = update.state_dict, update.load_state_dict

    first = update.model
    with pytest.raises(Killed):
        fit(KilledUpdate(), batches, steps=60, seed=3, evaluate=lambda: first.weight.sum(), checkpoint=checkpoint,
            checkpoint_seconds=0)
    model, batches, update = regression(seed=0, schedule=schedule, average=average)
    resumed = fit(update, batches, steps=60, seed=3, evaluate=lambda: model.weight.sum(), checkpoint=checkpoint)
    assert np.array_equal(resumed.terms, expected.terms)
    assert np.array_equal(resumed.evaluations, expected.evaluations)
    assert torch.equal(model.weight, plain.weight)
    if average:
        assert not torch.equal(update.average.module.weight, model.weight)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt", "same")
    _, batches, update = regression(poison_at=13)
    with pytest.raises(NonFiniteLoss, match=r"not finite at step 13: \[nan, nan\]; the last good checkpoint is .*run\.pt"):
        fit(update, batches, steps=40, seed=0, checkpoint=checkpoint, checkpoint_seconds=0)
    state = checkpoint.load()
    assert state["loop"]["step"] == 13
    assert torch.isfinite(state["update"]["model"]["weight"]).all()


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
def test_running_out_of_memory_names_a_smaller_batch_and_keeps_the_checkpoint(tmp_path, error):
    checkpoint = Checkpoint(tmp_path / "run.pt", "same")
    _, batches, update = regression()
    fit(update, batches, steps=40, seed=0, checkpoint=checkpoint, time_budget=1e-9)
    before = checkpoint.path.read_bytes()

    def loss(batch, noise, step):
        raise error

    _, batches, update = regression()
    update.loss = loss
    with pytest.raises(OutOfMemory, match=r"step 1 does not fit .* batches of 8; try 4; the last good checkpoint is .*run\.pt"):
        fit(update, batches, steps=40, seed=0, checkpoint=checkpoint)
    assert checkpoint.path.read_bytes() == before


def test_another_runtime_error_is_passed_on():
    _, batches, update = regression()
    update.loss = lambda batch, noise, step: batch[0] @ torch.ones(7)
    with pytest.raises(RuntimeError, match="size mismatch"):
        fit(update, batches, steps=1, seed=0)


def test_a_time_budget_stops_at_a_checkpoint_and_the_run_goes_on_from_it(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt", "same")
    _, batches, update = regression()
    part = fit(update, batches, steps=40, seed=0, checkpoint=checkpoint, time_budget=1e-9)
    assert (part.done, part.planned) == (1, 40)
    model, batches, update = regression()
    rest = fit(update, batches, steps=40, seed=0, checkpoint=checkpoint)
    plain, batches, update = regression()
    expected = fit(update, batches, steps=40, seed=0)
    assert np.array_equal(rest.terms, expected.terms)
    assert torch.equal(model.weight, plain.weight)


def test_a_checkpoint_of_another_configuration_is_refused_and_kept(tmp_path):
    path = tmp_path / "run.pt"
    Checkpoint(path, "mine").save({"step": 1})
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="another configuration"):
        Checkpoint(path, "theirs").load()
    assert path.read_bytes() == before


def test_a_truncated_checkpoint_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "run.pt"
    Checkpoint(path, "mine").save({"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="run.pt is not a readable checkpoint"):
        Checkpoint(path, "mine").load()


def test_early_stopping_keeps_the_best_state():
    model, batches, update = regression()
    scores = iter([5.0, 3.0, 1.0, 2.0, 4.0, 6.0])
    weights = []

    def evaluate():
        weights.append(model.weight.detach().clone())
        return [next(scores)]

    history = fit(update, batches, steps=1000, seed=0, evaluate=evaluate, evaluate_every=10, monitor=0, patience=2)
    assert history.best == 2
    assert history.done == history.planned == 40
    assert torch.equal(model.weight, weights[2])


def test_the_best_state_is_the_averaged_models_where_there_is_one_and_rows_can_be_watched():
    model, batches, update = regression(average=0.5)
    scores, weights = iter([5.0, 3.0, 1.0, 2.0]), []

    def evaluate():
        weights.append(update.average.module.weight.clone())
        return [[0.0, 1.0], [0.0, next(scores)]]

    history = fit(update, batches, steps=30, seed=0, evaluate=evaluate, evaluate_every=10, monitor=(1, 1))
    assert history.best == 2 and history.evaluations.shape == (4, 2, 2)
    assert torch.equal(update.average.module.weight, weights[2]) and not torch.equal(weights[2], weights[3])
    assert not torch.equal(model.weight, weights[2])


def test_exponential_average_follows_its_formula():
    source = nn.Linear(2, 1)
    average = ExponentialAverage(source, 0.75)
    old, new = average.module.weight.clone(), torch.ones(1, 2)
    source.weight.data.copy_(new)
    average.update(source)
    assert torch.allclose(average.module.weight, 0.75 * old + 0.25 * new)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_exponential_average_refuses_a_decay_outside_its_range(decay):
    with pytest.raises(ValueError, match=r"lies in \[0, 1\)"):
        ExponentialAverage(nn.Linear(1, 1), decay)


def test_gradient_clipping_bounds_the_step():
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    update = GradientUpdate(model, lambda batch, noise, step: 1e6 * model(batch).sum()[None], optimizer, clip=0.5)
    before = model.weight.detach().clone()
    update(torch.ones(1, 1), 0, None)
    assert (model.weight - before).abs().item() == pytest.approx(0.5, rel=1e-4)


def test_float16_scales_the_loss_and_leaves_out_a_step_whose_gradients_overflow():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    strength = [1.0]
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])

    def loss(batch, noise, step):
        return strength[0] * ((model(batch[0]).float() - batch[1]) ** 2).mean()[None]

    update = GradientUpdate(model, loss, optimizer, precision="float16", clip=100.0)
    first = update((x, y), 0, None)
    for step in range(300):
        update((x, y), step, None)
    assert update((x, y), 0, None) < 0.01 * first
    before, scale = model.weight.detach().clone(), update.scaler.get_scale()
    strength[0] = 1e30
    update((x, y), 0, None)
    assert torch.equal(model.weight, before)
    assert update.scaler.get_scale() == scale / 2
    again = GradientUpdate(model, update.loss, optimizer, precision="float16")
    again.load_state_dict(update.state_dict())
    assert again.scaler.get_scale() == scale / 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("last", [8, 5])
def test_captured_steps_are_the_eager_ones(last):
    device, terms, weights = torch.device("cuda"), {}, {}
    for captured in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3)).to(device)

        def loss(batch, noise, step, model=model):
            return ((model(batch) - batch + torch.randn(batch.shape, generator=noise, device=device)) ** 2).mean()[None]

        update = GradientUpdate(model, loss, torch.optim.Adam(model.parameters(), 1e-2, fused=True), captured=captured,
                                schedule=schedules.one_cycle(40), average=0.9)
        batches = Batches(torch.linspace(-1, 1, 3 * (24 + last)).reshape(-1, 3), 8, seed=0, device=device)
        terms[captured] = fit(update, batches, steps=40, seed=0).terms
        weights[captured] = update.average.module[0].weight
    assert np.allclose(terms[True], terms[False], rtol=1e-4)
    assert torch.allclose(weights[True], weights[False], rtol=1e-3, atol=1e-5)


def test_an_unknown_precision_lists_the_known_ones():
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="float32, bfloat16, float16"):
        GradientUpdate(model, None, torch.optim.SGD(model.parameters(), 1.0), precision="float8")


def test_one_cycle_rises_to_one_and_falls():
    factor = schedules.one_cycle(100, warm_up=0.3)
    values = [factor(step) for step in range(101)]
    assert values[0] == pytest.approx(0.04)
    assert max(values) == values[30] == pytest.approx(1.0)
    assert values[100] == pytest.approx(1e-4)
    assert values[:31] == sorted(values[:31])
    assert values[30:] == sorted(values[30:], reverse=True)


def test_cosine_warms_up_and_ends_at_its_end():
    factor = schedules.cosine(100, warm_up_steps=10, end=0.1)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == factor(10) == pytest.approx(1.0)
    assert factor(100) == pytest.approx(0.1)
