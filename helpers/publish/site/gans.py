"""The page of the GANs on CIFAR-10: samples, and both metrics against the generator's updates."""

from __future__ import annotations

import numpy as np
from PIL import Image

from helpers import plotting
from helpers.publish.site.assets import Site, reason, rounded
from helpers.results import deliverables
from helpers.results.records import Record, RecordError

PREFIX = "cifar10_"
COLUMNS = 10  # of a picture of samples


def write(site: Site, recorded: dict[str, Record]) -> None:
    """Write the page from the records that there are; it names the runs that are missing."""
    ids = [entry["id"] for entry in deliverables.asked_runs() if entry["id"].startswith((PREFIX + "jsd", PREFIX + "w1"))]
    found, gaps = [], [(run_id, "no record yet") for run_id in ids if run_id not in recorded]
    for run_id in ids:
        if run_id in recorded:
            try:
                found.append(gan(recorded[run_id], site))
            except (RecordError, KeyError) as error:
                gaps.append((run_id, reason(error)))
    site.write("gans.html", "gans.html", gans=found, gaps=gaps)


def gan(record: Record, site: Site) -> dict:
    """What the page shows of one GAN: evaluations by name against updates, and its samples as one picture."""
    arrays, names, config = record.arrays, record["facts"]["evaluated"], record["config"]
    board = (255 * plotting.tile(arrays["samples"], COLUMNS)).round().astype(np.uint8)
    address, width, height = site.pixels(Image.fromarray(board), quality=90)
    metric = str(config["metric"])
    columns = {name: rounded(arrays["evaluations"][:, index]) for index, name in enumerate(names)}
    fid = next(name for name in names if name.startswith("fid") and "against" not in name)
    return {"id": record.id, "metric": metric, "regulariser": str(config["regulariser"]),
            "steps": np.asarray(arrays["evaluation_steps"]).tolist(), "fid": columns[fid], "fid_name": fid,
            "held_out": columns[f"{metric}_test"], "done": int(record["budget"]["done"]), "remark": record.remark,
            "samples": {"address": address, "width": width, "height": height, "count": len(arrays["samples"])}}
