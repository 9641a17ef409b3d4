"""The digest of the code that a run reaches, so that a record can tell whether its code has changed since.

Starting from one function, the definitions it names are followed through its notebook and through ``helpers``: functions,
classes and constants, as syntax trees without comments, docstrings and type annotations. Editing prose, a plot or an
unrelated function leaves the digest as it is, and so does moving a definition to another file: a digest names definitions,
not places. What moves or shows numbers but does not make them is left out (:data:`NEUTRAL`).
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from helpers.settings import PROJECT_ROOT

# Plumbing, by the last part of a module's name: editing it ages no record. (Data has a digest of its own.)
NEUTRAL = frozenset({
    "checkpoints", "colab", "datasets", "downloads", "files", "graphs", "locks", "network", "notebooks", "plotting", "published",
    "records", "settings", "suite", "tables", "weights",
})
LEFT_OUT = ("annotation", "returns", "type_comment", "ctx", "kind")  # fields of a syntax tree that change no number


def canonical(node) -> str:
    """A text of the syntax tree that does not depend on layout, docstrings, annotations or the Python version."""
    if isinstance(node, list):
        return "[" + ",".join(canonical(item) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name in LEFT_OUT or value is None or value == []:
            continue
        is_definition = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if name == "body" and is_definition and ast.get_docstring(node, clean=False) is not None:
            value = value[1:]
        fields.append(f"{name}={canonical(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


class Module:
    """The top-level definitions and the ``helpers`` imports of one source text.

    Args:
        name: dotted, empty for a notebook.
        text: its source.
        package: whether it is the ``__init__`` of a package, for relative imports.
    """

    def __init__(self, name: str, text: str, package: bool = False) -> None:
        self.name = name
        self.definitions: dict[str, list[ast.AST]] = {}
        self.imports: dict[str, tuple[str, str | None]] = {}  # local name -> (module, attribute or None for the module)
        self.stars: list[str] = []
        self.forms: dict[str, tuple[str, tuple]] = {}
        for node in ast.parse(text).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                self.definitions[node.name] = [node]  # the last definition of a name is the one in force
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name) and target.id.strip("_").isupper():  # a constant: no experiment's variable
                        self.definitions[target.id] = [node]
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "helpers":  # ``import a.b`` binds a, ``import a.b as c`` binds a.b
                        self.imports[alias.asname or "helpers"] = (alias.name if alias.asname else "helpers", None)
            elif isinstance(node, ast.ImportFrom):
                self._import_from(node, package)

    def _import_from(self, node: ast.ImportFrom, package: bool) -> None:
        source = node.module or ""
        if node.level:  # relative: one dot is the package that the module is in
            parents = self.name.split(".")
            parents = parents[: len(parents) + package - node.level]
            source = ".".join([*parents, *filter(None, [source])])
        if source.split(".")[0] != "helpers":
            return
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(source)
            else:
                self.imports[alias.asname or alias.name] = (source, alias.name)


    def form(self, name: str) -> tuple[str, tuple[tuple[str, ...], ...]]:
        """The canonical code of a definition, and the global names in it as chains; worked out once."""
        if name not in self.forms:
            nodes = self.definitions[name]
            chains = dict.fromkeys(chain for node in nodes for chain in _global_names(node, frozenset()))
            self.forms[name] = "".join(map(canonical, nodes)), tuple(chains)
        return self.forms[name]


def source_digest(function: str, notebook_source: str) -> str:
    """Digest of everything that ``function`` of a notebook reaches.

    Args:
        function: name of a top-level function in the notebook.
        notebook_source: the notebook's Python text.

    Returns:
        sha256 in hexadecimal.

    Raises:
        KeyError: the notebook does not define the function.
    """
    text = "\n".join(f"{name}:{code}" for name, code in sorted(set(reached(function, notebook_source).values())))
    return hashlib.sha256(text.encode()).hexdigest()


def reached(function: str, notebook_source: str) -> dict[tuple[str, str], tuple[str, str]]:
    """The definitions that ``function`` of a notebook reaches.

    Returns:
        (module, name), the module empty for the notebook -> (name, canonical code).

    Raises:
        KeyError: the notebook does not define the function.
    """
    modules = {"": _notebook(notebook_source)}
    if function not in modules[""].definitions:
        raise KeyError(f"the notebook's source does not define {function!r}")
    found: dict[tuple[str, str], tuple[str, str]] = {}
    waiting = [("", function)]
    while waiting:
        module_name, name = waiting.pop()
        if (module_name, name) in found:
            continue
        module = modules.get(module_name) or modules.setdefault(module_name, _read_helper(module_name))
        code, chains = module.form(name)
        found[module_name, name] = name, code
        for chain in chains:
            target = _resolve(module, chain, modules)
            if target is not None:
                waiting.append(target)
    return found


@lru_cache(maxsize=16)  # a copy has six notebooks, each as source and as saved cells
def _notebook(text: str) -> Module:
    return Module("", text)


def _global_names(node: ast.AST, bound: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """The names under ``node`` that are not bound in it, each as a chain: ``a.b.c`` is (a, b, c)."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        names = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
        names |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}
        bound = bound | names
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        targets = (inner for generator in node.generators for inner in ast.walk(generator.target))
        bound = bound | {inner.id for inner in targets if isinstance(inner, ast.Name)}
    if isinstance(node, ast.Attribute) and (chain := _chain(node)) and chain[0] not in bound:
        yield chain
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in bound:
        yield (node.id,)
    for child in ast.iter_child_nodes(node):
        yield from _global_names(child, bound)


def _chain(node: ast.AST) -> tuple[str, ...]:
    """``a.b.c`` as (a, b, c); empty where the chain does not begin with a name."""
    if isinstance(node, ast.Name):
        return (node.id,)
    start = _chain(node.value) if isinstance(node, ast.Attribute) else ()
    return (*start, node.attr) if start else ()


def _resolve(module: Module, chain: tuple[str, ...], modules: dict[str, Module]) -> tuple[str, str] | None:
    """The definition (module, name) that a chain of names stands for in ``module``; None where it is none of the suite's."""
    name, *rest = chain
    if name in module.definitions:
        return module.name, name
    places = [module.imports[name]] if name in module.imports else [(star, name) for star in module.stars]
    for source, attribute in places:
        whole = f"{source}.{attribute}" if attribute else source
        if attribute is None or _location(whole) is not None:  # a module: the next name of the chain is looked up in it
            while rest and _location(f"{whole}.{rest[0]}") is not None:
                whole, rest = f"{whole}.{rest[0]}", rest[1:]
            source, further = whole, tuple(rest)
        else:
            further = (attribute, *rest)
        if not further or source.rpartition(".")[2] in NEUTRAL:
            continue
        target = modules.get(source) or modules.setdefault(source, _read_helper(source))
        if (found := _resolve(target, further, modules)) is not None:
            return found
    return None


def _location(name: str) -> Path | None:
    """The file of a module of ``helpers``, or None where there is none of that name."""
    path = PROJECT_ROOT.joinpath(*name.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_helper(name: str) -> Module:
    path = _location(name)
    return Module("", "") if path is None else _parsed(name, path, path.stat().st_mtime_ns)


@cache
def _parsed(name: str, path: Path, changed: int) -> Module:
    return Module(name, path.read_text(encoding="utf-8-sig"), path.name == "__init__.py")
