"""Which files grade a submission. Hidden rooms come without their mutants, which hold pieces of worked solutions.

The Gradescope zip is packed from here, and the hash that says when grades are out of date is made of it: a new mutant
regrades nobody.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOM = re.compile(r"autograder/exercises/stage\d\d/\w+\.py")


def rooms(root: Path, stage: str = "[0-9][0-9]") -> list[str]:
    """Modules of a stage's hidden rooms (``"02_lora_layer"``), or of all."""
    files = sorted((root / "autograder" / "exercises").glob(f"stage{stage if '[' in stage else stage[:2]}/[ex]*_*.py"))
    return [f"autograder.exercises.{file.parent.name}.{file.stem}" for file in files]


def sources(root: Path, modules: Iterable[str]) -> dict[str, str]:
    """File -> source, for modules of this package and all of it that they import, at whatever depth.

    An import for type checkers alone is not followed.
    """
    result: dict[str, str] = {}
    waiting = [file for module in modules for file in _files(root, module)]
    while waiting:
        name = waiting.pop()
        if name in result:
            continue
        source = (root / name).read_text(encoding="utf-8")
        result[name] = source = without_mutants(source) if ROOM.fullmatch(name) else source
        waiting += [file for module in _imports(ast.parse(source)) for file in _files(root, module)]
    return dict(sorted(result.items()))


def _files(root: Path, module: str) -> Iterator[str]:
    """The files that importing a module of this package runs; none if it is another package's, or a name in one."""
    parts = module.split(".")
    if parts[0] != "autograder":
        return
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        yield from (name for name in (f"{path}/__init__.py", f"{path}.py") if (root / name).is_file())


def _imports(tree: ast.Module) -> Iterator[str]:
    """Modules that code imports, wherever it does, and names that may be modules."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            waiting += (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))


def without_mutants(source: str) -> str:
    """A hidden room's source without ``MUTANTS``, what only they use, and comments."""
    tree = ast.parse(source)
    names = {s: {node.id for node in ast.walk(s) if isinstance(node, ast.Name)} for s in tree.body}
    kept = [s for s in tree.body if "MUTANTS" not in names[s]]
    spare: set[str] = set()
    while gone := [s for s in names if s not in kept]:
        spare = spare.union(*(names.pop(s) for s in gone))
        for statement in names:
            unused = spare.difference(*(names[s] for s in names if s is not statement))
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                used = [a for a in statement.names if (a.asname or a.name).partition(".")[0] not in unused]
                statement.names = used or statement.names
                kept = kept if used else [s for s in kept if s is not statement]
            elif (bound := _bound(statement)) and bound <= unused:
                kept = [s for s in kept if s is not statement]
    tree.body = kept
    return ast.unparse(tree) + "\n"


def _bound(statement: ast.stmt) -> set[str]:
    """The names that an assignment or a definition binds; empty for another statement."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return set()
