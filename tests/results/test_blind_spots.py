"""What a run reads and its digest does not follow is named here: changing it would age no record."""

import ast
import copy
from functools import cache

import pytest

from helpers.results import digests
from helpers.results.digests import Module, reached
from helpers.work import definitions

MUTATING = {"add", "append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update", "register"}


def bound_by(target: ast.AST):
    """The names that an assignment's target binds."""
    return (node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


def statements(body):
    """The statements that run when a module is loaded, those inside ``if``, ``for``, ``with`` and ``try`` included."""
    for node in body:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for field in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)


@cache
def globals_and_changes(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """Name -> line of every name that loading a module binds, and of every one whose value it changes afterwards."""
    bound, changed, loaded = {}, {}, list(statements(ast.parse(text).body))
    taken_away = {ast.unparse(target) for node in loaded if isinstance(node, ast.Delete) for target in node.targets}
    for node in loaded:
        targets = {ast.Assign: lambda node: node.targets, ast.For: lambda node: [node.target], ast.With: lambda node: [
            item.optional_vars for item in node.items if item.optional_vars]}.get(type(node), lambda node: [])(node)
        if isinstance(node, (ast.AnnAssign, ast.AugAssign)):
            targets = [node.target]
        for target in targets:
            bound |= dict.fromkeys(bound_by(target), node.lineno)
            lasting = isinstance(target, (ast.Subscript, ast.Attribute)) and ast.unparse(target) not in taken_away
            if lasting and (chain := root(target)):
                changed[chain] = node.lineno
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            changed[node.target.id] = node.lineno
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound[node.name] = node.lineno
        call = node.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
        if call and isinstance(call.func, ast.Attribute) and call.func.attr in MUTATING and (chain := root(call.func.value)):
            changed[chain] = node.lineno
    return bound, changed


def root(node: ast.AST) -> str:
    """``a`` of ``a.b[c].d``; empty where it is no name."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def without_annotations(node: ast.AST) -> ast.AST:
    """A copy of a definition without its annotations: they make no number."""
    node = copy.deepcopy(node)
    for part in ast.walk(node):
        for field in ("annotation", "returns"):
            if getattr(part, field, None) is not None:
                setattr(part, field, ast.Constant(None))
    return node


def own_names(node: ast.AST) -> frozenset[str]:
    """Names that a definition binds by ``except ... as``, ``import`` and inner functions."""
    inner = [part for part in ast.walk(node) if part is not node]
    names = {part.name for part in inner if isinstance(part, (ast.ExceptHandler, ast.FunctionDef, ast.ClassDef))}
    names |= {(alias.asname or alias.name).split(".")[0] for part in inner if isinstance(part, (ast.Import, ast.ImportFrom))
              for alias in part.names}
    return frozenset(filter(None, names))


def overlooked(function: str, text: str) -> list[str]:
    """Sentences on what a function of a notebook reads, directly or not, and the digest leaves out."""
    modules, texts, found = {"": Module("", text)}, {"": text}, []
    for module_name, name in reached(function, text):
        if module_name not in modules:
            modules[module_name] = digests._read_helper(module_name)
            texts[module_name] = digests._location(module_name).read_text(encoding="utf-8")
        module = modules[module_name]
        bound, changed = globals_and_changes(texts[module_name])
        for node in map(without_annotations, module.definitions[name]):
            for chain in digests._global_names(node, own_names(node)):
                place = f"{module_name or 'the notebook'}: {name} reads {chain[0]}"
                if chain[0] in changed and chain[0] in bound:
                    found.append(f"{place}, which line {changed[chain[0]]} changes")
                elif chain[0] in bound and chain[0] not in module.definitions:
                    found.append(f"{place}, which line {bound[chain[0]]} binds where no digest looks")
    return sorted(set(found))


def functions():
    """Notebook and name of every function that a run calls."""
    for notebook in definitions.names():
        runs = definitions.declared(notebook, "smoke")
        yield from sorted({(notebook, run.function.__name__) for run in runs.values()})


@pytest.mark.parametrize(("notebook", "function"), list(functions()))
def test_no_run_reads_what_its_digest_leaves_out(notebook, function):
    assert overlooked(function, definitions.source_path(notebook).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(("source", "sentence"), [
    ("A, B = 1, 2\ndef train(run):\n    return A\n", "the notebook: train reads A, which line 1 binds where no digest looks"),
    ("rate = 1\ndef train(run):\n    return rate\n", "train reads rate, which line 1 binds"),
    ("T = {}\nT['a'] = 1\ndef train(run):\n    return T['a']\n", "train reads T, which line 2 changes"),
    ("T = {}\nT.update(a=1)\ndef train(run):\n    return T['a']\n", "train reads T, which line 2 changes"),
    ("T = {}\nfor key in 'ab':\n    T[key] = 1\ndef train(run):\n    return T['a']\n", "train reads T, which line 3 changes"),
    ("T = [1]\nT += [2]\ndef train(run):\n    return T\n", "train reads T, which line 2 changes"),
    ("if True:\n    C = 1\nelse:\n    C = 2\ndef train(run):\n    return C\n", "train reads C, which line 4 binds"),
    ("try:\n    import fast\nexcept ImportError:\n    def fast():\n        return 1\ndef train(run):\n    return fast()\n",
     "train reads fast, which line 4 binds"),
    ("with open('x') as F:\n    pass\ndef train(run):\n    return F\n", "train reads F, which line 1 binds"),
    ("rate = 1\ndef deep():\n    return rate\ndef train(run):\n    return deep()\n", "deep reads rate, which line 1 binds"),
    ("class Net:\n    size = 1\nNet.size = 2\ndef train(run):\n    return Net()\n", "train reads Net, which line 3 changes"),
])
def test_each_kind_is_named(source, sentence):
    assert any(sentence in found for found in overlooked("train", source))


@pytest.mark.parametrize("source", [
    "A = 1\nB = A + 1\ndef train(run, rate):\n    rate = rate + B\n    return rate\n",
    "rate = 1\ndef train(run):\n    rate = 2\n    return [rate for rate in range(3)]\n",
    "T = {}\nT['b'] = 1\ndel T['b']\ndef train(run):\n    return T\n",
    "Pair = tuple[int, int]\ndef train(run: Pair) -> Pair:\n    pair: Pair = 1\n    return pair\n",
    "T = {'a': 1}\ndef unrelated():\n    T['a'] = 2\ndef train(run):\n    return T\n",
    "error = 1\ndef train(run):\n    try:\n        return 1\n    except ValueError as error:\n        return error\n",
    "import math\nfrom helpers.train import schedules\ndef train(run):\n    return schedules.one_cycle(math.floor(2.5))\n",
])
def test_what_the_digest_follows_is_not_named(source):
    assert overlooked("train", source) == []
