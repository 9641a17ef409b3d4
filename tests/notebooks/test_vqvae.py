"""Notebook 4, the VQ-VAE: nearest codes, the three paths of the gradient, running means, inputs that are refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from helpers.data import datasets
from helpers.fast import quantiser
from helpers.publish import notebooks
from helpers.results.deliverables import entry
from helpers.results.records import load
from helpers.settings import PROJECT_ROOT
from helpers.train.images import to_signed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def notebook():
    return notebooks.definitions("4_vqvae")


def doubles(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bytes_images(number, seed=0):
    return torch.randint(0, 256, (number, 32, 32, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def quantizer(notebook):
    """Seven codes of five dimensions in float64."""
    quantizer = notebook.Quantizer(7, 5).double()
    quantizer.codes.data = doubles(7, 5, seed=1)
    return quantizer


# ---------------------------------------------------------------- the quantiser


@pytest.fixture(params=["plain", "quick"])
def rule(notebook, request):
    """The notebook's definition of a quantiser, and its quick twin."""
    return {"plain": notebook.quantize, "quick": quantiser.quantize}[request.param]


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_the_nearest_code_is_the_one_of_a_search_through_all(quantizer, rule, shift):
    quantizer.rule, vectors = rule, doubles(500, 5) + shift
    quantizer.codes.data += shift
    brute_force = (vectors[:, None] - quantizer.codes).square().sum(2).argmin(1)
    z = vectors.reshape(5, 10, 10, 5).permute(0, 3, 1, 2)
    quantized = quantizer(z)
    assert torch.equal(quantized.tokens.flatten(), brute_force)
    assert torch.allclose(quantized.codes, quantizer.codes[quantized.tokens].permute(0, 3, 1, 2), atol=1e-12)
    assert torch.equal(quantiser.quantize(z, quantizer.codes)[0], quantizer.lookup(brute_force.reshape(5, 10, 10)))  # bit for bit


@pytest.mark.parametrize("trained", [True, False])
def test_the_quick_quantiser_has_the_plain_ones_values_and_gradients(notebook, trained):
    results = []
    for quantize in (notebook.quantize, quantiser.quantize):
        z, codebook = doubles(3, 5, 4, 4).requires_grad_(), doubles(7, 5, seed=1).requires_grad_(trained)
        codes, tokens, term, commitment = quantize(z, codebook)
        weighted = (codes * doubles(3, 5, 4, 4, seed=2)).sum() + 0.3 * term + 0.7 * commitment
        gradients = torch.autograd.grad(weighted, [z, codebook] if trained else [z])
        results.append((codes, tokens, term, commitment, *gradients))
    for plain, quick in zip(*results, strict=True):
        assert torch.allclose(plain, quick, atol=1e-14, rtol=0)


@pytest.mark.parametrize("mean", [100.0, -1000.0])
def test_nearest_codes_in_float32_where_the_mean_is_many_times_the_spread(mean):
    vectors, codes = (doubles(2000, 16, seed=1) + mean).float(), (doubles(128, 16, seed=2) + mean).float()
    distances = torch.cdist(vectors.double(), codes.double()).square()
    chosen = distances.gather(1, quantiser.nearest(vectors, codes)[:, None])[:, 0]
    assert (chosen - distances.min(1).values).max() < 1e-4  # of about 10


def test_the_quick_search_needs_no_memory_for_all_differences():
    """2^17 vectors, 128 codes, 256 dimensions: the differences alone would be 17 GB."""
    vectors = torch.zeros(1 << 17, 256)
    assert quantiser.nearest(vectors, torch.eye(128, 256)[:128]).unique().tolist() == [0]


def test_the_encoder_gets_the_gradient_that_the_decoder_has_at_the_code(quantizer, rule):
    quantizer.rule = rule
    decoder = nn.Conv2d(5, 3, 3).double()
    z = doubles(2, 5, 4, 4).requires_grad_()
    quantized = quantizer(z)
    code = quantized.codes.detach().requires_grad_()
    (at_the_code,) = torch.autograd.grad(decoder(code).square().sum(), code)
    straight, codes = torch.autograd.grad(decoder(quantized.codes).square().sum(), [z, quantizer.codes], allow_unused=True)
    assert torch.allclose(straight, at_the_code, atol=1e-13)
    assert codes is None  # the decoder's loss moves no code


def test_commitment_moves_the_encoder_only_and_the_codebook_term_the_codes_only(quantizer, rule):
    quantizer.rule = rule
    z = doubles(3, 5, 4, 4).requires_grad_()
    quantized = quantizer(z)
    nearest = quantizer.lookup(quantized.tokens).detach()
    assert quantized.commitment.item() == pytest.approx((z - nearest).square().mean().item(), abs=1e-14)
    assert quantized.codebook.item() == quantized.commitment.item()
    encoder, codes = torch.autograd.grad(quantized.commitment, [z, quantizer.codes], allow_unused=True, retain_graph=True)
    assert codes is None
    assert torch.allclose(encoder, 2 * (z - nearest) / z.numel(), atol=1e-15)
    encoder, codes = torch.autograd.grad(quantized.codebook, [z, quantizer.codes], allow_unused=True)
    assert encoder is None
    expected = torch.zeros_like(codes).index_add(0, quantized.tokens.flatten(), (nearest - z).permute(0, 2, 3, 1).reshape(-1, 5))
    assert torch.allclose(codes, 2 * expected.detach() / z.numel(), atol=1e-15)


def test_where_codes_are_running_means_both_terms_commit_the_encoder(notebook, rule):
    quantizer, z = notebook.TrackingQuantizer(6, 4, rule).double(), doubles(2, 4, 8, 8).requires_grad_()
    quantizer(z, torch.Generator().manual_seed(0))
    quantized = quantizer.eval()(z)
    assert quantized.codebook.item() == quantized.commitment.item()
    (gradient,) = torch.autograd.grad(quantized.codebook + quantized.commitment, z)
    assert torch.allclose(gradient, 4 * (z - quantizer.lookup(quantized.tokens)) / z.numel(), atol=1e-15)
    assert not quantizer.codes.requires_grad


def test_codes_start_in_the_sheets_range(notebook):
    codes = notebook.Quantizer(128, 256).codes
    assert codes.shape == (128, 256)
    assert 0.99 / 128 < codes.abs().max() <= 1 / 128
    assert codes.mean().abs() < 1e-4


def test_running_means_follow_their_formula(notebook):
    quantizer = notebook.TrackingQuantizer(3, 2, decay=0.75, dead=0.0).double()
    quantizer.codes.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [100.0, 0.0]]))
    quantizer.counts.copy_(torch.tensor([4.0, 2.0, 1.0]))
    quantizer.sums.copy_(quantizer.codes * quantizer.counts[:, None])
    vectors = torch.tensor([[1.0, 1.0], [2.0, 0.0], [9.0, 0.0]], dtype=torch.float64)
    quantizer.track(vectors, torch.tensor([0, 0, 1]))
    assert torch.allclose(quantizer.counts, torch.tensor([3.5, 1.75, 0.75]).double())
    first = (0.25 * vectors[:2].sum(0)) / 3.5
    second = (0.75 * torch.tensor([20.0, 0.0]) + 0.25 * vectors[2]) / 1.75
    assert torch.allclose(quantizer.codes, torch.stack([first, second, torch.tensor([100.0, 0.0]).double()]))


@pytest.mark.parametrize("dead", [0.0, 0.1])
def test_running_means_without_memory_stay_finite(notebook, dead):
    """A code that nobody chose has no mean: it stays where it is, and starts anew only where the dead do."""
    quantizer = notebook.TrackingQuantizer(6, 4, decay=0.0, dead=dead).double()
    quantizer.codes[0] = 50.0  # far from all vectors
    z, noise = doubles(2, 4, 8, 8), torch.Generator().manual_seed(0)
    for _ in range(5):
        quantized = quantizer(z, noise)
    assert torch.isfinite(quantizer.codes).all()
    assert torch.isfinite(quantized.commitment)
    if dead == 0:
        assert torch.equal(quantizer.codes[0], torch.full((4,), 50.0).double())
    with pytest.raises(ValueError, match=r"lies in \[0, 1\), not 1.0"):
        notebook.TrackingQuantizer(6, 4, decay=1.0)


def test_the_first_batch_gives_the_first_codes_and_evaluation_changes_nothing(notebook):
    quantizer, z = notebook.TrackingQuantizer(6, 4).double(), doubles(2, 4, 8, 8)
    before = quantizer.codes.clone()
    quantizer.eval()
    quantizer(z)
    assert torch.equal(quantizer.codes, before)
    assert quantizer.counts.sum() == 0
    quantizer.train().restart(z.permute(0, 2, 3, 1).flatten(0, 2), torch.Generator().manual_seed(0))
    vectors = z.permute(0, 2, 3, 1).flatten(0, 2)
    assert all((vectors == code).all(1).any() for code in quantizer.codes)


def test_only_dead_codes_start_anew(notebook):
    quantizer, vectors = notebook.TrackingQuantizer(4, 3, dead=0.1).double(), doubles(80, 3)
    quantizer.counts.copy_(torch.tensor([20.0, 1.99, 2.01, 0.0]))  # an even share is 20, so below 2 is dead
    quantizer.sums.copy_(quantizer.codes * quantizer.counts[:, None])
    before = quantizer.codes.clone()
    quantizer.restart(vectors, torch.Generator().manual_seed(0))
    same = (quantizer.codes == before).all(1)
    assert same.tolist() == [True, False, True, False]
    assert quantizer.counts.tolist() == pytest.approx([20.0, 4.0, 2.01, 4.0])
    assert torch.allclose(quantizer.sums[1] / quantizer.counts[1], quantizer.codes[1])


def test_restarts_depend_on_the_generator_alone(notebook):
    def codes(seed):
        quantizer = notebook.TrackingQuantizer(6, 4)
        quantizer(doubles(2, 4, 8, 8).float(), torch.Generator().manual_seed(seed))
        return quantizer.codes

    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    assert torch.equal(codes(1), codes(1))
    assert not torch.equal(codes(1), codes(2))
    quantizer = notebook.TrackingQuantizer(6, 4)
    torch.random.set_rng_state(state)
    quantizer(doubles(2, 4, 8, 8).float(), torch.Generator().manual_seed(1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_dead_codebook_comes_to_life(notebook):
    """Codes far from all encodings: the gradient moves one of them, running means use all."""
    z = doubles(4, 4, 8, 8).float()
    plain, tracked = notebook.Quantizer(16, 4), notebook.TrackingQuantizer(16, 4)
    for quantizer in (plain, tracked):
        quantizer.codes.data += 50.0
        quantizer.codes.data[0] = 5.0
    assert len(plain(z).tokens.unique()) == 1
    noise = torch.Generator().manual_seed(0)
    for _ in range(5):
        tracked(z, noise)
    assert len(tracked.eval()(z).tokens.unique()) == 16


def test_perplexity_of_even_and_single_use(notebook):
    assert notebook.usage_perplexity(np.full(128, 3)) == pytest.approx(128.0, abs=1e-10)
    assert notebook.usage_perplexity(np.eye(128, dtype=int)[7]) == 1.0
    assert notebook.usage_perplexity(np.array([1, 1, 0, 0])) == pytest.approx(2.0)
    for counts in (np.zeros(5), np.array([3, -1]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="expected the counts of codes"):
            notebook.usage_perplexity(counts)


# ---------------------------------------------------------------- network and evaluation


def test_shapes_and_the_size_of_the_sheets_network(notebook):
    model = notebook.build_vqvae(128, 256, False, 0)
    convolutions = 256 * (3 * 16) + 256 + 256 * 256 * 16 + 256 + 2 * (256 * 256 * 10 + 512)
    normalisations = 2 * 256 * (1 + 4)
    mirrored = 256 * 256 * 16 + 256 + 3 * 256 * 16 + 3 + 2 * (256 * 256 * 10 + 512) + 2 * 256 * (2 + 4)
    assert sum(p.numel() for p in model.parameters()) == convolutions + normalisations + mirrored + 128 * 256
    model = notebook.build_vqvae(8, 8, False, 0).eval()
    x = to_signed(bytes_images(3))
    reconstruction, quantized = model(x)
    assert reconstruction.shape == (3, 3, 32, 32)
    assert quantized.tokens.shape == (3, 8, 8)
    assert torch.allclose(model.decode(quantized.tokens), reconstruction, atol=1e-6)


def test_the_loss_is_the_sum_of_its_three_terms_and_does_not_depend_on_the_batches(notebook):
    model, pixels = notebook.build_vqvae(8, 8, True, 0), bytes_images(20)
    model(to_signed(pixels), torch.Generator().manual_seed(0))
    terms, tokens = notebook.evaluate_vqvae(model, pixels, batch_size=7)
    assert model.training
    others, same_tokens = notebook.evaluate_vqvae(model, pixels, batch_size=20)
    assert torch.allclose(terms, others, atol=1e-6)
    assert torch.equal(tokens, same_tokens)
    assert torch.equal(tokens, notebook.encode_images(model, pixels, batch_size=9))
    assert tokens.shape == (20, 64)
    model.eval()
    reconstruction, quantized = model(to_signed(pixels))
    mse = (reconstruction - to_signed(pixels)).square().mean().item()
    z = model.encoder(to_signed(pixels))
    distance = (z - quantized.codes).square().mean().item()
    assert terms.tolist() == pytest.approx([mse + 2 * distance, mse, distance, distance], rel=1e-5)


def test_nats_of_an_image_given_its_code(notebook):
    errors = 0.3 * doubles(1000)
    nats = -torch.distributions.Normal(torch.zeros(1).double(), 0.25).log_prob(errors).sum().item() - 1000 * math.log(2 / 255)
    assert notebook.gaussian_nats(errors.square().mean().item(), 0.0625, 1000) == pytest.approx(nats, abs=1e-8)
    others = (notebook.gaussian_nats(0.04, 0.03), notebook.gaussian_nats(0.04, 0.05))
    assert notebook.gaussian_nats(0.04, 0.04) < min(others)


@pytest.mark.parametrize("saved", [-40.0, 0.0, 25.0])
def test_the_break_even_mse_costs_as_much_in_all(notebook, saved):
    other = notebook.break_even_mse(0.02, saved)
    assert notebook.gaussian_nats(other, other) - saved == pytest.approx(notebook.gaussian_nats(0.02, 0.02), abs=1e-8)
    assert (other > 0.02) == (saved > 0)


class Made:
    """Stands for a record."""

    id, remark = "q3_dset2", ""

    def __init__(self, **changes):
        self.metrics = {"vqvae_loss": 0.03, "recon_mse": 0.02, "codebook_perplexity": 100.0, "codes_used": 128.0,
                        "prior_loss": 3.0, "code_nats": 192.0, "recon_nats": 13000.4, "image_nats": 13192.4} | changes
        self.spread = {name: {"n": 1, "std": 0.0} for name in self.metrics}


def test_the_table_of_both_rules_ends_with_their_differences(notebook):
    plain, tracked, difference = notebook.trade_off(Made(codes_used=40.0, image_nats=13300.0), Made())
    assert plain == ["0.0300", "0.0200", "100.0", "40", "3.000", "192", "13000", "13300"]
    assert tracked[3] == "128"
    assert difference == ["+0.0000", "+0.0000", "+0.0", "+88", "+0.000", "+0", "+0", "-108"]


def test_the_table_of_both_rules_tells_the_deviation_over_seeds(notebook):
    repeated = Made()
    repeated.spread = {name: {"n": 3, "std": 0.0123} for name in repeated.metrics}
    plain, tracked, _ = notebook.trade_off(Made(), repeated)
    assert plain[:4] == ["0.0300", "0.0200", "100.0", "128"]
    assert tracked[:4] == ["0.0300 ± 0.0123", "0.0200 ± 0.0123", "100.0 ± 0.0", "128 ± 0"]


@pytest.mark.parametrize("run_id", ["q3_dset1", "q3_dset2"])
def test_the_answer_on_both_rules_holds_for_every_seed(run_id):
    tracked, plain = (load(name, PROJECT_ROOT / "results") for name in (run_id, f"{run_id}_plain"))
    for name in ("vqvae_loss", "recon_mse", "codebook_perplexity", "codes_used", "prior_loss", "code_nats", "recon_nats",
                 "image_nats"):
        one, other = tracked.spread[name], plain.spread[name]
        assert one["n"] == other["n"] == 3
        assert one["max"] < other["min"] or other["max"] < one["min"], name  # in no column do they overlap
    assert tracked.spread["codes_used"]["min"] == 128 > plain.spread["codes_used"]["max"]
    assert tracked.spread["image_nats"]["max"] < plain.spread["image_nats"]["min"]
    if run_id == "q3_dset2":
        assert plain.spread["vqvae_loss"]["min"] > entry(run_id)["metrics"]["vqvae_loss"]["sheet"]  # none reaches it


def test_the_table_beside_the_sheet_prices_its_cheaper_tokens(notebook):
    rows = {name: (ours, sheet) for name, ours, sheet in notebook.beside_the_sheet(Made())}
    assert rows["tokens, nats per image"] == ("192", "178")
    assert rows["perplexity"] == ("100.0", "at least 16.0")
    assert rows["mse up to which the sheet's model costs less in all"][1] == f"{0.02 * math.exp((192 - 64 * 2.7739) / 1536):.4f}"
    assert rows["log perplexity - prior loss: what the prior has learned"][0] == f"{math.log(100) - 3:.3f}"


# ---------------------------------------------------------------- images by split


def made(monkeypatch, houses=None, side=32, number=40):
    """A data set of made images in place of the published ones."""
    splits = {"train": np.zeros((number, side, side, 3), np.uint8), "test": np.ones((6, side, side, 3), np.uint8)}
    splits["train"][:, 0, 0, 0] = np.arange(number)
    groups = None if houses is None else {"train": houses, "test": np.zeros(6, np.int64)}
    dataset = datasets.Dataset("made", splits, None, False, None, "", groups=groups)
    monkeypatch.setattr(datasets, "load", lambda name, limit=None: dataset)


def test_validation_images_are_whole_houses_and_none_of_the_others(notebook, monkeypatch):
    made(monkeypatch, houses=np.arange(40) // 4)
    about, splits = notebook.load_splits("made", None, 0.1, CPU)
    assert about["validation"] == "by house"
    assert about["sizes"] == {"train": 36, "valid": 4, "test": 6}
    rows = {split: images[:, 0, 0, 0].tolist() for split, images in splits.items() if split != "test"}
    assert sorted(rows["train"] + rows["valid"]) == list(range(40))
    assert len({row // 4 for row in rows["valid"]}) == 1
    again = notebook.load_splits("made", None, 0.1, CPU)[1]
    assert torch.equal(again["valid"], splits["valid"])


def test_validation_images_of_unknown_houses_are_drawn_at_random_and_it_is_said(notebook, monkeypatch):
    made(monkeypatch)
    about, splits = notebook.load_splits("made", None, 0.25, CPU)
    assert about["validation"] == "at random"
    assert len(splits["valid"]) == 10
    assert set(notebook.load_splits("made", None, 0.0, CPU)[1]) == {"train", "test"}


# ---------------------------------------------------------------- inputs that are refused


def test_images_of_another_form_are_refused(notebook, monkeypatch):
    made(monkeypatch, side=30)
    with pytest.raises(datasets.DataError, match=r"\(40, 30, 30, 3\); expected \(N, 32, 32, 3\)"):
        notebook.load_splits("made", None, 0.0, CPU)


def test_tokens_out_of_range_and_empty_codebooks_are_refused(notebook, quantizer):
    with pytest.raises(ValueError, match=r"tokens must lie in 0\.\.6; these reach from 0 to 7"):
        quantizer.lookup(torch.arange(8).reshape(1, 2, 4))
    with pytest.raises(ValueError, match="reach from -1 to 3"):
        quantizer.lookup(torch.tensor([[[-1, 3]]]))
    with pytest.raises(ValueError, match="expected integer tokens"):
        quantizer.lookup(torch.zeros(1, 2, 2))
    for shape in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match=f"not {shape[0]} codes of {shape[1]}"):
            notebook.Quantizer(*shape)
    with pytest.raises(ValueError, match="at most 256 codes, not 300"):
        notebook.build_vqvae(300, 8, True, 0)
