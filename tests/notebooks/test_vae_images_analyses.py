"""Notebook 3: the numbers in its tables are what their names say, on arrays whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers.results import deliverables
from helpers.work.definitions import definitions


@pytest.fixture(scope="module")
def notebook():
    return definitions("3_vae_images")


class Invented(SimpleNamespace):
    """A record with invented numbers."""

    def __getitem__(self, key):
        return self.content[key]


def invented(run_id, metrics, arrays, **content):
    content = {"dataset": {"name": "svhn", "stand_in": False}, "config": {}, **content}
    return Invented(id=run_id, metrics=metrics, arrays=arrays, remark="", content=content)


def test_missed_colour_is_none_for_a_copy_and_all_for_grey(notebook):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    grey = np.broadcast_to(images.mean(-1, keepdims=True), images.shape)
    half = 0.5 * images + 0.5 * grey
    for reconstruction, share in ((images, 0.0), (grey, 1.0), (half, 0.25), (np.clip(images.astype(float) + 7, 0, None), 0.0)):
        pairs = np.stack([images.astype(float), reconstruction], 1).reshape(10, 32, 32, 3)
        assert notebook.missed_colour(pairs) == pytest.approx(share, abs=1e-9)


def test_levels_off(notebook):
    recon = 3072 * (10 / 127.5) ** 2  # every colour value is off by 10 levels
    assert notebook.levels_off(recon) == pytest.approx(10)


def test_a_line_beside_the_sheet_says_when_the_data_are_others(notebook):
    sheet = deliverables.entry("q2_a_dset1")["metrics"]["neg_elbo"]["sheet"]
    pairs = {"pairs": np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)}
    metrics = {"neg_elbo": sheet - 10.25, "recon": 70.0}
    assert notebook.beside_the_sheet(invented("q2_a_dset1", metrics, pairs))[3] == "-10.25"
    drawn = {"name": "street_digits", "stand_in": True}
    assert notebook.beside_the_sheet(invented("q2_a_dset1", metrics, pairs, dataset=drawn))[3] == "other data"


def test_a_line_of_what_was_kept(notebook):
    arrays = {"steps": np.arange(0, 50, 10), "kept": np.array(3), "per_epoch": np.array(10)}
    record = invented("q2_a_dset1", {"valid_neg_elbo": 91.0, "neg_elbo": 92.5}, arrays, config={"epochs": 4, "shift": 1})
    assert notebook.kept_line(record) == ["q2_a_dset1", "1", "3 of 4", "91.00", "92.50"]


def test_spread_within_rows(notebook):
    random = np.random.default_rng(0)
    same = np.repeat(random.normal(size=(5, 1, 8, 8, 3)), 10, 1).reshape(50, 8, 8, 3)
    assert notebook.spread_within_rows(same) == pytest.approx(0)
    assert notebook.spread_within_rows(random.normal(size=(50, 32, 32, 3))) == pytest.approx(1, abs=0.05)


def test_fixed_share(notebook):
    random = np.random.default_rng(0)
    coarse = np.kron(random.normal(size=(10, 1, 4, 4, 3)), np.ones((1, 1, 8, 8, 1)))
    grain = 100 * random.normal(size=(10, 8, 32, 32, 3))
    grain -= grain.reshape(10, 8, 4, 8, 4, 8, 3).mean((3, 5), keepdims=True).repeat(8, 3).repeat(8, 5).reshape(grain.shape)
    decoded = (coarse + grain).reshape(80, 32, 32, 3)
    assert notebook.fixed_share(decoded, 8) == pytest.approx(1)  # the code fixes blocks, and nothing of the grain
    assert abs(notebook.fixed_share(decoded, 1)) < 0.05
    assert abs(notebook.fixed_share(random.normal(size=(80, 32, 32, 3)), 8)) < 0.15


def variants_with(**bounds):
    return {name: {"valid_bpd": value, "test_bpd": value} for name, value in bounds.items()}


def test_the_number_of_channels_is_chosen_on_validation(notebook):
    found = variants_with(normal_4=3.0, flow_2=3.8, flow_4=3.6, flow_8=3.55, flow_4_after=3.0)
    for values in found.values():
        values["test_bpd"] = -values["valid_bpd"]  # the test bound plays no part
    assert notebook.best_channels(found) == 8
    assert notebook.channels_in_words(found) == ("8 channels have the lowest validation bound, "
                                                 "0.0500 bits per dimension below that of 4")
    found["flow_8"]["valid_bpd"] = 3.61
    assert notebook.channels_in_words(found) == "4 channels have the lowest validation bound"


def test_gains_and_the_part_of_scale(notebook):
    normal = {"test_bpd": 3.7, "test_recon_bpd": 3.3, "test_kl_bpd": 0.4}
    flow = {"test_bpd": 3.6, "test_recon_bpd": 3.25, "test_kl_bpd": 0.35}
    assert notebook.gains(normal, flow) == pytest.approx({"": 0.1, "recon_": 0.05, "kl_": 0.05})
    line = notebook.gain_line("flow", normal, flow)
    assert line[:4] == ["flow", "+0.1000", "+0.0500", "+0.0500"] and float(line[4]) == pytest.approx(0.1 / notebook.BITS, abs=0.1)
    found = variants_with(normal_4=3.7, channels_4=3.69, flow_4=3.6, normal_4_tanh=5.0, channels_4_tanh=4.9, flow_4_tanh=4.6)
    assert notebook.scale_share(found) == pytest.approx(0.1) and notebook.scale_share(found, "_tanh") == pytest.approx(0.25)


def test_names_of_variants_in_words(notebook):
    named = {notebook.variant_name(prior, latents, log_std, after) for prior, latents, log_std, after in (
        ("normal", 16, "free", False), ("flow", 4, "tanh", False), ("flow", 4, "free", True))}
    assert named == {"normal_16", "flow_4_tanh", "flow_4_after"}
    assert notebook.words_of("normal_16") == "standard normal, 16 channels"
    assert notebook.words_of("flow_4_tanh") == "autoregressive flow, 4 channels, plain tanh"
    assert notebook.words_of("flow_4_after") == "autoregressive flow, 4 channels, trained afterwards"


def test_variants_are_read_from_records(notebook):
    metrics = {f"{name}_flow_4": value for name, value in (
        ("valid_bpd", 3.6), ("test_bpd", 3.5), ("test_recon_bpd", 3.2), ("test_kl_bpd", 0.3))}
    record = invented("b19_2_channels", metrics, arrays={"codes_flow_4": np.array([0.5, 0.25, -1.0])})
    assert notebook.variants_of([record]) == {"flow_4": {
        "valid_bpd": 3.6, "test_bpd": 3.5, "test_recon_bpd": 3.2, "test_kl_bpd": 0.3,
        "square": 0.5, "variance": 0.25, "log_std": -1.0}}


def test_a_flow_trained_afterwards_tells_its_first_models_numbers(notebook):
    values = {"valid_bpd": 3.6, "test_bpd": 3.55, "test_recon_bpd": 3.25, "test_kl_bpd": 0.3, "test_normal_kl_bpd": 0.4}
    record = invented("b19_2_after", {f"{name}_flow_4_after": value for name, value in values.items()},
                      {"codes_flow_4_after": np.array([0.5, 0.25, -1.0])})
    found = notebook.variants_of([record])
    assert list(found) == ["flow_4_after", "normal_4"] and found["flow_4_after"]["test_bpd"] == 3.55
    first = found["normal_4"]
    assert first["test_bpd"] == pytest.approx(3.65) and first["test_kl_bpd"] == 0.4 and first["square"] == 0.5
    assert np.isnan(first["valid_bpd"])


def test_one_draw_ratio_of_a_model_that_says_nothing_is_zero(notebook):
    import torch

    model = notebook.HierarchicalVAE(width=4).double()
    for part in (model.first, model.second):
        torch.nn.init.zeros_(part[-1].weight)
        torch.nn.init.zeros_(part[-1].bias)
    x, noise = torch.rand(3, 3, 32, 32, dtype=torch.float64), torch.randn(3, 2, 12, 2, 2, dtype=torch.float64)
    assert notebook.one_draw_ratio(model, x, noise).abs().max() < 1e-12
    torch.nn.init.constant_(model.first[-1].bias[:12], 1.0)
    assert notebook.one_draw_ratio(model, x, noise).mean() != 0
