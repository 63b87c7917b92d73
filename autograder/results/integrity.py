"""Hints for a person that an answer may not be the student's own. None of them changes a grade.

Whoever can run code can hand an exercise to a library that solves it, and the checks rightly find it solved. That shows
in the source, in what the object is, and in what was replaced on the way.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterable

from autograder.engine.assignment import STUDENT, Assignment, digest, source_of
from autograder.engine.job import Row
from autograder.intake.sources import shape

#: Packages that hold finished answers. What the release itself imports from them is no hint.
SOLVED = ("lora_ref", "peft")
_PLUMBING = {"wire", "shell", "zygote", "watch", "syscalls"}
#: Modules with which code reaches what is outside of it, and attributes that lead into frames, functions and loaders.
_REACHING = {
    "ctypes",
    "socket",
    "inspect",
    "gc",
    "subprocess",
    "multiprocessing",
    "mmap",
    "signal",
    "marshal",
    "builtins",
}
_INNER = {
    "f_back",
    "f_locals",
    "f_globals",
    "f_code",
    "tb_frame",
    "gi_frame",
    "_getframe",
    "_current_frames",
    "__code__",
}
_INNER |= {"__subclasses__", "__globals__", "__closure__", "setprofile", "settrace", "get_objects", "get_referrers"}
_INNER |= {"fork", "forkpty", "_exit", "modules", "__builtins__", "exec_module", "source_to_code"}
#: Of a cell, the most of these that are listed.
MAX_ODD = 5
#: Characters of a literal beyond those of any answer.
_LONG = 3_000


def flags(row: Row, assignment: Assignment) -> list[str]:
    """One line for each hint about one submission."""
    hints = []
    for name, source in row.answers.items():
        cell = assignment.answer_cells()[name]
        if cell["cell_type"] == "code":
            given = imports(source_of(cell))
            hints += [f"cell {name!r} uses {used}" for used in sorted(imports(source) - given)]
            hints += [f"cell {name!r} {what}" for what in sorted(odd(source) - odd(source_of(cell)))[:MAX_ODD]]
    own = [source_of(c) for c in row.cells if c["cell_type"] == "code" and STUDENT in c["metadata"].get("tags", ())]
    if own:
        released = [source_of(cell) for cell in assignment.release["cells"] if cell["cell_type"] == "code"]
        given = set().union(*map(imports, released))
        for used in sorted(set().union(*map(imports, own)) - given):
            hints.append(f"a cell of the student's own uses {used}")
        strange = set().union(*map(odd, own)) - set().union(*map(odd, released))
        hints += [f"a cell of the student's own {what}" for what in sorted(strange)[:MAX_ODD]]
    for name, packages in row.origins.items():
        hints += [f"{name} comes from {package}" for package in packages]
    hints += [name[1:] if name.startswith("!") else f"replaces {name}" for name in row.replaced]
    return hints


@functools.lru_cache(maxsize=2000)  # what is as released stands in every submission
def odd(source: str) -> frozenset[str]:
    """What a source does that no exercise asks for and every way to forge an answer needs, in words."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {f"imports {alias.name}" for alias in node.names if alias.name.partition(".")[0] in _REACHING}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _REACHING:
            found.add(f"imports {node.module}")
        elif isinstance(node, ast.Attribute) and node.attr in _INNER:
            found.add(f"uses {node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("exec", "eval"):
            found.add(f"calls {node.func.id}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
            if len(node.value) > _LONG:
                found.add(f"has a literal of {len(node.value):,} characters")
            elif isinstance(node.value, str) and re.fullmatch(r"[\w./*-]+\.py", node.value):
                found.add(f"names the file {node.value[:60]}")
    return frozenset(found)


@functools.lru_cache(maxsize=2000)
def imports(source: str) -> frozenset[str]:
    """What a source takes from packages that hold finished answers, or how it gets at this grader's own modules."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset(f"{name} (in code that does not parse)" for name in SOLVED if name in source)
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # import_module("lora_ref.layers"), sys.modules["wire"]
            names |= {node.value} if node.value.partition(".")[0] in {*SOLVED, *_PLUMBING} else set()
        elif isinstance(node, ast.Name) and node.id in SOLVED:
            names.add(node.id)
    return frozenset(name[:100] for name in names if name.partition(".")[0] in {*SOLVED, *_PLUMBING})


def identical(rows: Iterable[Row], assignments: dict[str, Assignment]) -> dict[tuple[str, str], list[str]]:
    """(stage, student) -> other students whose code is the same, comments and layout aside.

    Untouched notebooks are all the same and say nothing; they are left out.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        cells = assignments[row.stage].answer_cells()
        code = {name: shape(text) for name, text in row.answers.items() if cells[name]["cell_type"] == "code"}
        empty = {name: shape(source_of(cells[name])) for name in code}
        if code and code != empty:
            groups[row.stage, digest(repr(sorted(code.items())).encode())].append(row.student)
    return {
        (stage, student): [other for other in students if other != student]
        for (stage, _), students in groups.items()
        if len(students) > 1
        for student in students
    }
