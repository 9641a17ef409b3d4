"""The first and last cells: one address stamped everywhere, and a notebook run on "Colab" from an empty folder."""

import json
import shutil
import subprocess
import sys
import zipfile

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from helpers import __main__ as command_line
from helpers import settings
from helpers.publish import notebooks, percent, stamping
from helpers.settings import SettingError

PYPROJECT = "[project]\nname = 'copy'\n\n[project.urls]\n# Repository = ...\n\n[tool.ruff]\nline-length = 130\n"
README = ("# Copy\n\n<!-- notebooks:begin -->\n| name | what it does |\n|---|---|\n| [1_one](notebooks/1_one.ipynb) | adds |\n"
          "<!-- notebooks:end -->\n\n| [1_one](notebooks/1_one.ipynb) | elsewhere |\n")
NOTEBOOK = "# %% [markdown]\n# # 1 · One\n#\n# Adds.\n\n# %%\n# Bootstrap: an older one.\nimport sys\n\n# %%\nprint(1 + 1)\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project with one notebook; returns its folder."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "README.md").write_text(README)
    (root / "notebooks" / "1_one.py").write_text(NOTEBOOK)
    return root


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_stamping_puts_the_address_everywhere_and_twice_is_once(project):
    assert stamping.setting(project) == ""
    assert [line.split(":")[0] for line in stamping.complaints(project)] == ["notebooks/1_one.py"]
    assert stamping.stamp("", project) == ["notebooks/1_one.py"]  # the cells alone: no address, no badge
    assert "Open in Colab" not in (project / "notebooks" / "1_one.py").read_text(encoding="utf-8")
    assert stamping.complaints(project) == []
    for repository in ("ada/generative-models", "Grace-H/models_2.0"):
        assert stamping.stamp(repository, project) == ["README.md", "notebooks/1_one.py", "pyproject.toml"]
        assert stamping.setting(project) == repository
        before = contents(project)
        assert stamping.stamp(repository, project) == [] and contents(project) == before
        source, readme = ((project / name).read_text(encoding="utf-8") for name in ("notebooks/1_one.py", "README.md"))
        link = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/1_one.ipynb"
        badge = stamping.badge(repository, "1_one")
        assert source.startswith(f"# %% [markdown]\n# # 1 · One\n#\n# {badge}\n#\n# Adds.\n\n# %%\n# Bootstrap: ")
        assert source.count(link) == readme.count(link) == 1 and f'\nrepository = "{repository}"\n' in source
        assert "ipynb) | elsewhere |" in readme  # outside the markers nothing is touched
        assert source.endswith("print(1 + 1)\n\n# %%\n" + stamping.LAST_CELL)
    assert stamping.complaints(project) == ["notebooks/1_one.ipynb: not built yet, so its badge leads nowhere"]
    (project / "README.md").write_text(README)
    assert stamping.complaints(project)[0].startswith("README.md: ")


@pytest.mark.parametrize("name", ["", "models", "ada/", "/models", "ada/models/more", "-ada/models", "ada-/models", "ada/mo dels",
                                  "ada/models.git", "ada/..", 'ada/mo"dels', "ada/models\n", "https://github.com/ada/models"])
def test_a_malformed_name_is_refused_and_changes_nothing(project, name, monkeypatch, capsys):
    before = contents(project)
    monkeypatch.setattr(sys, "argv", ["helpers", "colab", f"--repository={name}"])
    assert command_line.main() == 2
    assert "is not a GitHub repository: expected owner/name" in capsys.readouterr().err
    if name:
        with pytest.raises(SettingError, match="expected owner/name"):
            stamping.stamp(name, project)
    assert contents(project) == before


def test_a_malformed_setting_and_a_missing_place_are_named(project):
    (project / "pyproject.toml").write_text(PYPROJECT.replace("# Repository = ...", 'Repository = "https://example.org/a/b"'))
    with pytest.raises(SettingError, match=r"expected https://github.com/owner/name"):
        stamping.complaints(project)
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "notebooks" / "1_one.py").write_text(NOTEBOOK.replace("# Bootstrap", "# Something"))
    before = contents(project)
    with pytest.raises(SettingError, match=r"1_one.py needs a code cell that begins '# Bootstrap', once; found 0 times"):
        stamping.stamp("ada/models", project)
    assert contents(project) == before


def built(project):
    """Save an executed copy of the project's notebook, as :func:`notebooks.build` would."""
    source = project / "notebooks" / "1_one.py"
    notebook = jupytext.read(source)
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        text = [nbformat.v4.new_output("stream", text="2\n")] if "print(1" in cell.source else []
        cell.update(execution_count=count, outputs=text)
    notebook.metadata["suite"] = {"source": percent.digest(percent.read(source))}
    source.with_suffix(".ipynb").write_text(nbformat.writes(notebook))
    return source.with_suffix(".ipynb")


def test_a_fresh_notebook_stays_fresh_and_only_its_two_cells_change(project):
    folder = project / "notebooks"
    stamping.stamp("", project)
    saved = built(project)
    before = json.loads(saved.read_text(encoding="utf-8"))
    assert "notebooks/1_one.ipynb" in stamping.stamp("ada/models", project)
    after = json.loads(saved.read_text(encoding="utf-8"))
    assert notebooks.check("1_one", folder, folder).state == "fresh" and stamping.complaints(project) == []
    changed = [index for index, (old, new) in enumerate(zip(before["cells"], after["cells"], strict=True)) if old != new]
    assert changed == [0, 1] and 'repository = "ada/models"\n' in after["cells"][1]["source"]
    for content in (before, after):
        content["metadata"].pop("suite")
        for cell in content["cells"][:2]:
            cell.pop("source")
    assert before == after


def test_a_notebook_that_was_stale_or_gains_a_cell_is_left_stale(project):
    folder = project / "notebooks"
    saved = built(project)  # of the older source: it has no closing cell yet
    before = saved.read_bytes()
    stamping.stamp("", project)
    assert saved.read_bytes() == before and notebooks.check("1_one", folder, folder).state == "stale"
    stamping.stamp("ada/models", project)
    assert saved.read_bytes() == before
    assert stamping.complaints(project) == ["notebooks/1_one.ipynb: built with another badge or first cell: build it again"]


def test_the_address_is_the_same_everywhere_in_this_project():
    stale = [path.name for path, text in stamping.stamped(stamping.setting()).items() if text != path.read_text(encoding="utf-8")]
    assert stale == [], "python -m helpers colab --write brings them up to date"


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """An empty folder in which kernels are Colab runtimes, with this project on "GitHub" as ada/models and nowhere else.

    Returns a function that executes cells there and returns the notebook.
    """
    origin, stub, folder = (tmp_path / name for name in ("origin", "stub", "content"))
    for name in ("helpers", "notebooks"):
        shutil.copytree(settings.PROJECT_ROOT / name, origin / name, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    for name in (".gitignore", "pyproject.toml", "README.md", "requirements.txt", "deliverables.toml"):
        shutil.copy(settings.PROJECT_ROOT / name, origin)
    stamping.stamp("ada/models", origin)
    git = ["git", "-C", str(origin), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "The suite"]):
        subprocess.run([*git, *arguments], check=True)
    stub.mkdir()
    (stub / "sitecustomize.py").write_text("import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n")
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(stub))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{origin.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/ada/models")
    monkeypatch.delenv("SUITE_OUTPUT")

    def execute(notebook):
        NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
        return notebook

    execute.origin, execute.folder = origin, folder
    return execute


def printed(notebook):
    return "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream")


@pytest.mark.slow
def test_a_notebook_clones_the_suite_into_an_empty_folder_and_runs_to_its_end(empty_folder):
    notebook = empty_folder(jupytext.read(empty_folder.origin / "notebooks" / "4_vqvae.py"))
    clone = empty_folder.folder / "models"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.get("name") == "stderr" for output in outputs)
    text = printed(notebook)
    assert "Cloning into 'models'" in text and "the suite: a clone, models\n" in text and not notebooks.MACHINE_PATH.search(text)
    assert text.count("\nprofile: smoke\n") >= 1 and notebooks.RAN.search(text)
    results = sorted(path.name for path in (clone / "build" / "smoke" / "results").glob("*") if path.is_file())
    with zipfile.ZipFile(clone / "build" / "smoke" / "hand_in.zip") as archive:
        packed = archive.namelist()
    assert results and {f"results/{name}" for name in results} < set(packed) and "figures/q3_dset1_samples.png" in packed
    assert "notebooks/4_vqvae.py" in packed
    for result in (clone / "build" / "smoke" / "results").glob("*.json"):
        content = json.loads(result.read_text(encoding="utf-8"))
        assert content["profile"] == "smoke" and all(f"figures/{figure}" in packed for figure in content["figures"])
    status = subprocess.run(["git", "-C", str(clone), "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert "helpers" not in status.stdout and "notebooks" not in status.stdout


@pytest.mark.slow
def test_the_first_cell_alone_says_what_is_wrong_and_what_to_do(empty_folder, monkeypatch):
    def first(repository, output=-1, *, everything=False):
        cell = nbformat.v4.new_code_cell(stamping.first_cell(repository, "1_vae_2d"), metadata={"tags": ["raises-exception"]})
        notebook = empty_folder(nbformat.v4.new_notebook(cells=[cell]))
        if everything:
            return "".join(output.get("text", "") for output in notebook.cells[0].outputs)
        return notebook.cells[0].outputs[output]

    assert "folder to the top of your Drive and mount Drive, or !git clone it" in first("").evalue
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/ada/other")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{empty_folder.origin.as_uri()}-none.insteadOf")
    told, complaint = first("ada/other", -2).text, first("ada/other").evalue
    assert "fatal: " in told and "to the top of your Drive" in complaint
    shutil.copytree(empty_folder.origin, empty_folder.folder / "drive" / "MyDrive" / "uploaded")
    shutil.rmtree(empty_folder.folder / "drive" / "MyDrive" / "uploaded" / ".git")
    assert "the suite: an uploaded copy, drive/MyDrive/uploaded\n" in first("", everything=True)
