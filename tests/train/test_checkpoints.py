"""Checkpoints: damage of every kind is one error that names the file, and never a state that differs from the one saved."""

import hashlib
import os
import pickle
import random

import pytest
import torch
from torch import nn

from helpers.train.checkpoints import Checkpoint, CheckpointError
from helpers.train.training import Batches, GradientUpdate, fit


def training(checkpoint, steps, width=3):
    """A training of a few steps that saves after each: the update."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    update = GradientUpdate(model, lambda batch, noise, step: (model(batch) ** 2).mean()[None], optimizer, average=0.5)
    data = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    fit(update, Batches(data, 4, seed=0), steps=steps, seed=0, checkpoint=checkpoint, checkpoint_seconds=0,
        evaluate=lambda: [float(model(data).detach().square().mean())], monitor=0)
    return update


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a training after four steps."""
    checkpoint = Checkpoint(tmp_path / "run.pt", "same")
    training(checkpoint, 4)
    return checkpoint


def flat(state, place=""):
    """Place -> value, with tensors as bytes."""
    if isinstance(state, dict):
        return {at: value for key, part in state.items() for at, value in flat(part, f"{place}.{key}").items()}
    if isinstance(state, (list, tuple)):
        return {at: value for key, part in enumerate(state) for at, value in flat(part, f"{place}.{key}").items()}
    return {place: state.numpy().tobytes() if isinstance(state, torch.Tensor) else state}


def damaged(content, generator):
    """One of many ways in which a file is broken."""
    kind = generator.choice(["flip", "flips", "cut", "zeros", "swap", "repeat", "append", "insert", "text"])
    content, at = bytearray(content), generator.randrange(len(content))
    length = generator.randrange(1, 200)
    if kind == "flip":
        content[at] ^= 1 << generator.randrange(8)
    elif kind == "flips":
        for _ in range(length):
            content[generator.randrange(len(content))] = generator.randrange(256)
    elif kind == "cut":
        del content[at:]
    elif kind == "zeros":
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif kind == "swap":
        content[:] = content[at:] + content[:at]
    elif kind == "repeat":
        content += content[at:]
    elif kind == "append":
        content += generator.randbytes(length)
    elif kind == "insert":
        content[at:at] = generator.randbytes(length)
    else:
        content = bytearray(generator.randbytes(length))
    return bytes(content)


def test_no_damage_loads_as_another_state_or_ends_in_another_error(saved):
    """``SUITE_FUZZ`` files, few by default."""
    generator, content = random.Random(0), saved.path.read_bytes()
    before = flat(saved.load())
    for _ in range(int(os.environ.get("SUITE_FUZZ", "150"))):
        broken = damaged(content, generator)
        saved.path.write_bytes(broken)
        if broken == content:  # zeros written over zeros
            assert flat(saved.load()) == before
            continue
        with pytest.raises(CheckpointError) as caught:
            saved.load()
        assert str(saved.path) in str(caught.value)
        assert "remove it to start anew" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "empty", "a link to nothing", "no digest", "other pickle", "not a state"])
def test_whatever_lies_in_its_place_is_named(saved, kind, tmp_path):
    path = saved.path
    content = path.read_bytes()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link to nothing":
        path.symlink_to(tmp_path / "nowhere")
        assert saved.load() is None
        return
    elif kind == "no digest":
        path.write_bytes(content[:-72])
    elif kind == "other pickle":
        path.write_bytes(pickle.dumps(CheckpointError("a class that nobody may load")))
    elif kind == "not a state":
        torch.save({"fingerprint": "same", "state": [1, 2]}, path)
        body = path.read_bytes()
        path.write_bytes(body + f"\nsha256 {hashlib.sha256(body).hexdigest()}\n".encode())
    else:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="run.pt is not a readable checkpoint") as caught:
        saved.load()
    reasons = {"no digest": "no digest at its end", "a pipe": "no regular file", "not a state": "its state is a list"}
    assert reasons.get(kind, "") in str(caught.value)


def test_torch_reads_it_as_it_is(saved):
    assert torch.load(saved.path, weights_only=True)["fingerprint"] == "same"


def remove(state, *places):
    for place in places:
        del state[place]


@pytest.mark.parametrize(("change", "message"), [
    (lambda state: remove(state, "noise", "terms"), "the checkpoint lacks noise, terms"),
    (lambda state: remove(state["loop"], "best"), "its loop lacks best"),
    (lambda state: remove(state["update"], "average"), r"update has model, optimizer, scaler; expected model"),
    (lambda state: remove(state["update"]["model"], "0.weight"), r"update.model has 0.bias"),
    (lambda state: state["update"]["model"].update({"0.bias": torch.zeros(4)}), r"0.bias has shape \(4,\); expected \(3,\)"),
    (lambda state: state["best_state"].update({"0.bias": torch.zeros(1, 3)}), r"best_state.0.bias has shape \(1, 3\)"),
    (lambda state: state["update"]["optimizer"]["state"][1].update({"exp_avg": torch.zeros(4)}), "exp_avg of the optimiser"),
    (lambda state: state["update"]["optimizer"]["param_groups"][0]["params"].pop(), "parameter group"),
    (lambda state: state.update({"terms": torch.zeros(2, 1)}), "2 rows of losses for 4 steps"),
    (lambda state: state.update({"update": None}), "update has NoneType"),
    (lambda state: state.update({"loop": 3}), "int"),
])
def test_a_state_that_does_not_fit_is_one_error_that_says_where(saved, change, message):
    state = saved.load()
    change(state)
    saved.save(state)
    before = saved.path.read_bytes()
    with pytest.raises(CheckpointError, match=f"run.pt does not fit this training .*{message}"):
        training(saved, 6)
    assert saved.path.read_bytes() == before


def test_another_network_and_another_optimiser_are_refused(saved):
    with pytest.raises(CheckpointError, match=r"update.model.0.weight has shape \(3, 2\); expected \(5, 2\)"):
        training(saved, 6, width=5)


def test_more_steps_than_asked_are_named_by_both_numbers(saved):
    with pytest.raises(CheckpointError, match="at step 4, beyond the 3 steps"):
        training(saved, 3)
    update = training(saved, 6)
    assert torch.equal(update.model[2].bias, training(None, 6).model[2].bias)
