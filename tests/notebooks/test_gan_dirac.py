"""Notebook 6: the Dirac games against autograd, the linear theory and the rule of the verdicts."""

import math

import numpy as np
import pytest

from helpers.results import deliverables
from helpers.suite import Run
from helpers.work.definitions import definitions


@pytest.fixture(scope="module")
def notebook():
    return definitions("6_gan_critics")


@pytest.mark.parametrize("index", range(20))
def test_closed_form_games_are_those_of_autograd(notebook, index):
    game = notebook.DIRAC_GAMES[index]
    start = np.random.default_rng(index).normal(0, 0.7, 3)
    ours = notebook.play_dirac((game,), start[None], steps=30, rate=0.1)[..., 0, 0]
    assert np.abs(ours - notebook.play_dirac_by_autograd(game, start, steps=30, rate=0.1)).max() < 1e-13


def test_the_twenty_games_have_the_sheets_order(notebook):
    labels = {game.name: game.label for game in notebook.DIRAC_GAMES}
    assert len(labels) == 20
    assert labels["jsd_1"] == "JSD, no penalty"
    assert labels["jsd_4"] == "JSD, GP 0.01"
    assert labels["w1_8"] == "W1, R1 0.1, EMA 0.998"


@pytest.mark.parametrize("simultaneous", [False, True])
def test_the_linear_theory_is_the_jacobian_of_the_update(notebook, simultaneous):
    games = tuple(game for game in notebook.DIRAC_GAMES if game.objective.regulariser != "gp" and game.alpha == 0)
    assert len(games) == 6
    for game in games:
        moved = 1e-6 * np.array([[1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1.0]])
        after = notebook.play_dirac((game,), moved, steps=1, rate=0.1, simultaneous=simultaneous)[1, [0, 2], 0]
        numerical = np.stack([after[:, 0] - after[:, 1], after[:, 2] - after[:, 3]], axis=1) / 2e-6
        matrix = notebook.update_matrix(game.objective, 0.1, simultaneous)
        assert np.abs(numerical - matrix).max() < 1e-9
        if not simultaneous:
            coefficient = game.objective.coefficient
            assert np.abs(np.linalg.eigvals(matrix)) == pytest.approx([math.sqrt(1 - 0.2 * coefficient)] * 2)


def test_alternating_w1_conserves_its_quadratic_form_and_its_offset(notebook):
    path = notebook.play_dirac(notebook.DIRAC_GAMES[10:11], np.array([[0.3, -0.9, 1.1]]), steps=5000, rate=0.1)[..., 0, 0]
    psi0, psi1, theta = path[:, :3].T
    form = psi0**2 + theta**2 - 0.1 * psi0 * theta
    assert np.abs(form / form[0] - 1).max() < 1e-10
    assert (psi1 == -0.9).all()


def test_the_record_has_the_verdicts_asked_for(notebook):
    outcome = notebook.run_dirac(Run("dirac", 1, "fingerprint", None), steps=5000, rate=0.1, starts=16)
    expected = deliverables.entry("dirac")["verdicts"]
    found = outcome.facts["verdicts"]
    assert len(found) == 20
    for name, word in found.items():
        family, number = name.split("_")
        assert word == expected[f"{family}_{(int(number) - 1) % 5 + 1}"]
    assert outcome.facts["verdicts_simultaneous"]["w1_1"] == "diverges"
    assert len(outcome.values["final_radius_jsd_1"]) == 16
    cycles = [index for index, game in enumerate(notebook.DIRAC_GAMES) if game.objective.regulariser == "gp"]
    assert np.abs(outcome.arrays["alternating_final_radius"][cycles] - 4 / math.pi).max() < 0.12


@pytest.mark.parametrize(("first", "final", "word"), [
    ([1.0, 2.0], [1e-9, 1e-7], "converges"), ([1.0, 2.0], [0.02, 0.1], "spiral in"), ([1.0, 2.0], [1.12, 1.75], "orbit"),
    ([1.0, 2.0], [1.3, 1.25], "limit cycle"), ([1.0, 2.0], [3.0, 8.0], "diverges"), ([1.0, 2.0], [3.0, math.inf], "diverges"),
    ([1.0, 2.0], [0.4, 0.9], "undecided"), ([1.0, 2.0], [1e-9, 0.9], "undecided"),
])
def test_the_rule_of_the_verdicts(notebook, first, final, word):
    assert notebook.verdict(np.array(first), np.array(final)) == word


def test_the_factor_a_step_of_a_known_decay(notebook):
    radius = 3.0 * 0.99 ** np.arange(1001)[:, None, None]
    assert notebook.factor_per_step(radius) == pytest.approx(0.99, abs=1e-12)


@pytest.mark.parametrize("starts", [np.zeros((3, 2)), np.zeros(3), np.array([[0.0, np.nan, 1.0]])])
def test_games_refuse_bad_starts(notebook, starts):
    with pytest.raises(ValueError, match=r"finite rows of psi0, psi1, theta, shape \(S, 3\)"):
        notebook.play_dirac(notebook.DIRAC_GAMES[:1], starts, steps=1, rate=0.1)


def test_averaging_rows_say_how_much_smaller_the_averaged_theta_is(notebook):
    live, averaged = np.full(20, 0.9), np.full(20, 0.03)
    averaged[7] = 1.8  # jsd_8: the live pair has converged, the average has not
    record = type("Record", (dict,), {"arrays": {"last_amplitude": np.stack([live, averaged])[..., None]}})(
        facts={"verdicts": {game.name: "orbit" if game.name.endswith("6") else "converges" for game in notebook.DIRAC_GAMES}})
    rows = {row[0]: row for row in notebook.averaging(record)}
    assert list(rows) == [f"{family}_{number}" for family in ("jsd", "w1") for number in range(6, 11)]
    assert rows["w1_6"][3:6] == ["0.9", "0.03", "0.0333"]
    assert float(rows["w1_6"][6]) == pytest.approx(0.002 / abs(1 - 0.998 * np.exp(0.1j)), rel=0.01)
    assert rows["jsd_8"][5:] == ["above one", "-"]


@pytest.mark.parametrize("metric", ["jsd", "w1"])
def test_r1_converges_up_to_its_largest_coefficient(notebook, metric):
    turn = {"jsd": 0.025, "w1": 0.1}[metric]
    limit = (1 - turn**2 / 4) / 0.1
    for coefficient, inside in ((0.999 * limit, True), (1.001 * limit, False)):
        moduli = np.abs(np.linalg.eigvals(notebook.update_matrix(notebook.Objective(metric, "r1", coefficient), 0.1)))
        assert bool(moduli.max() < 1) is inside
