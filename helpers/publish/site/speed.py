"""The speed of the suite beside its peers, as bars, from ``benchmarks/results/``."""

from __future__ import annotations

import json

from helpers import settings
from helpers.publish.readme import RATES, SHARES
from helpers.publish.site.assets import Site


def write(site: Site) -> None:
    """Write the page of speeds; it says so where nothing was measured."""
    groups, machines = [], []
    for path in sorted((settings.PROJECT_ROOT / "benchmarks" / "results").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["benchmark"] in (SHARES, RATES):
            continue
        machine = content["machine"]
        machines.append(f"{machine['processor']}, {machine['device']}, torch {machine['torch']}")
        groups.append({"name": content["benchmark"].replace("_", " "), "rows": [bar(row) for row in content["rows"]]})
    site.write("speed.html", "speed.html", groups=groups, machines=list(dict.fromkeys(machines)))


def bar(row: dict) -> dict:
    """A comparison with the lengths of its two bars, in per cent of the longer one."""
    longest = max(row["ours"], row["theirs"])
    return row | {"length": {side: 100 * row[side] / longest for side in ("ours", "theirs")}}
