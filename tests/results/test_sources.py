"""A run started from everywhere that people start notebooks from: its record names the same code."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from helpers import settings
from helpers.results.digests import source_digest

HEAD = '''import sys
from pathlib import Path

sys.path.insert(0, "ROOT")
from helpers.suite import Outcome, Suite, run

RUNS = {}
suite = Suite("9_small", RUNS)
suite.source_path = Path("FILE")
'''
DEFINES = '''SIZE = 3


def train(run):
    return Outcome(values={"loss": SIZE})


RUNS["q1_a_dset1"] = run(train)
'''
STARTS = 'print("digest", suite.run("q1_a_dset1")["source"])\n'


@pytest.fixture
def parts(tmp_path):
    """The three cells of a small notebook whose source is in ``tmp_path``."""
    path = tmp_path / "9_small.py"
    cells = [HEAD.replace("ROOT", str(settings.PROJECT_ROOT)).replace("FILE", path.as_posix()), DEFINES, STARTS]
    path.write_text("".join(f"# %%\n{cell}\n" for cell in cells), encoding="utf-8")
    return cells


def digest():
    return f"digest {source_digest('train', DEFINES)}"


@pytest.mark.parametrize("command", [
    ["9_small.py"], ["-m", "IPython", "--no-banner", "9_small.py"],
    ["-m", "IPython", "--no-banner", "-c", "%run 9_small.py"], ["-m", "IPython", "--no-banner", "-c", "%run -i 9_small"],
    ["-i", "9_small.py"],
])
def test_a_script_is_its_file_however_it_is_started(parts, tmp_path, command):
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False,
                          stdin=subprocess.DEVNULL, env=os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")})
    assert digest() in done.stdout, done.stdout + done.stderr


def executed(tmp_path, cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    return "".join(output.text for cell in notebook.cells for output in cell.outputs if output.output_type == "stream")


def test_cells_under_magics_define_what_they_define(parts, tmp_path):
    head, defines, starts = parts
    assert digest() in executed(tmp_path, ["%%bash\ntrue", head, f"%%time\n{defines}", starts])
    assert digest() in executed(tmp_path, [head, f"%%capture told\n%%time\n{defines}", f"%%capture\n{starts}", starts])
    assert digest() in executed(tmp_path, [head, f"%%timeit -n1 -r1\n{defines}\n{starts}"])


def test_a_file_that_a_cell_runs_defines_what_it_defines_and_a_later_cell_wins(parts, tmp_path):
    again = f"suite.source_path = Path('none.py')\n{STARTS}"
    assert executed(tmp_path, ["%run 9_small.py", again]).count(digest()) == 2
    other = DEFINES.replace("SIZE = 3", "SIZE = 4")
    text = executed(tmp_path, ["%run 9_small.py", other, STARTS])
    assert digest() in text and f"digest {source_digest('train', other)}" not in text  # recorded: the record is loaded
    assert "STALE" in text
