"""The page with a slider through the layers of a planar flow: its points, and the density that they are samples of."""

from __future__ import annotations

import base64

import numpy as np

from helpers.publish.site.assets import Site, reason
from helpers.results import weights
from helpers.results.records import Record, RecordError

RUNS = tuple(f"mila_p3_data_{data}_k{layers}" for data in ("arcs", "sine") for layers in (2, 8, 32))
CELLS = 80  # of a side of a density
STAGES = 16  # at most, beside the first: each takes its bytes


def write(site: Site, recorded: dict[str, Record]) -> None:
    """Write the page from the records that there are; it names the runs that are missing."""
    found, gaps = [], []
    for run_id in RUNS:
        record = recorded.get(run_id)
        if record is None:
            gaps.append((run_id, "no record yet"))
            continue
        try:
            found.append(stages(record))
        except (RecordError, KeyError) as error:
            gaps.append((run_id, reason(error)))
    site.write("flow.html", "flow.html", flows=found, gaps=gaps)


def stages(record: Record) -> dict:
    """What the page draws of a flow: at some numbers of layers the points (N, 2) and the density on a square.

    With the trained weights at hand these are all layers, or every second of many, else those that the record has in its arrays.
    """
    path = every_layer(record) or record.arrays
    depths, points, densities = (np.asarray(path[f"path_{name}"]) for name in ("depths", "points", "densities"))
    coded = (np.nan_to_num(densities.astype(np.float64)).clip(0, 1) * 255).round().astype(np.uint8)
    remark = f" ({record.remark})" if record.remark else ""
    return {"id": record.id, "data": record["config"]["data"], "layers": int(record["config"]["layers"]),
            "depths": depths.tolist(), "half_widths": np.round(np.asarray(path["path_half_widths"], np.float64), 4).tolist(),
            "cells": int(densities.shape[-1]), "points": packed(points.astype("<f2")), "count": int(points.shape[1]),
            "densities": packed(coded), "every": len(depths) == int(record["config"]["layers"]) + 1, "remark": remark}


def packed(values: np.ndarray) -> str:
    """The bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def every_layer(record: Record) -> dict | None:
    """Points and densities after each layer, or some of many, by the notebook's own functions from the recorded weights.

    Returns:
        None without the weights.
    """
    try:
        if not record.content.get("weights") or (models := weights.find(record)) is None:
            return None
        import torch

        from helpers.work.definitions import definitions
    except ImportError:
        return None
    notebook, state = definitions(record["notebook"]), models["flow"]
    members, layers, dimension = state["u"].shape
    stack = notebook.PlanarFlow(layers, [0] * members, dimension)
    stack.load_state_dict(state)
    flow = notebook.member(stack.double(), int(record["shown"]))
    base = torch.randn(600, dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return notebook.generative_path(flow, base, stages=min(layers, STAGES) + 1, cells=CELLS)
