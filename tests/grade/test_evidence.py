"""The checks one by one, where a forgery of a whole copy would not reach them, and what RUNS says when read as text."""

import hashlib
import math
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.grade import declared, evidence, origin, relations
from helpers.grade.case import Case
from helpers.grade.declared import UNKNOWN
from helpers.work.seeds import pooled


def record(metrics, spread=None, **content):
    one = {name: {"std": 0.0, "min": value, "max": value, "n": 1} for name, value in metrics.items()}
    whole = {"metrics": metrics, "spread": spread or one, "seeds": [0], "seed": 0, **content}
    return SimpleNamespace(metrics=metrics, spread=whole["spread"], content=whole, __getitem__=whole.get)


def test_bits_are_nats_with_the_constant_of_the_reference():
    nats = 784 * math.log(2)
    theirs = {"record": {"metrics": {"neg_elbo": -730.0, "neg_elbo_bpd": -730.0 / nats + 8}}}
    for forged, number in ((0.0, 0), (-0.1, 1)):
        case = Case({}, record({"neg_elbo": -700.0, "neg_elbo_bpd": -700.0 / nats + 8 + forged}), None, theirs)
        assert len(list(evidence.bits_are_nats(case))) == number


@pytest.mark.parametrize(("digest", "said"), [("ours", False), ("theirs", True)])
def test_a_set_that_the_suite_calls_by_two_names_is_honest_under_both(digest, said):
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("ours", "theirs")}
    sizes = {"train": 900, "test": 100}
    forms = {name: [{"digest": digests[at], "sizes": sizes, "stand_in": False, "stands_for": None, "note": ""}]
             for name, at in (("two moons", "ours"), ("moons_2", "ours"), ("rings", "theirs"))}
    data = {"name": "two moons", "digest": digests[digest], "sizes": sizes, "stand_in": False, "stands_for": None}
    found = list(origin.data_are_named_truly(Case({}, {"dataset": data, "config": {}, "profile": "full"}, None, forms=forms)))
    assert found == ["its data are called two moons, and their digest is that of rings"] * said


def test_repetitions_are_pooled():
    spreads = [{"std": 0.1, "min": 0.9 + root, "max": 1.1 + root, "n": 3} for root in range(3)]
    parts = {str(root): {"metrics": {"m": 1.0 + root}, "spread": {"m": spread}} for root, spread in enumerate(spreads)}
    whole = pooled([part["metrics"]["m"] for part in parts.values()], [part["spread"]["m"] for part in parts.values()])
    mean = whole.pop("mean")
    assert not list(evidence.repeats_are_pooled(Case({}, record({"m": mean}, {"m": whole}, repeats=parts), None)))
    assert list(evidence.repeats_are_pooled(Case({}, record({"m": mean - 0.1}, {"m": whole}, repeats=parts), None)))


def test_relations_are_found_and_a_coincidence_in_one_record_is_not_kept():
    generator, found, numbers = np.random.default_rng(0), [], []
    for _ in range(3):
        seeds = generator.normal(4.0, 0.1, 5)
        curve = np.linspace(9.0, 3.0, 30)[:, None] + generator.normal(0, 0.001, (30, 2))
        arrays = {"by_seed": np.stack([generator.normal(size=5), seeds]), "test_terms": curve}
        metrics = {"nll": float(seeds.mean()), "recon": float(curve[-1, 1]) * 1.001}
        spread = {"nll": {"std": float(seeds.std(ddof=1)), "min": float(seeds.min()), "max": float(seeds.max()), "n": 5},
                  "recon": {"std": 0.0, "min": metrics["recon"], "max": metrics["recon"], "n": 1}}
        found.append(relations.candidates({"metrics": metrics, "spread": spread}, arrays))
        numbers.append((metrics, spread, arrays))
    common = relations.common(found, [metrics for metrics, _, _ in numbers])
    assert [relation[:3] for relation in common] == [("end", "recon", "test_terms"), ("seeds", "nll", "by_seed")]
    metrics, spread, arrays = numbers[0]
    assert all(relations.broken(relation, metrics, spread, arrays) is None for relation in common)
    for metric in metrics:
        forged = {**metrics, metric: metrics[metric] - 0.5}
        assert any(relations.broken(relation, forged, spread, arrays) for relation in common)
    assert relations.broken(common[1], metrics, spread, {"by_seed": np.zeros(3)}) == "by_seed has no place for nll"


SOURCE = '''
RUNS = {}
WIDTH = 64
COMMON = {"epochs": 20, "width": 2 * WIDTH, "rate": 1e-3}
SMALLER = {"quick": {"epochs": 2}}
lower = other()

def train(run, **config):
    pass

RUNS |= {
    "plain": run(train, full=COMMON, **SMALLER, smoke={"epochs": 1}, needs=("first",)),
    "more": run(train, full={**COMMON, "seed": choose(), "names": ["a", "b"]} | {"rate": -1 / 4}),
    "made": make_run("x", 3),
}
RUNS |= {f"k{k}_{name}": run(train, full={"k": k, "name": name}) for k in (2,) for name in ("a", "b")}
RUNS["late"] = run(train)
'''


def test_runs_are_read_as_text():
    runs = declared.runs(SOURCE)
    assert set(runs) == {"plain", "more", "made", "k2_a", "k2_b"}
    assert runs["plain"].function == "train" and runs["plain"].needs == ("first",)
    assert runs["plain"].configs["full"] == {"epochs": 20, "width": 128, "rate": 1e-3}
    assert [runs["plain"].configs[name]["epochs"] for name in ("quick", "smoke")] == [2, 1]
    assert runs["more"].configs["full"]["seed"] is UNKNOWN and runs["more"].configs["full"]["rate"] == -0.25
    assert runs["made"].function is None and runs["made"].configs == {}
    assert runs["k2_b"].configs["full"] == {"k": 2, "name": "b"}


@pytest.mark.parametrize(("config", "number"), [
    ({"epochs": 20, "seed": 7, "names": ["a", "b"]}, 0), ({"epochs": 20.0, "seed": None, "names": ["a", "b"]}, 0),
    ({"epochs": 1, "seed": 7, "names": ["a", "b"]}, 1), ({"epochs": 20, "names": ["a"], "more": 1}, 2),
])
def test_what_is_unknown_differs_from_nothing(config, number):
    assert len(declared.differences(config, {"epochs": 20, "seed": UNKNOWN, "names": ["a", "b"]})) == number


@pytest.mark.parametrize("text", ["RUNS = " + "(" * 5000, "RUNS |= {x: y}", "RUNS = {**a}", "\x00",
                                  "RUNS |= {'a': run(t, full={**b})}",
                                  "RUNS |= {'a': run(t, full={'x': 10 ** 10 ** 10, 'y': 'a' * 9})}"])
def test_odd_sources_declare_what_can_be_told(text):
    runs = declared.runs(text)
    assert set(runs) <= {"a"}


@pytest.mark.parametrize("smaller", [False, True])
def test_ends_of_curves_and_grain_are_asked_of_the_profile_that_was_recorded_alone(smaller):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    arrays = {"looks": np.array([[9.0], [8.0], [7.0]]), "seeds_of_it": np.array([1.0, 2.0]), "drawn": noise}
    settings = {"function": "train", "config": {}, "profile": "full"}
    facts = {"record": settings, "arrays": {"drawn": ["u", list(noise.shape)]},
             "relations": [("end", "bound", "looks", (-1, 0), 1.0), ("value", "bound", "looks", (-1, 0), 1.0),
                           ("seeds", "kl", "seeds_of_it", (None,), 1.0)]}
    spread = {"bound": {"std": 0.0, "min": 5.0, "max": 5.0, "n": 1}, "kl": {"std": 0.0, "min": 1.0, "max": 2.0, "n": 2}}
    content = {"seeds": [0, 1], "seed": 0, "spread": spread, "budget": {}, **settings, "profile": "quick" if smaller else "full"}

    class Copy(dict):
        metrics, id = {"bound": 5.0, "kl": 1.5}, "b19_2a"
        content = property(dict)

    case = Case({}, Copy(content, metrics=Copy.metrics), arrays, facts)
    Copy.spread = spread
    found = list(evidence.metrics_are_those_of_the_arrays(case))
    assert [sentence.split(" ")[0] for sentence in found] == ["bound", "bound"] * (not smaller) + ["mean"]  # seeds: always
    assert any("is noise" in sentence for sentence in evidence.arrays_are_those_needed(case)) == (not smaller)
