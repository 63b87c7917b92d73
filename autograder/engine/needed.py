"""Which cells of a notebook its answers depend on, told from the sources.

A demonstration between two exercises decides no grade, unless an answer uses a name that it binds. So by default such
cells run only where they are needed. In doubt a cell is needed: what this cannot follow makes all of them run.
"""

from __future__ import annotations

import ast
import functools
import re
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

#: Names, attributes and modules by which code reaches names that its text does not show.
TRICKS = {"globals", "locals", "vars", "dir", "exec", "eval", "compile", "__import__", "__builtins__"}
TRICKY_ATTRIBUTES = {"__globals__", "f_globals", "f_locals", "f_back", "user_ns", "user_global_ns"}
TRICKY_ATTRIBUTES |= {"run_cell", "run_cell_magic", "ev", "ex", "safe_execfile"}  # of an IPython shell
TRICKY_ATTRIBUTES |= {"get_objects", "get_referrers", "get_referents"}  # of gc, which else is only asked to collect
TRICKY_MODULES = {"__main__", "builtins", "inspect"}
# Patterns over many lines say `[ \t]*` where they mean the blanks of one: `\s*` would look through all that follow.
#: By which a student's cell may prepare what no name shows: a module or a file that an answer reads, a path, a variable
#: of the process, all names of a module.
PREPARES = re.compile(
    r"\.py\b|\bopen\(|write|sys\.path|chdir|environ|mkdir|subprocess|os\.system|\.save\(|savetxt|to_csv"
    r"|\bimport[ \t]*\*|\bglobals\(\)\.|^[ \t]*(?:%%|%cd|%env|%run|!)",
    re.MULTILINE,
)
#: IPython's own lines that no name depends on; what stands below or behind the last two is Python.
HARMLESS = re.compile(
    r"[ \t]*(?:!|\?|%(?:matplotlib|pip|conda|load_ext|reload_ext|autoreload|config|env|cd|pwd|ls|who|whos"
    r"|timeit|gui|pdb|xmode|precision|colors|autosave|history|lsmagic|debug|tb|reset|alias)\b).*"
)
#: The course's own call, which takes all names and changes none.
CHECK = re.compile(r"^([ \t]*)check\([\"'][\d.]+[\"'],\s*globals\(\)\)[ \t;]*$", re.MULTILINE)
TIMED = re.compile(r"\A\s*%%(?:time|capture|prun)\b.*|^([ \t]*)(?:%time[ \t]+)+", re.MULTILINE)


@dataclass
class Uses:
    """What a cell does with the notebook's global names.

    Attributes:
        loads: it reads them, at once or in a function it defines.
        binds: it assigns, imports or defines them, or sets an attribute or an item of what they name.
        variables: those it binds other than by importing or defining: what they name may be changed in place.
        opaque: it may use any name (a magic, ``globals()``, ``exec``).
    """

    loads: set[str] = field(default_factory=set)
    binds: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    opaque: bool = False


def needed(cells: Sequence[tuple[str, str]], names: Iterable[str]) -> list[bool]:
    """Whether each cell has to run.

    Args:
        cells: (source, kind) each; kind is ``"always"`` (it runs), ``"answer"`` (it runs, and what it uses must be
            there), ``"own"`` (a student's: it may prepare more than names) or ``"maybe"``.
        names: what the checks look at in the end.
    """
    used = [uses(source) for source, _ in cells]
    prepares = [kind == "own" and bool(PREPARES.search(source)) for source, kind in cells]
    run = [kind in ("always", "answer") or prepares[number] for number, (_, kind) in enumerate(cells)]
    answers = [number for number, (_, kind) in enumerate(cells) if kind == "answer"]
    if any(used[number].opaque for number in answers):
        return [True] * len(cells)
    variables = {name for cell in used for name in cell.variables}
    wanted = set(names).union(*(cell.loads for cell, made in zip(used, prepares, strict=True) if made))
    wanted.update(*(used[number].loads for number in answers))
    grew = True
    while grew:
        grew = False
        for number, cell in enumerate(used):
            if not run[number] and (wanted & cell.binds or wanted & cell.loads & variables):
                if cell.opaque:
                    return [True] * len(cells)
                run[number] = grew = True
                wanted |= cell.loads
    return run


@functools.lru_cache(maxsize=1000)  # most cells of most submissions are the release's
def uses(source: str) -> Uses:
    """A cell's use of global names; of code that is too deep to be followed, any."""
    try:
        return _uses(source)
    except (RecursionError, MemoryError):
        return Uses(opaque=True)


def _uses(source: str) -> Uses:
    source = CHECK.sub(r"\1pass", source)
    try:
        tree = ast.parse(source)
        table = symtable.symtable(source, "<cell>", "exec")
    except (SyntaxError, ValueError):
        lines = TIMED.sub(r"\1", source).splitlines(keepends=True)
        bare = "".join(re.sub(r"\S.*", "pass", line) if HARMLESS.match(line) else line for line in lines)
        bare = re.sub(r"^[\w. %]+\?+[ \t]*$", "pass", bare, flags=re.MULTILINE)
        if bare != source:
            return _uses(bare)
        # IPython's own syntax, or a mistake: then nothing of the cell runs
        special = r"^[ \t]*[%!?]|\?[ \t]*$|=[ \t]*[%!]|\bawait\b"  # within a line: a pattern over many takes forever
        return Uses(opaque=bool(re.search(special, source, re.MULTILINE)))
    result = Uses()
    for scope in _scopes(table):
        module = scope.get_type() == "module"
        for symbol in scope.get_symbols():
            if module or symbol.is_global():
                if symbol.is_referenced():
                    result.loads.add(symbol.get_name())
                if symbol.is_assigned() or symbol.is_imported():
                    result.binds.add(symbol.get_name())
    defined = {
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            packages = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            result.opaque |= any(
                name == "*" or name in TRICKY_MODULES | TRICKS | TRICKY_ATTRIBUTES for name in packages
            )
        elif isinstance(node, ast.Name):
            result.opaque |= node.id in TRICKS
        elif isinstance(node, ast.Attribute):
            modules = node.attr == "modules" and isinstance(node.value, ast.Name) and node.value.id == "sys"
            result.opaque |= modules or node.attr in TRICKY_ATTRIBUTES
    changed = {name for node in ast.walk(tree) for name in _changes(node)}
    result.binds |= changed
    result.variables = result.binds - defined | changed
    return result


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _changes(node: ast.AST) -> Iterator[str]:
    """Names of what a node sets an attribute or an item of: ``name.x = ...``, ``name[0] += ...``, ``setattr(name)``."""
    target = None
    if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
        target = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
        target = node.args[0] if node.args else None
    while isinstance(target, (ast.Attribute, ast.Subscript)):
        target = target.value
    if isinstance(target, ast.Name):
        yield target.id


def names_in(text: str) -> list[str]:
    """The names, modules and files that an error's text says are not there."""
    matches = re.findall(r"name '(\w+)' is not defined|No module named '([\w.]+)'|No such file[^:]*: '([^']+)'", text)
    return [name for names in matches for name in (names[0], names[1].partition(".")[0], names[2]) if name]


def names_bound(source: str) -> set[str]:
    """The names that a cell would bind, also one that does not parse."""
    return uses(source).binds | set(re.findall(r"^(?:class|def|async def)\s+(\w+)", source, re.MULTILINE))
