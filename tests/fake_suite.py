"""A complete copy of the suite made of invented numbers that fit together, for the tests of the grade and of the report."""

import hashlib
import io
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.data import datasets
from helpers.publish import percent
from helpers.results import deliverables, tables
from helpers.results.digests import source_digest

FUNCTION = "def train(run, epochs, learning_rate):\n    return epochs * learning_rate\n"
CONFIG = {"epochs": 20, "learning_rate": 1e-3}
PROSE = "The least possible value is known, the measured one is close to it, and few samples explain the difference. " * 2
SEEDS, STEPS = 3, 780


@cache
def source(notebook: str) -> str:
    """The source of a notebook: its suite, its function, its runs, a table."""
    runs = "".join(f'    "{entry["id"]}": run(train, full=FULL, quick={{"epochs": 2}}, smoke={{"epochs": 1}}),\n'
                   for entry in deliverables.asked_runs() if entry["notebook"] == notebook)
    cells = [f'from helpers.suite import Suite, run\n\nRUNS = {{}}\nsuite = Suite("{notebook}", RUNS)\n', FUNCTION,
             f"FULL = {CONFIG}\nRUNS |= {{\n{runs}}}\n", "records = [suite.run(name) for name in RUNS]\n",
             "tables.show_results(*records)\n"]
    return "".join(f"# %%\n{cell}\n" for cell in cells)


@cache
def png(name: str) -> bytes:
    """A small picture that is another one for each name."""
    shade = np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint8).reshape(4, 8)
    buffer = io.BytesIO()
    Image.fromarray(np.kron(shade, np.ones((32, 20), np.uint8))).convert("RGBA").save(buffer, format="png")
    return buffer.getvalue()


def metric_value(facts: dict) -> float:
    """A value that passes: the target where there is one, else the sheet's, else something on the right side of the bound."""
    beside_the_bound = facts.get("bound", facts.get("suspect", 0.5)) + (-0.25 if facts.get("better") == "higher" else 0.25)
    return facts.get("target", facts.get("sheet", beside_the_bound))


def metrics_of(entry: dict) -> dict:
    """The metrics of a run that passes; a total is the sum of its parts."""
    return balanced(entry, {name: metric_value(facts) for name, facts in entry.get("metrics", {}).items()})


def balanced(entry: dict, metrics: dict) -> dict:
    """The metrics with the parts of a total brought in line with it, and a bound with more samples below the looser one."""
    metrics = dict(metrics)
    for unit in ("", "_bpd"):
        total, recon, kl = (f"{name}{unit}" for name in ("neg_elbo", "recon", "kl"))
        if {total, recon, kl} <= metrics.keys():
            metrics |= {recon: 0.75 * metrics[total], kl: 0.25 * metrics[total]}
    if entry["id"] == "b19_1b":
        metrics["neg_iwae100_first100"] = metrics["neg_elbo_first100"] - 0.01
    return metrics


def record_with(run_id: str, **metrics: float) -> dict:
    """A record in which some metrics have other values and everything fits together."""
    whole = balanced(entry(run_id), metrics_of(entry(run_id)) | metrics)
    return record(entry(run_id), metrics=whole, spread={name: spread_of(value) for name, value in whole.items()})


def over_seeds(value: float) -> np.ndarray:
    """The values of the three seeds behind a metric."""
    return value + np.array([-0.01, 0.0, 0.01])


def spread_of(value: float) -> dict:
    """The spread of a metric over its three seeds."""
    return {"std": 0.01, "min": value - 0.01, "max": value + 0.01, "n": SEEDS}


@cache
def _arrays(run_id: str, metrics: tuple, steps: int) -> bytes:
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:4], "big"))
    ramp = np.add.outer(np.arange(32), np.arange(32))[None, :, :, None] * 4
    arrays = {
        "train_terms": np.exp(-np.linspace(0, 3, steps))[:, None].astype(np.float32) + generator.normal(0, 0.01, (steps, 1)),
        "by_seed": np.stack([over_seeds(value) for _, value in metrics]) if metrics else np.zeros((0, SEEDS)),
        "samples": (ramp + generator.integers(0, 8, (4, 32, 32, 3))).astype(np.uint8),
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    return packed.getvalue()


def arrays_of(content: dict) -> bytes:
    """The ``.npz`` that belongs to a record."""
    return _arrays(content["id"], tuple(content["metrics"].items()), int(content["budget"]["done"]))


def dataset_of(entry: dict) -> dict | None:
    """What a record says of its data: a published set, a generated one, or none."""
    name = entry.get("dataset", "").split(",")[0]
    if not name:
        return None
    sizes = dict(datasets.KNOWN[name].sizes) if name in datasets.KNOWN else {"train": 3000, "test": 1000}
    return {"name": name, "digest": hashlib.sha256(name.encode()).hexdigest(), "sizes": sizes, "stand_in": False,
            "stands_for": None, "note": ""}


def record(entry: dict, **changes) -> dict:
    """A record that passes, with changes."""
    metrics = metrics_of(entry)
    content = {
        "id": entry["id"], "notebook": entry["notebook"], "function": "train", "profile": "full", "dataset": dataset_of(entry),
        "config": dict(CONFIG), "budget": {"done": STEPS, "planned": STEPS, "unit": "steps"}, "seed": 0, "seeds": [1, 2, 3],
        "shown": 0, "metrics": metrics, "spread": {name: spread_of(value) for name, value in metrics.items()},
        "facts": {"verdicts": entry["verdicts"]} if "verdicts" in entry else {},
        "figures": {name: hashlib.sha256(png(name)).hexdigest() for name in entry["figures"]},
        "source": source_digest("train", source(entry["notebook"])),
        "environment": {"python": "3.11", "torch": "2.4", "numpy": "1.26", "device": "CPU, 2 threads"}, "seconds": 12.5,
    } | changes
    return {"arrays": {"sha256": hashlib.sha256(arrays_of(content)).hexdigest()}} | content


def is_stale(content: dict) -> bool:
    """Whether a record came from other code than that of its notebook."""
    return content["source"] != source_digest("train", source(content["notebook"]))


def write_record(folder: Path, content: dict) -> Path:
    """Write a record, its arrays, its figures and the source that it came from under ``folder``."""
    path = folder / "results" / f"{content['id']}.json"
    for part in (path.parent, folder / "figures", folder / "notebooks"):
        part.mkdir(parents=True, exist_ok=True)
    (folder / "notebooks" / f"{content['notebook']}.py").write_text(source(content["notebook"]), encoding="utf-8")
    path.write_text(json.dumps(content), encoding="utf-8")
    path.with_suffix(".npz").write_bytes(arrays_of(content))
    for name in content["figures"]:
        (folder / "figures" / name).write_bytes(png(name))
    return path


def table_of(entries: list[dict]) -> str:
    """The table of results of runs, in Markdown."""
    rows = []
    for entry in entries:
        content = record(entry)
        for metric, value in content["metrics"].items():
            ours = tables.with_spread(value, content["spread"][metric])
            rows.append(f"| {entry['id']} | {metric} | {ours} | 3 | - | - | - | full budget |")
    return "\n".join(["| run | metric | ours | seeds | sheet | target | bound | budget and data |", "| --- " * 8 + "|", *rows])


def notebook(name: str, entries: list[dict]) -> dict:
    """An executed notebook with the tables of its runs and the answers that the sheets ask for."""
    cells = []
    for number, text in enumerate(percent.code(source(name)), 1):
        cells.append({"cell_type": "code", "execution_count": number, "id": f"code-{number}", "metadata": {}, "source": text,
                      "outputs": []})
    table = table_of(entries).splitlines(keepends=True)
    cells[-1]["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": {"text/markdown": table}}]
    answers = [{"cell_type": "markdown", "id": f"cell-{number:03d}", "metadata": {"tags": [f"answer:{answer['id']}"]},
                "source": f"**Answer ({answer['id']}): {answer['text']}**\n\n{PROSE}"}
               for number, answer in enumerate(deliverables.answers(), 1) if answer["notebook"] == name]
    stamp = {"source": percent.digest(source(name)), "profile": "full"}
    return {"cells": [*cells, *answers], "metadata": {"suite": stamp}, "nbformat": 4, "nbformat_minor": 5}


def make(folder: Path) -> Path:
    """Write a copy of the suite in which everything passes; returns the folder."""
    entries = deliverables.asked_runs()
    for entry in entries:
        write_record(folder, record(entry))
    for name in sorted({entry["notebook"] for entry in entries}):
        content = notebook(name, [entry for entry in entries if entry["notebook"] == name])
        (folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


def print_again(folder: Path, name: str, content: dict) -> None:
    """Let the table of a saved notebook show the numbers of a changed record."""
    def change(notebook: dict) -> None:
        output = notebook["cells"][4]["outputs"][0]
        lines = "".join(output["data"]["text/markdown"]).splitlines(keepends=True)
        for metric, value in content["metrics"].items():
            row = f"| {content['id']} | {metric} |"
            ours = tables.with_spread(value, content["spread"][metric])
            lines = [f"{row} {ours} | 3 |\n" if line.startswith(row) else line for line in lines]
        output["data"]["text/markdown"] = lines

    edit(folder / "notebooks" / f"{name}.ipynb", change)


def edit(path: Path, change) -> None:
    """Change a JSON file: ``change(content)`` works in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def entry(run_id: str) -> dict:
    """The entry of a run."""
    return deliverables.entry(run_id)
