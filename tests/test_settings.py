"""Settings: a value that is not known is refused with the list of those that are."""

import os
import subprocess
import sys

import pytest
import torch

from helpers import settings
from helpers.settings import SettingError


def test_a_gpu_makes_the_full_profile_the_default(monkeypatch):
    monkeypatch.delenv("SUITE_PROFILE")
    for available, expected in ((True, "full"), (False, "quick")):
        monkeypatch.setattr(settings, "cuda_is_available", lambda available=available: available)
        assert settings.profile() == expected


def test_an_unknown_profile_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("SUITE_PROFILE", "huge")
    with pytest.raises(SettingError, match="'huge' is unknown; the profiles are smoke, quick, full"):
        settings.profile()


def test_relative_folders_are_within_the_project_wherever_the_process_works(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUITE_DATA", "here/data")
    monkeypatch.setenv("SUITE_OUTPUT", "out")
    assert settings.data_folder() == settings.PROJECT_ROOT / "here" / "data"
    assert settings.output_folder() == settings.PROJECT_ROOT / "out"
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path))
    assert settings.output_folder() == tmp_path


def test_the_home_folder_is_meant_by_its_sign_and_a_relative_folder_lies_within_the_project(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, folder in (("SUITE_DATA", settings.data_folder), ("SUITE_OUTPUT", settings.output_folder)):
        monkeypatch.setenv(variable, "~/somewhere/else")
        assert folder() == tmp_path / "somewhere" / "else"
        monkeypatch.setenv(variable, "somewhere/else")
        assert folder() == settings.PROJECT_ROOT / "somewhere" / "else"
    code = "import helpers.settings, os; print(os.environ['SUITE_INCEPTION'])"
    environment = os.environ | {"SUITE_INCEPTION": "~/weights.pth"}
    said = subprocess.run([sys.executable, "-c", code], cwd=settings.PROJECT_ROOT, env=environment, capture_output=True,
                          encoding="utf-8", check=True).stdout
    assert said.strip() == str(tmp_path / "weights.pth")


def test_an_unknown_device_lists_those_of_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("tpu", "cuda:2"):
        monkeypatch.setenv("SUITE_DEVICE", name)
        with pytest.raises(SettingError, match=f"'{name}' is not on this machine; the devices are cpu, cuda:0, cuda:1"):
            settings.device()
    for name in ("cpu", "cuda:1", "cuda"):
        monkeypatch.setenv("SUITE_DEVICE", name)
        assert settings.device() == torch.device(name)


@pytest.mark.parametrize(("profile", "asked", "expected"), [
    ("smoke", "", "street_digits"), ("quick", "", "street_digits"), ("full", "", "svhn"),
    ("full", "street_digits", "street_digits"), ("quick", "svhn", "svhn"),
])
def test_the_photographs_are_the_house_numbers_of_the_full_profile(monkeypatch, profile, asked, expected):
    monkeypatch.setenv("SUITE_PROFILE", profile)
    monkeypatch.setenv("SUITE_HOUSE_NUMBERS", asked)
    assert settings.house_numbers() == expected


def test_unknown_house_numbers_list_the_known_ones(monkeypatch):
    monkeypatch.setenv("SUITE_HOUSE_NUMBERS", "mnist")
    with pytest.raises(SettingError, match="'mnist' is unknown; the house numbers are street_digits, svhn"):
        settings.house_numbers()


@pytest.mark.parametrize(("asked", "run", "again"), [("", "q2_a", False), ("q2_*", "q2_a", True), ("q1, q2_a", "q2_a", True),
                                                     ("q2", "q2_a", False)])
def test_runs_are_named_by_patterns(monkeypatch, asked, run, again):
    monkeypatch.setenv("SUITE_RETRAIN", asked)
    assert settings.asked_again(run) is again


def test_a_time_budget_is_a_positive_number_of_minutes(monkeypatch):
    monkeypatch.setenv("SUITE_MINUTES", "1.5")
    assert settings.time_budget_seconds() == 90
    for wrong in ("soon", "0", "-3", "nan"):
        monkeypatch.setenv("SUITE_MINUTES", wrong)
        with pytest.raises(SettingError, match=f"SUITE_MINUTES='{wrong}'"):
            settings.time_budget_seconds()
