"""Notebook 4, the prior over tokens (probabilities, causality, the cache, sampling) and the run of both stages."""

import math
import shutil
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from helpers import settings
from helpers.data import datasets
from helpers.fast import tokens as fast_tokens
from helpers.publish import notebooks
from helpers.suite import Run, Suite, run
from helpers.train import training
from helpers.train.checkpoints import Checkpoint, CheckpointError

SMALL = {"dataset": "photo_patches", "limit": {"train": 96, "test": 64}, "validation": 0.0, "number": 8, "size": 8,
         "tracked": True, "epochs": 2, "epoch_images": None, "batch_size": 32, "rate": 2e-3, "watched": 32,
         "prior": {"width": 16, "layers": 1, "epochs": 2, "batch_size": 32, "rate": 2e-3}}


@pytest.fixture(scope="module")
def notebook():
    return notebooks.definitions("4_vqvae")


def random_prior(notebook, number, length, *, heads=2, seed=0):
    """A small float64 prior whose predictions are far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = notebook.TokenPrior(number, length, 16, heads, 2).double().requires_grad_(False)
        for parameter in prior.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return prior


def random_tokens(*shape, number, seed=0):
    return torch.randint(0, number, shape, generator=torch.Generator().manual_seed(seed))


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(notebook, prior, rows, seed=0, *, quick=False, **options):
    """Sequences of a prior, by the notebook's sampler or by its quick twin."""
    draw = partial(notebook.draw_tokens, generator=noise(seed), **options)
    return (fast_tokens.sample if quick else notebook.sample_tokens)(prior, rows, draw)


# ---------------------------------------------------------------- probabilities


def test_the_probabilities_of_all_sequences_sum_to_one(notebook):
    prior = random_prior(notebook, 3, 5)
    sequences = torch.tensor(list(product(range(3), repeat=5)))
    log_probabilities = -notebook.prior_nats(prior, sequences).sum(1)
    assert log_probabilities.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    assert log_probabilities.std() > 0.5


def test_the_loss_is_the_mean_over_all_tokens_whatever_the_batches(notebook):
    prior, tokens = random_prior(notebook, 9, 12), random_tokens(23, 12, number=9)
    log_probabilities = prior(tokens).log_softmax(-1)
    expected = -log_probabilities.gather(2, tokens[..., None])[..., 0]
    assert torch.allclose(notebook.prior_nats(prior, tokens), expected, atol=1e-12)
    for batch_size in (4, 23):
        by_position = notebook.evaluate_prior(prior, tokens.to(torch.uint8), batch_size=batch_size)
        assert torch.allclose(by_position, expected.mean(0), atol=1e-12)


def test_a_fresh_prior_is_nearly_uniform(notebook):
    prior = notebook.build_prior(128, 64, 128, 4, 0)
    loss = notebook.evaluate_prior(prior, random_tokens(10, 64, number=128)).mean().item()
    assert loss == pytest.approx(math.log(128), abs=0.1)


def test_a_trained_prior_reaches_the_entropy_of_a_known_chain(notebook):
    """Tokens that repeat their predecessor with probability 0.9, else are one of the three others."""
    generator, rows = np.random.RandomState(0), 512
    tokens = np.empty((rows, 8), np.uint8)
    tokens[:, 0] = generator.randint(4, size=rows)
    for position in range(1, 8):
        other = (tokens[:, position - 1] + generator.randint(1, 4, size=rows)) % 4
        tokens[:, position] = np.where(generator.rand(rows) < 0.9, tokens[:, position - 1], other)
    tokens = torch.from_numpy(tokens)
    prior = notebook.build_prior(4, 8, 16, 1, 0)
    splits = {"train": tokens, "test": tokens}
    history = notebook.fit_prior(prior, splits, updates=320, batch_size=64, rate=1e-2, order=0, training={"seed": 0})
    step = -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / 3)
    assert history.evaluations[-1, 0] == pytest.approx((math.log(4) + 7 * step) / 8, abs=0.03)
    drawn = sample(notebook, prior, 2000, quick=True)
    assert (drawn[:, 1:] == drawn[:, :-1]).double().mean().item() == pytest.approx(0.9, abs=0.03)


# ---------------------------------------------------------------- causality and the cache


@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_changed_token_changes_no_earlier_logit(notebook, place):
    prior, tokens = random_prior(notebook, 9, 12), random_tokens(4, 12, number=9)
    changed = tokens.clone()
    changed[:, place] = (changed[:, place] + 1) % 9
    before, after = prior(tokens), prior(changed)
    assert torch.equal(before[:, : place + 1], after[:, : place + 1])
    if place < 11:
        assert (before[:, place + 1 :] != after[:, place + 1 :]).any(-1).all()  # and every later one


def test_no_logit_depends_on_a_later_token_by_its_gradient(notebook):
    prior = random_prior(notebook, 9, 6)
    vectors = []
    prior.embedding.register_forward_hook(lambda module, inputs, output: vectors.append(output.requires_grad_()) or output)
    logits = prior(random_tokens(1, 6, number=9))
    for position in range(6):
        (gradient,) = torch.autograd.grad(logits[0, position].sum(), vectors[0], retain_graph=True)
        seen = gradient[0].abs().sum(1) > 0
        assert seen.tolist() == [place <= position for place in range(6)]


@pytest.mark.parametrize("heads", [1, 4])
def test_the_cache_gives_the_logits_and_gradients_of_the_whole_pass(notebook, heads):
    prior, tokens = random_prior(notebook, 9, 12, heads=heads).requires_grad_(), random_tokens(5, 12, number=9)
    expected, memory, previous, logits = prior(tokens), [None, None], torch.full((5,), 9), []
    for position in range(12):
        logits.append(fast_tokens.step(prior, previous, position, memory))
        previous = tokens[:, position]
    logits = torch.stack(logits, 1)
    assert torch.allclose(logits, expected, atol=1e-12)
    weights = torch.randn(logits.shape, generator=noise(1), dtype=torch.float64)
    plain, quick = (torch.autograd.grad((weights * x).sum(), list(prior.parameters())) for x in (expected, logits))
    assert any(gradient.abs().max() > 1 for gradient in plain)
    for one, other in zip(plain, quick, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_p": 0.9}, {"temperature": 1.5, "top_p": 0.6}])
def test_cached_sampling_equals_the_plain_one_token_by_token(notebook, options):
    prior = random_prior(notebook, 9, 12)
    cached, plain = (sample(notebook, prior, 64, 3, quick=quick, **options) for quick in (True, False))
    assert torch.equal(cached, plain)
    assert cached.shape == (64, 12)


def test_a_beginning_alone_gives_the_same_logits(notebook):
    prior, tokens = random_prior(notebook, 9, 12), random_tokens(4, 12, number=9)
    assert torch.allclose(prior(tokens[:, :5]), prior(tokens)[:, :5], atol=1e-12)


# ---------------------------------------------------------------- sampling


def test_the_start_token_is_never_sampled(notebook):
    prior = random_prior(notebook, 5, 6)
    prior.embedding.weight[5] += 100.0  # however loud it is
    tokens = sample(notebook, prior, 2000, temperature=5.0)
    assert tokens.unique().tolist() == [0, 1, 2, 3, 4]
    assert prior(tokens).shape[-1] == 5


def test_samples_have_the_probabilities_of_the_prior(notebook):
    prior, drawn = random_prior(notebook, 3, 3), 30_000
    tokens = sample(notebook, prior, drawn)
    sequences = torch.tensor(list(product(range(3), repeat=3)))
    expected = (-notebook.prior_nats(prior, sequences).sum(1)).exp()
    found = torch.bincount(tokens @ torch.tensor([9, 3, 1]), minlength=27) / drawn
    assert ((found - expected).abs() < 5 * (expected / drawn).sqrt() + 1e-4).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_is_a_power_of_the_probabilities(notebook, temperature):
    logits, drawn = torch.tensor([0.0, 1.0, -1.0, 3.0]).double(), 50_000
    tokens = notebook.draw_tokens(logits.expand(drawn, -1), noise(), temperature)
    expected = logits.softmax(0) ** (1 / temperature)
    assert torch.allclose(torch.bincount(tokens, minlength=4) / drawn, (expected / expected.sum()).float(), atol=0.01)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, [2]), (0.49, [2]), (0.51, [0, 2]), (0.79, [0, 2]), (0.81, [0, 2, 3]),
                                             (1.0, [0, 1, 2, 3])])
def test_top_p_keeps_the_smallest_set_with_its_mass(notebook, top_p, kept):
    probabilities, drawn = torch.tensor([0.3, 0.05, 0.5, 0.15]), 20_000
    tokens = notebook.draw_tokens(probabilities.log().expand(drawn, -1), noise(), top_p=top_p)
    assert tokens.unique().tolist() == kept
    expected = probabilities[kept] / probabilities[kept].sum()
    assert torch.allclose(torch.bincount(tokens, minlength=4)[kept] / drawn, expected, atol=0.015)


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 1e-300, 5e-324])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_a_small_temperature_is_the_most_probable_token_and_stays_finite(notebook, temperature, scale):
    logits = scale * torch.randn(50, 9, generator=noise())
    assert torch.equal(notebook.draw_tokens(logits, noise(), temperature=temperature), logits.argmax(1))
    assert torch.equal(notebook.draw_tokens(logits, noise(), temperature=temperature, top_p=0.5), logits.argmax(1))


# ---------------------------------------------------------------- inputs that are refused


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": math.nan}, {"temperature": math.inf},
                                     {"top_p": 0.0}, {"top_p": 1.1}])
def test_options_out_of_range_are_refused(notebook, options):
    with pytest.raises(ValueError, match="temperature must be positive and top_p in"):
        notebook.draw_tokens(torch.zeros(1, 4), noise(), **options)


def test_tokens_that_the_prior_does_not_know_are_refused(notebook):
    prior, tokens = notebook.build_prior(8, 64, 16, 1, 0), random_tokens(10, 64, number=8).to(torch.uint8)
    strange = tokens.clone()
    strange[3, 4] = 8  # the start token among the data
    options = {"updates": 2, "batch_size": 5, "rate": 1e-3, "order": 0, "training": {"seed": 0}}
    for train, test in ((strange, tokens), (tokens, strange)):
        with pytest.raises(ValueError, match=r"tokens must lie in 0\.\.7; these reach from 0 to 8"):
            notebook.fit_prior(prior, {"train": train, "test": test}, **options)


def test_heads_that_do_not_divide_the_width_are_refused(notebook):
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        notebook.TokenPrior(8, 64, 16, 3, 1)


# ---------------------------------------------------------------- the run


class Killed(Exception):
    """Stands for the end of the process."""


def killed_at(stage, step, fit=training.fit):
    """A ``fit`` that saves after every step and is killed before ``step`` of a stage."""

    def fit_until(update, batches, **options):
        class Update:
            model, state_dict, load_state_dict = update.model, update.state_dict, update.load_state_dict

            def __call__(self, batch, number, generator):
                if options["label"].endswith(stage) and number == step:
                    raise Killed
                return update(batch, number, generator)

        return fit(Update(), batches, **{**options, "checkpoint_seconds": 0.0})

    return fit_until


@pytest.mark.parametrize(("tracked", "validation"), [(True, 0.25), (False, 0.0)])
def test_a_run_killed_in_either_stage_ends_the_same(notebook, monkeypatch, tmp_path, tracked, validation):
    config = SMALL | {"tracked": tracked, "validation": validation}
    suite = Suite("4_vqvae", {"q3_dset2": run(notebook.train_q3, full=config)})
    whole = suite.run("q3_dset2")
    arrays = whole.arrays
    for stage, step in (("vqvae", 4), ("prior", 3)):
        shutil.rmtree(tmp_path / "output")
        with monkeypatch.context() as patch:
            patch.setattr(notebook, "fit", killed_at(stage, step))
            with pytest.raises(Killed):
                suite.run("q3_dset2")
        again = suite.run("q3_dset2")
        assert again.metrics == whole.metrics
        for name, values in arrays.items():
            assert np.array_equal(again.arrays[name], values), name


def test_with_validation_images_the_best_weights_on_them_are_kept(notebook, tmp_path):
    suite = Suite("4_vqvae", {"q3_dset1": run(notebook.train_q3, full=SMALL | {"validation": 0.25, "rate": 0.3})})
    record = suite.run("q3_dset1")
    valid = record.arrays["vqvae_valid"][:, 0]
    best = int(valid.argmin())
    assert record["facts"]["kept_at"]["vqvae"] == record.arrays["vqvae_steps"][best]
    assert record.metrics["valid_loss"] == pytest.approx(valid[best], rel=1e-2)
    assert record["dataset"]["sizes"] == {"train": 72, "valid": 24, "test": 64}
    assert record["facts"]["variance"] > 0
    assert "valid_prior_loss" in record.metrics


def test_a_part_is_trained_for_as_many_updates_as_the_whole(notebook):
    suite = Suite("4_vqvae", {"q3_dset1": run(notebook.train_q3, full=SMALL | {"epoch_images": 300})})
    record = suite.run("q3_dset1")
    assert record["facts"]["vqvae_updates"] == 2 * 10  # of 32 images
    assert record["facts"]["prior_updates"] == 2 * 3  # of the 96 that are there


def test_the_weights_of_a_record_draw_the_samples_of_the_record(notebook):
    suite = Suite("4_vqvae", {"q3_dset2": run(notebook.train_q3, full=SMALL)})
    record = suite.run("q3_dset2")
    model, prior = notebook.recorded_models(suite.weights("q3_dset2"), record["config"])
    seed = Run("q3_dset2", record["seed"], "", None).seed_for("samples")
    assert np.array_equal(notebook.draw_images(model, prior, 100, seed), record.arrays["samples"])
    assert np.array_equal(notebook.to_bytes(model(notebook.to_signed(torch.from_numpy(record.arrays["originals"])))[0].detach()),
                          record.arrays["reconstructions"])


def test_a_checkpoint_of_another_configuration_is_refused_and_kept(notebook):
    asked = Run("q3_dset2", 0, "f" * 64, None)
    foreign = Checkpoint(asked.checkpoint("vqvae").path, "another configuration")
    foreign.save({"step": 3})
    before = foreign.path.read_bytes()
    with pytest.raises(CheckpointError, match="another configuration"):
        notebook.train_q3(asked, **SMALL)
    assert foreign.path.read_bytes() == before


def test_a_cut_run_says_so_and_leaves_no_checkpoint_of_a_prior_of_unfinished_tokens(notebook, monkeypatch):
    monkeypatch.setenv("SUITE_MINUTES", "1e-9")
    record = Suite("4_vqvae", {"q3_dset2": run(notebook.train_q3, full=SMALL)}).run("q3_dset2")
    assert not record.complete
    assert record["budget"]["done"] < record["budget"]["planned"] == 12
    assert [path.name.split("-")[1] for path in settings.checkpoint_folder().glob("*.pt")] == ["vqvae"]


def test_the_courses_function_keeps_its_contract(notebook, monkeypatch, capsys):
    monkeypatch.setitem(notebook.RUNS, "q3_dset2", run(notebook.train_q3, full=SMALL))
    train, test = (np.random.RandomState(number).randint(256, size=(number, 32, 32, 3), dtype=np.uint8) for number in (64, 50))
    answer = notebook.q3(train, test, 2)
    vqvae_train, vqvae_test, prior_train, prior_test, samples, pairs = answer
    assert vqvae_train.shape == prior_train.shape == (40,)  # 20 epochs of 2 batches
    assert vqvae_test.shape == prior_test.shape == (21,)
    assert samples.shape == pairs.shape == (100, 32, 32, 3)
    assert 0 <= samples.min() <= samples.max() <= 255
    assert np.array_equal(pairs[::2], test)
    train.flags.writeable = False
    for other in ((train, np.asfortranarray(test.astype(np.int64))), (train / 255, test.astype(np.float32))):
        for one, same in zip(answer, notebook.q3(*other, 2), strict=True):
            assert np.array_equal(one, same)
    assert "the dataset 2 train images are float64 in 0..1: scaled" in capsys.readouterr().out
    assert notebook.q3(train[:5], test, 1)[0].shape == (20,)  # fewer images than a batch


def test_the_courses_function_refuses_what_it_cannot_use(notebook):
    train, test = (np.zeros((number, 32, 32, 3), np.uint8) for number in (64, 50))
    with pytest.raises(ValueError, match="dset_id is 1 or 2, not 3"):
        notebook.q3(train, test, 3)
    with pytest.raises(datasets.DataError, match="50 test images .* has only 49"):
        notebook.q3(train, test[:49], 2)
    with pytest.raises(datasets.DataError, match=r"expected \(N, 32, 32, 3\)"):
        notebook.q3(train[:, :28], test, 1)
    with pytest.raises(datasets.DataError, match=r"values from 1.5 to 1.5; expected integers in 0..255"):
        notebook.q3(train, test + np.float32(1.5), 1)
