"""Work that is alike: equal code, renamed or not, equal written answers, and copies of what everybody can read.

A hint for a person, a row for each group of students; none of it changes a grade. What is compared is kept for each
submission, so that one of a later batch is compared with all before it.

.grading/alike.json   stage -> student -> what is compared; of the student "", the worked solution and model answers
"""

from __future__ import annotations

import ast
import functools
import io
import json
import re
import tokenize
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from autograder.engine.assignment import Assignment, digest, source_of
from autograder.engine.job import Row
from autograder.files import write_whole
from autograder.intake.sources import parsed, shape

#: Code is alike if this share of the smaller one is equal, and that is more than a right answer has by chance: in
#: nodes of the syntax tree beyond those of the release. The worked solutions of the stages have 280 to 1,100.
SHARE, LEAST = 0.6, 100
#: Shorter texts are equal by chance: words of an answer, of a comment.
WORDS, COMMENT = 8, 4
#: The share of an answer's runs of four words that are the model answer's.
OF_MODEL = 0.6
#: In the place of a student: what everybody can read.
PUBLIC = ""


@dataclass(frozen=True)
class Group:
    """Students whose work is alike.

    Attributes:
        stage: of which.
        students: who, in order.
        what: what is alike.
    """

    stage: str
    students: list[str]
    what: str


def keep(out: Path, rows: Iterable[Row], assignments: Mapping[str, Assignment]) -> None:
    """Write down what is compared of rows, beside that of earlier runs."""
    path = out / ".grading" / "alike.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for stage, assignment in assignments.items():
        known.setdefault(stage, {})[PUBLIC] = _print(assignment, _worked(assignment))
    for row in rows:
        if row.answers:
            known[row.stage][row.student] = _print(assignments[row.stage], row.answers, row.open)
    write_whole(path, json.dumps(known).encode())


def groups(out: Path, present: Collection[tuple[str, str]]) -> list[Group]:
    """Whose work is alike, of these (stage, student); the largest group of each stage first."""
    path = out / ".grading" / "alike.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found: list[Group] = []
    for stage, prints in known.items():
        here = {who: what for who, what in prints.items() if who == PUBLIC or (stage, who) in present}
        of_stage = [Group(stage, students, what) for what, students in _alike(here) if students]
        found += sorted(of_stage, key=lambda group: (-len(group.students), group.what, group.students))
    return found


def _alike(prints: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(what is alike, the students)."""
    copied: set[str] = set()
    for members in _of_equal_code({who: one["code"] for who, one in prints.items()}):
        exact = {json.dumps([cell[1] for cell in prints[who]["code"].values()]) for who in members}
        what = "the same code" if PUBLIC not in members else "the code of the worked solution"
        copied |= members if PUBLIC in members else set()
        if len(members) > 1:
            yield what + ("" if len(exact) == 1 else ", in parts or with other names"), sorted(members - {PUBLIC})
    comments = [who for who, one in prints.items() if one["comments"] and who not in copied | {PUBLIC}]
    yield "comments of the worked solution", sorted(comments)
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for who, one in sorted(prints.items()):
        for exercise, (text, of_model) in one["text"].items():
            if who != PUBLIC:
                texts[exercise, "" if of_model else text].append(who)
    for (exercise, text), students in texts.items():
        if not text:
            yield f"{exercise}: the model answer", students
        elif len(students) > 1:
            yield f"{exercise}: the same text", students


def _of_equal_code(code: Mapping[str, Mapping[str, list[Any]]]) -> Iterator[set[str]]:
    """The groups, each as large as it gets when whoever is like one of its members belongs to it."""
    same: dict[str, set[str]] = defaultdict(set)
    for who, cells in code.items():
        same[json.dumps(sorted((name, cell[0]) for name, cell in cells.items()))].add(who)
    kinds = list(same.values())
    first = [code[min(kind)] for kind in kinds]
    group = list(range(len(kinds)))
    for a, b in combinations(range(len(kinds)), 2):
        equal = sum(cell[2] for name, cell in first[a].items() if first[b].get(name, [""])[0] == cell[0])
        smaller = min(sum(cell[2] for cell in cells.values()) for cells in (first[a], first[b]))
        if equal >= max(LEAST, SHARE * smaller) and group[a] != group[b]:
            group = [group[a] if of == group[b] else of for of in group]
    for number in dict.fromkeys(group):
        members = [n for n, of in enumerate(group) if of == number]
        if sum(cell[2] for cell in first[members[0]].values()) >= LEAST:
            yield set().union(*(kinds[n] for n in members))


def _print(assignment: Assignment, answers: Mapping[str, str], open_: Collection[str] = ()) -> dict[str, Any]:
    """What is compared of a submission: digests, and how much code stands behind each."""
    code, text, comments = {}, {}, False
    public = _worked(assignment)
    for name, cell in assignment.answer_cells().items():
        source, given = answers.get(name, ""), source_of(cell)
        if cell["cell_type"] == "code":
            size = _size(source) - _size(given)
            if size > 0 and shape(source) != shape(given):
                code[name] = [_digest(_renamed(source)), _digest(shape(source)), size]
            theirs = _comments(public.get(name, "")) - _comments(given)
            comments = comments or bool(theirs & _comments(source))
        elif name not in open_ and len(words := _words(source)) >= WORDS and words != _words(given):
            model = _runs(_words(public.get(name, "")))
            runs = _runs(words)
            of_model = len(runs & model) >= OF_MODEL * len(runs)
            exercise = name.removeprefix("written_").replace("_", ".")
            text[exercise] = [_digest(" ".join(words)), of_model]
    return {"code": code, "text": text, "comments": comments}


def _worked(assignment: Assignment) -> dict[str, str]:
    """grade_id -> source, of the worked solution's answers."""
    cells = assignment.solution["cells"]
    return {cell["metadata"].get("nbgrader", {}).get("grade_id", ""): source_of(cell) for cell in cells}


def _digest(text: str) -> str:
    return digest(text.encode())[:16]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _runs(words: list[str]) -> set[tuple[str, ...]]:
    return set(zip(*(words[n:] for n in range(4)), strict=False))


@functools.lru_cache(maxsize=2000)
def _comments(source: str) -> frozenset[str]:
    """The longer comments of a source, the marks of the masters aside."""
    found = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and not token.string.startswith("###"):
                found.add(" ".join(_words(token.string)))
    except (tokenize.TokenError, SyntaxError, ValueError):
        pass  # what was read up to there counts
    return frozenset(text for text in found if text.count(" ") >= COMMENT - 1)


def _size(source: str) -> int:
    """Nodes of a source's syntax tree; 0 if it is not Python."""
    tree = parsed(source)
    return sum(1 for _ in ast.walk(tree)) if tree else 0


@functools.lru_cache(maxsize=2000)
def _renamed(source: str) -> str:
    """A source's syntax tree with the names that it gives numbered, and without texts and annotations."""
    try:
        tree = ast.parse(source)
        return ast.dump(_Renaming(_bound(tree)).visit(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return shape(source)


def _bound(tree: ast.AST) -> set[str]:
    """Names that a source gives: to variables, arguments, functions, and attributes that it sets."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
    return names


class _Renaming(ast.NodeTransformer):
    """Numbers names in the order in which they come."""

    def __init__(self, own: Collection[str]):
        self.own, self.numbers = own, dict[str, str]()

    def _new(self, name: str) -> str:
        return self.numbers.setdefault(name, f"_{len(self.numbers)}") if name in self.own else name

    def visit(self, node: ast.AST) -> ast.AST:
        for field in ("id", "attr", "arg", "name"):
            if isinstance(name := getattr(node, field, None), str):
                setattr(node, field, self._new(name))
        for field in ("annotation", "returns", "type_comment", "simple"):
            if hasattr(node, field):
                setattr(node, field, None)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
            node.body = [one for one in node.body if not _only_text(one)]
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            return ast.Constant("")
        return self.generic_visit(node)


def _only_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
