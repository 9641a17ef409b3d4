"""Where a record says that it comes from: declaration, data, machine, other runs. See :mod:`helpers.grade.evidence`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from helpers.grade import declared, reference
from helpers.grade.case import Case

FASTER = 3_000  # times the suite's own rate: no machine is so much quicker than one core
MOST_STEPS_A_SECOND = 1e6
STEPS = ("step", "update", "iteration", "batch")
SHA256 = re.compile(r"[0-9a-f]{64}$")


def declared_as_it_is(case: Case) -> Iterable[str]:
    """Function and configuration are those that the copy's notebook, or else the suite's, declares."""
    record, profile = case.record, case.record["profile"]
    own, theirs = _own_declaration(case), case.facts
    function = (own and own.function) or theirs.get("function") or theirs.get("record", {}).get("function")
    if function and record["function"] != function:
        yield f"it was made by {record['function'][:60]}, and the run is declared with {function}"
    config = own.configs.get(profile) if own else None
    if config is None:
        config = theirs.get("configs", {}).get(profile)
    if config is not None:
        found = declared.differences(record["config"], config)
        if found:
            yield f"its configuration is not the one declared: {'; '.join(found[:4])}"


def setting_is_the_sheets(case: Case) -> Iterable[str]:
    """The declared configuration is the suite's own; another one is for a person to judge."""
    record, theirs = case.record, case.facts
    config = theirs.get("configs", {}).get(record["profile"])
    if config is None and theirs.get("record", {}).get("profile") == record["profile"]:
        config = theirs["record"]["config"]
    found = declared.differences(record["config"], config) if config is not None else []
    if found:
        yield f"its setting is not the suite's: {'; '.join(found[:4])}"


def _own_declaration(case: Case) -> declared.Declared | None:
    notebook = case.entry["notebook"]
    for saved in (True, False):
        code = case.copy.code(notebook, saved=saved) if case.copy else None
        found = case.copy.once(("declared", notebook, saved), lambda code=code: declared.runs(code.text)) if code else {}
        if case.record.id in found:
            return found[case.record.id]
    return None


def data_are_named_truly(case: Case) -> Iterable[str]:
    """Name, sizes and digest of the data set belong together, and a stand-in is not called by another name."""
    data = case.record["dataset"]
    if not data:
        if (case.facts.get("record") or {}).get("data"):
            yield "it does not say what data it was made on"
        return
    name, digest, sizes = data["name"], data.get("digest"), data.get("sizes")
    asked = case.record["config"].get("dataset")
    if isinstance(asked, str) and asked != name:
        yield f"its configuration asks for {asked[:40]}, and its data are called {name[:40]}"
    if not (isinstance(digest, str) and SHA256.match(digest) and len(set(digest)) > 4):
        yield "its data have no digest"
        return
    forms = case.forms.get(name, ())
    same = [form for form in forms if form["digest"] == digest]
    for other, theirs in case.forms.items():
        if not same and any(form["digest"] == digest for form in theirs):  # two runs may call one set by two known names
            yield f"its data are called {name[:40]}, and their digest is that of {other}"
    if case.record["profile"] != "full" or case.record["config"].get("limit"):
        return
    if same and all((form["stand_in"], form["stands_for"]) != (data["stand_in"], data.get("stands_for")) for form in same):
        yield f"{name[:40]} with this digest is {'' if same[0]['stand_in'] else 'not '}a stand-in"
    # A copy may divide the examples of a set otherwise, and has all of them.
    totals = {sum(form["sizes"].values()) for form in same or forms}
    if totals and _total(sizes) not in totals | {sum((reference.sizes_of(name) or {}).values())}:
        known = " or ".join(f"{total:,}" for total in sorted(totals))
        yield f"{name[:40]} has {known} examples, and the record {str(sizes)[:80]}"


def _total(sizes: object) -> int | None:
    """The number of examples in all parts of a data set; None where the sizes are not numbers."""
    if not isinstance(sizes, Mapping) or any(isinstance(size, bool) or not isinstance(size, int) for size in sizes.values()):
        return None
    return sum(sizes.values())


def data_are_known(case: Case) -> Iterable[str]:
    """The digest of the data is a known one; that of another download or machine is for a person to compare.

    Where all that is known is a copy of a published set that is not quite it, or a part, the set itself has another digest.
    """
    data = case.record["dataset"] or {}
    if case.record["profile"] != "full" or case.record["config"].get("limit"):
        return
    same = [form for form in case.forms.get(data.get("name"), ()) if sum(form["sizes"].values()) == _total(data.get("sizes"))]
    whole_unknown = not data.get("note") and all(form["note"] for form in same)
    if same and not whole_unknown and all(form["digest"] != data.get("digest") for form in same):
        yield f"the digest of its data is not a known one of {data['name'][:40]}"


def origin_is_stated(case: Case) -> Iterable[str]:
    """Seconds, device and versions are there, and the steps could be made in that time."""
    record = case.record
    environment, seconds, budget = record["environment"], record["seconds"], record["budget"]
    for name in ("python", "torch", "numpy"):
        if not (isinstance(environment.get(name), str) and re.match(r"\d+\.\d+", environment[name])):
            yield f"it does not say which version of {name} it was made with"
    if not environment["device"].strip():
        yield "it does not say on which device it was made"
    if not record["seeds"] or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in record["seeds"]):
        yield "its seeds are not whole numbers"
    trained = any(word in budget["unit"] for word in STEPS) and budget["done"] >= 200
    theirs = case.facts.get("record")
    if not 0 <= seconds < 1e8:
        yield f"{seconds:g} seconds is not a time"
    elif trained and theirs and case.same_setting and theirs["seconds"] > 1:
        rate = theirs["budget"]["done"] / theirs["seconds"]
        if budget["done"] > FASTER * rate * seconds:
            yield f"{budget['done']:,} {budget['unit'][:40]} in {seconds:g} s: no machine is so quick"
    elif trained and budget["done"] > MOST_STEPS_A_SECOND * seconds and (not theirs or theirs["seconds"] > 0):
        yield f"{budget['done']:,} {budget['unit'][:40]} in {seconds:g} s: no machine is so quick"


def rests_on_what_is_there(case: Case) -> Iterable[str]:
    """The runs that it rests on are those of the copy, as far as they were handed in."""
    rests_on = case.record.content.get("rests_on") or {}
    if not isinstance(rests_on, Mapping):
        yield "what it rests on is not a list of runs"
        return
    for run_id, sha256 in list(rests_on.items())[:20]:
        other = case.copy.record(run_id) if case.copy and run_id in case.known_ids else None
        if other is not None and other["arrays"]["sha256"] != sha256:
            yield f"it rests on another {run_id[:40]} than the one handed in"
