"""The fields of a record: each is checked for its form before anything uses it, since files are damaged and handed in."""

from __future__ import annotations

import math

from helpers import settings

MOST_METRICS, LONGEST_NAME = 300, 100


def is_number(value: object) -> bool:
    """Whether a value from a JSON file is a finite number."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def complaint(content: object) -> str | None:
    """What is wrong with the fields of a record, or None."""
    try:
        return _complaint(content)
    except KeyError as error:
        return f"it has no {str(error.args[0])[:40]}"
    except (TypeError, AttributeError):
        return "a field of it has the wrong form"


def _complaint(content: dict) -> str | None:
    for name in ("id", "notebook", "function", "source", "profile"):
        if not isinstance(content[name], str):
            return f"{name} is not a text"
    if content["profile"] not in settings.PROFILES:
        return f"its profile is {content['profile'][:60]!r}"
    budget, metrics, spread, dataset = (content[name] for name in ("budget", "metrics", "spread", "dataset"))
    amounts = [budget["done"], budget["planned"]]
    if not (isinstance(budget["unit"], str) and all(map(is_number, amounts)) and min(amounts) >= 0):
        return "its budget is not two numbers and a unit"
    if dataset is not None and not (isinstance(dataset["name"], str) and isinstance(dataset["stand_in"], bool)):
        return "its data set has no name, or does not say whether it is a stand-in"
    if dataset is not None and dataset["stand_in"] and not isinstance(dataset.get("stands_for"), str):
        return "its data set does not say what it stands for"
    if not (isinstance(content["seeds"], list) and isinstance(content["facts"], dict) and isinstance(content["config"], dict)):
        return "seeds, facts or config have the wrong form"
    if content.get("shown", 0) not in range(max(1, len(content["seeds"]))):
        return f"it shows the result at place {str(content['shown'])[:40]} of {len(content['seeds'])} seeds"
    if not (is_number(content["seconds"]) and isinstance(content["environment"]["device"], str)):
        return "seconds or device have the wrong form"
    if not all(isinstance(item, str) for pair in content["figures"].items() for item in pair):
        return "its figures are not names with digests"
    if not isinstance(content["arrays"]["sha256"], str):
        return "its arrays have no digest"
    if len(metrics) > MOST_METRICS:
        return f"it has {len(metrics):,} metrics, the limit is {MOST_METRICS}"
    if any(len(name) > LONGEST_NAME for name in metrics):
        return f"a metric has a name of more than {LONGEST_NAME} characters"
    parts = content.get("repeats") or {}
    for numbers, spreads in ((metrics, spread), *((part["metrics"], part["spread"]) for part in parts.values())):
        for name, value in numbers.items():
            if not is_number(value):
                return f"{name[:40]} is {str(value)[:40]!r}, not a finite number"
            if not all(is_number(spreads[name][part]) for part in ("std", "min", "max", "n")):
                return f"the spread of {name[:40]} is not four finite numbers"
    if parts and not (str(content["seed"]) in parts and all(metrics.keys() == part["metrics"].keys() for part in parts.values())):
        return "its repetitions do not have its metrics"
    return None
