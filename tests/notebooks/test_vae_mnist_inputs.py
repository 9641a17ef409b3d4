"""Notebook 2: inputs that are refused, and what is said of them."""

import math

import numpy as np
import pytest
import torch

from helpers.data import datasets
from helpers.publish import notebooks
from helpers.results import records
from helpers.suite import Run


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
    with pytest.raises(ValueError, match="expected the same"):
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


def test_traversals_without_their_model_are_refused(notebook):
    run = Run("haifa_q2", 0, "0" * 64, None)
    with pytest.raises(records.RecordError, match="train it first"):
        notebook.collect_traversals(run, "haifa_q1", "another digest")
