"""Notebook 1: the losses against closed forms, the estimators' properties, the toroidal code, the course's contract."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from helpers import settings
from helpers.data import synthetic
from helpers.results import records
from helpers.settings import PROJECT_ROOT
from helpers.suite import Suite
from helpers.train.stacking import Stack
from helpers.work.definitions import definitions

SUPPORTING = {"q1_choices", "b19_1b_choices", "mit_p4_autoencoder", "mit_p4_gaussian_wide", "mit_p4_toroidal_small"}


@pytest.fixture(scope="module")
def notebook():
    return definitions("1_vae_2d")


def recorded(run_id):
    return records.load(run_id, PROJECT_ROOT / "results")


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaussian_nll_and_kl_against_torch_distributions(notebook):
    x, mean, log_variance = doubles(3, 40, 2)
    normal = Normal(mean, torch.exp(0.5 * log_variance))
    assert torch.allclose(notebook.gaussian_nll(x, mean, log_variance), -normal.log_prob(x).sum(-1), atol=1e-12)
    expected = kl_divergence(normal, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(-1)
    assert torch.allclose(notebook.kl_to_standard_normal(mean, log_variance), expected, atol=1e-12)


def test_a_scalar_variance_counts_once_a_dimension(notebook):
    x, mean, log_variance = doubles(3, 40, 2)
    shared = log_variance[:, :1]
    expected = -Normal(mean, torch.exp(0.5 * shared).expand(-1, 2)).log_prob(x).sum(-1)
    assert torch.allclose(notebook.gaussian_nll(x, mean, shared), expected, atol=1e-12)


def test_terms_of_a_stack_are_those_of_its_members(notebook):
    stack = Stack(notebook.GaussianVAE, [0, 1, 2]).double()
    x, noise = doubles(3, 9, 2), doubles(3, 9, 2, seed=1)
    terms = notebook.vae_terms(stack, x, noise)
    assert terms.shape == (3, 3)
    for index in range(3):
        alone = notebook.vae_terms(stack.member(index, lambda: notebook.GaussianVAE().double()), x[index], noise[index])
        assert torch.allclose(terms[:, index], alone, atol=1e-12)


def test_the_elbo_is_below_the_likelihood_of_a_linear_gaussian_model(notebook):
    class Linear(notebook.LinearGaussian):
        def forward(self, x, noise):
            mean, log_variance = self.encode(x)
            return mean, log_variance, *self.decode(mean + noise * torch.exp(0.5 * log_variance))

    x = math.sqrt(2) * doubles(2000, 2)
    likelihood = Normal(0.0, math.sqrt(2.0)).log_prob(x).sum(-1).mean()
    tight = -notebook.evaluate_terms(Linear(math.log(0.5)), x.float(), seed=0, draws=200)[0]
    loose = -notebook.evaluate_terms(Linear(math.log(2.0)), x.float(), seed=0, draws=200)[0]
    assert tight.item() == pytest.approx(likelihood.item(), abs=0.01)
    exact_gap = 2 * 0.5 * (4 - 1 - math.log(4))  # KL(N(m, 2) || N(m, 1/2)) in two dimensions
    assert likelihood.item() - loose.item() == pytest.approx(exact_gap, abs=0.02)


def test_importance_bound_is_a_log_mean_and_survives_huge_weights(notebook):
    weights = doubles(12, 5)
    expected = torch.log(torch.exp(weights[:4]).mean(0))
    assert torch.allclose(notebook.importance_bound(weights, 4)[0], expected, atol=1e-12)
    assert torch.equal(notebook.importance_bound(weights, 1), weights)
    assert torch.allclose(notebook.importance_bound(weights + 1e4, 12) - 1e4, notebook.importance_bound(weights, 12), atol=1e-9)


def test_importance_bound_rises_with_the_number_of_samples(notebook):
    x = math.sqrt(2) * doubles(100, 2)
    weights = notebook.log_weights(notebook.LinearGaussian(0.3), x, doubles(2000, 100, 2, seed=1))
    bounds = [notebook.importance_bound(weights, samples).mean().item() for samples in (1, 5, 50)]
    assert bounds[0] < bounds[1] < bounds[2] < Normal(0.0, math.sqrt(2.0)).log_prob(x).sum(-1).mean().item() + 0.01


def test_positional_encoding_has_sixty_features_of_a_point(notebook):
    x = doubles(7, 3)
    features = notebook.positional_encoding(x)
    assert features.shape == (7, 60)
    assert torch.allclose(features[:, 0], torch.sin(x[:, 0]))
    assert torch.allclose(features[:, 10 + 9], torch.cos(512 * x[:, 0]))


@pytest.mark.parametrize("log_variance", [-9.0, -2.0, 0.0, 3.0])
def test_the_wrapped_normal_is_a_density_of_period_two_pi(notebook, log_variance):
    angles = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1]
    mean, spread = torch.tensor(3.0).double(), torch.full_like(angles, log_variance)
    log_q = notebook.wrapped_normal_log_density(angles, mean, spread)
    assert (torch.exp(log_q).mean() * 2 * math.pi).item() == pytest.approx(1.0, abs=1e-6)
    assert torch.allclose(log_q, notebook.wrapped_normal_log_density(angles + 2 * math.pi, mean, spread), atol=1e-9)


def test_toroidal_decoder_is_periodic_and_interpolation_takes_the_shorter_arc(notebook):
    model = notebook.ToroidalVAE().double()
    angles = doubles(5, 2)
    assert torch.allclose(model.decode(angles), model.decode(angles + 2 * math.pi), atol=1e-9)
    start, end = torch.tensor([3.0, 0.1]).double(), torch.tensor([-3.0, 0.3]).double()
    model.encode = lambda point: (point, None)
    seen = []
    model.decode = lambda path: seen.append(path) or path
    model.interpolate(start, end, 100)
    assert torch.allclose(seen[0][-1, 0], torch.tensor(2 * math.pi - 3.0).double())  # onwards through pi, not back through 0
    assert seen[0].diff(dim=0).abs().max() < 0.01


def test_chamfer_distance_of_shifted_points(notebook):
    points = torch.tensor([[0.0, 0, 0], [10.0, 0, 0]])
    assert notebook.chamfer(points, points).item() == pytest.approx(0.0, abs=1e-6)
    assert notebook.chamfer(points, points + torch.tensor([0.0, 0.5, 0.0])).item() == pytest.approx(0.5, abs=1e-5)


def test_the_toroidal_code_sees_features_only_where_asked(notebook):
    points = doubles(6, 3)
    for build, size in ((notebook.TorusVAE, 4), (notebook.ToroidalVAE, 2)):
        for encoded in (True, False):
            model = build((16, 8), encoded).double()
            assert model.encoder[0].in_features == (60 if encoded else 3)
            assert model.encode(points)[0].shape == (6, size) == (6, build.code_size)
            assert model.reconstruct(points).shape == (6, 3)


def test_a_warmed_up_training_records_the_bound_itself(notebook, monkeypatch):
    monkeypatch.setattr(settings, "device", lambda: torch.device("cpu"))
    train, test = synthetic.berkeley24("a", 1)
    plan = {"epochs": 1, "batch_size": 1000, "learning_rate": 1e-3, "order_seed": 0, "stack": None, "training": {"seed": 0}}
    histories = {}
    for start in (1.0, 0.3):
        torch.manual_seed(0)
        histories[start] = notebook.train_vae(notebook.GaussianVAE(), train, test, kl_start=start, **plan).terms
    weighted, neg_elbo, recon, kl = histories[0.3].T
    weights = 0.3 + 0.7 * np.minimum(1.0, np.arange(10) / 3)
    assert np.allclose(weighted, recon + weights * kl, rtol=1e-5)
    assert np.allclose(neg_elbo, recon + kl, rtol=1e-5)
    assert np.allclose(histories[0.3][0, -3:], histories[1.0][0])  # the first step starts alike, whatever its weight


def test_q1_keeps_the_courses_contract(notebook, monkeypatch):
    monkeypatch.setattr(settings, "device", lambda: torch.device("cpu"))
    train, test = synthetic.berkeley24("a", 1)
    train_losses, test_losses, noisy, clean = notebook.q1(train[:1000].astype(np.float64), test[:200], "a", 1)
    assert train_losses.shape == (80, 3)
    assert test_losses.shape == (11, 3)
    assert noisy.shape == clean.shape == (1000, 2)
    assert np.allclose(train_losses[:, 0], train_losses[:, 1] + train_losses[:, 2], atol=1e-4)
    assert test_losses[-1, 0] < test_losses[0, 0]
    assert not np.allclose(noisy.std(0), clean.std(0), atol=0.1)


def test_q1_takes_every_array_of_floats(notebook, monkeypatch, recwarn):
    """Read-only, non-contiguous and reversed arrays, other precisions, lists, fewer points than a batch: the same result."""
    monkeypatch.setattr(settings, "device", lambda: torch.device("cpu"))
    points = np.float16(synthetic.berkeley24("a", 1)[0][:50]).astype(np.float32)
    read_only = points.copy()
    read_only.setflags(write=False)
    wide = np.zeros((100, 4), np.float32)
    wide[::2, 1:3] = points
    forms = [points, read_only, wide[::2, 1:3], points[::-1].copy()[::-1], np.asfortranarray(points), points.astype(np.float64),
             points.astype(np.float16), points.astype(np.longdouble), points.tolist()]
    expected = notebook.q1(points, points[:1], "a", 1)
    assert expected[0].shape == (10, 3)
    for form in forms[1:]:
        for one, other in zip(notebook.q1(form, form[:1], "a", 1), expected, strict=True):
            assert np.array_equal(one, other)
    assert not recwarn.list


@pytest.mark.parametrize(("points", "given"), [
    (np.zeros((5, 3)), r"float64 of shape \(5, 3\)"),
    (np.zeros((0, 2)), r"float64 of shape \(0, 2\)"),
    (np.zeros(4), r"float64 of shape \(4,\)"),
    (np.zeros((5, 2), int), r"int64 of shape \(5, 2\)"),
    (np.zeros((5, 2), bool), r"bool of shape \(5, 2\)"),
    (np.zeros((5, 2), complex), r"complex128 of shape \(5, 2\)"),
    (np.zeros((5, 2), object), r"object of shape \(5, 2\)"),
    (np.full((5, 2), "a"), r"<U1 of shape \(5, 2\)"),
    (np.array([[0.0, np.nan]]), "1 of 2 values that are not finite in float32"),
    (np.array([[1e300, np.inf]]), "2 of 2 values that are not finite in float32"),
])
def test_q1_refuses_all_else_with_both_sides_named(notebook, points, given):
    expected = r"expected floats of shape \(n, 2\), n at least 1, all finite"
    for name in ("train_data", "test_data"):
        arrays = {"train_data": np.zeros((5, 2)), "test_data": np.zeros((5, 2))} | {name: points}
        with pytest.raises(ValueError, match=f"{name} (is|has) {given}; {expected}"):
            notebook.q1(**arrays, part="a", dset_id=1)


@pytest.mark.parametrize("arguments", [("c", 1), ("a", 3)])
def test_q1_refuses_unknown_sets(notebook, arguments):
    with pytest.raises(ValueError, match="expected 'a' or 'b', and 1 or 2"):
        notebook.q1(np.zeros((5, 2)), np.zeros((5, 2)), *arguments)


def test_declared_runs_are_the_recorded_ones(notebook):
    assert set(notebook.RUNS) > SUPPORTING
    for run_id, declared in notebook.RUNS.items():
        if run_id not in SUPPORTING:
            assert declared.config("full") == recorded(run_id)["config"], run_id


@pytest.mark.parametrize("run_id", ["q1_a_dset1", "b19_1a_data1_scalar", "b19_1b"])
def test_samples_of_saved_weights_are_the_recorded_ones(notebook, tmp_path, run_id):
    suite = Suite("1_vae_2d", notebook.RUNS, tmp_path)
    record = suite.run(run_id)
    model = notebook.load_vae(suite.weights(run_id)["model"])
    x = torch.from_numpy(record.arrays["data"])
    torch.manual_seed(0)
    terms = notebook.evaluate_terms(model, x, seed=1, draws=50)
    unit = 2 * math.log(2) if run_id.startswith("b19") else 1.0
    assert terms[0].item() == pytest.approx(unit * record.arrays["final_test"][0, record["shown"]], rel=0.1)
    clean = notebook.sample(model, 1000, seed=1, noise=False).numpy()
    assert np.allclose(clean.mean(0), record.arrays["without_noise"].mean(0), atol=0.2)


def test_weights_of_the_torus_decode_the_recorded_reconstruction(notebook, tmp_path):
    suite = Suite("1_vae_2d", notebook.RUNS, tmp_path)
    for run_id, build in (("mit_p4_torus", notebook.TorusVAE), ("mit_p4_toroidal", notebook.ToroidalVAE)):
        record, model = suite.run(run_id), build()
        model.load_state_dict(suite.weights(run_id)["model"])
        with torch.no_grad():
            decoded = model.reconstruct(torch.from_numpy(record.arrays["points"])).numpy()
        assert np.allclose(decoded, record.arrays["reconstruction"], atol=1e-5)
    assert notebook.angle_grid(suite.weights("mit_p4_toroidal")["model"], 4).shape == (16, 3)


def test_spread_along_turned_axes(notebook):
    for part in "ab":
        for dataset_id in (1, 2):
            points = synthetic.berkeley24(part, dataset_id)[0]
            spread = notebook.spread_along_axes(points, part == "a", 1 if dataset_id == 1 else -1)
            assert spread == pytest.approx([5.0, 1.0], rel=0.03)


def test_analysis_rows_are_the_records_arithmetic(notebook):
    gaussian = {(part, number): recorded(f"q1_{part}_dset{number}") for part in "ab" for number in (1, 2)}
    rows = notebook.spread_rows(gaussian)
    assert [row[1] for row in rows] == ["data", "decoder means"] * 4
    assert float(rows[1][2]) > 4.5 > 0.5 > float(rows[5][2])  # a line in (a), a spot in (b)
    pair = {(number, short): recorded(f"b19_1a_data{number}_{short}") for number in (1, 2) for short in ("diag", "scalar")}
    assert [row[3] for row in notebook.latent_use_rows(pair)] == ["0.000", "1.161", "1.161", "1.161"]
    clusters = recorded("b19_1b")
    elbo, weighted, gap, _, exact = map(float, notebook.bound_rows(clusters)[0])
    assert exact < weighted < elbo
    assert gap == pytest.approx(elbo - weighted, abs=2e-4)
    assert [float(row[1]) for row in notebook.split_rows(clusters)] == pytest.approx(
        [clusters.arrays[f"final_{split}"][0].mean() for split in ("train", "test")], abs=1e-4)


def test_a_bound_that_passes_the_true_density_is_seen(notebook):
    record = recorded("b19_1b")
    record.metrics["neg_iwae100_first100"] = 1.3
    with pytest.raises(AssertionError, match="passes"):
        notebook.bound_rows(record)


def test_rows_of_the_torus_say_which_paths_stray_and_how_far_the_ends_are_off(notebook):
    torus, toroidal = recorded("mit_p4_torus"), recorded("mit_p4_toroidal")
    rows = notebook.seed_rows(torus, toroidal)
    stray = toroidal.arrays["all"][2] > 0.02
    assert [row[-1] for row in rows] == ["strays" if far else "stays" for far in stray]
    assert sum("kept" in row[3] for row in rows) == 1
    ends = notebook.end_rows(torus)
    path = torus.arrays["paths"][0]
    assert [row[1] for row in ends] == [f"{value:.3f}" for value in synthetic.torus_distance(path[[0, -1]])]
    assert ends[0][0] == "(0, 1.5, 0)"


def test_choices_are_set_beside_ours(notebook, tmp_path):
    suite = Suite("1_vae_2d", notebook.RUNS, tmp_path)
    made = {run_id: suite.run(run_id) for run_id in SUPPORTING}
    gaussian, clusters = made["q1_choices"], made["b19_1b_choices"]
    assert set(gaussian.metrics) == {f"neg_elbo_{name}" for name in ("ours", "course", "awake")}
    assert len(set(gaussian.metrics.values())) == 3
    change = gaussian.metrics["neg_elbo_course"] - gaussian.metrics["neg_elbo_ours"]
    assert notebook.undone(gaussian, "neg_elbo", "course").startswith(f"{change:+.3f} ")
    paths = {name: made[f"mit_p4_{name}"] for name in ("gaussian_wide", "toroidal_small")}
    rows = notebook.choice_rows(gaussian, clusters, paths, {"none": made["mit_p4_autoencoder"]})
    assert {len(row) for row in rows} == {5}
    assert "gaussian_wide: " in rows[-1][-1]
