"""A stage as it was released: what a submission is rebuilt from, and the hash that says when grades are out of date."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.engine.sources import rooms, sources
from autograder.exercises import OPTIONAL, STAGES
from lora_ref.checks.numbering import module_names

#: The tag, in the notebook that is graded, of a cell that the release has not, or has otherwise.
STUDENT = "written-by-student"
ROOT = Path(__file__).resolve().parents[2]
#: Modules whose change, or that of what they import, may change a grade; and so may hidden rooms and `lora_ref`.
GRADING_CODE = ("autograder.engine.worker", "autograder.intake.plan")
LIBRARIES = ("torch", "transformers", "datasets", "numpy", "ipython", "matplotlib")
#: What the probes of a stage, or what they probe, import late; what its set-up cell imports is read there.
IMPORTED_LATE = {
    "03_roberta_injection": ("transformers:RobertaForSequenceClassification",),
    "04_sst2_training": (
        *("transformers:RobertaForSequenceClassification", "safetensors.numpy", "numpy.ctypeslib"),
        *("torch.utils.serialization:config", "torch.profiler._cupti_monitor"),
    ),
    "05_analysis": ("transformers:RobertaForSequenceClassification",),
}
#: Largest source of one cell, in characters, and of one written answer.
MAX_SOURCE = 200_000


@dataclass(frozen=True)
class Assignment:
    """A stage's two notebooks.

    Attributes:
        stage: ``"02_lora_layer"``.
        release: the student's notebook, as plain JSON data.
        solution: the instructor's, with hidden tests and mark schemes.
    """

    stage: str
    release: dict[str, Any]
    solution: dict[str, Any]

    @classmethod
    def load(cls, stage: str, root: Path = ROOT) -> Assignment:
        """Read both notebooks (FileNotFoundError: they are not built; KeyError: no such stage)."""
        if stage not in STAGES:
            raise KeyError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
        files = [root / folder / stage / f"{stage}.ipynb" for folder in ("notebooks", "solutions")]
        return cls(stage, *(json.loads(file.read_text(encoding="utf-8")) for file in files))

    @property
    def hash(self) -> str:
        """Of both notebooks."""
        return digest(json.dumps([self.release, self.solution], sort_keys=True).encode())

    @property
    def exercise_of(self) -> dict[str, str]:
        """grade_id of a check's cell -> exercise, for those with automatic checks, optional ones too."""
        checked = [*(e for e in STAGES[self.stage] if not e.manual), *OPTIONAL[self.stage]]
        return {f"check_{e.id.replace('.', '_')}": e.id for e in checked}

    def answer_cells(self) -> dict[str, dict[str, Any]]:
        """grade_id -> the release's cell, for what a student writes: gaps and written answers."""
        return {grade_id(c): c for c in self.release["cells"] if nbgrader(c).get("solution")}

    def modules(self) -> list[str]:
        """What a warm process imports for this stage (see `autograder.engine.inside.zygote.warm`)."""
        rooms = [name for name in module_names("lora_ref.checks").values() if f".stage{self.stage[:2]}." in name]
        names = [*rooms, *IMPORTED_LATE.get(self.stage, ())]
        for cell in self.release["cells"]:
            if cell["cell_type"] == "code" and nbgrader(cell).get("locked") and not nbgrader(cell).get("grade"):
                for node in ast.walk(ast.parse(source_of(cell))):
                    if isinstance(node, ast.Import):
                        names += [alias.name for alias in node.names]
                    elif isinstance(node, ast.ImportFrom):
                        names += [f"{node.module}:{alias.name}" for alias in node.names]
        return list(dict.fromkeys(names))


def nbgrader(cell: Any) -> dict[str, Any]:
    """nbgrader's metadata of a cell of any form; empty if there is none."""
    metadata = cell.get("metadata") if isinstance(cell, dict) else None
    data = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return data if isinstance(data, dict) else {}


def grade_id(cell: Any) -> str:
    """The name that nbgrader's metadata gives a cell, or ""."""
    name = nbgrader(cell).get("grade_id")
    return name if isinstance(name, str) else ""


def source_of(cell: Mapping[str, Any]) -> str:
    """A cell's source, which a notebook file holds as text or as a list of lines.

    Raises:
        ValueError: it is neither, or too long.
    """
    source = cell.get("source", "")
    lines = source if isinstance(source, list) else [source]
    if not all(isinstance(line, str) for line in lines):
        raise ValueError("a cell whose source is not text")
    text = "".join(lines)
    if len(text) > MAX_SOURCE:
        raise ValueError(f"a cell of {len(text):,} characters; at most {MAX_SOURCE:,} are taken")
    return text.encode("utf-8", "replace").decode()  # a lone surrogate is not text


def digest(data: bytes) -> str:
    """Twenty hexadecimal digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:20]


def environment_hash(root: Path = ROOT) -> str:
    """Of the code that grades and the versions of the libraries it runs on."""
    return digest("\n".join(environment_parts(root)).encode())


@functools.cache
def environment_parts(root: Path = ROOT) -> tuple[str, ...]:
    """What `environment_hash` is of: Python, libraries, files, each a name and a version or a digest."""
    parts = [f"Python {platform.python_version()}"]
    parts += [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    code = {name: text.encode() for name, text in sources(root, [*GRADING_CODE, *rooms(root)]).items()}
    for folder in ("autograder/engine/inside", "lora_ref"):
        code |= {path.relative_to(root).as_posix(): path.read_bytes() for path in (root / folder).rglob("*.py")}
    return (*parts, *(f"{name} {digest(code[name])}" for name in sorted(code)))
