"""Colab: only what is missing is installed, and only there."""

import sys
import types

import pytest

from helpers import colab, settings


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """A project that needs numpy and a package nobody has; returns the pip calls made."""
    (tmp_path / "requirements.txt").write_text("# lower bounds\nnumpy>=1.0  # is there\nsurely-not-installed>=2\n")
    monkeypatch.setattr(colab, "PROJECT_ROOT", tmp_path)
    made = []
    monkeypatch.setattr(colab.subprocess, "run", lambda command, check: made.append(command))
    return made


def test_on_colab_the_missing_package_is_installed_and_no_other(calls, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    colab.prepare()
    assert len(calls) == 1
    assert calls[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert calls[0][-1] == "surely-not-installed>=2"
    assert not any("numpy" in argument for argument in calls[0])


def test_elsewhere_nothing_is_installed(calls):
    colab.prepare()
    assert calls == []


def test_nothing_of_the_real_requirements_is_missing_here():
    assert colab.PROJECT_ROOT == settings.PROJECT_ROOT
    assert colab.missing() == []
