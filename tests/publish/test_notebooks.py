"""Notebooks: definitions without experiments, building in a clean kernel, and what the check finds."""

import json
import sys
from argparse import Namespace

import pytest
import torch

from helpers import settings
from helpers.publish import kernels, notebooks
from helpers.publish.notebooks import Check, NotebookError
from helpers.work import definitions

SOURCE = '''# %% [markdown]
# # A small notebook

# %%
import sys
from pathlib import Path

sys.path.insert(0, "ROOT")
from helpers import settings

SIZE = 3
profile = settings.profile()
print("profile", profile)


# %%
def double(x):
    """Twice x."""
    return 2 * x


class Thing:
    size = SIZE


print(double(SIZE))
EXTRA
'''


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with one small notebook; returns a function that writes its source."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for module in (notebooks, definitions):
        monkeypatch.setattr(module, "FOLDER", folder)

    def write(extra=""):
        source = SOURCE.replace("ROOT", str(settings.PROJECT_ROOT)).replace("EXTRA", extra)
        (folder / "9_small.py").write_text(source, encoding="utf-8")

    write()
    return write


def test_definitions_come_without_experiments(small, capsys):
    module = notebooks.definitions("9_small")
    assert module.double(4) == 8
    assert module.Thing.size == module.SIZE == 3
    assert not hasattr(module, "profile")
    assert capsys.readouterr().out == ""


def test_an_unknown_notebook_lists_the_known_ones(small):
    with pytest.raises(NotebookError, match="no notebook '7_none'; the notebooks are 9_small"):
        notebooks.definitions("7_none")


def test_build_executes_stamps_and_writes_only_under_the_output_folder(small, tmp_path):
    path = notebooks.build("9_small")
    assert path == tmp_path / "output" / "notebooks" / "9_small.ipynb"
    assert sorted(entry.name for entry in notebooks.FOLDER.iterdir()) == ["9_small.py"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["metadata"]["suite"]["profile"] == "smoke"
    assert "profile smoke" in "".join(content["cells"][1]["outputs"][0]["text"])
    assert notebooks.check("9_small", path.parent) == Check("9_small", "fresh")
    first = path.read_bytes()
    assert notebooks.build("9_small").read_bytes() == first  # the same source gives the same file


def test_what_is_printed_in_pieces_is_saved_in_one_and_keeps_its_place_among_pictures(small):
    small("import sys, time\nfrom IPython.display import display\nfor step in range(3):\n    print('step', step, flush=True)\n"
          "    time.sleep(0.3)\ndisplay('a picture')\nprint('after', flush=True)\ntime.sleep(0.3)\nprint('it')")
    content = json.loads(notebooks.build("9_small").read_text(encoding="utf-8"))
    outputs = next(cell["outputs"] for cell in content["cells"] if "step 0\n" in str(cell.get("outputs")).replace("\\n", "\n"))
    kinds = [output["output_type"] for output in outputs]
    assert kinds[-3:] == ["stream", "display_data", "stream"] and kinds.count("stream") == 2
    assert "".join(outputs[-3]["text"]).endswith("step 0\nstep 1\nstep 2\n")
    assert "".join(outputs[-1]["text"]) == "after\nit\n"


def test_a_failing_cell_keeps_the_saved_notebook(small, tmp_path, monkeypatch):
    path = notebooks.build("9_small")
    before = path.read_bytes()
    small("raise ValueError('broken cell')")
    monkeypatch.setattr(settings, "PROJECT_ROOT", tmp_path)
    with pytest.raises(NotebookError, match="broken cell"):
        notebooks.build("9_small")
    assert path.read_bytes() == before
    assert (tmp_path / "build" / "failed" / "9_small.ipynb").exists()


def test_two_notebooks_share_the_machine_and_a_failure_stops_neither(small, tmp_path, monkeypatch, capsys):
    """The first two wait for each other; every failure is told at the end."""
    meet = "import time\nfrom pathlib import Path\nPath({0!r}).touch()\nwhile not Path({1!r}).exists():\n    time.sleep(0.05)"
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    for name, extra in (("7_good", meet.format(here, there)), ("8_bad", meet.format(there, here) + "\nraise ValueError('a')"),
                        ("9_small", "raise ValueError('b')")):
        small(extra)
        (notebooks.FOLDER / "9_small.py").rename(notebooks.FOLDER / f"{name}.py")
    monkeypatch.setattr(settings, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(NotebookError, match=r"(?s)8_bad failed .*ValueError.*: a\n.*\n9_small failed .*ValueError.*: b\n"):
        notebooks.build_command(Namespace(notebook=[], jobs=2))
    assert capsys.readouterr().out.startswith("7_good: built after ")
    assert [path.stem for path in sorted((tmp_path / "output" / "notebooks").iterdir())] == ["7_good"]
    assert {path.stem for path in (tmp_path / "build" / "failed").iterdir()} == {"8_bad", "9_small"}


@pytest.mark.parametrize(("device", "threads", "jobs"), [("cpu", 1, 1), ("cpu", 2, 2), ("cpu", 8, 2), ("cuda", 8, 1)])
def test_two_notebooks_are_built_at_once_where_there_are_cores_and_no_gpu(monkeypatch, device, threads, jobs):
    monkeypatch.setattr(settings, "device", lambda: torch.device(device))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert notebooks.default_jobs() == jobs


def test_no_notebook_is_built_by_no_job(small):
    with pytest.raises(NotebookError, match="--jobs 0 builds nothing; expected 1 or more"):
        notebooks.build_command(Namespace(notebook=["9_small"], jobs=0))


def test_what_takes_long_is_begun_first(monkeypatch):
    assert set(notebooks.LONGEST) == set(notebooks.names())
    assert notebooks.longest_first() == list(notebooks.LONGEST)
    monkeypatch.setattr(notebooks, "names", lambda: ["1_vae_2d", "3_vae_images", "7_another"])
    assert notebooks.longest_first() == ["7_another", "3_vae_images", "1_vae_2d"]  # nobody knows yet how long it takes


def test_the_kernel_is_this_python_whatever_is_registered_under_its_name(small, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    other = {"argv": ["false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    small("print(sys.executable == " + repr(sys.executable) + ")")
    content = json.loads(notebooks.build("9_small").read_text(encoding="utf-8"))
    assert content["cells"][2]["outputs"][0]["text"] == ["6\n", "True\n"]
    assert content["metadata"]["accelerator"] == "GPU"


@pytest.mark.parametrize(("last", "counts", "cause"), [
    ("os.kill(os.getpid(), 9)", [7, 8], "out of memory: the system ended"),
    ("os.kill(os.getpid(), 9)", [7, 7], r"its process was killed \(SIGKILL\), as systems do that run out of memory"),
    ("os.kill(os.getpid(), 9)", [None, None], r"killed \(SIGKILL\)"),
    ("os._exit(137)", [7, 8], "out of memory: the system ended"),
    ("os._exit(3)", [7, 8], "its process ended itself with status 3"),  # another program was ended meanwhile
    ("import ctypes; ctypes.string_at(0)", [7, 7], "its process ended by SIGSEGV, a crash in compiled code"),
])
def test_a_kernel_that_dies_names_notebook_and_cell_and_the_cause(small, tmp_path, monkeypatch, last, counts, cause):
    numbers = iter(counts)
    monkeypatch.setattr(kernels, "kills", lambda: next(numbers, counts[-1]))
    small(f"\n# %%\nimport os\n{last}")
    monkeypatch.setattr(settings, "PROJECT_ROOT", tmp_path)
    with pytest.raises(NotebookError, match=rf"^9_small: the kernel died in code cell 3 \(import os\): .*{cause}"):
        notebooks.build("9_small")
    assert (tmp_path / "build" / "failed" / "9_small.ipynb").exists()


def test_kills_are_read_from_where_the_system_counts_them(tmp_path, monkeypatch):
    machine, container = tmp_path / "vmstat", tmp_path / "memory.events"
    monkeypatch.setattr(kernels, "COUNTERS", ((machine, "oom_kill"), (container, "oom_kill")))
    assert kernels.kills() is None
    container.write_text("low 0\noom 4\noom_kill 2\noom_group_kill 9\n")
    assert kernels.kills() == 2
    machine.write_text("pgfault 12\noom_kill 3\n")
    before = kernels.kills()
    container.write_text("low 0\noom 4\noom_kill 3\noom_group_kill 9\n")
    assert kernels.kills() > before


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in notebooks.names() if name != "4_vqvae"])  # test_stamping.py runs that
def test_each_notebook_runs_at_the_smoke_profile_and_changes_nothing_in_the_project(name, tmp_path):
    def contents():
        return {path: path.stat().st_mtime_ns for folder in ("results", "figures", "notebooks")
                for path in (settings.PROJECT_ROOT / folder).rglob("*") if "__pycache__" not in path.parts}

    before = contents()
    path = notebooks.build(name)
    assert notebooks.check(name, path.parent) == Check(name, "fresh")
    assert contents() == before
    assert "cut off at the edge of its figure" not in path.read_text(encoding="utf-8")
    records = sorted(path.stem for path in (tmp_path / "output" / "results").glob("*.json"))
    assert records, "the notebook recorded nothing"
    for record in records:
        content = json.loads((tmp_path / "output" / "results" / f"{record}.json").read_text(encoding="utf-8"))
        assert content["profile"] == "smoke"
        for figure in content["figures"]:
            assert (tmp_path / "output" / "figures" / figure).exists()
