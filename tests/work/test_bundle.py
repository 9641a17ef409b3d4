"""The bundle and the way back: laid out in an empty environment without network, parts and records that were damaged refused."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from helpers.__main__ import parser_for
from helpers.results import records
from helpers.suite import Outcome, Suite, run
from helpers.work import bring, bundle, sheets

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2503, 4, 4), (2500, 4, 4, 3)])
def test_sheets_give_back_every_pixel(shape):
    from PIL import Image

    images, side = GENERATOR.integers(0, 256, shape, dtype=np.uint8), shape[1]
    pictures = [np.asarray(Image.open(sheets.io.BytesIO(sheet))) for sheet in sheets.as_sheets(images)]
    back = [picture.reshape(50, side, 50, side, *shape[3:]).swapaxes(1, 2).reshape(2500, side, side, *shape[3:])
            for picture in pictures]
    assert np.array_equal(np.concatenate(back)[: len(images)], images)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A bundle with the drawn digits, in parts of one MiB."""
    folder = tmp_path_factory.mktemp("bundle") / "out"
    patch = pytest.MonkeyPatch()
    patch.setenv("SUITE_PROFILE", "smoke")
    bundle.write(folder, 1 << 20, ["digits"], [])
    patch.undo()
    return folder


def unpack(folder, target, **environment):
    return subprocess.run([sys.executable, str(folder / "unpack.py"), str(target)], capture_output=True, text=True, check=False,
                          env=os.environ | environment)


def test_parts_are_of_limited_size_and_lay_out_a_suite_that_trains_without_network(packed, tmp_path):
    parts = sorted(packed.glob("part_*"))
    assert len(parts) > 1 and all(part.stat().st_size <= 1 << 20 for part in parts)
    assert unpack(packed, tmp_path / "work").returncode == 0
    suite = tmp_path / "work" / "suite"
    assert not list(suite.rglob("*.ipynb")) and not list((suite / "results").glob("q*.npz"))
    with np.load(tmp_path / "work" / "data" / "cache" / "digits.npz") as content:
        assert content["train_images"].shape == (1497, 28, 28) and content["test_labels"].shape == (300,)
    # An index and a proxy that answer nothing, and no package of the notebooks' kernel: as on a compute node.
    blocked = "import sys; sys.modules |= dict.fromkeys(['jupytext', 'nbclient', 'nbformat', 'IPython', 'torch_fidelity'])\n"
    words = ["helpers", "--profile", "smoke", "train", "q1_a_dset1"]
    script = f"{blocked}import runpy; sys.argv = {words}; runpy.run_module('helpers', run_name='__main__')"
    environment = {"SUITE_PROFILE": "smoke", "SUITE_OUTPUT": str(tmp_path / "output"), "https_proxy": "http://127.0.0.1:9",
                   "PYTHONPATH": str(suite), "PIP_NO_INDEX": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=suite, env=os.environ | environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "output" / "results" / "q1_a_dset1.json").read_text())["profile"] == "smoke"


def test_a_missing_and_a_damaged_part_are_named(packed, tmp_path):
    import shutil

    copy = shutil.copytree(packed, tmp_path / "copy")
    (copy / "part_00").unlink()
    damaged = bytearray((copy / "part_01").read_bytes())
    damaged[100] ^= 1
    (copy / "part_01").write_bytes(damaged)
    done = unpack(copy, tmp_path / "work")
    assert done.returncode == 2
    assert "part_00 is missing; part_01 is damaged (its sha256 differs): copy these again" in done.stderr
    assert not (tmp_path / "work").exists()


def test_a_disk_that_is_too_full_is_said_before_anything_is_written(packed, tmp_path):
    import shutil

    copy = shutil.copytree(packed, tmp_path / "copy")
    content = json.loads((copy / "bundle.json").read_text())
    content["needs"]["disk_bytes"] = 1 << 60
    (copy / "bundle.json").write_text(json.dumps(content))
    done = unpack(copy, tmp_path / "work")
    assert done.returncode == 2 and "MiB free, and the bundle needs" in done.stderr
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("size", ["56", "0M", "large", "1MM"])
def test_a_part_size_that_is_none_is_refused(size):
    with pytest.raises(bundle.BundleError, match="is not a size of at least 1M"):
        bundle.part_size(size)


def test_what_the_gans_import_on_the_node_is_taken_along_unless_it_cannot_be_had(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(bundle, "write", lambda folder, size, data, wheels: asked.append(wheels) or [1 << 20])
    for words, wheels in (([], ["torch-fidelity"]), (["--wheels", ""], [])):
        arguments = parser_for(["bundle"]).parse_args(["bundle", str(tmp_path), *words])
        assert arguments.function(arguments) == 0
        assert asked.pop() == wheels
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(bundle.BundleError, match=r"pip cannot get torch-fidelity as wheels: .*; --wheels '' takes none along"):
        bundle.wheel_files(["torch-fidelity"])


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(bundle.BundleError, match="holds other files"):
        bundle.write(tmp_path, 1 << 20, [], [])
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.fixture
def recorded(monkeypatch):
    """A record as a node would make it; returns a function that makes it with a budget."""
    monkeypatch.setattr("helpers.suite.source_digest", lambda *arguments: "0" * 64)
    monkeypatch.setattr(records, "source_digest", lambda *arguments: "0" * 64)

    def train(run, done):
        return Outcome({"loss": 1.0}, {"curve": np.arange(done)}, budget=(done, 4, "steps"))

    def make(done):
        train.__globals__["DONE"] = done
        return Suite("1_vae_2d", {"q1_a_dset1": run(lambda run, planned: train(run, done), full={"planned": 4})}).run(
            "q1_a_dset1", again=True)

    return make


def test_records_come_back_whole_and_never_replace_a_longer_one(recorded, tmp_path, monkeypatch):
    recorded(3)
    [path] = bring.pack(tmp_path / "packed")
    home = tmp_path / "home"
    monkeypatch.setenv("SUITE_OUTPUT", str(home))
    assert bring.take(path)[0].startswith("q1_a_dset1: taken over")
    assert records.load("q1_a_dset1").arrays["curve"].tolist() == [0, 1, 2]
    assert bring.take(path) == ["q1_a_dset1: already there"]
    recorded(4)
    before = records.load("q1_a_dset1").path.read_bytes()
    assert "came further and stays" in bring.take(path)[0]
    assert records.load("q1_a_dset1").path.read_bytes() == before


@pytest.mark.parametrize("arrays", [None, b"another's"])
def test_a_record_that_travelled_without_its_arrays_is_not_packed(recorded, tmp_path, monkeypatch, capsys, arrays):
    record = recorded(3)
    other = record.path.parent / "seeds" / "1" / record.path.name  # made here: packed
    other.parent.mkdir(parents=True)
    for suffix in (".json", ".npz"):
        other.with_suffix(suffix).write_bytes(record.path.with_suffix(suffix).read_bytes())
    there = record.path.with_suffix(".npz")
    there.unlink() if arrays is None else there.write_bytes(arrays)
    [path] = bring.pack(tmp_path / "packed", ["q1_a_dset1"])
    assert "q1_a_dset1.json is not packed: its arrays are not here" in capsys.readouterr().out
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path / "home"))
    assert len(bring.take(path)) == 1
    assert not (tmp_path / "home" / "results" / "q1_a_dset1.json").exists()


def rewrite(path, change):
    """Pack a file again with its content changed, its manifest as it was."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    change(content)
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in content.items():
            archive.writestr(name, part)


@pytest.mark.parametrize(("change", "message"), [
    (lambda content: content.update({"q1_a_dset1.json": content["q1_a_dset1.json"].replace(b'"loss": 1.0', b'"loss": 0.5')}),
     "q1_a_dset1.json is not what was packed"),
    (lambda content: content.update({"q1_a_dset1.npz": content["q1_a_dset1.npz"] + b"!"}),
     "q1_a_dset1.npz is not what was packed"),
    (lambda content: content.pop("q1_a_dset1.npz"), "q1_a_dset1.npz is not what was packed"),
    (lambda content: content.update({"../helpers/evil.json": b"{}"}), "holds '../helpers/evil.json', which is no record"),
    (lambda content: content.update({"dirac.py": b""}), "holds 'dirac.py', which is no record"),
    (lambda content: content.pop("manifest.json"), "is not a file of packed records"),
])
def test_what_was_tampered_with_is_refused_whole(recorded, tmp_path, monkeypatch, change, message):
    recorded(3)
    [path] = bring.pack(tmp_path / "packed")
    rewrite(path, change)
    monkeypatch.setenv("SUITE_OUTPUT", str(tmp_path / "home"))
    with pytest.raises(bring.BringError, match=message):
        bring.take(path)
    assert not (tmp_path / "home").exists()


