"""A run that changes the kind of device between two sittings: its checkpoint is read, and its training goes on."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.train import schedules
from helpers.train.checkpoints import Checkpoint
from helpers.train.training import Batches, GradientUpdate, fit


def make(device: str = "cpu", captured: bool = False):
    torch.manual_seed(0)
    model = nn.Linear(3, 3).to(device)

    def loss(batch, noise, step):
        return ((model(batch) - batch + 0.1 * torch.randn(batch.shape, generator=noise, device=batch.device)) ** 2).mean()[None]

    update = GradientUpdate(model, loss, torch.optim.Adam(model.parameters(), 1e-2, fused=True), captured=captured,
                            schedule=schedules.one_cycle(40), average=0.9)
    return update, Batches(torch.linspace(-1, 1, 48).reshape(16, 3), 8, seed=0, device=device)


def test_rates_of_recorded_steps_become_numbers_where_steps_are_not_recorded():
    update, batches = make()
    update(batches.at(0), 0, torch.Generator().manual_seed(0))
    state = update.state_dict()
    state["optimizer"]["param_groups"][0] |= {"lr": torch.tensor(0.005), "capturable": True}  # as a GPU saves it
    again, _ = make()
    again.load_state_dict(state)
    group = again.optimizer.param_groups[0]
    assert (group["lr"], group["capturable"]) == (1e-2, False)
    assert type(group["lr"]) is float


def test_rates_become_tensors_where_steps_are_recorded():
    state = make()[0].state_dict()
    update, _ = make()
    update.captured = True  # as on a GPU
    update.load_state_dict(state)
    group = update.optimizer.param_groups[0]
    assert torch.equal(group["lr"], torch.tensor(1e-2))
    assert group["capturable"] is True


def test_noise_of_another_kind_of_generator_is_drawn_anew(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt", "here")
    update, batches = make()
    fit(update, batches, steps=10, seed=3, checkpoint=checkpoint, checkpoint_seconds=0.0)
    saved = checkpoint.load()
    saved["noise"] = torch.zeros(16, dtype=torch.uint8)  # a GPU's generator is two numbers
    checkpoint.save(saved)
    update, batches = make()
    history = fit(update, batches, steps=40, seed=3, checkpoint=checkpoint)
    assert history.done == 40
    assert np.array_equal(history.terms[:10], saved["terms"].numpy())
    assert np.isfinite(history.terms).all()
    assert len(np.unique(history.terms[10:])) == 30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_where_there_is_another_device(tmp_path, first, second):
    for device, steps in ((first, 20), (second, 40)):
        update, batches = make(device, captured=device == "cuda")
        history = fit(update, batches, steps=steps, seed=3, checkpoint=Checkpoint(tmp_path / "run.pt", "here"))
    assert history.done == 40
    assert np.isfinite(history.terms).all()
