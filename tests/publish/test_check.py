"""The check of a saved notebook: what makes it fresh, and what each fault is called."""

import json

import pytest

from helpers.publish import notebooks, percent
from helpers.publish.notebooks import Check
from helpers.work import definitions

SOURCE = '''# %% [markdown]
# # A notebook with an answer – and a dash

# %%
profile = "automatic"  # @param ["automatic", "quick", "full"]
print("profile: full")

# %%
def double(x):
    """Twice x."""
    return 2 * x


def half(x):
    return x / 2


# %% tags=["check"]
assert double(half(3)) == 3

# %%
print(double(4))
'''


@pytest.fixture
def folder(tmp_path):
    """A folder with a source and its saved notebook, as the build would leave them."""
    (tmp_path / "9_small.py").write_text(SOURCE, encoding="utf-8")
    save(tmp_path)
    return tmp_path


def save(folder, change=lambda content: None, name="9_small.ipynb"):
    """Write the saved notebook of the source, with a change of its content."""
    cells, counts = [], iter(range(1, 100))
    for index, cell in enumerate(percent.cells(SOURCE)):
        entry = {"cell_type": cell.kind, "id": f"cell-{index:03d}", "metadata": {}, "source": cell.text.splitlines(keepends=True)}
        if cell.kind == "code":
            text = {"profile": "profile: full\n", "print(d": "8\n"}.get(cell.text[:7], "")
            entry |= {"execution_count": next(counts), "outputs": [stream(text)] if text else []}
        cells.append(entry)
    stamp = {"source": percent.digest(SOURCE), "profile": "full"}
    content = {"cells": cells, "metadata": {"suite": stamp}, "nbformat": 4, "nbformat_minor": 5}
    change(content)
    (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": [text]}


def check(folder):
    return notebooks.check("9_small", folder, folder)


def code(content):
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def prepend(content, source, *outputs):
    """A code cell on top, run first."""
    for cell in code(content):
        cell["execution_count"] += 1
    content["cells"].insert(0, {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": source,
                                "outputs": list(outputs)})


def test_the_build_is_fresh_and_says_its_profile(folder):
    assert check(folder) == Check("9_small", "fresh") and check(folder).profile == "full"


MOUNT = "from google.colab import drive\ndrive.mount('/content/drive')"


@pytest.mark.parametrize("change", [
    lambda content: prepend(content, MOUNT, stream("Mounted at /content/drive\n")),
    lambda content: [cell.update(execution_count=cell["execution_count"] + 1) for cell in code(content)],
    lambda content: code(content)[0].update(source='profile = "full" #@param ["full"]\nprint("profile: full")'),
    lambda content: code(content)[1].update(source="%%time\n" + "".join(code(content)[1]["source"])),
    lambda content: content["cells"][0].update(source="An answer written in the saved notebook alone: 变分下界"),
    lambda content: content["metadata"].update(colab={"provenance": []}, language_info={"name": "python"}),
    lambda content: content["cells"].append({"cell_type": "code", "metadata": {}, "execution_count": None, "source": "",
                                             "outputs": []}),
])
def test_what_colab_and_jupyter_do_to_a_notebook_is_no_fault(folder, change):
    save(folder, change)
    assert check(folder) == Check("9_small", "fresh")


@pytest.mark.parametrize("name", ["Copy of 9_small.ipynb", "9_small (1).ipynb", "9_small(2).ipynb", "9_small-Copy1.ipynb",
                                  "Copy of Copy of 9_small (3).ipynb", "9_small copy.ipynb", "9_small - Copy.ipynb"])
def test_a_copy_that_was_named_by_a_program_is_found(folder, name):
    (folder / "9_small.ipynb").rename(folder / name)
    assert check(folder) == Check("9_small", "fresh")
    save(folder, name="9_small (7).ipynb")
    assert check(folder).state == "missing" and "which one counts?" in check(folder).reasons[0]
    save(folder)
    assert check(folder).state == "fresh"


def test_a_file_of_another_notebook_is_no_copy(folder):
    (folder / "9_small.ipynb").rename(folder / "9_small_more.ipynb")
    assert check(folder) == Check("9_small", "missing", ("9_small.ipynb is not there",))


@pytest.mark.parametrize(("state", "reason", "change"), [
    ("hollow", "in one go", lambda content: code(content)[0].update(outputs=[], execution_count=None)),
    ("hollow", "in one go", lambda content: code(content)[2].update(execution_count=7)),
    ("hollow", "no outputs", lambda content: [cell.update(outputs=[]) for cell in code(content)]),
    ("failed", "code cell 1 writes to stderr", lambda content: code(content)[0]["outputs"].append(stream("w", "stderr"))),
    ("failed", "shows a path", lambda content: code(content)[0]["outputs"][0].update(text=["/" + "home/someone/file"])),
    ("stale", "its double, half are not as in the source; code cells 1, 2, 3, 4 differ",
     lambda content: [cell.update(source="pass") for cell in code(content)]),
    ("stale", "the notebook was edited after it was built: its half is not as in the source; code cell 2 differs from the source",
     lambda content: code(content)[1].update(source="".join(code(content)[1]["source"]).replace("x / 2", "x / 3"))),
    ("stale", "1 code cell of the source is not there", lambda content: content["cells"].remove(code(content)[2])
        or code(content)[2].update(execution_count=3)),
    ("stale", "its double is not as in the source", lambda content: content["cells"].append(
        {"cell_type": "code", "metadata": {}, "execution_count": 5, "outputs": [], "source": "def double(x):\n    return 8"})),
    ("stale", "built with the full profile and run again with quick",
     lambda content: code(content)[0]["outputs"][0].update(text=["profile: quick\n"])),
])
def test_each_fault_has_its_name(folder, state, reason, change):
    save(folder, change)
    found = check(folder)
    assert found.state == state and reason in found.reasons[0]


def test_a_quick_run_says_so(folder):
    save(folder, lambda content: code(content)[0]["outputs"][0].update(text=["profile: quick\n"]))
    assert check(folder).profile == "quick"


def test_a_source_that_changed_is_named_with_the_function_that_differs(folder):
    (folder / "9_small.py").write_text(SOURCE.replace("2 * x", "x + x"), encoding="utf-8")
    assert check(folder).reasons[0].startswith("the notebook and 9_small.py are not of one version: its double is not as")
    (folder / "9_small.py").write_text(SOURCE.replace("with an answer", "with two answers"), encoding="utf-8")
    assert check(folder) == Check("9_small", "stale", ("9_small.py has changed since it was built",))
    (folder / "9_small.py").unlink()
    assert check(folder).reasons == ("its source 9_small.py is not there",)


def test_a_notebook_edited_in_both_and_run_to_its_end_is_fresh(folder):
    """Jupyter keeps source and notebook in step; the last cell's line says which code the outputs are of."""
    changed = SOURCE.replace("2 * x", "x + x")
    (folder / "9_small.py").write_text(changed, encoding="utf-8")

    def edit(content, digest):
        code(content)[1]["source"] = "".join(code(content)[1]["source"]).replace("2 * x", "x + x")
        code(content)[3]["outputs"].append(stream(f"run to its end, code {digest}\n"))

    save(folder, lambda content: edit(content, percent.code_digest(percent.code(changed))))
    assert check(folder) == Check("9_small", "fresh")
    save(folder, lambda content: edit(content, percent.code_digest(percent.code(SOURCE))))
    assert check(folder).reasons == ("9_small.py has changed since it was built",)


@pytest.mark.parametrize("spoil", [
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    lambda text: ("# ---\n# jupyter:\n#   kernelspec:\n#     name: python3\n# ---\n\n" + text).encode(),
    lambda text: text.replace("# %%\n", "\n\n# %%\n").encode(),
])
def test_how_a_source_is_stored_changes_nothing(folder, spoil, monkeypatch):
    (folder / "9_small.py").write_bytes(spoil(SOURCE))
    assert check(folder) == Check("9_small", "fresh")
    for module in (notebooks, definitions):
        monkeypatch.setattr(module, "FOLDER", folder)
    assert notebooks.definitions("9_small").double(4) == 8


def test_a_file_that_is_no_notebook_is_missing(folder):
    for text in ("{", "[]", '{"cells": [{"cell_type": "code"}], "metadata": {}}'):
        (folder / "9_small.ipynb").write_text(text)
        assert check(folder).state == "missing"
