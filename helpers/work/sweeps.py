"""One run at several settings, beside its record and never touching it: ``python -m helpers sweep ID key=a,b,c ...``.

The table (configuration, metrics, seconds) is written as JSON and CSV, with a figure, under ``sweeps/`` of the output folder;
every setting keeps a record of its own there, so a sweep that was interrupted goes on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

from helpers import plotting, settings
from helpers.files import write_together
from helpers.results import tables
from helpers.results.records import Record
from helpers.suite import Suite
from helpers.work.definitions import declaration, notebook_of


class SweepError(ValueError):
    """A setting is not one of the run's."""

    explained = True


def register(commands) -> None:
    """Add the command ``sweep``."""
    command = commands.add_parser("sweep", help=sweep_command.__doc__)
    command.add_argument("run", help="its id")
    command.add_argument("setting", nargs="+", metavar="key=a,b,c", help="values as JSON; text needs no quotes")
    command.add_argument("--updates", type=int, metavar="N", help="stop each training after N updates")
    command.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help="on Ray: this machine's, or a cluster's")
    command.set_defaults(function=sweep_command, default_profile="full")


def sweep_command(arguments) -> int:
    """Train a run at several settings and write a table and a figure."""
    wanted = grid(arguments.run, arguments.setting)
    if arguments.ray:
        from helpers.work import cluster

        jobs = [cluster.Job(arguments.run, needs=declaration(arguments.run).needs, changes=changes) for changes in wanted]
        cluster.carry_out(jobs, address=None if arguments.ray == "local" else arguments.ray, updates=arguments.updates)
    rows = sweep(arguments.run, wanted, updates=arguments.updates)  # what Ray has trained is read
    cells = [[f"{value:.4g}" if isinstance(value, float) else value for value in row.values()] for row in rows]
    tables.show(list(rows[0]), cells)
    return 0


def grid(run_id: str, words: list[str]) -> list[dict]:
    """All combinations of the settings that words such as ``latents=2,4`` name.

    Raises:
        SweepError: a word is of another form, or names a key that the run does not have.
    """
    known, axes = declaration(run_id).config(settings.profile()), {}
    for word in words:
        key, equals, values = word.partition("=")
        if not equals or not values:
            raise SweepError(f"{word!r} is not of the form key=a,b,c")
        if key not in known:
            raise SweepError(f"{run_id} has no setting {key!r}; its settings are {', '.join(known)}")
        axes[key] = [value_of(text) for text in values.split(",")]
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values())]


def value_of(text: str):
    """A value as JSON, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def folder_of(run_id: str) -> Path:
    """Where the sweeps of a run are kept."""
    return settings.output_folder() / "sweeps" / run_id


def slug_of(changes: dict) -> str:
    """A short name of a setting."""
    return hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:10]


def place_of(run_id: str, changes: dict) -> Path:
    """The folder of the record of one setting."""
    return folder_of(run_id) / slug_of(changes)


def train_setting(run_id: str, changes: dict, updates: int | None = None) -> Record:
    """The record of a run at one setting, loaded or made."""
    declared, profile = declaration(run_id), settings.profile()
    changed = replace(declared, configs={**declared.configs, profile: declared.config(profile) | changes})
    suite = Suite(notebook_of(run_id), {run_id: changed}, results=place_of(run_id, changes), bare=True)
    return suite.run(run_id, more=updates is None, asked=True, stop_after=updates)


def sweep(run_id: str, settings_wanted: list[dict], *, updates: int | None = None) -> list[dict]:
    """Train a run at several settings; returns a row each: settings, metrics, updates done, seconds.

    Args:
        run_id: the run; its own record stays as it is.
        settings_wanted: what differs from its configuration, one dict a training.
        updates: stop each training after so many.
    """
    rows = []
    for changes in settings_wanted:
        record = train_setting(run_id, changes, updates)
        rows.append({**changes, **record.metrics, "done": record["budget"]["done"], "seconds": record["seconds"]})
    axes = list(settings_wanted[0])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    name = folder_of(run_id) / "-".join(axes)
    content = {"run": run_id, "profile": settings.profile(), "rows": rows}
    write_together({name.with_suffix(".json"): json.dumps(content, indent=1).encode(),
                    name.with_suffix(".csv"): text.getvalue().encode()})
    plotting.save(draw(run_id, axes, rows), name.with_suffix(".png"))
    return rows


def draw(run_id: str, axes: list[str], rows: list[dict]):
    """Each of the run's first metrics (six at most) against the first setting, a line for each value of the others."""
    import matplotlib.pyplot as plt

    first, others = axes[0], axes[1:]
    metrics = [key for key in rows[0] if key not in (*axes, "done", "seconds")][:6]
    figure, places = plt.subplots(1, len(metrics), figsize=(2.6 * len(metrics) + 0.6, 2.6), squeeze=False)
    for place, metric in zip(places[0], metrics, strict=True):
        for values, group in itertools.groupby(sorted(rows, key=lambda row: str([row[key] for key in others])),
                                               key=lambda row: tuple(row[key] for key in others)):
            points = list(group)
            place.plot([str(point[first]) for point in points], [point[metric] for point in points], marker="o",
                       label=", ".join(f"{key} {value}" for key, value in zip(others, values, strict=True)) or None)
        place.set(xlabel=first, title=metric)
    if others:
        places[0, 0].legend(fontsize=7)
    plotting.title(figure, f"{run_id}: {', '.join(axes)} ({settings.profile()} profile)")
    return figure
