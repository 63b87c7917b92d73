"""What sources of a student's cells define, and what they add to a released one."""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Container, Iterator, Mapping

#: Lines of a text beyond which two are not compared line by line.
MAX_LINES = 3000
#: Lines of IPython's own, and the first line of a cell whose rest is Python.
MAGIC = re.compile(r"^([ \t]*)(?:[%!?].*|\w[\w. %*]*\?+[ \t]*$|\w[\w, \t]*=[ \t]*[!%].*)", re.MULTILINE)
TIMED = re.compile(r"\A\s*%%(?:time|capture|prun|timeit)\b.*")
#: Cells that are no Python, or only write it down.
OTHER = re.compile(
    r"\A\s*%%(?:writefile|file|bash|sh|shell|script|system|sx|!|cmd|html|js|javascript|latex|markdown|svg|perl|ruby|R)\b"
)
#: A fence around Python in a text.
FENCE = re.compile(r"(?:```|~~~)[ \t]*(?:i?python\w*|py)?", re.IGNORECASE)
PROSE = re.compile(r"\A\s*%%(?:html|latex|markdown)\b")


def norm(text: str) -> str:
    """A text without blanks at the ends of its lines, nor empty lines around it."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@functools.lru_cache(maxsize=300)
def parsed(source: str) -> ast.Module | None:
    """A cell's syntax tree, IPython's own lines left out, each statement on its line; None if it is not Python."""
    if OTHER.match(source):
        return None
    bare = MAGIC.sub(r"\1pass", TIMED.sub("pass", source))
    for text in dict.fromkeys((source, bare)):
        try:
            return compile(
                text, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
            )
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    return None


@functools.lru_cache(maxsize=500)
def shape(source: str) -> str:
    """A source without comments and layout; its text, if it is not Python."""
    tree = parsed(source)
    try:
        return norm(source) if tree is None else ast.dump(tree)
    except RecursionError:
        return norm(source)


@functools.lru_cache(maxsize=500)
def defined(source: str) -> tuple[tuple[str, str], ...]:
    """What a cell binds at its top level: (name, the definition's `ast.dump`, or "" for another binding) each."""
    tree = parsed(source)
    try:
        return tuple(pair for node in _statements(tree.body if tree else []) for pair in _bound(node))
    except RecursionError:
        return ()


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for inner in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, inner, None) or [])
            for handler in getattr(node, "handlers", ()):
                yield from _statements(handler.body)


def _bound(node: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name, ast.dump(node)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (((alias.asname or alias.name).partition(".")[0], "") for alias in node.names)
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from ((inner.id, "") for inner in ast.walk(target) if isinstance(inner, ast.Name))


def without_gaps(source: str, gaps: Mapping[str, str], done: Container[str]) -> str:
    """A source whose definitions that are still the released gap are blank, where the name is ``done`` elsewhere."""
    open_still = [name for name, dump in defined(source) if dump and name in done and gaps.get(name) == dump]
    if not open_still:
        return source
    lines, tree = source.split("\n"), parsed(source)  # `splitlines` ends one at more characters than Python does
    for node in tree.body if tree else ():
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if node.name in open_still and gaps.get(node.name) == ast.dump(node):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            last = node.end_lineno or first
            lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(lines)


def written(source: str) -> tuple[str, str]:
    """The module that a cell with ``%%writefile`` makes, and its text; two empty ones for another cell."""
    first, _, text = source.lstrip().partition("\n")
    magic, *words = first.split()[:9] or [""]
    module = words[-1].removesuffix(".py").rpartition("/")[2] if words and words[-1].endswith(".py") else ""
    made = magic in ("%%writefile", "%%file") and module.isidentifier()
    return (module, text) if made else ("", "")


def takes_all(source: str, module: str) -> bool:
    """Whether a cell takes all names of a module that another one wrote."""
    lines = [line for line in source.split("\n") if re.search(rf"\b{module}\b", line)]
    words = ("%run", "exec(", "globals().update")
    return any(re.match(rf"\s*from\s+{module}\s+import\s*\*", line) for line in lines) or (
        bool(lines) and any(word in source for word in words)
    )


def fenced(text: str) -> str:
    """A text with Python in fences as code, its prose as comments; "" where it has none."""
    lines, inside, code = [], False, False
    for line in text.split("\n"):
        if FENCE.fullmatch(line.strip()):
            inside, line = not inside, ""
        code |= inside
        lines.append(line if inside or not line.strip() else f"# {line}")
    return "\n".join(lines) if code else ""


def added_code(source: str, released: str) -> str:
    """The statements that a student added to a locked cell, or changed; "" if there are none that could matter."""
    if norm(source) == norm(released):
        return ""
    tree, ours = parsed(source), parsed(released)
    if tree is None or ours is None or MAGIC.search(source) or not (dumps := _dumps(tree)):
        return added_lines(source, released)
    known = set(_dumps(ours))
    lines, kept = source.split("\n"), []
    for node, dump in zip(tree.body, dumps, strict=True):
        empty = isinstance(node, (ast.Raise, ast.Pass)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.Name))
        )
        if not empty and dump not in known:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            kept.append("\n".join(lines[first - 1 : node.end_lineno]))
    return "\n".join(kept)


def _dumps(tree: ast.Module) -> list[str]:
    """Each statement's `ast.dump`; none of a tree that is too deep for one."""
    try:
        return [ast.dump(node) for node in tree.body]
    except RecursionError:
        return []


def added_lines(text: str, released: str) -> str:
    """The lines of a text that are not in the released one."""
    theirs, ours = norm(text).splitlines(), norm(released).splitlines()
    if len(theirs) > MAX_LINES or not text.strip():
        return text
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    new = [theirs[b:d] for what, _, _, b, d in matcher.get_opcodes() if what in ("insert", "replace")]
    return "\n".join(line for lines in new for line in lines).strip()


def words_in_code(source: str) -> int:
    """How many words of prose a code cell has, in comments and in texts that stand alone."""
    prose = re.findall(r"#(?!\s*%%)(.*)", source) + re.findall(r"\"\"\"(.*?)\"\"\"|'''(.*?)'''", source, re.DOTALL)
    prose += re.findall(r"print\(\s*[frb]?[\"'](.*?)[\"']", source)
    text = " ".join(" ".join(item) if isinstance(item, tuple) else item for item in prose)
    code = parsed(source) is not None or (OTHER.match(source) and not PROSE.match(source))
    return len(re.findall(r"[^\W\d_]{2,}", text)) if code else len(source.split())
