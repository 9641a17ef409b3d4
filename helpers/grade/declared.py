"""The runs that a notebook declares, read from its source as text: ``RUNS |= {id: run(function, full=..., ...)}``.

Nothing is executed. Literals, arithmetic, UPPER_CASE constants of the same source, formatted texts and comprehensions over
them are worked out; what is beyond that is :data:`UNKNOWN` and is compared with nothing.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator
from dataclasses import dataclass

PROFILES_OF = {"full": ("full",), "quick": ("full", "quick"), "smoke": ("full", "quick", "smoke")}
MOST_ENTRIES = 2_000
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.FloorDiv: operator.floordiv, ast.BitOr: operator.or_}
LARGEST = 1e12  # no arithmetic on larger numbers


class Unknown:
    """A value that cannot be told without running code."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Declared:
    """One declared run.

    Attributes:
        function: name of its function; None where it cannot be told.
        configs: profile -> configuration, with UNKNOWN for values that cannot be told.
        needs: ids of runs that it rests on.
    """

    function: str | None
    configs: dict[str, dict]
    needs: tuple[str, ...] = ()


def runs(source: str) -> dict[str, Declared]:
    """The declared runs of a notebook's source, by id; empty where it declares none or does not parse.

    Args:
        source: Python text.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    names: dict[str, object] = {}
    found: dict[str, Declared] = {}
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name == "RUNS":
                found = {}
                found.update(_entries(node.value, names))
            elif name.strip("_").isupper():
                names[name] = _value(node.value, names)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == "RUNS":
            found.update(_entries(node.value, names))
    return found


def _entries(node: ast.expr, names: dict) -> Iterator[tuple[str, Declared]]:
    """The ids and runs of one piece of ``RUNS``."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            yield from _entry(key, value, names) if key is not None else _entries(value, names)
    elif isinstance(node, ast.DictComp):
        for inner in _bindings(node.generators, names):
            yield from _entry(node.key, node.value, inner)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _entries(node.left, names)
        yield from _entries(node.right, names)


def _entry(key: ast.expr, value: ast.expr, names: dict) -> Iterator[tuple[str, Declared]]:
    run_id = _value(key, names)
    if not isinstance(run_id, str):
        return
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "run"):
        yield run_id, Declared(None, {})  # declared through a function of the notebook
        return
    function = value.args[0].id if value.args and isinstance(value.args[0], ast.Name) else None
    given = {}
    for word in value.keywords:
        content = _value(word.value, names)
        if word.arg:
            given[word.arg] = content
        else:  # ``**more``
            given.update(content if isinstance(content, dict) else {"full": UNKNOWN})
    configs = {}
    for profile, layers in PROFILES_OF.items():
        parts = [given.get(layer) or {} for layer in layers]
        if all(isinstance(part, dict) for part in parts):
            configs[profile] = {name: content for part in parts for name, content in part.items()}
    needs = given.get("needs", ())
    yield run_id, Declared(function, configs, tuple(needs) if isinstance(needs, (list, tuple)) else ())


def _bindings(generators: list[ast.comprehension], names: dict) -> Iterator[dict]:
    """The names inside a comprehension, once for each of its rounds; no round where they cannot be told."""
    if not generators:
        yield names
        return
    first, *others = generators
    values = _value(first.iter, names)
    if isinstance(values, dict):
        values = list(values)
    if not isinstance(values, (list, tuple)) or len(values) > MOST_ENTRIES:
        return
    for value in values:
        inner = dict(names)
        if _bind(first.target, value, inner) and all(_value(test, inner) is True for test in first.ifs):
            yield from _bindings(others, inner)


def _bind(target: ast.expr, value: object, names: dict) -> bool:
    if isinstance(target, ast.Name):
        names[target.id] = value
        return True
    if isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (list, tuple)) and len(value) == len(target.elts):
        return all(_bind(part, content, names) for part, content in zip(target.elts, value, strict=True))
    return False


def _value(node: ast.expr, names: dict) -> object:
    """The value of an expression, or UNKNOWN."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id, UNKNOWN)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(part, names) for part in node.elts]
    if isinstance(node, ast.Dict):
        return _dict(node, names)
    if isinstance(node, ast.DictComp):
        pairs = [(_value(node.key, inner), _value(node.value, inner)) for inner in _bindings(node.generators, names)]
        return dict(pairs) if all(isinstance(key, (str, int)) for key, _ in pairs) else UNKNOWN
    if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
        return [_value(node.elt, inner) for inner in _bindings(node.generators, names)]
    if isinstance(node, ast.JoinedStr):
        return _text(node, names)
    return _computed(node, names)


def _dict(node: ast.Dict, names: dict) -> object:
    found: dict = {}
    for key, value in zip(node.keys, node.values, strict=True):
        content = _value(value, names)
        if key is None:
            if not isinstance(content, dict):
                return UNKNOWN
            found.update(content)
        else:
            name = _value(key, names)
            if not isinstance(name, (str, int)):
                return UNKNOWN
            found[name] = content
    return found


def _text(node: ast.JoinedStr, names: dict) -> object:
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
            continue
        value = _value(part.value, names)
        if not isinstance(value, (str, int)) or part.format_spec is not None or part.conversion != -1:
            return UNKNOWN
        parts.append(str(value))
    return "".join(parts)


def _computed(node: ast.expr, names: dict) -> object:
    """Arithmetic, signs, subscripts and ``dict(...)``."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, names)
        return -value if isinstance(value, (int, float)) else UNKNOWN
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        sides = _value(node.left, names), _value(node.right, names)
        numbers = all(isinstance(side, (int, float)) and abs(side) < LARGEST for side in sides)
        if numbers or (isinstance(node.op, ast.BitOr) and all(isinstance(side, dict) for side in sides)):
            try:
                return OPERATORS[type(node.op)](*sides)
            except (ArithmeticError, TypeError):
                return UNKNOWN
    if isinstance(node, ast.Subscript):
        try:
            return _value(node.value, names)[_value(node.slice, names)]
        except (KeyError, IndexError, TypeError):
            return UNKNOWN
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
    return UNKNOWN


def differences(config: dict, declared: dict) -> list[str]:
    """How a configuration differs from a declared one, one text a setting; what is UNKNOWN differs from nothing."""
    found = []
    for name in sorted(config.keys() | declared.keys(), key=str):
        if name in declared and _same(config.get(name), declared[name]):
            continue
        ours, theirs = (repr(side[name])[:40] if name in side else "absent" for side in (config, declared))
        found.append(f"{str(name)[:40]} is {ours} instead of {theirs}")
    return found


def _same(value: object, declared: object) -> bool:
    if declared is UNKNOWN:
        return True
    if isinstance(declared, dict) and isinstance(value, dict):
        return value.keys() == declared.keys() and all(_same(value[name], declared[name]) for name in declared)
    if isinstance(declared, (list, tuple)) and isinstance(value, (list, tuple)):
        return len(value) == len(declared) and all(map(_same, value, declared))
    return (type(value) is type(declared) and value == declared) or (
        isinstance(value, (int, float)) and isinstance(declared, (int, float)) and not isinstance(value, bool)
        and not isinstance(declared, bool) and value == declared)
