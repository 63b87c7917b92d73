"""Hints for a person that an answer may not be the student's own. None of them changes a grade.

Whoever can run code can hand an exercise to a library that solves it, and the checks rightly find it solved. That shows
in the source, in what the object is, and in what was replaced on the way.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Sequence

from autograder.engine.assignment import STUDENT, Assignment, nbgrader, source_of
from autograder.engine.job import Row
from autograder.intake.sources import parsed

#: Packages that hold finished answers. What the release itself imports from them is not a hint.
SOLVED = ("lora_ref", "peft")
_PLUMBING = {"wire", "shell", "zygote", "watch", "syscalls"}
#: Modules with which code reaches what is outside of it, runs other code, or unpacks what it carries.
_REACHING = {
    *("ctypes", "_ctypes", "cffi", "socket", "_socket", "subprocess", "_posixsubprocess", "multiprocessing", "pty"),
    *("inspect", "gc", "mmap", "signal", "marshal", "builtins", "dis", "bdb", "faulthandler", "atexit", "resource"),
    *("runpy", "code", "codeop", "imp", "linecache", "pkgutil", "zipimport", "importlib", "types", "fcntl", "select"),
    *("base64", "binascii", "codecs", "zlib", "bz2", "lzma", "gzip"),
    *("pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "copyreg", "pydoc", "unittest", "doctest"),
    *("cProfile", "profile", "trace", "xml", "logging.config", "concurrent", "torch.multiprocessing", "torch.package"),
}
#: Attributes that lead into frames, functions and loaders, start processes, or find the files of modules.
_INNER = {
    *("f_back", "f_locals", "f_globals", "f_code", "f_builtins", "tb_frame", "tb_next", "gi_frame", "cr_frame"),
    *("ag_frame", "_getframe", "_current_frames", "walk_stack", "walk_tb", "__traceback__", "__code__", "co_code"),
    *("__subclasses__", "__globals__", "__closure__", "__defaults__", "setprofile", "settrace", "addaudithook"),
    *("setprofile_all_threads", "settrace_all_threads", "monitoring", "get_objects", "get_referrers"),
    *("fork", "forkpty", "posix_spawn", "_exit", "execv", "popen", "__builtins__", "exec_module", "source_to_code"),
    *("CodeType", "FunctionType", "SourceFileLoader", "spec_from_file_location", "import_module", "getsource"),
    *("__loader__", "__spec__", "__path__", "__file__", "get_data", "get_source", "copytree", "__dict__"),
    *("read_pickle", "create_subprocess_shell", "create_subprocess_exec", "ProcessPoolExecutor", "spawnv", "spawnl"),
}
#: Python's own names for running text as code.
_RUNNING = {"exec", "eval", "compile", "__import__", "__builtins__"}
#: Lines of IPython's that change only what is shown; editors write them as calls.
_SHOWING = {"matplotlib", "config", "load_ext", "reload_ext", "autoreload", "pip", "conda", "pwd"}
#: IPython's ways to run a program or a file; what only installs is none.
_PROGRAMS = re.compile(
    r"^[ \t]*(?:!(?![ \t]*(?:pip|conda)\b)|%%(?:bash|sh|script|system|sx|writefile|python3?|pypy|perl|ruby)\b"
    r"|%(?:run|load|sx|system|loadpy|macro)\b)",
    re.MULTILINE,
)
#: Of a cell, the most of these that are listed.
MAX_ODD = 5
#: Characters of a literal, of all of a cell, digits of a number, and items of a table, beyond those of any answer.
_LONG, _LONG_TOGETHER, _DIGITS, _ITEMS = 3_000, 8_000, 100, 200


def flags(row: Row, assignment: Assignment) -> list[str]:
    """One line for each hint about one submission."""
    hints = []
    for name, source in row.answers.items():
        cell = assignment.answer_cells()[name]
        if cell["cell_type"] == "code":
            given = imports(source_of(cell))
            hints += [f"cell {name!r} uses {used}" for used in sorted(imports(source) - given)]
            hints += [f"cell {name!r} {what}" for what in _few(odd(source) - odd(source_of(cell)))]
    own = [source_of(c) for c in row.cells if c["cell_type"] == "code" and STUDENT in c["metadata"].get("tags", ())]
    if own:
        released = [source_of(cell) for cell in assignment.release["cells"] if cell["cell_type"] == "code"]
        for used in sorted(set().union(*map(imports, own)) - set().union(*map(imports, released))):
            hints.append(f"a cell of the student's own uses {used}")
        strange = set().union(*map(odd, own)) - set().union(*map(odd, released))
        hints += [f"a cell of the student's own {what}" for what in _few(strange)]
    for name, packages in row.origins.items():
        hints += [f"{name} comes from {package}" for package in packages]
    hints += [name[1:] if name.startswith("!") else f"replaces {name}" for name in row.replaced]
    return hints


def _few(hints: Iterable[str]) -> list[str]:
    """The first of these, and how many more there are."""
    lines = sorted(hints)
    return lines[:MAX_ODD] + ([f"and {len(lines) - MAX_ODD} more of the kind"] if len(lines) > MAX_ODD else [])


def suspicious(row: Row, assignment: Assignment) -> bool:
    """Whether a submission's code does what only forging needs: then its visible checks are run as well."""
    code = [cell for cell in row.cells if cell["cell_type"] == "code"]
    theirs = [cell for cell in code if STUDENT in cell["metadata"].get("tags", ()) or nbgrader(cell).get("solution")]
    given = set().union(*(odd(source_of(c)) for c in assignment.release["cells"] if c["cell_type"] == "code"))
    return any(odd(source_of(cell)) - given for cell in theirs)


@functools.lru_cache(maxsize=2000)
def odd(source: str) -> frozenset[str]:
    """What a source does that no exercise asks for and every way to forge an answer needs, in words."""
    tree = parsed(source)
    programs = {"runs programs or files with IPython's own lines"} if _PROGRAMS.search(source) else set()
    if tree is None:
        words = set(re.findall(r"\w+", source)) & (_REACHING | _INNER | _RUNNING) - {
            "code",
            "types",
            "select",
            "signal",
        }
        return frozenset(programs | {f"names {word} (in code that does not parse)" for word in words})
    try:
        return frozenset(programs | _odd(tree))
    except RecursionError:
        return frozenset(programs | {"nests too deeply to be read"})


def _odd(tree: ast.AST) -> set[str]:
    hints: set[str] = set()
    together, shells = 0, 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            hints |= {f"imports {alias.name[:60]}" for alias in node.names if _reaches(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if _reaches(module):
                hints.add(f"imports {module[:60]}")
            names = {alias.name for alias in node.names}
            hints |= {f"imports {name}" for name in names & (_INNER | _REACHING)}
            hints |= {"uses sys.modules"} if module == "sys" and "modules" in names else set()
        elif isinstance(node, ast.Attribute) and node.attr in _INNER:
            hints.add(f"uses {node.attr}")
        elif isinstance(node, ast.Attribute) and node.attr == "modules":
            if isinstance(node.value, ast.Name) and node.value.id in ("sys", "_sys"):  # a model's modules() is fine
                hints.add("uses sys.modules")
        elif isinstance(node, ast.Name) and node.id in _RUNNING and isinstance(node.ctx, ast.Load):
            hints.add(f"uses {node.id}")
        elif isinstance(node, ast.Name) and node.id == "get_ipython":
            shells += 1
        elif isinstance(node, ast.Call):
            shells -= _only_shows(node)
            hints |= _called(node)
        elif isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
            items = node.values if isinstance(node, ast.Dict) else node.elts
            if len(items) > _ITEMS:
                hints.add(f"has a table of {len(items):,} items")
        elif isinstance(node, (ast.BinOp, ast.JoinedStr)) and (text := _text(node)) is not None:
            hints |= _named(text)
        elif isinstance(node, ast.Constant):
            value = node.value
            if isinstance(value, (str, bytes)):
                together += len(value)
                if len(value) > _LONG:
                    hints.add(f"has a literal of {len(value):,} characters")
                hints |= _named(value) if isinstance(value, str) else set()
            elif isinstance(value, int) and value.bit_length() > 3.33 * _DIGITS:
                hints.add("has a number of more digits than any answer")
    hints |= {"uses get_ipython"} if shells > 0 else set()
    return hints | ({f"has literals of {together:,} characters"} if together > _LONG_TOGETHER else set())


def _reaches(module: str) -> bool:
    """Whether a module is one of `_REACHING`, or in one."""
    parts = module.split(".")
    return any(".".join(parts[: n + 1]) in _REACHING for n in range(len(parts)))


def _only_shows(node: ast.Call) -> bool:
    """Whether a call is what an editor makes of ``%matplotlib inline`` and the like."""
    if not isinstance(node.func, ast.Attribute) or node.func.attr not in ("run_line_magic", "magic"):
        return False
    of = node.func.value
    shell = isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "get_ipython"
    words = (_text(node.args[0]) or "").split() if node.args else []
    return shell and bool(words) and words[0] in _SHOWING


def _called(node: ast.Call) -> set[str]:
    """What a call does that only forging needs: looks up a computed name, runs a program, unpickles."""
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    of = node.args[0] if node.args else None
    hints = set()
    if name in ("getattr", "vars") and isinstance(of, ast.Name) and of.id in ("os", "sys", "builtins"):
        hints |= {f"looks up what it takes of {of.id}"} if _text(node.args[-1]) is None else set()
    elif name == "open" and isinstance(of, ast.Constant) and type(of.value) is int:
        hints.add("opens a file by its number")
    elif isinstance(node.func, ast.Attribute):
        if node.func.attr == "system" and of is not None:  # platform.system() has no argument
            hints.add("runs a program")
        elif (text := _text(node)) is not None:
            hints |= _named(text)
    for keyword in node.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if (keyword.arg, value) in (("allow_pickle", True), ("weights_only", False)):
            hints.add("unpickles")
    return hints


def _named(text: str) -> set[str]:
    """What a text names that only forging needs: a file of Python's, or what could be looked up by it."""
    if re.fullmatch(r"[\w./*?\[\]-]*\.pyc?", text[:200]):
        return {f"names the file {text[:60]}"}
    if re.match(r"/course\b|/proc/(?:self|thread-self|\d|\*)", text):
        return {f"names the folder {text[:60]}"}
    return {f"names {text}"} if text in _INNER | {"ctypes", "socket", "subprocess"} else set()


def _text(node: ast.AST) -> str | None:
    """The text that a literal is, or what is put together of literals; None of anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.FormattedValue):
        return _text(node.value) if node.format_spec is None else None
    if isinstance(node, ast.JoinedStr):
        return _joined(node.values, "")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.keywords:
        form, parts = _text(node.func.value), node.args
        if node.func.attr == "join" and form is not None and parts and isinstance(parts[0], (ast.List, ast.Tuple)):
            return _joined(parts[0].elts, form)
        one = _text(parts[0]) if node.func.attr == "format" and len(parts) == 1 else None
        return _filled(form, "{}", one)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return _filled(_text(node.left), "%s", _text(node.right))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return None if left is None or right is None else left + right
    return None


def _filled(form: str | None, gap: str, text: str | None) -> str | None:
    """A form with a text in its one gap; Python's own formatting would make gigabytes of "{:9999999999}"."""
    return form.replace(gap, text) if form is not None and text is not None and form.count(gap) == 1 else None


def _joined(nodes: Sequence[ast.expr], between: str) -> str | None:
    texts = [_text(node) for node in nodes]
    return None if None in texts else between.join(text or "" for text in texts)


@functools.lru_cache(maxsize=2000)
def imports(source: str) -> frozenset[str]:
    """What a source takes from packages that hold finished answers, or how it gets at this grader's own modules."""
    tree = parsed(source)
    if tree is None:
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
