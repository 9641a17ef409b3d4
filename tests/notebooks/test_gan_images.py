"""Notebook 6: the networks, the Inception Score and Fréchet distance, whole runs on images."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from helpers import settings
from helpers.data import standins
from helpers.results import records
from helpers.suite import Run, Suite, run
from helpers.work.definitions import definitions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def notebook():
    return definitions("6_gan_critics")


def test_parameter_counts_are_the_sheets(notebook):
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in notebook.build_pair(128, False, 0)]
    assert counts == [6_895_494, 6_079_108]
    spectral = notebook.build_pair(128, True, 0)[1]
    assert sum(parameter.numel() for parameter in spectral.parameters()) == 6_079_108
    convolutions = [module for module in spectral.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 10
    assert all(isinstance(module, notebook.SpectralConv2d) and module.bias is not None for module in convolutions)


@pytest.mark.parametrize("spectral", [False, True])
def test_networks_start_small_and_reproducibly(notebook, spectral):
    pair, again = (notebook.build_pair(128, spectral, 3) for _ in range(2))
    for network, same in zip(pair, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), same.state_dict().values(), strict=True))
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                assert not layer.bias.any() and float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
            if isinstance(layer, notebook.SpectralConv2d):  # the estimate belongs to the new kernel
                exact = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
                assert 0.9 * exact < layer.largest_singular_value().detach() <= 1.001 * exact
    assert float(pair[0].layers(torch.randn(16, 100, 1, 1, generator=torch.Generator().manual_seed(0))).detach().std()) < 0.5


def test_a_residual_block_starts_near_the_identity(notebook):
    block = notebook.Mixed(nn.Conv2d(2, 2, 1)).double()
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = 1 / (1 + math.exp(3))
    assert torch.allclose(block(x), (1 - share) * x + share * block.branch(x), atol=1e-12)


def test_images_and_scores_have_their_shapes_and_ranges(notebook):
    generator, critic = notebook.build_pair(4, False, 0)
    images = generator(torch.randn(5, 100))
    assert images.shape == (5, 3, 32, 32)
    assert images.abs().max() <= 1
    assert critic(images).shape == (5,)
    assert torch.allclose(critic(images)[2:3], critic(images[2:3]), atol=1e-6)  # no image depends on another


def test_fresh_statistics_are_those_of_fresh_batches_and_leave_the_generator_as_it_was(notebook):
    generator, _ = notebook.build_pair(4, False, 0)
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
    made = Run("cifar10_jsd_1", 0, "fingerprint", None, needs=("cifar10_smallnet",))
    with pytest.raises(records.RecordError, match="cifar10_smallnet"):
        notebook.load_extractor(made, CPU)
    monkeypatch.setenv("SUITE_INCEPTION", "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="SUITE_INCEPTION names nowhere.pth, which is not a file"):
        notebook.load_extractor(made, CPU)


# ---------------------------------------------------------------- whole runs


@pytest.fixture
def suite(notebook, monkeypatch):
    """The runs of the notebook at smoke size, on the CPU, with the small classifier trained."""
    monkeypatch.setattr(settings, "device", lambda: CPU)
    suite = Suite("6_gan_critics", dict(notebook.RUNS))
    suite.run("cifar10_smallnet")
    return suite


def test_a_gan_trains_evaluates_and_says_what_it_measured(suite, monkeypatch):
    record = suite.run("cifar10_w1_3")
    assert record.arrays["samples"].shape == (100, 32, 32, 3)
    assert record.arrays["samples"].dtype == np.uint8
    assert record.arrays["evaluations"].shape == (3, 6)
    assert record.arrays["evaluation_steps"].tolist() == [0, 2, 4]
    assert record.metrics["w1_test"] == pytest.approx(record.metrics["score_test"] - record.metrics["score_fake"], abs=1e-5)
    assert record["facts"]["extractor"] == "smallnet"
    assert record["facts"]["reference"] == {"fid": 256, "fid_against_test": 128}
    assert (record["facts"]["penalties"], record["facts"]["cuda_graph"]) == ("float32", False)
    assert "fid" not in record.metrics
    assert record.metrics["fid_smallnet"] > 0
    assert "stand-in for cifar10" in record.remark
    first = record.content["metrics"]
    assert suite.run("cifar10_w1_3", again=True).content["metrics"] == first  # bit for bit on a CPU


def test_its_weights_draw_the_recorded_samples_and_score_them(notebook, suite):
    record = suite.run("cifar10_jsd_3")
    saved = suite.weights("cifar10_jsd_3")
    generator, critic = notebook.Generator(4).eval(), notebook.Critic(4)
    generator.load_state_dict(saved["generator"])
    critic.load_state_dict(saved["critic"])
    seed = Run("cifar10_jsd_3", 0, "", None).seed_for("shown")
    drawn = notebook.generate(generator, 100, seed).permute(0, 2, 3, 1).numpy()
    assert np.abs(drawn.astype(int) - record.arrays["samples"].astype(int)).max() <= 1  # saved as float16 where they are large


def test_a_gan_stopped_after_so_many_updates_was_evaluated_evenly_up_to_there(notebook, suite):
    config = notebook.RUNS["cifar10_jsd_1"].config("smoke")
    suite.runs["cifar10_jsd_1"] = run(notebook.train_gan, full=config | {"updates": 10_000, "evaluations": 3},
                                      needs=("cifar10_smallnet",))
    record = suite.run("cifar10_jsd_1", stop_after=6)
    assert (record["budget"]["done"], record["budget"]["planned"]) == (6, 10_000)
    assert record.arrays["evaluation_steps"].tolist() == [0, 2, 4, 6]
    assert record.arrays["evaluations"].shape == (4, 6)
    assert "6 of 10,000 generator updates" in record.remark


def test_a_gan_stopped_by_its_time_budget_is_evaluated_where_it_stopped(notebook, suite, monkeypatch):
    monkeypatch.setenv("SUITE_MINUTES", "0.001")
    config = notebook.RUNS["cifar10_jsd_1"].config("smoke")
    suite.runs["cifar10_jsd_1"] = run(notebook.train_gan, full=config | {"updates": 10_000, "evaluations": 1},
                                      needs=("cifar10_smallnet",))
    record = suite.run("cifar10_jsd_1")
    done = record["budget"]["done"]
    assert 0 < done < 10_000
    assert record.arrays["evaluation_steps"].tolist() == [0, done]
    assert record.arrays["evaluations"].shape == (2, 6)
    assert len(record.arrays["terms"]) == done // int(record.arrays["terms_every"])


def test_training_the_small_classifier_anew_ages_the_distances(suite):
    record = suite.run("cifar10_w1_3")
    assert not records.rests_on_another(record)
    suite.runs["cifar10_smallnet"] = run(suite.runs["cifar10_smallnet"].function,
                                         full=suite.runs["cifar10_smallnet"].config("smoke") | {"learning_rate": 1e-3})
    suite.run("cifar10_smallnet")
    assert records.rests_on_another(record)


def test_real_images_differ_by_the_noise_of_the_distance(suite):
    record = suite.run("cifar10_fid_noise")
    assert list(record.metrics) == ["fid_halves_smallnet", "fid_64_smallnet", "fid_test_smallnet"]
    assert record.spread["fid_halves_smallnet"]["n"] == record.spread["fid_64_smallnet"]["n"] == 3
    assert min(record.metrics.values()) > 0
    assert record["facts"]["reference"] == 256


def test_more_images_are_nearer_to_all_of_them(notebook, suite):
    suite.runs["cifar10_fid_noise"] = run(notebook.measure_noise, needs=("cifar10_smallnet",), full={
        **notebook.SMOKE_DATA, "sizes": [32, 128, 256], "splits": 4})
    metrics = suite.run("cifar10_fid_noise").metrics
    assert metrics["fid_32_smallnet"] > metrics["fid_128_smallnet"] > metrics["fid_256_smallnet"]
    assert metrics["fid_256_smallnet"] == pytest.approx(0.0, abs=1e-6)
