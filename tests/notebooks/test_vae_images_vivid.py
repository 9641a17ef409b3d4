"""Notebook 3, part A: the vivid start that keeps house numbers from ending in grey."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from helpers.publish import notebooks


@pytest.fixture(scope="module")
def notebook():
    return notebooks.definitions("3_vae_images")


def pictures(number):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8))


def test_vivid_start_turns_colours_up_fades_and_leaves_greys_alone(notebook):
    images = pictures(4)
    shown = notebook.turned_up(images, 3.0)
    grey = images.double().mean(-1, keepdim=True)
    assert torch.allclose(shown.double() - grey, 3 * (images.double() - grey), atol=1e-3)
    assert torch.allclose(notebook.turned_up(images, 1.0), images.float(), atol=1e-4)
    flat = images[..., :1].expand(-1, -1, -1, 3)
    assert torch.allclose(notebook.turned_up(flat, 3.0), flat.float(), atol=1e-4)

    gains = [notebook.vivid_gain(step, 240, 1 / 12) for step in range(240)]
    assert gains[:21] == [3.0] * 21 and gains[25] == pytest.approx(2.0) and gains[30:] == [1.0] * 210
    assert all(earlier >= later for earlier, later in pairwise(gains))
    assert {notebook.vivid_gain(step, 240, 0.0) for step in range(240)} == {1.0}


def test_vivid_start_shows_the_model_vivid_images_first_and_the_data_later(notebook):
    seen, weight = [], torch.nn.Linear(1, 1)
    model = torch.nn.Sequential(weight)

    def loss(images, generator):
        seen.append(images.clone())
        return weight(images.float().mean().reshape(1, 1)).reshape(1)

    update = notebook.VividStart(model, loss, torch.optim.SGD(model.parameters(), 0.0), gain=lambda step: (3.0, 1.5, 1.0)[step])
    images = pictures(2)
    for step in range(3):
        update(images, step, torch.Generator())
    assert torch.equal(seen[0], notebook.turned_up(images, 3.0)) and torch.equal(seen[1], notebook.turned_up(images, 1.5))
    assert seen[2].dtype == torch.uint8 and torch.equal(seen[2], images)
