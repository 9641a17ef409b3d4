"""Every test works in a folder of its own: no test can touch results/, figures/ or notebooks/ of the project."""

import os
import shutil

# Set before torch is imported: tests run several processes on few cores, and spinning threads slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SUITE_PROGRESS"] = "off"

import fake_suite
import pytest
import torch

torch.set_num_threads(1)


LONGEST = ("test_notebooks.py", "test_cluster.py", "test_fake_cuda.py", "test_release.py", "test_consoles.py", "test_stamping.py",
           "test_report.py")  # modules, each run by one worker; begun first, so that none is left for the end


def pytest_collection_modifyitems(items):
    """Let the longest tests begin first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """The smoke profile, writing into the test's temporary folder."""
    monkeypatch.setenv("SUITE_PROFILE", "smoke")
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("SUITE_DEVICE", "cpu")  # tests of a GPU name it; the others are the same where there is one
    for name in ("SUITE_RETRAIN", "SUITE_MINUTES", "SUITE_HOUSE_NUMBERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def perfect(tmp_path_factory):
    """A copy in which everything passes; tests take copies of it."""
    return fake_suite.make(tmp_path_factory.mktemp("perfect"))


@pytest.fixture
def copy(perfect, tmp_path):
    """A copy of the suite that a test may spoil."""
    return shutil.copytree(perfect, tmp_path / "copy", symlinks=True)
