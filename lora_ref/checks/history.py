"""Say so when a name in the kernel is not what the notebook's cells say now.

A kernel keeps the last definition that worked. Rename a function, or break its cell after an earlier success, and the
old one goes on being checked. The shell's history shows it: what its cells define, in the order in which they ran.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

#: Calls in a cell that may define names unseen: `%run`, `%%time`, `exec(...)`; and magics that define none.
_UNSEEN = {"run_line_magic", "run_cell_magic", "exec", "reload"}
_HARMLESS = ("matplotlib", "config", "pip", "timeit", "load_ext", "pinfo", "who")


def stale(names: Sequence[str], namespace: Mapping[str, Any]) -> list[str]:
    """A sentence for each of the names that is not what the last cell to define it says.

    Args:
        names: what the exercise asks for.
        namespace: the notebook's ``globals()``.

    Returns:
        Nothing where all is as the cells say, and where no history can be read (a script, a grader).

    Example:
        >>> stale(["matrix_rank"], {})
        []
    """
    try:
        cells = list(namespace["get_ipython"]().history_manager.input_hist_parsed)[1:]
        return [sentence for name in names if (sentence := _stale(name, namespace, cells))]
    except Exception:  # a note beside the report; without a history of this form there is none
        return []


def _stale(name: str, namespace: Mapping[str, Any], cells: Sequence[str]) -> str:
    live = _defined_by(namespace.get(name), name)
    judged = "an earlier version of it is checked" if name in namespace else "it is not defined"
    for number, cell in reversed(list(enumerate(cells))):
        try:
            tree = _parsed(cell)
        except (SyntaxError, ValueError) as error:
            if re.search(rf"^(?:async\s+def|def|class)\s+{name}\b", cell, re.MULTILINE):
                where = f" ({error.msg}, line {error.lineno})" if isinstance(error, SyntaxError) else ""
                return f"the cell that defines `{name}` is not valid Python{where}, so {judged}"
            continue
        if _last_binding(tree, name) is not None:
            ran_before = live is None if name not in namespace else live in {cell.strip() for cell in cells[:number]}
            if live == cell.strip() or not ran_before:
                return ""
            return f"the last cell that defines `{name}` stopped with an error before it got there, so {judged}"
        if _may_bind(tree, name):
            return ""
        renamed = _renamed(tree, name, getattr(namespace.get(name), "__doc__", None))
        if renamed and live in {cell.strip() for cell in cells[:number]}:
            return f"the last cell with the docstring of `{name}` defines `{renamed}`, so {judged}"
    return ""


def _parsed(cell: str) -> ast.Module:
    """A cell's statements.

    Raises:
        SyntaxError: it is not valid Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compile(cell, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        return ast.parse(cell)


def _last_binding(tree: ast.Module, name: str) -> ast.stmt | None:
    """The cell's ``def`` or ``class`` of a name, where this alone says what the name is after the cell."""
    bound = [node for node in tree.body if name in _bound(node)]
    last = bound[-1] if bound else None
    return last if isinstance(last, (ast.FunctionDef, ast.ClassDef)) and last.name == name else None


def _may_bind(tree: ast.Module, name: str) -> bool:
    """Whether a cell may give the name another value in a way that is not followed here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in _UNSEEN:
            magic = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value
            if magic not in _HARMLESS:
                return True
    return not _bound(tree).isdisjoint((name, "*"))


def _bound(tree: ast.AST) -> set[str]:
    """Names that a piece of code gives a value, at whatever depth."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names


def _renamed(tree: ast.Module, name: str, doc: str | None) -> str:
    """What the cell calls that which has the docstring of ``name``; a copy such as ``old_name`` is no renaming."""
    definitions = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    others = [node for node in definitions if doc and name not in node.name]
    return next((node.name for node in others if ast.get_docstring(node) == inspect.cleandoc(doc or "")), "")


def _defined_by(value: Any, name: str) -> str | None:
    """The source of the cell that defined a function or a class; None for what no cell is known to have defined."""
    if isinstance(value, type):
        methods = [part for part in vars(value).values() if inspect.isfunction(inspect.unwrap(part))]
        named = [part for part in methods if part.__qualname__ == f"{value.__qualname__}.{part.__name__}"]
        value = named[0] if value.__name__ == name and named else None
    elif getattr(inspect.unwrap(value), "__name__", None) != name:
        return None
    code = getattr(inspect.unwrap(value), "__code__", None)
    lines = linecache.getlines(code.co_filename) if code is not None else []
    return "".join(lines).strip() or None
