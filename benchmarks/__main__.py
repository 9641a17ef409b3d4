"""``make bench``: every comparison, both sides in one run, as a table and as JSON in ``benchmarks/results/``."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import re
from pathlib import Path

import torch

from benchmarks import loop_shares, rates
from helpers import settings
from helpers.files import write_together
from helpers.results import tables

FOLDER = Path(__file__).parent
ALONE = {"loop_shares": loop_shares, "rates": rates}  # they compare nobody


def main() -> None:
    """Run all benchmarks, or those named."""
    names = [*sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py")), *ALONE]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--repetitions", type=int, default=7, help="timed calls of each side (at least 5 for a table)")
    arguments = parser.parse_args()
    unknown = set(arguments.name) - set(names)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the benchmarks are {', '.join(names)}")
    for name in arguments.name or names:
        alone = name in ALONE
        benchmark = ALONE[name] if alone else importlib.import_module(f"benchmarks.bench_{name}")
        rows = benchmark.measure() if alone else benchmark.measure(arguments.repetitions)
        machine = {**settings.environment(), "processor": processor(), "threads": torch.get_num_threads()}
        content = {"benchmark": name, "repetitions": 1 if alone else arguments.repetitions, "machine": machine, "rows": rows}
        card = "_" + re.sub(r"\W+", "_", machine["device"]).strip("_") if name == "rates" else ""
        write_together({FOLDER / "results" / f"{name}{card}.json": (json.dumps(content, indent=1) + "\n").encode()})
        print(f"\n{name}: medians of {content['repetitions']}, {machine['processor']}, {machine['threads']} threads")
        if alone:
            tables.show(list(rows[0]) if rows else ["run"],
                        [[value if isinstance(value, str) else f"{value:.3g}" for value in row.values()] for row in rows])
            continue
        tables.show(["what", "peer", "ours", "theirs", "unit", "ratio", "aim", "peak MiB"],
                    [[r["what"], f"{r['peer']} {r['peer_version']}".strip(), f"{r['ours']:.4g}", f"{r['theirs']:.4g}", r["unit"],
                      f"{r['ratio']:.2f}", tables.number(r.get("aim"), 1),
                      " / ".join(f"{value:.3g}" for value in r["peak_megabytes"] or [])] for r in rows])


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
