"""What students and their editors do to a notebook that is right, at random: for the tests that no point is lost."""

from __future__ import annotations

import ast
import copy
import json
import random
import re
from typing import Any

import grade_course

from autograder.engine.assignment import grade_id, nbgrader, source_of
from autograder.publish.preprocessors import clear_gaps

Notebook = dict[str, Any]
LINES = (
    *("%matplotlib inline", "%matplotlib widget", "%matplotlib notebook", "%load_ext autoreload\n%autoreload 2"),
    *(
        "%load_ext tensorboard",
        "!pip install -q peft",
        "%pip install einops",
        "%config InlineBackend.figure_format='svg'",
    ),
    *("%time sum(range(10))", "!ls", "%env A=1", "%gui qt"),
    *("import asyncio\nawait asyncio.sleep(0)", "shell = get_ipython()", "display('a text')", "%who", "import torch?"),
    *("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()", "print(__name__)", "get_ipython().system('ls')"),
    *("import torch\ntorch.set_default_device('cuda')", "import torch\ntorch.set_grad_enabled(False)", "%%time"),
    *("import torch\ntorch.set_default_dtype(torch.float64)", "import torch\ntorch.inference_mode().__enter__()"),
    *("import numpy as np\nnp.seterr(all='raise')", "import warnings\nwarnings.simplefilter('error')", "%%capture"),
    *("import torch\ntorch.autograd.set_detect_anomaly(True)", "import random\nrandom.seed(7)", "%xmode minimal"),
    *('#@title My answer { display-mode: "form" }', '#@markdown A form\nr = 8 #@param {type:"integer"}', "#| export"),
    *("get_ipython().run_line_magic('matplotlib', 'inline')", "get_ipython().magic('matplotlib inline')", "%reset -f"),
    *("%%capture out\n%matplotlib inline", "!nvidia-smi", "!apt-get install -y git", "%cd .", "%precision 3", "%%prun"),
    *("from tqdm.notebook import tqdm\nfor _ in tqdm(range(2)): pass", "from IPython.display import clear_output"),
    *("import os\nos.environ['CUDA_VISIBLE_DEVICES'] = '0'", "import sys\nsys.path.append('/content/drive/MyDrive')"),
    *("import logging\nlogging.basicConfig(level=logging.DEBUG)", "import os\nos.makedirs('a', exist_ok=True)"),
    *("async def of_mine():\n    return 4\nassert await of_mine() == 4", "filter = None\ninput = 3\nid = 4", "exit"),
    *("%history -n", "%%time\n%matplotlib inline", "_ = 5"),
    *("import torch\ntorch.set_num_interop_threads(2)", "import matplotlib\nmatplotlib.use('TkAgg')"),
    "from IPython.core.display import display, HTML\nfrom IPython.display import set_matplotlib_formats",
    "import faulthandler, sys\nfaulthandler.enable()\nsys.stdout.reconfigure(encoding='utf-8')",
    *(
        "from IPython.core.interactiveshell import InteractiveShell as S\nS.ast_node_interactivity = 'all'",
        "%alias d ls",
    ),
    *("import torch\ntorch.manual_seed(0)\ntorch.use_deterministic_algorithms(True)", "import gc\ngc.collect();"),
    *("import torch\ntorch.set_num_threads(2)\ntorch.set_printoptions(precision=2)", "%timeit -n1 -r1 sum([1])"),
    *(
        "try:\n    import google.colab\nexcept ImportError:\n    pass",
        "import os\nif 'google.colab' in str(get_ipython()): 1/0",
        "from google.colab import drive, files\ndrive.mount('/content/drive')",
    ),
)
#: Lines that may use any name, so that all of a notebook runs.
OPAQUE = (
    "files = !ls",
    "%pylab inline",
    "%nowhere to be found",
    "import builtins\nbuiltins.print = lambda *a, **k: None",
)


def solved(stage: str) -> Notebook:
    """The released notebook with the worked answers in it."""
    release, worked = grade_course.notebooks(stage)
    right = {name: source_of(cell) for cell in worked["cells"] if (name := grade_id(cell))}
    for cell in release["cells"]:
        cell["source"] = source_of(cell)
        if nbgrader(cell).get("solution"):
            answer = right[grade_id(cell)]
            cell["source"] = clear_gaps(answer, keep=grade_course.ALL) if cell["cell_type"] == "code" else answer
    return release


def edited(stage: str, dice: random.Random, most: int, quick: bool = False) -> tuple[Notebook, list[str]]:
    """A worked notebook after some edits, as an editor saves it; and what was done.

    Args:
        most: edits.
        quick: none that makes all demonstrations run.
    """
    notebook, done = solved(stage), []
    edits = [edit for edit in EDITS if not (quick and edit in (a_written_module, an_opaque_line))]
    for _ in range(dice.randint(1, most)):
        edit = dice.choice(edits)
        edit(notebook, dice, stage)
        done.append(edit.__name__)
    editor = dice.choice(EDITORS)
    editor(notebook, dice)
    return notebook, [*done, editor.__name__]


def code(source: str, dice: random.Random) -> dict[str, Any]:
    """A new code cell."""
    new = {"cell_type": "code", "id": f"new-{dice.randrange(10**9)}", "metadata": {}, "outputs": []}
    return {**new, "execution_count": None, "source": source}


def markdown(source: str, dice: random.Random) -> dict[str, Any]:
    """A new Markdown cell."""
    return {"cell_type": "markdown", "id": f"new-{dice.randrange(10**9)}", "metadata": {}, "source": source}


def answers(notebook: Notebook) -> list[dict[str, Any]]:
    """The answer cells with code in them that an edit can be made to; no copy of a gap."""
    code = [c for c in notebook["cells"] if c["cell_type"] == "code" and nbgrader(c).get("solution") and c["source"]]
    return [cell for cell in code if 'raise NotImplementedError("Exercise' not in cell["source"]]


def an_answer(notebook: Notebook, dice: random.Random) -> dict[str, Any]:
    """One of `answers`, noted as touched; where all have gone, any code cell."""
    cell = dice.choice(answers(notebook) or [c for c in notebook["cells"] if c["cell_type"] == "code"])
    return touched(notebook, cell)


def touched(notebook: Notebook, cell: dict[str, Any]) -> dict[str, Any]:
    """The cell, with what it defines under the notebook's ``"touched"``: what a test has to look at."""
    notebook.setdefault("touched", []).extend(re.findall(r"^(?:class|def) (\w+)", cell["source"], re.MULTILINE))
    return cell


def gap_of(cell: dict[str, Any], stage: str) -> str:
    """What an answer cell is as it is released; "" of others."""
    release, _ = grade_course.notebooks(stage)
    name = grade_id(cell)
    return next((source_of(c) for c in release["cells"] if name and grade_id(c) == name), "")


def place(notebook: Notebook, cell: dict[str, Any]) -> int:
    return next(n for n, other in enumerate(notebook["cells"]) if other is cell)


def twin(cell: dict[str, Any], source: str, dice: random.Random) -> dict[str, Any]:
    """A copy of a cell with its metadata, as Jupyter makes one, and another source."""
    return {**copy.deepcopy(cell), "id": f"twin-{dice.randrange(10**9)}", "source": source}


# --- edits ----------------------------------------------------------------------------------------------------------


def split(notebook: Notebook, dice: random.Random, stage: str) -> None:
    cell = an_answer(notebook, dice)
    try:
        body = ast.parse(cell["source"]).body
    except SyntaxError:
        return
    if len(body) < 2:
        return
    node, lines = dice.choice(body[1:]), cell["source"].splitlines()
    at = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))]) - 1
    first, second = "\n".join(lines[:at]), "\n".join(lines[at:])
    cell["source"] = first
    notebook["cells"].insert(place(notebook, cell) + 1, twin(cell, second, dice))


def copy_for_an_experiment(notebook: Notebook, dice: random.Random, stage: str) -> None:
    cell = an_answer(notebook, dice)
    source = dice.choice(("# scratch\nclass Try:\n    pass", "scratch = 1 + 1", "", "# " + cell["source"][:50]))
    at = dice.choice((place(notebook, cell), place(notebook, cell) + 1, len(notebook["cells"])))
    notebook["cells"].insert(at, twin(cell, source.splitlines()[0] if source.startswith("# c") else source, dice))


def keep_the_gap(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """The released cell is there as well, above or below the answer."""
    cell = an_answer(notebook, dice)
    if grade_id(cell):
        new = twin(cell, gap_of(cell, stage), dice)
        notebook["cells"].insert(place(notebook, cell) + dice.choice((0, 1)), new)


def type_again(notebook: Notebook, dice: random.Random, stage: str) -> None:
    cell = an_answer(notebook, dice)
    notebook["cells"][place(notebook, cell)] = code(cell["source"], dice)


def merge(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """With the next code cell that the student wrote, or the check below."""
    cell = an_answer(notebook, dice)
    at = place(notebook, cell)
    below = [c for c in notebook["cells"][at + 1 :] if c["cell_type"] == "code" and nbgrader(c)]
    if below and "%%" not in below[0]["source"] + cell["source"]:
        cell["source"] += "\n\n" + touched(notebook, below[0])["source"]
        del notebook["cells"][place(notebook, below[0])]


def move(notebook: Notebook, dice: random.Random, stage: str) -> None:
    cell = an_answer(notebook, dice)
    at = place(notebook, cell)
    del notebook["cells"][at]
    to = dice.choice((at - 2, at - 1, at + 1, at + 2, at + 3, 2, len(notebook["cells"])))
    notebook["cells"].insert(max(0, to), cell)


def a_helper_cell(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """An answer's code stands in a cell of the student's own, and its cell says so."""
    cell = an_answer(notebook, dice)
    new = code(cell["source"], dice)
    notebook["cells"].insert(place(notebook, cell) + dice.choice((0, 1)), new)
    cell["source"] = dice.choice(("# see the cell beside this one", "", "pass"))


def a_module_of_a_cell(notebook: Notebook, dice: random.Random, stage: str) -> None:
    cell, name = an_answer(notebook, dice), f"helper{dice.randrange(1000)}"
    if cell["source"].startswith("%%"):
        return
    write = dice.choice(
        ("%%writefile {0}.py\nvalue = 3", "open('{0}.py', 'w').write('value = 3')", "!echo value=3 > {0}.py")
    )
    notebook["cells"].insert(place(notebook, cell), code(write.format(name), dice))
    cell["source"] = f"import {name}\nassert {name}.value == 3\n{cell['source']}"


def a_line(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """A magic, or a setting of torch's for everything, above an answer or in a cell of its own."""
    _put_line(notebook, dice, dice.choice(LINES))


def an_opaque_line(notebook: Notebook, dice: random.Random, stage: str) -> None:
    _put_line(notebook, dice, dice.choice(OPAQUE))


def _put_line(notebook: Notebook, dice: random.Random, line: str) -> None:
    cell = an_answer(notebook, dice)
    if line.startswith("%%") or cell["source"].startswith("%%"):
        if not cell["source"].startswith("%%"):
            cell["source"] = f"{line}\n{cell['source']}"
    elif dice.random() < 0.5:
        cell["source"] = f"{line}\n{cell['source']}"
    else:
        notebook["cells"].insert(place(notebook, cell), code(line, dice))


def more_set_up(notebook: Notebook, dice: random.Random, stage: str) -> None:
    cell = next((c for c in notebook["cells"] if grade_id(c) == "setup"), None)
    answer = an_answer(notebook, dice)
    if cell is None or answer["source"].startswith("%%"):
        return
    line = dice.choice(
        ("import itertools as of_mine", "of_mine = 4", "def of_mine():\n    pass", "from math import sqrt as of_mine")
    )
    cell["source"] = f"{line}\n{cell['source']}" if dice.random() < 0.5 else f"{cell['source']}\n{line}"
    answer["source"] += "\n_ = of_mine\n"


def notes_and_pictures(notebook: Notebook, dice: random.Random, stage: str) -> None:
    at = dice.randrange(len(notebook["cells"]) + 1)
    new = markdown("My own notes: $W + BA$", dice)
    if dice.random() < 0.5:
        new["attachments"] = {"image.png": {"image/png": "iVBORw0KGgo="}}
    notebook["cells"].insert(at, new)


def no_demonstrations(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """Some cells that are not answers are deleted, or made text."""
    spare = [c for c in notebook["cells"] if not nbgrader(c) and c["id"].isalnum()]
    for cell in dice.sample(spare, min(5, len(spare))):
        if cell["cell_type"] == "code" and dice.random() < 0.3:
            cell["cell_type"] = "markdown"
        else:
            del notebook["cells"][place(notebook, cell)]


def no_checks(notebook: Notebook, dice: random.Random, stage: str) -> None:
    checks = [c for c in notebook["cells"] if nbgrader(c).get("locked") and nbgrader(c).get("grade")]
    for cell in dice.sample(checks, min(2, len(checks))):
        if dice.random() < 0.5:
            del notebook["cells"][place(notebook, cell)]
        else:
            notebook["cells"].insert(place(notebook, cell), twin(cell, cell["source"] + "\n", dice))


def below_the_check(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """The answer is typed into a new cell below the check; its own stays as it was, or goes."""
    cell = an_answer(notebook, dice)
    at = place(notebook, cell)
    checks = [n for n, c in enumerate(notebook["cells"]) if n > at and nbgrader(c).get("locked")]
    notebook["cells"].insert((checks or [at])[0] + 1, code(cell["source"], dice))
    gap = gap_of(cell, stage)
    if dice.random() < 0.5 and gap:
        cell["source"] = gap
    else:
        notebook["cells"].remove(cell)


def the_gaps_line_is_left(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """``raise NotImplementedError`` stands where nothing gets to, or in a comment."""
    cell = an_answer(notebook, dice)
    lines = cell["source"].splitlines()
    last = next((n for n in range(len(lines) - 1, -1, -1) if lines[n].lstrip().startswith("return ")), None)
    if last is not None and lines[last].count("(") == lines[last].count(")"):
        indent = lines[last][: len(lines[last]) - len(lines[last].lstrip())]
        lines.insert(last + 1, f"{indent}{dice.choice(('', '# '))}raise NotImplementedError('Exercise 2.1')")
    cell["source"] = "\n".join(lines)


def a_method_of_its_own(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """A method is written, or written again, in a cell below its class and put into it."""
    cell = an_answer(notebook, dice)
    try:
        nodes = [node for node in ast.parse(cell["source"]).body if isinstance(node, ast.ClassDef)]
    except SyntaxError:
        return
    plain = [
        (node, method)
        for node in nodes
        for method in node.body
        if isinstance(method, ast.FunctionDef) and not method.decorator_list and "super()" not in ast.unparse(method)
    ]
    if not plain:
        return
    node, method = dice.choice(plain)
    own = f"{ast.unparse(method)}\n\n{node.name}.{method.name} = {method.name}\ndel {method.name}"
    notebook["cells"].insert(place(notebook, cell) + 1, dice.choice((twin(cell, own, dice), code(own, dice))))


def wrapped(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """An answer stands in a block, or its lines end as Windows ends them, or it has a main guard."""
    cell = an_answer(notebook, dice)
    if re.search(r"^[ \t]*[%!]|\"\"\"", cell["source"], re.MULTILINE) or not cell["source"].strip():
        return
    body = "\n".join(f"    {line}" for line in cell["source"].splitlines())
    around = (
        "if True:\n{0}",
        "if __name__ == '__main__':\n{0}",
        "try:\n{0}\nfinally:\n    pass",
        "for _ in range(1):\n{0}",
    )
    cell["source"] = dice.choice(around).format(body)


def windows_lines(notebook: Notebook, dice: random.Random, stage: str) -> None:
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].replace("\n", dice.choice(("\r\n", "\n")))


def a_written_module(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """A whole answer goes through a file: written by a cell, and taken from it."""
    cell, name = an_answer(notebook, dice), f"module{dice.randrange(1000)}"
    release, _ = grade_course.notebooks(stage)
    first = next(source_of(c) for c in release["cells"] if grade_id(c) == "setup")
    if re.search(r"^[ \t]*[%!]|= *!|get_ipython|await|of_mine", cell["source"] + first, re.MULTILINE):
        return
    notebook["cells"].insert(place(notebook, cell), code(f"%%writefile {name}.py\n{cell['source']}", dice))
    take = ("%run -i {0}.py", "exec(open('{0}.py').read())", "%load {0}.py\n{1}")
    cell["source"] = dice.choice(take).format(name, cell["source"])


def one_cell(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """All answers are typed into the first answer's cell, whatever headings stand between."""
    cells = [cell for cell in answers(notebook) if not cell["source"].startswith("%%")]
    for cell in cells[1:]:
        cells[0]["source"] += "\n\n" + touched(notebook, cell)["source"]
        cell["source"] = gap_of(cell, stage) if dice.random() < 0.5 else ""


def alike_ids(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """Ids that are there twice, as some editors make them of a copy; or none of the released ones."""
    for cell in dice.sample(notebook["cells"], 6) if dice.random() < 0.5 else notebook["cells"]:
        cell["id"] = dice.choice(notebook["cells"])["id"]


def another_type(notebook: Notebook, dice: random.Random, stage: str) -> None:
    """A slip of the keyboard: a code cell is Markdown."""
    cell, kind = an_answer(notebook, dice), dice.choice(("markdown", "raw", "fenced"))
    cell["cell_type"] = kind if kind != "fenced" else "markdown"
    if kind == "fenced":
        cell["source"] = f"```python\n{cell['source']}\n```"


EDITS = (
    *(split, copy_for_an_experiment, keep_the_gap, type_again, merge, move, a_helper_cell, a_module_of_a_cell, a_line),
    *(a_line, a_line, more_set_up, notes_and_pictures, no_demonstrations, no_checks, another_type, below_the_check),
    *(the_gaps_line_is_left, a_method_of_its_own, wrapped, windows_lines, a_written_module, one_cell, alike_ids),
    an_opaque_line,
)


# --- editors --------------------------------------------------------------------------------------------------------


def _saved(notebook: Notebook, dice: random.Random, minor: int) -> None:
    """Numbers and outputs as a run leaves them, sources as lines, ids as the format has them."""
    notebook["nbformat"], notebook["nbformat_minor"] = 4, minor
    for count, cell in enumerate(notebook["cells"]):
        if minor < 5:
            cell.pop("id", None)
        if dice.random() < 0.5:
            cell["source"] = re.findall(r".*\n|.+\Z", cell["source"])
        if cell["cell_type"] == "code":
            cell["execution_count"] = dice.choice((None, count, 999 - count))
            cell["outputs"] = dice.choice(([], [{"output_type": "stream", "name": "stdout", "text": "0\n"}]))
        else:
            cell.pop("outputs", None), cell.pop("execution_count", None)


def jupyterlab(notebook: Notebook, dice: random.Random) -> None:
    kinds = ({}, {"trusted": True}, {"editable": True, "slideshow": {"slide_type": ""}}, {"collapsed": True})
    kinds += ({"jupyter": {"source_hidden": True, "outputs_hidden": True}}, {"tags": ["hide-input", "parameters"]})
    for cell in notebook["cells"]:
        cell["metadata"] |= dice.choice(kinds)
    _saved(notebook, dice, dice.choice((4, 5, 5)))


def colab(notebook: Notebook, dice: random.Random) -> None:
    notebook["metadata"] = {"colab": {"provenance": []}, "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook["metadata"] |= {"accelerator": "GPU"}
    for cell in notebook["cells"]:
        cell["metadata"] |= {"id": f"{dice.randrange(16**12):x}", "executionInfo": {"status": "ok"}}
        cell["metadata"] |= dice.choice(({}, {"cellView": "form"}, {"outputId": "0a"}))
    _saved(notebook, dice, 0)


def vs_code(notebook: Notebook, dice: random.Random) -> None:
    kernel = {"name": dice.choice(("python3", "lora", "conda-env-lora-py", "ir")), "display_name": "lora (3.11.4)"}
    notebook["metadata"] = {"kernelspec": kernel, "interactive": {"dependencies": []}, "orig_nbformat": 4}
    for cell in notebook["cells"]:
        cell["metadata"] |= {"vscode": {"languageId": "python"}} if cell["cell_type"] == "code" else {}
    _saved(notebook, dice, dice.choice((1, 2, 3)))


def without_metadata(notebook: Notebook, dice: random.Random) -> None:
    """What Deepnote, Kaggle and converters leave: no metadata of nbgrader's, and ids of their own."""
    notebook["metadata"] = {}
    for cell in notebook["cells"]:
        cell["metadata"] = dice.choice(({}, {"cell_id": "a", "deepnote_cell_type": "code"}, {"execution": {}}))
        cell["id"] = f"{dice.randrange(16**8):08x}"
    _saved(notebook, dice, dice.choice((4, 5)))


EDITORS = (*(jupyterlab, colab, vs_code) * 3, without_metadata)


def file_of(notebook: Notebook, dice: random.Random | None = None) -> bytes:
    """A notebook as a file; with dice, as one of the programs writes it that people open and save it with."""
    if dice is None:
        return json.dumps(notebook).encode()
    for cell in notebook["cells"]:
        if dice.random() < 0.02 and cell.get("outputs"):
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "loss 0.1\n" * 50_000}]
    text = json.dumps(notebook, indent=dice.choice((None, 1, 4)), ensure_ascii=dice.random() < 0.5)
    text = text.replace("\n", dice.choice(("\n", "\r\n")))
    return text.encode(dice.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")), "surrogatepass")
