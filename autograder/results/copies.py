"""Work that is alike: equal code, renamed or not, equal written answers, and copies of what everybody can read.

A hint for a person, a row for each group of students; none of it changes a grade. What is compared is kept for each
submission, so that one of a later batch is compared with all before it.

.grading/alike.json   stage -> student -> what is compared; of the student "", the worked solution and model answers
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from autograder.engine.assignment import Assignment, digest, source_of
from autograder.engine.job import Row
from autograder.files import write_whole
from autograder.intake.sources import parsed

#: Code is alike if this share of the smaller one is equal, and that is more than a right answer has by chance: in
#: nodes of the syntax tree beyond those of the release. The worked solutions of the stages have 280 to 1,100.
SHARE, LEAST = 0.6, 100
#: Shorter texts are equal by chance: words of an answer, of a comment.
WORDS, COMMENT = 8, 4
#: The share of an answer's runs of four words that are the model answer's.
OF_MODEL = 0.6
#: Characters of an answer that are compared; no honest one is as long.
LONGEST = 50_000
#: Nodes that give a name, and where it stands; of names and attributes, those that are set.
GIVES = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.FunctionDef: "name", ast.ClassDef: "name"}
LEFT_OUT = {"annotation", "returns", "type_comment", "kind", "simple"}
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
    known, worked = _known(out), {stage: _worked(assignment) for stage, assignment in assignments.items()}
    for stage, assignment in assignments.items():
        known.setdefault(stage, {})[PUBLIC] = _print(assignment, worked[stage], worked[stage])
    for row in rows:
        if row.answers:
            known[row.stage][row.student] = _print(assignments[row.stage], worked[row.stage], row.answers, row.open)
    write_whole(_path(out), json.dumps(known).encode())


def groups(out: Path, present: Collection[tuple[str, str]]) -> list[Group]:
    """Whose work is alike, of these (stage, student); the largest group of each stage first."""
    alike: list[Group] = []
    for stage, prints in _known(out).items():
        here = {who: what for who, what in prints.items() if who == PUBLIC or (stage, who) in present}
        of_stage = [Group(stage, students, what) for what, students in _alike(here) if students]
        alike += sorted(of_stage, key=lambda group: (-len(group.students), group.what, group.students))
    return alike


def _path(out: Path) -> Path:
    return out / ".grading" / "alike.json"


def _known(out: Path) -> dict[str, Any]:
    """What earlier runs wrote down."""
    return json.loads(_path(out).read_text(encoding="utf-8")) if _path(out).exists() else {}


def _alike(prints: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(what is alike, the students)."""
    copied: set[str] = set()
    for members in _of_equal_code({who: compared["code"] for who, compared in prints.items()}):
        exact = {json.dumps([cell[1] for cell in prints[who]["code"].values()]) for who in members}
        what = "the same code" if PUBLIC not in members else "the code of the worked solution"
        copied |= members if PUBLIC in members else set()
        if len(members) > 1:
            yield what + ("" if len(exact) == 1 else ", in parts or with other names"), sorted(members - {PUBLIC})
    comments = [who for who, compared in prints.items() if compared["comments"] and who not in copied | {PUBLIC}]
    yield "comments of the worked solution", sorted(comments)
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for who, compared in sorted(prints.items()):
        for exercise, (text, of_model) in compared["text"].items():
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
    having: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, cells in enumerate(first):
        for name, cell in cells.items():
            having[name, cell[0]].append(number)
    common: Counter[tuple[int, int]] = Counter()
    for (name, _), numbers in having.items():
        for pair in combinations(numbers, 2):
            common[pair] += first[pair[0]][name][2]
    for (a, b), equal in common.items():
        smaller = min(sum(cell[2] for cell in cells.values()) for cells in (first[a], first[b]))
        if equal >= max(LEAST, SHARE * smaller) and group[a] != group[b]:
            group = [group[a] if of == group[b] else of for of in group]
    for number in dict.fromkeys(group):
        members = [n for n, of in enumerate(group) if of == number]
        if sum(cell[2] for cell in first[members[0]].values()) >= LEAST:
            yield set().union(*(kinds[n] for n in members))


def _print(
    assignment: Assignment, public: Mapping[str, str], answers: Mapping[str, str], open_: Collection[str] = ()
) -> dict[str, Any]:
    """What is compared of a submission: digests, and how much code stands behind each."""
    code, text, comments = {}, {}, False
    for name, cell in assignment.answer_cells().items():
        source, given = answers.get(name, "")[:LONGEST], source_of(cell)
        if cell["cell_type"] == "code":
            renamed, exact, nodes = _tree(source)
            if (size := nodes - _tree(given)[2]) > 0:
                code[name] = [renamed, exact, size]
            comments = comments or bool(_comments(source) & (_comments(public.get(name, "")) - _comments(given)))
        elif name not in open_ and len(words := _words(source)) >= WORDS and words != _words(given):
            runs, model = _runs(words), _runs(_words(public.get(name, "")))
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


def _comments(source: str) -> set[str]:
    """The longer comments of a source, the marks of the masters aside; also what looks like one in a text."""
    comments = {" ".join(_words(text)) for text in re.findall(r"#(?!##)(.*)", source)}
    return {text for text in comments if text.count(" ") >= COMMENT - 1}


@functools.lru_cache(maxsize=2000)
def _tree(source: str) -> tuple[str, str, int]:
    """Digests of a source's syntax tree, without texts and annotations, and its nodes; 0 if it is not Python.

    In the first, names that the source gives are numbered in the order in which they come; the second has them all.
    """
    tree = parsed(source)
    if tree is None:
        return "", "", 0
    own: set[str] = set()
    parts: list[Any] = []  # classes of nodes, names, and the rest as text in a tuple

    def write(node: Any) -> None:
        kind = type(node)
        if kind is str:
            parts.append(node)
        elif kind is list:
            parts.append(("[",))
            for item in node:
                write(item)
        elif not isinstance(node, ast.AST):
            parts.append((repr(node),))
        elif kind not in (ast.Load, ast.Store):
            parts.append(kind)
            if kind is ast.JoinedStr or _is_text(node):
                return
            for field, value in ast.iter_fields(node):
                if field in LEFT_OUT:
                    continue
                if field == "body" and type(value) is list:
                    value = [item for item in value if not _is_text(item)]
                write(value)
            if given := GIVES.get(kind):
                own.update([getattr(node, given)] if type(getattr(node, "ctx", None)) is not ast.Load else [])

    try:
        write(tree)
    except RecursionError:
        return "", "", 0
    numbers: dict[str, str] = {}
    words = [part.__name__ if type(part) is type else part if type(part) is str else part[0] for part in parts]
    renamed = [
        numbers.setdefault(part, str(len(numbers))) if type(part) is str and part in own else word
        for part, word in zip(parts, words, strict=True)
    ]
    return _digest(" ".join(renamed)), _digest(" ".join(words)), sum(type(part) is type for part in parts)


def _is_text(node: Any) -> bool:
    """Whether it is a text, or a statement that is only one."""
    value = node.value if isinstance(node, ast.Expr) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
