"""A stack computes what its members would."""

import pytest
import torch
from torch import nn

from helpers.train.stacking import Stack


def build():
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def test_a_stack_is_its_members_side_by_side():
    stack = Stack(build, seeds=[3, 4, 5])
    x = torch.randn(3, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = stack(x)
    for index, seed in enumerate([3, 4, 5]):
        torch.manual_seed(seed)
        alone = build()
        assert torch.allclose(out[index], alone(x[index]), atol=1e-12)
        assert torch.allclose(stack.member(index, build)(x[index]), alone(x[index]), atol=1e-12)


def test_members_train_as_they_would_alone():
    x = torch.randn(2, 16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stack = Stack(build, seeds=[0, 1])
    optimizer = torch.optim.Adam(stack.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (stack(x) ** 2).mean((1, 2)).sum().backward()
        optimizer.step()
    for index in range(2):
        torch.manual_seed(index)
        alone = build()
        optimizer = torch.optim.Adam(alone.parameters(), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            (alone(x[index]) ** 2).mean().backward()
            optimizer.step()
        for ours, theirs in zip(stack.member(index, build).parameters(), alone.parameters(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-10)


def test_a_stack_saves_and_loads_its_state_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = Stack(build, [0, 1]), Stack(build, [2, 3])
    assert torch.equal(torch.rand(3), expected)
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 4, 2, dtype=torch.float64)
    assert torch.equal(first(x), second(x))
    assert sum(parameter.numel() for parameter in first.parameters()) == 2 * sum(p.numel() for p in build().parameters())


def test_an_empty_stack_is_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        Stack(build, [])
