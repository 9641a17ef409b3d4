"""What the suite costs: seconds that were measured, times what a course would run, times a price that a reader can change."""

from __future__ import annotations

import json

from helpers import settings
from helpers.results import deliverables, rates, records

CORE_HOUR, GPU_HOUR = 0.05, 3.0  # dollars, round numbers of rented machines; not measured: put your own
CLASSES = (300, 3000)  # students
ROOTS = 5


def spent() -> dict[str, tuple[int, float]]:
    """Device -> number of recorded runs and hours of training, over all roots."""
    found: dict[str, tuple[int, float]] = {}
    results = settings.PROJECT_ROOT / "results"
    for run_id in deliverables.run_ids():
        for record in filter(None, [records.load(run_id, results), *(records.load(run_id, path) for path in
                                                                     sorted((results / "seeds").glob("*")))]):
            device = record["environment"]["device"]
            kind = "CPU" if device.startswith("CPU") else device
            number, hours = found.get(kind, (0, 0.0))
            found[kind] = number + 1, hours + record["seconds"] / 3600
    return found


def gpu_hours() -> float:
    """Hours of one card for every run whose rate was measured on one, at its whole budget."""
    return sum({rate.run_id: rate.seconds for rate in rates.measured()}.values()) / 3600


def grading_seconds() -> float | None:
    """Seconds to mark one submission, as ``make bench`` measured them; None where it has not."""
    path = settings.PROJECT_ROOT / "benchmarks" / "results" / "grading.json"
    if not path.exists():
        return None
    row = json.loads(path.read_text(encoding="utf-8"))["rows"][0]
    return 1 / row["theirs"]


def table() -> str:
    """The tables of docs/cost.md."""
    lines = ["| device | recorded trainings | hours | dollars |", "|---|---:|---:|---:|"]
    for device, (number, hours) in sorted(spent().items()):
        price = CORE_HOUR if device == "CPU" else GPU_HOUR
        lines.append(f"| {device} | {number} | {hours:.3g} | {hours * price:.2f} |")
    total = sum(hours * (CORE_HOUR if device == "CPU" else GPU_HOUR) for device, (_, hours) in spent().items())
    once = sum(hours for _, hours in spent().values())
    lines += ["", "| what | core-hours and card-hours | dollars |", "|---|---:|---:|",
              f"| the records, once | {once:.3g} | {total:.2f} |",
              f"| the same from {ROOTS} roots | {ROOTS * once:.3g} | {ROOTS * total:.2f} |",
              f"| the runs of docs/speed.md whose rate was measured on a card, whole budgets there | {gpu_hours():.2g} | "
              f"{gpu_hours() * GPU_HOUR:.2f} |"]
    seconds = grading_seconds()
    for students in CLASSES:
        if seconds is not None:
            hours = students * seconds / 3600
            lines.append(f"| marking {students:,} submissions | {hours:.2g} | {hours * CORE_HOUR:.2f} |")
        lines.append(f"| {students:,} students who each train everything | {students * once:,.0f} | {students * total:,.0f} |")
    return "\n".join(lines)
