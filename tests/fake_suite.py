"""A complete copy of the suite made of invented numbers, for the tests of the grade and of the report."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.publish import percent
from helpers.results import deliverables, tables
from helpers.results.digests import source_digest

SOURCE = "# %%\ndef train(run):\n    return 1\n\n\n# %%\ntables.show_results(record)\n"
PROSE = "The least possible value is known, the measured one is close to it, and few samples explain the difference. " * 2


def png(name: str) -> bytes:
    """A small picture that is another one for each name."""
    shade = np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint8).reshape(4, 8)
    buffer = io.BytesIO()
    Image.fromarray(np.kron(shade, np.ones((12, 12), np.uint8))).convert("RGBA").save(buffer, format="png")
    return buffer.getvalue()


def metric_value(facts: dict) -> float:
    """A value that passes: the target where there is one, else the sheet's, else something on the right side of the bound."""
    beside_the_floor = facts.get("bound", 0.5) + (-0.25 if facts.get("better") == "higher" else 0.25)
    return facts.get("target", facts.get("sheet", beside_the_floor))


def record(entry: dict, **changes) -> dict:
    """A record that passes, with changes."""
    metrics = {name: metric_value(facts) for name, facts in entry.get("metrics", {}).items()}
    if entry["id"] == "b19_1b":
        metrics["neg_iwae100_first100"] = metrics["neg_elbo_first100"] - 0.01
    spread = {name: {"std": 0.01, "min": value - 0.02, "max": value + 0.02, "n": 3} for name, value in metrics.items()}
    name = entry.get("dataset", "none").split(",")[0]
    content = {
        "id": entry["id"], "notebook": entry["notebook"], "function": "train", "profile": "full",
        "dataset": {"name": name, "digest": "0" * 64, "sizes": {"train": 50000, "test": 10000}, "stand_in": False,
                    "stands_for": None, "note": ""},
        "config": {"epochs": 20, "learning_rate": 1e-3}, "budget": {"done": 7810, "planned": 7810, "unit": "steps"}, "seed": 0,
        "seeds": [1, 2, 3], "shown": 0, "metrics": metrics, "spread": spread,
        "facts": {"verdicts": entry["verdicts"]} if "verdicts" in entry else {},
        "figures": {name: hashlib.sha256(png(name)).hexdigest() for name in entry["figures"]},
        "arrays": {"sha256": hashlib.sha256(b"arrays").hexdigest()}, "source": source_digest("train", SOURCE),
        "environment": {"python": "3.11", "torch": "2.4", "numpy": "1.26", "device": "CPU, 2 threads"}, "seconds": 12.5,
    }
    return content | changes


def write_record(folder: Path, content: dict) -> Path:
    """Write a record, its arrays, its figures and the source that it came from under ``folder``."""
    path = folder / "results" / f"{content['id']}.json"
    for part in (path.parent, folder / "figures", folder / "notebooks"):
        part.mkdir(parents=True, exist_ok=True)
    (folder / "notebooks" / f"{content['notebook']}.py").write_text(SOURCE)
    path.write_text(json.dumps(content))
    path.with_suffix(".npz").write_bytes(b"arrays")
    for name in content["figures"]:
        (folder / "figures" / name).write_bytes(png(name))
    return path


def notebook(name: str, entries: list[dict]) -> dict:
    """An executed notebook with the tables of its runs and the answers that the sheets ask for."""
    rows = []
    for entry in entries:
        content = record(entry)
        for metric, value in content["metrics"].items():
            ours = f"{tables.number(value)} ± {tables.number(content['spread'][metric]['std'])}"
            rows.append(f"| {entry['id']} | {metric} | {ours} | 3 | - | - | - | full budget |")
    table = "\n".join(["| run | metric | ours | seeds | sheet | target | bound | budget and data |", "| --- " * 8 + "|", *rows])
    output = {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": table.splitlines(keepends=True)}}
    code = [{"cell_type": "code", "execution_count": count, "id": f"code-{count}", "metadata": {}, "source": source,
             "outputs": []} for count, source in enumerate(percent.code(SOURCE), 1)]
    code[-1]["outputs"] = [output]
    answers = [{"cell_type": "markdown", "id": f"cell-{number:03d}", "metadata": {"tags": [f"answer:{answer['id']}"]},
                "source": f"**Answer ({answer['id']}): {answer['text']}**\n\n{PROSE}"}
               for number, answer in enumerate(deliverables.answers(), 1) if answer["notebook"] == name]
    stamp = {"source": percent.digest(SOURCE), "profile": "full"}
    return {"cells": [*code, *answers], "metadata": {"suite": stamp}, "nbformat": 4, "nbformat_minor": 5}


def make(folder: Path) -> Path:
    """Write a copy of the suite in which everything passes; returns the folder."""
    entries = deliverables.asked_runs()
    for entry in entries:
        write_record(folder, record(entry))
    for name in sorted({entry["notebook"] for entry in entries}):
        content = notebook(name, [entry for entry in entries if entry["notebook"] == name])
        (folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps(content, ensure_ascii=False))
    return folder


def edit(path: Path, change) -> None:
    """Change a JSON file: ``change(content)`` works in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False))


def entry(run_id: str) -> dict:
    """The entry of a run."""
    return next(entry for entry in deliverables.asked_runs() if entry["id"] == run_id)
