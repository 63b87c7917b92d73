"""Which module of the project imports which, read from the sources: nothing is imported to know it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Graph = dict[str, set[str]]


def modules(root: Path, packages: Iterable[str]) -> dict[str, Path]:
    """Dotted name -> file, of all modules of some packages."""
    names = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def graph(files: Mapping[str, Path], inside_functions: bool) -> Graph:
    """Module -> the modules that it imports.

    Args:
        files: as `modules` gives them.
        inside_functions: also what is imported only when a function is called. An import under ``TYPE_CHECKING`` is
            none.
    """
    return {
        name: {target for target in _imports(name, path, files, inside_functions) if target != name}
        for name, path in files.items()
    }


def _imports(name: str, path: Path, files: Mapping[str, Path], inside_functions: bool) -> Iterator[str]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")), inside_functions):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        else:
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            wanted = [f"{source}.{alias.name}" for alias in node.names]
        for target in wanted:
            while target and target not in files:  # a name in a module
                target = target.rpartition(".")[0]
            if target:
                yield target


def _statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        called = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not for_types and (inside_functions or not called):
            yield from _statements(child, inside_functions)


def circles(edges: Graph) -> list[list[str]]:
    """Groups of modules each of which, by one way or another, imports all others of its group (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(edges[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in edges:
        if name not in index:
            visit(name)
    return groups
