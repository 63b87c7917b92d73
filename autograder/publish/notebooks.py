"""Makes both sets of notebooks from the masters.

    solutions/NN_stage/NN_stage.py     the master, edited by hand (jupytext percent)
    solutions/NN_stage/NN_stage.ipynb  made here: worked solutions, hidden tests, mark schemes
    notebooks/NN_stage/NN_stage.ipynb  made here: what students get, as `nbgrader generate_assignment` has it

A cell of a master says in its header what it is, and the build writes nbgrader's metadata:

    # %%                              an ordinary cell
    # %% locked="setup"               a cell that students cannot change; the build puts the set-up of all stages
                                      (`autograder.publish.opening`) before the stage's own imports
    # %% solution="layers"            a cell with gaps: ### BEGIN SOLUTION 2.1 ... ### END SOLUTION
    # %% check="2.1"                  the visible check of an exercise; the build appends the hidden one
                                      (an optional exercise's cell has 0 points)
    # %% [markdown] written="2.8"     a model answer, and its mark scheme between
                                      ### BEGIN MARK SCHEME and ### END MARK SCHEME

A "spot the bug" gap holds the right code, then ``### GIVEN`` and the wrong code as comments; students get the latter.

The bytes are the same on every machine: cell ids come from names and contents, and nothing of the machine
gets in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import jupytext
import nbformat
from nbconvert.exporters import NotebookExporter
from nbformat.notebooknode import NotebookNode
from nbgrader.preprocessors import SaveCells
from traitlets.config import PyFileConfigLoader

from autograder.exercises import OPTIONAL, STAGES, Exercise
from autograder.files import write_whole
from autograder.publish.opening import Repository, badge, repository, setup
from autograder.publish.preprocessors import GAP

SETTINGS = Path(__file__).resolve().parents[1]  # the folder of nbgrader_config.py
ROLES = {
    "solution": "code",
    "check": "code",
    "written": "markdown",
    "locked": None,
}  # role -> cell type it needs
PASSED_ON = {"tags", "jupyter", "cellView"}  # presentation, as Jupyter and Colab know it
READERS_OWN = {"lines_to_next_cell", "cell_marker"}  # jupytext's notes about the text's layout
MARKERS = ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "MARK SCHEME")
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
SCHEME = re.compile(r"^### BEGIN MARK SCHEME\n(.+?)^### END MARK SCHEME$", re.MULTILINE | re.DOTALL)


class BuildError(ValueError):
    """A master that cannot be built; the message names the file and the cell."""


def find_masters(root: Path, stages: Iterable[str] | None = None) -> list[Path]:
    """The masters under `root/solutions`, or those of the named stages.

    Raises:
        BuildError: a named stage has no master, or there is none at all.
    """
    masters = {path.stem: path for path in sorted(root.glob("solutions/*/*.py")) if path.stem == path.parent.name}
    missing = [stage for stage in stages or () if stage not in masters]
    if missing or not masters:
        raise BuildError(
            f"no master for {', '.join(missing) or 'any stage'}: expected solutions/<stage>/<stage>.py; "
            f"there is {', '.join(masters) or 'none'}"
        )
    return [masters[stage] for stage in (masters if stages is None else dict.fromkeys(stages))]


def _nbgrader(
    cell: NotebookNode,
    grade_id: str,
    *,
    grade: bool = False,
    solution: bool = False,
    locked: bool = False,
    points: float | None = None,
) -> None:
    """Writes nbgrader's metadata (schema 3) into a cell."""
    cell.metadata["nbgrader"] = {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
        **({} if points is None else {"points": points}),
    }


def _expand(
    cell: NotebookNode, role: str | None, name: str, exercises: Mapping[str, Exercise], public: Repository | None
) -> list[NotebookNode]:
    """Turns one cell of a master into the cells of the instructor's notebook."""
    allowed = {"solution": MARKERS[:2], "written": MARKERS[3:]}.get(role or "", ())
    for marker in MARKERS:
        if marker in cell.source and marker not in allowed:
            raise BuildError(f"{marker!r} has no place in {'an ordinary' if role is None else f'a {role}'} cell")
    if role is None:
        return [cell]
    if role == "locked":
        if name == "setup":
            cell.source = f"{setup(public)}\n{cell.source}"
            cell.metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}  # folded, in JupyterLab and Colab
        _nbgrader(cell, name, locked=True)
        return [cell]
    if role == "solution":
        labels = [gap["label"] for gap in GAP.finditer(cell.source)]
        if not labels or len(labels) != cell.source.count(MARKERS[0]) or len(labels) != cell.source.count(MARKERS[1]):
            raise BuildError("a solution cell needs gaps: '### BEGIN SOLUTION 2.1' ... '### END SOLUTION'")
        for label in labels:
            if label not in exercises and not label.startswith("Lab"):
                raise BuildError(
                    f"gap {label!r} is not an exercise of this stage; without points a gap is called 'Lab ...'"
                )
        _nbgrader(cell, name, solution=True)
        return [cell]

    exercise = exercises.get(name)
    if exercise is None:
        raise BuildError(f"exercise {name!r} is not in the contract; the stage has {', '.join(exercises)}")
    if exercise.manual != (role == "written"):
        raise BuildError(f"exercise {name} is {'' if exercise.manual else 'not '}graded by hand in the contract")
    key = name.replace(".", "_")
    if role == "check":
        if not re.search(rf"^check\(\s*[\"']{re.escape(name)}[\"']", cell.source, re.MULTILINE):
            raise BuildError(f'the cell never calls check("{name}", globals())')
        # imported here, so that a student's own variable called `check` costs nothing
        cell.source = f"from lora_ref.checks import check\n{cell.source}"
        cell.source += (
            "\n### BEGIN HIDDEN TESTS\nfrom autograder import grade_cell\n"
            f'grade_cell("{name}", globals())\n### END HIDDEN TESTS'
        )
        _nbgrader(cell, f"check_{key}", grade=True, locked=True, points=exercise.points)
        return [cell]

    # nbgrader brings mark schemes back for graders in locked cells, never in answers: a cell for each.
    schemes = SCHEME.findall(cell.source)
    answer = SCHEME.sub("", cell.source).strip()
    if len(schemes) != 1 or any(marker in answer for marker in MARKERS) or not answer:
        raise BuildError("a written cell holds a model answer and one ### BEGIN MARK SCHEME ... ### END MARK SCHEME")
    points = f"{exercise.points} point{'' if exercise.points == 1 else 's'}"
    scheme = nbformat.v4.new_markdown_cell(
        f"**Answer to exercise {name}** ({points}, graded by hand): write it into the cell below.\n"
        f"### BEGIN MARK SCHEME\n{schemes[0]}### END MARK SCHEME"
    )
    _nbgrader(scheme, f"scheme_{key}", locked=True)
    cell.source = answer
    _nbgrader(cell, f"written_{key}", grade=True, solution=True, points=exercise.points)
    return [scheme, cell]


def expand_master(master: Path, exercises: Iterable[Exercise], public: Repository | None = None) -> NotebookNode:
    """Reads a master and makes the instructor's notebook of it.

    Args:
        master: the jupytext percent file.
        exercises: the stage's rows of the contract (`id`, `points`, `manual`).
        public: where the course is public, if it is: a badge below the title, and a set-up that installs from there.

    Raises:
        BuildError: unknown options, a name used twice, an exercise missing on either side, a broken gap.
    """
    by_id = {exercise.id: exercise for exercise in exercises}
    name_of = f"{master.parent.name}/{master.name}"
    nb = nbformat.v4.new_notebook(metadata=dict(NOTEBOOK_METADATA))
    nb.metadata["generated"] = f"by `make build` from {master.name}: edit that file, not this one"
    nb.nbformat_minor = 5
    used: dict[tuple[str | None, str], str] = {}
    for number, cell in enumerate(jupytext.read(master, fmt="py:percent").cells, start=1):
        options = {key: value for key, value in cell.metadata.items() if key not in READERS_OWN}
        shown = " ".join(f'{key}="{value}"' for key, value in options.items()) or cell.source[:40].split("\n")[0]
        try:
            roles = [key for key in ROLES if key in options]
            unknown = sorted(set(options) - set(ROLES) - PASSED_ON)
            if unknown or len(roles) > 1:
                raise BuildError(f"unknown option {unknown[0]!r}" if unknown else f"both {' and '.join(roles)}")
            if cell.cell_type == "raw":
                raise BuildError("a raw cell; use code or markdown")
            role = roles[0] if roles else None
            name = str(options.get(role, ""))
            if role and (ROLES[role] or cell.cell_type) != cell.cell_type:
                raise BuildError(f"{role} belongs on a {ROLES[role]} cell")
            if role and not re.fullmatch(r"[\w.-]{1,50}", name, re.ASCII):  # nbformat's ids end at 64
                raise BuildError(f"{name!r} is not a name: letters, digits, '_', '-', at most 50")
            if role and (role, name) in used:
                raise BuildError(f"{role}={name!r} is used twice")
            used[role, name] = shown
            cell.source = cell.source.strip("\n")
            cell.metadata = NotebookNode({key: value for key, value in options.items() if key in PASSED_ON})
            nb.cells += _expand(cell, role, name, by_id, public)
        except BuildError as error:
            raise BuildError(f"{name_of}, cell {number} ({shown}): {error}") from None
    if link := badge(public, master.stem):
        nb.cells[0].source += f"\n\n{link}"
    absent = [key for key, row in by_id.items() if ("written" if row.manual else "check", key) not in used]
    if absent:
        raise BuildError(f"{name_of}: no cell for exercise {', '.join(absent)}, which the contract has")
    ids = [cell.metadata.nbgrader.grade_id for cell in nb.cells if "nbgrader" in cell.metadata]
    twice = {grade_id for grade_id in ids if ids.count(grade_id) > 1 or not re.fullmatch(r"[\w-]+", grade_id)}
    if twice:
        raise BuildError(f"{name_of}: {', '.join(sorted(twice))}: a solution or locked cell needs a name of its own")
    _set_ids(nb)
    return nb


def _set_ids(nb: NotebookNode) -> None:
    """Gives each cell an id from its grade_id or else its contents: inserting a cell changes no other's."""
    counts: dict[str, int] = {}
    for cell in nb.cells:
        if "nbgrader" in cell.metadata:
            cell["id"] = cell.metadata.nbgrader.grade_id
            continue
        text = f"{cell.cell_type}\n{cell.source}"
        count = counts[text] = counts.get(text, -1) + 1
        cell["id"] = hashlib.sha256(f"{text}\n{count}".encode()).hexdigest()[:12]


def _dump(nb: NotebookNode) -> bytes:
    """A notebook's bytes, as nbgrader writes them: keys sorted, one newline at the end."""
    nbformat.validate(nb)
    return (nbformat.writes(nb).rstrip("\n") + "\n").encode()


def release_of(nb: NotebookNode) -> bytes:
    """What students get of an instructor's notebook: nbgrader's own steps and settings, no database."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(SETTINGS)).load_config()
    config.Exporter.default_preprocessors = []  # as nbgrader sets it
    exporter = NotebookExporter(config=config)
    for step in config.GenerateAssignment.preprocessors:
        if step is not SaveCells:
            exporter.register_preprocessor(step)
    text, _ = exporter.from_notebook_node(nb)
    return (text.rstrip("\n") + "\n").encode()


def build(
    root: str | Path,
    stages: Iterable[str] | None = None,
    contract: Mapping[str, Iterable[Exercise]] | None = None,
    check: bool = False,
) -> list[Path]:
    """Makes the notebooks of all stages, or of the named ones.

    Everything is made before anything is written, so an error leaves all files as they were.

    Args:
        root: the project's root, with `solutions/`.
        stages: names such as `"02_lora_layer"`; None for every master there is.
        contract: stage -> exercises; None for those of `autograder.exercises`, the optional ones too.
        check: write nothing.

    Returns:
        The files that were (with `check`: would be) written, because they were missing or different. With
        `check`, also release notebooks that no master makes any more.

    Raises:
        BuildError: a master is at fault; the message names the file and the cell.
    """
    contract = {stage: (*STAGES[stage], *OPTIONAL.get(stage, ())) for stage in STAGES} if contract is None else contract
    root = Path(root)
    try:
        public = repository(root)
    except ValueError as error:
        raise BuildError(str(error)) from None
    contents: dict[Path, bytes] = {}
    for master in find_masters(root, stages):
        stage = master.stem
        if stage not in contract:
            raise BuildError(f"{master.name}: the contract has no stage {stage!r}; it has {', '.join(contract)}")
        nb = expand_master(master, contract[stage], public)
        contents[root / "solutions" / stage / f"{stage}.ipynb"] = _dump(nb)
        contents[root / "notebooks" / stage / f"{stage}.ipynb"] = release_of(nb)
    changed = [path for path, data in contents.items() if not path.is_file() or path.read_bytes() != data]
    if check:
        orphans = [] if stages is not None else sorted(set(root.glob("notebooks/*/*.ipynb")) - set(contents))
        return changed + orphans
    for path in changed:
        write_whole(path, contents[path])
    return changed
