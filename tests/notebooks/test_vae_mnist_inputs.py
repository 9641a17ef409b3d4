"""Notebook 2: inputs that are refused, and what is said of them."""

import math

import numpy as np
import pytest
import torch

from helpers.data import datasets
from helpers.publish import notebooks
from helpers.results import records
from helpers.suite import Run, Suite


@pytest.fixture(scope="module")
def notebook():
    return notebooks.definitions("2_vae_mnist")


def dataset(images, labels=None, split="train"):
    return datasets.Dataset("made", {split: images}, None if labels is None else {split: labels}, False, None, "")


# Inputs that are refused


def test_images_of_another_size_are_refused(notebook):
    with pytest.raises(datasets.DataError, match=r"\(5, 32, 32\); expected \(N, 28, 28\)"):
        notebook.pixel_rows(dataset(np.zeros((5, 32, 32), np.uint8)), "train")
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 32\); expected torch.uint8 \(B, 1, 28, 28\)"):
        notebook.ConvVAE().calc_elbo(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))


def test_values_outside_the_range_are_refused(notebook):
    with pytest.raises(datasets.DataError, match=r"up to 7; expected uint8 in 0\.\.1"):
        notebook.pixel_rows(dataset(np.full((5, 28, 28), 7, np.uint8)), "train", levels=2)
    with pytest.raises(datasets.DataError, match="must be in 0..1"):
        notebook.pixel_rows(dataset(np.full((5, 28, 28), 1.5)), "train")
    with pytest.raises(ValueError, match=r"mu must lie in \[0, 1\]; it has values from 0.5 to 1.5"):
        notebook.log_likelihood_bernoulli(torch.tensor([[0.5, 1.5]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\]"):
        notebook.log_likelihood_bernoulli(torch.full((1, 2), 0.5), torch.full((1, 2), math.nan))
    with pytest.raises(ValueError, match="the same number of values"):
        notebook.log_likelihood_bernoulli(torch.full((1, 2), 0.5), torch.ones(1, 3))


def test_empty_and_missing_splits_are_refused(notebook):
    with pytest.raises(datasets.DataError, match="split is empty"):
        notebook.pixel_rows(dataset(np.zeros((0, 28, 28), np.uint8)), "train")
    with pytest.raises(datasets.DataError, match="has no test split; it has train"):
        notebook.pixel_rows(dataset(np.zeros((5, 28, 28), np.uint8)), "test")


def test_missing_labels_are_refused(notebook):
    images = dataset(np.zeros((5, 28, 28), np.uint8), split="test")
    with pytest.raises(datasets.DataError, match="has no test labels"):
        notebook.digit_labels(images, "test")
    with pytest.raises(datasets.DataError, match=r"labels of shape \(4,\); expected \(5,\)"):
        notebook.digit_labels(dataset(images.images["test"], np.zeros(4, np.int64), "test"), "test")


def test_traversals_without_their_model_are_refused(notebook, tmp_path):
    suite = Suite("2_vae_mnist", notebook.RUNS, tmp_path / "results")
    with pytest.raises(records.RecordError, match="haifa_q1"):
        suite.run("haifa_q2")
    with pytest.raises(records.RecordError, match="does not declare it"):
        notebook.collect_traversals(Run("haifa_q2", 0, "0" * 64, None))


# The edges of Mila's five functions


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_differ_and_targets_are_boolean(notebook, dtype):
    generator = torch.Generator().manual_seed(0)
    mu = torch.rand(3, 784, generator=generator, dtype=dtype)
    target = torch.rand(3, 1, 28, 28, generator=generator) < 0.3
    expected = torch.distributions.Bernoulli(mu).log_prob(target.flatten(1).to(dtype)).sum(1)
    for given in (target, target.to(dtype), target.byte()):
        found = notebook.log_likelihood_bernoulli(mu, given)
        assert found.dtype == dtype
        assert torch.allclose(found, expected, rtol=1e-5)
    assert torch.allclose(notebook.log_likelihood_bernoulli(mu.reshape(3, 1, 28, 28), target.flatten(1)), expected, rtol=1e-5)
    z = torch.randn(3, 1, 28, 28, generator=generator, dtype=dtype)
    normal = notebook.log_likelihood_normal(mu, torch.zeros(3, 784, dtype=dtype), z)
    assert torch.allclose(normal, torch.distributions.Normal(mu, 1.0).log_prob(z.flatten(1)).sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_means_of_zero_and_one(notebook, dtype):
    mu = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 0.25]], dtype=dtype, requires_grad=True)
    possible = notebook.log_likelihood_bernoulli(mu, torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]], dtype=dtype))
    assert torch.allclose(possible, torch.tensor([0.5, 0.75], dtype=dtype).log())
    (gradient,) = torch.autograd.grad(possible.sum(), mu)
    assert torch.allclose(gradient, torch.tensor([[-1.0, 1.0, 2.0], [-1.0, 1.0, -4 / 3]], dtype=dtype))
    impossible = notebook.log_likelihood_bernoulli(mu, torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.5, 0.0]], dtype=dtype))
    assert impossible.tolist() == [-math.inf, -math.inf]
    (gradient,) = torch.autograd.grad(impossible.sum(), mu)
    assert torch.isfinite(gradient).all()
    assert gradient[0].tolist() == [0.0, 1.0, 2.0]  # an impossible term is out of the gradient, the others stay


def test_gradients_of_the_likelihood_against_finite_differences(notebook):
    generator = torch.Generator().manual_seed(1)
    mu = torch.rand(2, 6, generator=generator, dtype=torch.float64).mul(0.98).add(0.01).requires_grad_()
    target = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda value: notebook.log_likelihood_bernoulli(value, target), mu)


@pytest.mark.parametrize("row", [[-math.inf] * 3, [math.inf, 0.0, 1.0], [math.inf, -math.inf, 0.0], [-math.inf, 0.0, 1.0],
                                 [math.inf] * 3, [1e30, -1e30, 0.0], [math.nan, 0.0, 1.0]])
def test_log_mean_exp_of_infinities_is_that_of_logsumexp(notebook, row):
    y = torch.tensor([row, [0.0, 1.0, 2.0]])
    expected = torch.logsumexp(y, 1) - math.log(3)
    assert torch.allclose(notebook.log_mean_exp(y), expected, equal_nan=True)
    assert torch.allclose(notebook.log_mean_exp(y.double()), expected.double(), equal_nan=True)
