"""The digest of the code that a run reaches, so that a record can tell whether its code has changed since.

Starting from one function, the definitions it names are followed through its notebook and through ``helpers``: functions,
classes and constants, as syntax trees without comments, docstrings and type annotations. Editing prose, a plot or an
unrelated function leaves the digest as it is.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from helpers.settings import PROJECT_ROOT

# Plumbing that moves or shows numbers but does not make them: editing it ages no record. (Data has a digest of its own.)
NEUTRAL_MODULES = {f"helpers.{name}" for name in (
    "checkpoints", "colab", "datasets", "downloads", "files", "graphs", "notebooks", "plotting", "published", "records",
    "settings", "tables",
)}


def canonical(node) -> str:
    """A text of the syntax tree that does not depend on layout, docstrings, annotations or the Python version."""
    if isinstance(node, list):
        return "[" + ",".join(canonical(item) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_comment", "ctx", "kind") or value is None or value == []:
            continue
        is_definition = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if name == "body" and is_definition and ast.get_docstring(node, clean=False) is not None:
            value = value[1:]
        fields.append(f"{name}={canonical(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


class Module:
    """The top-level definitions and the ``helpers`` imports of one source text."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.definitions: dict[str, list[ast.AST]] = {}
        self.imports: dict[str, tuple[str, str | None]] = {}  # local name -> (module, attribute or None for the module)
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
                    if alias.name.split(".")[0] == "helpers":
                        self.imports[alias.asname or alias.name] = (alias.name, None)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "helpers":
                for alias in node.names:
                    local = alias.asname or alias.name
                    whole = f"{node.module}.{alias.name}"
                    self.imports[local] = (whole, None) if node.module == "helpers" else (node.module, alias.name)


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
    modules = {"": Module("", notebook_source)}
    if function not in modules[""].definitions:
        raise KeyError(f"the notebook's source does not define {function!r}")
    reached: dict[tuple[str, str], str] = {}
    waiting = [("", function)]
    while waiting:
        module_name, name = waiting.pop()
        if (module_name, name) in reached:
            continue
        module = modules.get(module_name) or modules.setdefault(module_name, _read_helper(module_name))
        nodes = module.definitions.get(name)
        if nodes is None:
            if name in module.imports and module.imports[name][1]:
                waiting.append(module.imports[name])
            continue
        reached[module_name, name] = "".join(canonical(node) for node in nodes)
        for global_name, attribute in (found for node in nodes for found in _global_names(node, frozenset())):
            waiting += _targets(module, global_name, attribute)
    text = "\n".join(f"{module}:{name}:{code}" for (module, name), code in sorted(reached.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _global_names(node: ast.AST, bound: frozenset[str]) -> Iterator[tuple[str, str | None]]:
    """The names under ``node`` that are not bound in it, as (name, None) or, for ``name.attribute``, (name, attribute)."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        names = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
        names |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}
        bound = bound | names
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        targets = (inner for generator in node.generators for inner in ast.walk(generator.target))
        bound = bound | {inner.id for inner in targets if isinstance(inner, ast.Name)}
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in bound:
        yield node.value.id, node.attr
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in bound:
        yield node.id, None
    for child in ast.iter_child_nodes(node):
        yield from _global_names(child, bound)


def _targets(module: Module, name: str, attribute: str | None) -> list[tuple[str, str]]:
    """The definitions that ``name`` or ``name.attribute`` stands for in ``module``."""
    if name in module.definitions:
        return [(module.name, name)]
    if name not in module.imports:
        return []
    target_module, target_name = module.imports[name]
    target_name = target_name or attribute
    if target_name is None or target_module in NEUTRAL_MODULES:
        return []
    return [(target_module, target_name)]


def _read_helper(name: str) -> Module:
    path = PROJECT_ROOT.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return Module(name, path.read_text() if path.exists() else "")


def read_source(path: Path) -> str:
    """The source text of a notebook: what the kernel has run where it is interactive, else the file."""
    try:
        from IPython import get_ipython
    except ImportError:
        return path.read_text()
    shell = get_ipython()
    if shell is None or "In" not in shell.user_ns:
        return path.read_text()
    cells = [shell.input_transformer_manager.transform_cell(cell) for cell in shell.user_ns["In"] if cell]
    return "\n".join(cell for cell in cells if _parses(cell))


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
