"""The page with a map of a two-dimensional latent plane: the decoder's picture of the point under the pointer.

With the trained weights at hand the decoder itself runs in the page; else the page shows the nearest of the codes whose
decoded pictures the record has, and says so.
"""

from __future__ import annotations

import numpy as np

from helpers.publish.site.assets import Site, reason
from helpers.publish.site.flows import packed
from helpers.results import weights
from helpers.results.records import Record, RecordError

RUNS = ("mit_p3_analytic", "mit_p2_sgvb")
SHOWN = 2000  # codes of test images on the map


def write(site: Site, recorded: dict[str, Record]) -> None:
    """Write the page from the records that there are; it says which runs or weights are missing."""
    maps, gaps = [], [(run_id, "no record yet") for run_id in RUNS if run_id not in recorded]
    for run_id in RUNS:
        if run_id in recorded:
            try:
                maps.append(plane(recorded[run_id]))
            except (RecordError, KeyError) as error:
                gaps.append((run_id, reason(error)))
    site.write("latent.html", "latent.html", maps=maps, gaps=gaps)


def plane(record: Record) -> dict:
    """What the page needs of a run: codes (N, 2) with labels, a grid of decoded codes, and the decoder if it is here."""
    arrays = record.arrays
    return {"id": record.id, "codes": packed(arrays["codes"][:SHOWN].astype("<f4")), "remark": record.remark,
            "labels": arrays["labels"][:SHOWN].astype(int).tolist(), "grid_codes": packed(arrays["grid_codes"].astype("<f4")),
            "grid": packed(arrays["grid"].astype(np.uint8)), "side": int(arrays["grid"].shape[-1]), "decoder": decoder(record)}


def decoder(record: Record) -> list[dict] | None:
    """The decoder's layers, in order: weight (out, in) and bias (out,) as float16; a ReLU stands between two of them.

    Returns:
        None where the record names no weights or they are not here.
    """
    try:
        models = weights.find(record) if record.content.get("weights") else None
    except ImportError:
        return None
    if models is None:
        return None
    state = models["decoder"]
    numbers = sorted({int(key.split(".")[0]) for key in state})
    layers = []
    for number in numbers:
        weight, bias = (state[f"{number}.{part}"].numpy() for part in ("weight", "bias"))
        layers.append({"shape": list(weight.shape), "weight": packed(weight.astype("<f2")), "bias": packed(bias.astype("<f2"))})
    return layers
