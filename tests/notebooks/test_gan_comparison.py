"""Notebook 6: what is said of several GANs, at equal numbers of updates and no more."""

import math

import numpy as np
import pytest

from helpers.results.records import load
from helpers.settings import PROJECT_ROOT
from helpers.work.definitions import definitions


@pytest.fixture(scope="module")
def notebook():
    return definitions("6_gan_critics")


class Evaluated(dict):
    """A record of a GAN's curves, made of given numbers."""

    def __init__(self, steps, values, distance, live, terms_every=10, name="cifar10_jsd_1", metric="jsd", regulariser="none",
                 seeds=1):
        names = [f"{metric}_test", "inception_score_smallnet", "fid_smallnet"]
        super().__init__(facts={"evaluated": names, "extractor": "smallnet"}, budget={"done": steps[-1], "planned": 1000},
                         config={"metric": metric, "regulariser": regulariser, "coefficient": 1.0})
        self.id, self.remark, self.spread = name, "cut", {"fid_smallnet": {"n": seeds, "std": 0.1}}
        self.arrays = {"evaluation_steps": np.array(steps), "evaluations": np.stack([values, np.arange(len(steps)), distance], 1),
                       "terms": np.array(live, dtype=float)[:, None], "terms_every": np.array(terms_every),
                       "samples": np.zeros((12, 32, 32, 3), np.uint8)}


def test_an_evaluation_that_repeats_its_neighbour_does_not_count(notebook):
    record = Evaluated([0, 100, 200, 202], [0.0, 0.1, 0.2, 0.3], [9.0, 3.0, 2.0, 1.0], range(20))
    assert notebook.looks(record).tolist() == [1, 2]
    assert notebook.evaluated(record, "fid").tolist() == [3.0, 2.0]
    assert notebook.evaluated(record, "jsd_test").tolist() == [0.1, 0.2]
    assert notebook.looks(Evaluated([0, 100, 200, 290], [0.0] * 4, [1.0] * 4, range(29))).tolist() == [1, 2, 3]
    assert notebook.looks(Evaluated([0, 7], [0.0] * 2, [1.0] * 2, [0.0])).tolist() == [1]


def test_the_live_metric_is_that_just_before_an_evaluation(notebook):
    record = Evaluated([0, 100, 200], [0.0] * 3, [3.0, 2.0, 1.0], range(20))  # a row of terms is 10 updates
    assert notebook.live_metric(record).tolist() == [np.mean([8, 9]), np.mean([18, 19])]
    short = Evaluated([0, 2, 4], [0.0] * 3, [3.0, 2.0, 1.0], range(4), terms_every=1)
    assert notebook.live_metric(short).tolist() == [1.0, 3.0]


STEPS = [0, 100, 200, 300]


def five(last=300):
    """Three runs that were all evaluated at 100 and 200, one of which went on; two with R1."""
    falling, rising = np.repeat([9.0, 3.0, 2.0, 1.0], 10), np.repeat([1.0, 2.0, 3.0, 4.0], 10)
    return [
        Evaluated(STEPS[:3], [0.1, 0.2, 0.3], [9.0, 5.0, 4.0], rising[:20]),
        Evaluated(STEPS, [0.3, 0.2, 0.1, 0.05], [9.0, 4.0, 2.0, 1.0], falling[10:], name="cifar10_jsd_3", regulariser="r1"),
        Evaluated(STEPS[:3], [3.0, 2.0, 1.0], [9.0, 6.0, 3.0], falling[10:30], name="cifar10_w1_3", metric="w1",
                  regulariser="r1"),
    ]


def test_the_equal_number_of_updates_is_the_last_that_all_were_evaluated_at(notebook):
    assert notebook.common_updates(five()) == 200
    other = Evaluated([0, 150, 300], [0.0] * 3, [1.0] * 3, range(30))
    assert notebook.common_updates([*five(), other]) == 0


def test_a_run_that_stopped_before_the_others_met_is_left_out(notebook):
    runs, short = five(), Evaluated([0, 40], [0.0] * 2, [1.0] * 2, range(4), name="cifar10_jsd_2")
    assert notebook.comparable([runs[0], short, *runs[1:]]) == (runs, 200)
    assert notebook.comparable(runs) == (runs, 200)
    assert notebook.comparable([]) == ([], 0)


def test_the_table_at_equal_updates_has_the_values_there(notebook):
    rows = notebook.at_equal_updates(five(), 200)
    assert [row[0] for row in rows] == ["jsd_1", "jsd_3", "w1_3"]
    assert [row[3] for row in rows] == ["4", "2", "3"]
    assert rows[1][2:] == ["200", "2", "2", "2", "0.1"]


def test_later_points_are_told_apart(notebook):
    assert notebook.beyond(five(), 200) == ["jsd_3 went on to 300 updates: Fréchet distance by a small classifier 1"]


def test_the_sentences_say_what_the_distances_at_equal_updates_are(notebook):
    said = notebook.by_distance(five(), 200)
    assert said[0] == "After 200 of 1,000 updates each, from the nearest to the data: jsd_3 2, w1_3 3, jsd_1 4."
    assert said[1] == "With R1, coefficient 1, JSD is nearer than W1, 1.50 times."
    assert "one seed each" in said[2]
    repeated = five()
    for record in repeated:
        record.spread["fid_smallnet"]["n"] = 3
    assert not any("one seed" in sentence for sentence in notebook.by_distance(repeated, 200))


def test_a_metric_tells_progress_where_its_live_value_falls_with_the_distance(notebook):
    said = notebook.tells_progress(five())
    assert said[0].startswith("Live JSD falls with the distance in 1 of 2 runs")
    assert "jsd_1 -1.00, jsd_3 +1.00" in said[0]
    assert said[1].startswith("Live W1 falls with the distance in 1 of 1 runs")


def test_the_comparison_is_drawn_strong_up_to_the_equal_number_and_pale_beyond(notebook):
    metrics = {"fid_halves_smallnet": 0.01, "fid_10_smallnet": 0.02, "fid_test_smallnet": 0.03}
    noise = type("Noise", (dict,), {"metrics": metrics})(
        facts={"extractor": "smallnet", "reference": 50, "sizes": [10], "test": 10})
    figure = notebook.draw_comparison(five(), noise, 200)
    wanted = "Fréchet distance by a small classifier"
    panel = next(axis for part in figure.subfigs for axis in part.axes if axis.get_title().replace("\n", " ") == wanted)
    ends = {line.get_label(): line.get_xdata()[-1] for line in panel.lines if len(line.get_xdata()) > 1}
    assert ends[notebook.describe_run(five()[1])] == 200
    assert max(line.get_xdata()[-1] for line in panel.lines) == 300
    levels = [line.get_ydata()[0] for line in panel.lines if line.get_linestyle() != "-"]
    assert levels == [0.01, 0.02, 0.03]
    notebook.plt.close(figure)


def test_rank_correlation_of_known_orders(notebook):
    assert notebook.rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 25.0])) == pytest.approx(1.0)
    assert notebook.rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1.0)
    assert math.isnan(notebook.rank_correlation(np.array([1.0]), np.array([2.0])))


def test_a_negative_jsd_is_said(notebook):
    runs = five()
    assert notebook.lowest_jsd(runs) == []
    runs[0].arrays["evaluations"][2, 0] = -0.384
    assert notebook.lowest_jsd(runs) == ["Held-out JSD of jsd_1 is -0.38 after 200 updates: the critic does worse on the "
                                         "averaged generator than a constant."]


def test_the_answer_claims_what_the_records_show(notebook):
    folder = PROJECT_ROOT / "results"
    runs = {run_id.removeprefix("cifar10_"): load(run_id, folder) for run_id in notebook.CIFAR_GANS}
    live = {name: notebook.rank_correlation(notebook.progress(record)[1]["live"], notebook.progress(record)[0])
            for name, record in runs.items()}
    for name in ("jsd_3", "w1_3"):  # with R1 both metrics fall with the distance, all to about a third after 6,000 updates
        distance, metrics = notebook.progress(runs[name])
        equal = notebook.upto(runs[name], 6000)
        for values in (distance[equal], metrics["live"][equal]):
            assert (np.diff(values) < 0).all() and 0.28 < values[-1] / values[0] < 0.38
        assert distance[-1] < distance[equal][-1]  # a thousand updates on, lower still; the metrics stay
        assert metrics["live"][-1] == pytest.approx(metrics["live"][equal][-1], rel=0.1)
        assert 1000 < runs[name].arrays["evaluation_steps"][-1] - 6000 < 1500
    distance, metrics = notebook.progress(runs["jsd_1"])  # without a regulariser JSD does not
    assert metrics["live"].min() > math.log(2) * 2 / 3 and live["jsd_1"] < 0
    assert 0.2 < distance[-1] / distance[0] < 0.3 and distance[2:].min() > 0.8 * distance[2:].max()  # then stands still
    distance, metrics = notebook.progress(runs["jsd_2"])
    assert 0.28 < distance[-1] / distance[0] < 0.38
    low = metrics["live"].argmin()  # falls, then doubles
    assert 0 < low < len(distance) - 2 and metrics["live"][-1] == pytest.approx(2 * metrics["live"][low], rel=0.1)
    distance, metrics = notebook.progress(runs["w1_2"])
    assert (np.diff(distance) < 0).all() and 0.28 < distance[-1] / distance[0] < 0.38
    assert metrics["live"].argmin() == 0 and metrics["live"][-1] == pytest.approx(2 * metrics["live"][0], rel=0.15)
    shares = [record["budget"]["done"] / record["budget"]["planned"] for record in runs.values()]
    assert (round(100 * min(shares)), round(100 * max(shares))) == (7, 15)
    assert all(record.spread["fid_smallnet"]["n"] == 1 for record in runs.values())
    records, updates = notebook.comparable(list(runs.values()))
    said = notebook.by_distance(records, updates)
    nearest = {part.split()[0] for part in said[0].split(": ")[1].split(", ")[:2]}
    assert (len(records), updates, nearest) == (5, 6000, {"jsd_3", "w1_3"})
    assert all("JSD is nearer than W1" in sentence for sentence in said[1:3])
