"""Restamping: a change that keeps the numbers gets the digest, one that moves the last bit does not."""

import shutil
import subprocess

import pytest

from helpers import settings
from helpers.results import records
from helpers.results.digests import source_digest
from helpers.work import definitions, restamp

NOTEBOOK = '''# %%
import torch

from helpers.suite import Outcome, run
from helpers.train.training import Batches, GradientUpdate, fit

RUNS = {}

def train(run, steps, rate):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed_for("weights"))
        model = torch.nn.Linear(3, 1)
    data = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))

    def loss(batch, generator, step):
        return ((model(batch) - batch.sum(1, keepdim=True)) ** 2).mean()[None]

    update = GradientUpdate(model, loss, torch.optim.SGD(model.parameters(), lr=rate))
    history = fit(update, Batches(data, 16, seed=run.seed), steps=steps, **run.training())
    return Outcome({"neg_elbo": history.terms[-1, 0]}, {"terms": history.terms}, budget=(history.done, history.planned, "steps"))

RUNS |= {"q1_a_dset1": run(train, full={"steps": 40, "rate": 0.05}, smoke={"steps": 8})}
'''
SAME = ("(model(batch) - batch.sum(1, keepdim=True)) ** 2", "(model(batch) - batch.sum(1, keepdim=True)).square()")
OTHER = ("lr=rate", "lr=rate * (1 + 1e-7)")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small suite under git whose one run is recorded at the full profile; returns the notebook's path."""
    root = tmp_path / "suite"
    shutil.copytree(settings.PROJECT_ROOT / "helpers", root / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(settings.PROJECT_ROOT / "deliverables.toml", root)
    source = root / "notebooks" / "1_vae_2d.py"
    source.parent.mkdir()
    source.write_text(NOTEBOOK)
    for place in (settings, definitions):
        monkeypatch.setattr(place, *(("PROJECT_ROOT", root) if place is settings else ("FOLDER", root / "notebooks")))
    monkeypatch.setattr("helpers.results.digests.PROJECT_ROOT", root)
    monkeypatch.setenv("SUITE_PROFILE", "full")
    monkeypatch.delenv("SUITE_OUTPUT")
    definitions.declared.cache_clear()
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    from helpers.work import runs

    runs.train_one("q1_a_dset1")
    yield source
    definitions.declared.cache_clear()


def ask(**options):
    arguments = {"run": ["q1_a_dset1"], "since": "HEAD", "updates": 5} | options
    return restamp.restamp(type("Arguments", (), arguments))


def test_a_change_that_keeps_every_bit_is_restamped_and_says_so(project, capsys):
    before = records.load("q1_a_dset1")
    project.write_text(NOTEBOOK.replace(*SAME))
    assert records.state(before) == "stale"
    assert ask() == 0
    assert "restamped, the first 5 updates and the whole run at smoke agree to the bit" in capsys.readouterr().out
    after = records.load("q1_a_dset1")
    assert records.state(after) == "recorded" and after["source"] == source_digest("train", project.read_text())
    assert {**after.content, "source": before["source"], "restamped": None} == {**before.content, "restamped": None}
    [entry] = after["restamped"]
    assert entry["from"] == before["source"] and entry["updates"] == 5 and len(entry["since"]) == 40
    assert ask() == 0 and "of the present code already" in capsys.readouterr().out


def test_a_change_in_the_last_bit_is_refused_and_the_record_stays(project, capsys):
    before = records.load("q1_a_dset1").path.read_bytes()
    project.write_text(NOTEBOOK.replace(*OTHER))
    assert ask() == 1
    assert "NOT restamped: the first 5 updates: old and new code differ in terms, weights" in capsys.readouterr().out
    assert records.load("q1_a_dset1").path.read_bytes() == before


def test_a_revision_whose_code_did_not_make_the_record_is_refused(project, capsys):
    record = records.load("q1_a_dset1")
    record.content["source"] = "0" * 64
    record.path.write_bytes(records.json_bytes(record.content))
    assert ask() == 1
    assert "it is not of the code of" in capsys.readouterr().out
    with pytest.raises(restamp.RestampError, match="rev-parse"):
        ask(since="no-such-revision")
