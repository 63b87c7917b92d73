"""What students reported elsewhere that graders lost: each keeps its points, or says what is wrong."""

from __future__ import annotations

import base64
import copy
import io
import json
import random

import grade_course
import human_edits
import ipywidgets
import pytest
from grade_course import FULL, STAGE
from human_edits import code, markdown, place, twin
from PIL import Image

from autograder.engine import oracle
from autograder.engine.assignment import Assignment, grade_id
from autograder.engine.job import job_of, kind_of
from autograder.engine.sandbox import Sandbox
from autograder.intake.plan import plan
from autograder.intake.sources import defined
from autograder.intake.submission import Submission
from autograder.results.gradebook import executed

DICE = random.Random(0)


@pytest.fixture(scope="module")
def box(bubblewrap):
    with Sandbox("bwrap", modules=Assignment.load(STAGE).modules()) as made:
        yield made


def named(notebook, name):
    return next(cell for cell in notebook["cells"] if grade_id(cell) == name)


def planned(notebook):
    data = human_edits.file_of(notebook)
    return plan(Submission("s", STAGE, "", lambda: data), Assignment.load(STAGE), 7, "needed")


def graded(notebook, box):
    row = planned(notebook)
    job = job_of(row, Assignment.load(STAGE), "needed")
    for cell, of in zip(job["cells"], row.cells, strict=True):
        cell["source"] = "" if kind_of(of) == "maybe" else cell["source"]  # demonstrations, which take most of the time
    row.finish(oracle.grade({**job, "cell_seconds": 30, "seconds": 120}, box))
    return row


def with_answer(change, name="layer"):
    notebook = human_edits.solved(STAGE)
    cell = named(notebook, name)
    cell["source"] = change(cell["source"])
    return notebook


def with_cells(place_of, *new, name="layer"):
    """The worked notebook with new cells above (0) or below (1) an answer."""
    notebook = human_edits.solved(STAGE)
    at = place(notebook, named(notebook, name)) + place_of
    notebook["cells"][at:at] = new
    return notebook


def split(first, second):
    notebook = human_edits.solved(STAGE)
    cell = named(notebook, "layer")
    at = place(notebook, cell)
    answer = cell["source"]
    notebook["cells"][at : at + 1] = [twin(cell, first or answer, DICE), twin(cell, second or answer, DICE)]
    return notebook


def typed_again(name):
    notebook = human_edits.solved(STAGE)
    at = place(notebook, named(notebook, name))
    notebook["cells"][at] = code(notebook["cells"][at]["source"], DICE)
    return notebook


def merged():
    notebook = human_edits.solved(STAGE)
    below = named(notebook, "wrapper")
    named(notebook, "layer")["source"] += "\n\n" + below["source"]
    notebook["cells"].remove(below)
    return notebook


def in_the_check_cell():
    """The answer is typed into the locked cell below its own."""
    notebook = human_edits.solved(STAGE)
    release, _ = grade_course.notebooks()
    cell = named(notebook, "bugs")
    check = named(notebook, "check_2_7")
    check["source"] = cell["source"] + "\n\n" + check["source"]
    cell["source"] = "".join(next(c["source"] for c in release["cells"] if grade_id(c) == "bugs"))
    return notebook


def without_metadata():
    """An editor dropped nbgrader's metadata, and the format knows no ids."""
    notebook = human_edits.solved(STAGE)
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        del cell["id"]
    return notebook | {"nbformat_minor": 4}


def with_every_line():
    """All lines of `human_edits` above the answers: those of IPython that take the whole cell above one each."""
    notebook, lines = human_edits.solved(STAGE), list(human_edits.LINES)
    if ipywidgets.__version__.startswith("7."):  # its bars warn, and another of these lines makes warnings errors
        lines = [line for line in lines if "tqdm.notebook" not in line]
    whole = [line for line in lines if line.startswith("%%")]
    layer = named(notebook, "layer")
    stop = "\n        import pdb; pdb.set_trace(); breakpoint()"
    answer = layer["source"].replace("def forward(self, x):", f"def forward(self, x):{stop}")
    layer["source"] = "\n".join([*(line for line in lines if line not in whole), *human_edits.OPAQUE, answer])
    for name, line in zip(("wrapper", "parametrization", "bugs"), whole[-3:], strict=True):
        named(notebook, name)["source"] = f"{line}\n{named(notebook, name)['source']}"
    return notebook


def in_a_module(taken, above):
    """The answers of a cell stand in a module that a cell of the student's writes; the released cell stays."""
    notebook = human_edits.solved(STAGE)
    cell = named(notebook, "bugs")
    source, cell["source"] = cell["source"], human_edits.gap_of(cell, STAGE)
    at = place(notebook, cell) + (not above)
    imports = "import math\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F"
    module = f"%%writefile mine.py\n{imports}\n{source}"
    notebook["cells"][at:at] = [code(module, DICE), code(taken, DICE)]
    return notebook


def of_one_cell(change, name="bugs"):
    """Another form of a cell's source, which `planned` has to read as it was."""
    notebook = human_edits.solved(STAGE)
    cell = named(notebook, name)
    kept = cell["source"]
    cell["source"] = change(kept)
    return notebook, kept


PERCENT = 'raise ValueError(\n                "rank must be at least 1, got %d"\n                % rank\n            )'
HELPER = "import my_helper\n"
EDITED = {
    "every line that people have": with_every_line(),
    "imports below a magic": with_answer(
        lambda s: "%matplotlib inline\nimport numpy as np\n" + s.replace("math.", "np.")
    ),
    "modulo": with_answer(lambda s: s.replace('raise ValueError(f"rank must be at least 1, got {rank}")', PERCENT)),
    "a drive mounted on Colab": with_answer(
        lambda s: (
            "import inspect\nfrom google.colab import drive\ndrive.mount('/content/drive')\n"
            f"inspect.getmodule(compile('1', 'nowhere', 'exec'))  # looks through all modules\n{s}"
        )
    ),
    "a helper module": with_cells(0, code("%%writefile my_helper.py\nhalf = 0.5", DICE)),
    "split off a demonstration": split("", "demo = LoRALayer(3, 4, 2, 1)\nprint(demo.scaling)"),
    "split off a helper": split("def scale(alpha, rank):\n    return alpha / rank", ""),
    "copied for an experiment": with_cells(
        1, twin({"cell_type": "code", "metadata": {}}, "class Try:\n    pass", DICE)
    ),
    "typed again": typed_again("layer"),
    "functions typed again": typed_again("bugs"),
    "merged": merged(),
    "in the check cell": in_the_check_cell(),
    "without metadata": without_metadata(),
    "hooks for all modules": with_answer(
        lambda s: f"import torch\ntorch.nn.modules.module.register_module_forward_hook(lambda *a: a[2] * 0)\n{s}"
    ),
}
EDITED["a helper module"] = copy.deepcopy(EDITED["a helper module"])
named(EDITED["a helper module"], "layer")["source"] = HELPER + named(EDITED["a helper module"], "layer")["source"]


for number, taken in enumerate(
    ("from mine import *", "%run mine.py", "exec(open('mine.py').read())", "import mine\nglobals().update(vars(mine))")
):
    EDITED[f"a module taken by {taken}"] = in_a_module(taken, number % 2)
EDITED["a module taken below the check"] = below = in_a_module("%run -i mine.py", True)
below["cells"].append(below["cells"].pop(next(n for n, c in enumerate(below["cells"]) if "%run" in c["source"])))


@pytest.mark.parametrize("what", EDITED)
def test_an_edit_costs_nothing(what, box):
    row = graded(EDITED[what], box)
    assert row.score == FULL, [result.message for result in row.results]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("rank = int(input('rank? '))", "EOFError: input('rank? ') has nobody to answer it"),
        ("import a_package_of_mine", "ModuleNotFoundError: No module named 'a_package_of_mine'"),
        ("import urllib.request; urllib.request.urlopen('http://example.invalid')", "URLError"),
        ("match 1: case", "SyntaxError"),
        ("exit_status = 1/0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_name_that_is_missing_says_why(line, error, box):
    row = graded(with_answer(lambda s: f"{line}\n{s}"), box)
    assert f"LoRALayer is not defined.  Likely: its cell raised {error}" in row.results[0].message


@pytest.mark.parametrize(
    ("line", "names"),
    [
        *(
            (line, ["f"])
            for line in ("import torch?", "plt.plot??", "?torch", "!ls", "a, b = !ls", "x = %pwd", "%%time")
        ),
        *((line, ["f"]) for line in ("%matplotlib inline", "await g()")),
        *((line, []) for line in ("%%writefile a.py", "%%bash", "%%html", "def broken(:")),
    ],
)
def test_what_a_cell_with_lines_of_ipythons_defines(line, names):
    assert [name for name, _ in defined(f"{line}\ndef f(x):\n    return x % 2\n")] == names


@pytest.mark.parametrize("kind", ["markdown", "raw", "fenced"])
@pytest.mark.parametrize("known", [True, False])
def test_an_answer_in_a_text_cell_beside_the_gap_runs(kind, known):
    """A slip of the keyboard, with the released cell still there, and with or without nbgrader's metadata."""
    notebook = human_edits.solved(STAGE)
    cell = named(notebook, "parametrization")
    gap = twin(cell, human_edits.gap_of(cell, STAGE), DICE)
    notebook["cells"].insert(place(notebook, cell) + 1, gap)
    cell["cell_type"], answer = kind.replace("fenced", "markdown"), cell["source"]
    if kind == "fenced":
        cell["source"] = f"```python\n{answer}\n```"
    if not known:
        cell["metadata"], cell["id"] = {}, "new"
    row = planned(notebook)
    sources = [c["source"] for c in row.cells if c["cell_type"] == "code"]
    assert [s.strip() for s in sources if "class LoRAParametrization" in s] == [answer.strip()]
    assert "its code ran" in " ".join(row.notes)


def test_an_answer_in_fences_in_a_text_cell_runs():
    notebook = human_edits.solved(STAGE)
    cell = named(notebook, "bugs")
    text = f"My answer:\n\n```python\n{cell['source']}\n```\nIt took me an hour."
    cell["source"] = human_edits.gap_of(cell, STAGE)
    notebook["cells"].insert(place(notebook, cell) + 1, markdown(text, DICE))
    row = planned(notebook)
    assert "its code ran" in " ".join(row.notes)
    (source,) = [c["source"] for c in row.cells if "# It took me an hour." in c["source"]]
    assert [name for name, _ in defined(source)] == ["project_up", "fold_in", "make_factors"]


@pytest.mark.parametrize("end", ["\u2028", "\x0c", "\x85", "\x1c"])
def test_what_only_python_takes_for_no_end_of_a_line_stays_in_its_text(end):
    """Definitions that are still the gap are blanked by the lines that Python counts."""
    notebook = human_edits.solved(STAGE)
    cell, other = named(notebook, "layer"), named(notebook, "wrapper")
    cell["source"] = f"text = 'a{end}b'\n{human_edits.gap_of(other, STAGE)}\n\n{cell['source']}"
    row = planned(notebook)
    source = next(c["source"] for c in row.cells if grade_id(c) == "layer")
    assert [name for name, _ in defined(source)] == ["text", "LoRALayer"]


@pytest.mark.parametrize(
    "change",
    [
        lambda source: "\ufeff" + source,
        lambda source: source.splitlines(),
        lambda source: [line + "\r" for line in source.splitlines()],
    ],
)
def test_a_cell_is_read_however_its_lines_were_kept(change):
    notebook, kept = of_one_cell(change)
    row = planned(notebook)
    assert next(c["source"] for c in row.cells if grade_id(c) == "bugs").rstrip() == kept.rstrip()


def test_a_notebook_as_jupyter_s_server_sends_it_is_one():
    notebook = human_edits.solved(STAGE)
    sent = {"name": "02.ipynb", "type": "notebook", "format": "json", "content": notebook}
    assert planned(sent).open == planned(notebook).open == set()


@pytest.mark.parametrize("first", ["the released", "the solved"])
def test_a_notebook_pasted_below_another_has_no_gaps(first):
    notebook, released = human_edits.solved(STAGE), grade_course.notebooks()[0]["cells"]
    both = [released, notebook["cells"]] if first == "the released" else [notebook["cells"], released]
    row = planned(notebook | {"cells": [cell for cells in both for cell in cells]})
    assert row.open == set()
    code_of = ["".join(cell["source"]) for cell in row.cells if cell["cell_type"] == "code"]
    assert not any('raise NotImplementedError("Exercise' in source for source in code_of)
    assert "counts as nothing" in " ".join(row.notes)


@pytest.mark.parametrize("needs", ["import late_helper", "late = open('late_helper.py').read()"])
def test_what_needs_a_file_that_a_later_cell_writes_runs_at_the_end(needs, box):
    notebook = with_answer(lambda s: f"{needs}\n{s}")
    notebook["cells"].append(code("%%writefile late_helper.py\nhalf = 0.5", DICE))
    row = graded(notebook, box)
    assert row.score == FULL, [result.message for result in row.results]
    assert "put it below that cell" in " ".join(row.notes)


# --- written answers ------------------------------------------------------------------------------------------------

ANSWER = "Both start at zero, so no gradient: B = 0 alone leaves the model as it was and still learns."


def unanswered():
    notebook = human_edits.solved(STAGE)
    named(notebook, "written_2_8")["source"] = "YOUR ANSWER HERE"
    return notebook


def beside(offset, cell):
    notebook = unanswered()
    notebook["cells"].insert(place(notebook, named(notebook, "written_2_8")) + offset, cell)
    return notebook


def made_again():
    notebook = unanswered()
    notebook["cells"][place(notebook, named(notebook, "written_2_8"))] = markdown(ANSWER, DICE)
    return notebook


def in_the_locked_cell():
    notebook = unanswered()
    named(notebook, "scheme_2_8")["source"] += f"\n\n{ANSWER}"
    return notebook


def elsewhere():
    notebook = unanswered()
    notebook["cells"].insert(2, markdown(f"2.8: {ANSWER}", DICE))
    return notebook


def shown(row):
    row.status = "graded"
    row.results = graded_results()
    return json.dumps(executed(Assignment.load(STAGE), row))


def graded_results():
    from autograder.evaluation import stopped

    return [stopped(f"2.{n}", "not run") for n in range(1, 8)]


@pytest.mark.parametrize(
    "notebook",
    [
        *(beside(1, markdown(ANSWER, DICE)), beside(0, markdown(ANSWER, DICE)), made_again(), in_the_locked_cell()),
        *(elsewhere(), beside(1, {**markdown(ANSWER, DICE), "cell_type": "raw"}), beside(1, code(f"# {ANSWER}", DICE))),
    ],
)
def test_what_is_written_near_an_open_question_waits_for_a_person(notebook):
    row = planned(notebook)
    assert row.waits == {"written_2_8"}
    assert "written_2_8" not in row.open
    assert any("2.8" in note for note in row.notes)
    assert ANSWER in shown(row)


@pytest.mark.parametrize("notebook", [unanswered(), beside(-30, markdown("To do: read section two again", DICE))])
def test_where_nothing_is_written_nobody_waits(notebook):
    row = planned(notebook)
    assert (row.open, row.waits) == ({"written_2_8"}, set())


def picture(kind="PNG", size=(3, 2), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind, **options)
    return buffer.getvalue()


def test_pictures_are_encoded_again():
    secret = b"<script>in a comment</script>"
    data = base64.b64encode(picture("JPEG", comment=secret)).decode()
    notebook = unanswered()
    cell = named(notebook, "written_2_8")
    cell["attachments"] = {"image.png": {"image/jpeg": data}}
    cell["source"] = "![see](attachment:image.png)"
    inline = base64.b64encode(picture()).decode()
    notebook["cells"].append(markdown(f"Colab's: ![a](data:image/png;base64,{inline})", DICE))
    broken = markdown("![b](attachment:x.svg)", DICE) | {
        "attachments": {"x.svg": {"image/svg+xml": "<svg onload=alert(1)>"}}
    }
    notebook["cells"].append(broken)
    row = planned(notebook)
    assert not row.open
    text = shown(row)
    assert "![see](attachment:picture-1.jpeg)" in text
    assert "![a](attachment:picture-2.png)" in text
    assert "can't be shown" in text
    assert "onload" not in text
    kept = next(c for c in row.cells if grade_id(c) == "written_2_8")["attachments"]["picture-1.jpeg"]["image/jpeg"]
    assert secret not in base64.b64decode(kept)


def test_a_picture_alone_is_an_answer():
    notebook = unanswered()
    data = base64.b64encode(picture()).decode()
    named(notebook, "written_2_8")["attachments"] = {"image.png": {"image/png": data}}
    assert not planned(notebook).open
