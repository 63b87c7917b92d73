"""The worked notebooks from first cell to last on the tiny profile; stages 3 to 5 with the reader's own code."""

import re

import nbformat
import pytest

from autograder.demo import run_notebook
from autograder.exercises import ROOT, STAGES

SWITCH = "USE_MY_CODE = False"


@pytest.fixture(scope="module", params=STAGES)
def executed(request, tmp_path_factory):
    """(stage, the executed notebook), with ``USE_MY_CODE = True`` in stages 3 to 5."""
    stage = request.param
    notebook = nbformat.read(ROOT / "solutions" / stage / f"{stage}.ipynb", as_version=4)
    switches = [cell for cell in notebook.cells if cell.cell_type == "code" and SWITCH in cell.source]
    assert len(switches) == (1 if stage[:2] in ("03", "04", "05") else 0)
    for cell in switches:
        cell.source = cell.source.replace(SWITCH, "USE_MY_CODE = True")
    path = tmp_path_factory.mktemp("notebook") / f"{stage}.ipynb"
    nbformat.write(notebook, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # the models are tiny, and other tests run beside this one
        return stage, run_notebook(path, "tiny")


def printed(cell):
    """What a cell wrote on stdout."""
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def test_it_runs_passes_its_own_checks_and_describes_its_figures(executed):
    """One run, looked at from all sides: a notebook takes ten seconds."""
    stage, notebook = executed
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        noise = [o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"]
        assert not noise, f"{stage}: on stderr, below a cell that begins {cell.source[:60]!r}: {noise}"
        assert not re.search("After exercise|This cell builds on", printed(cell)), printed(cell)
        figures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        texts = [line for line in printed(cell).splitlines() if len(line) > 60]
        assert len(texts) >= len(figures), f"{stage}: a figure without its text below {cell.source[:80]!r}"
        assert not figures or "nan" not in re.findall(r"[a-z]+", " ".join(texts)), texts
    for exercise in (e for e in STAGES[stage] if not e.manual):
        said = [printed(cell) for cell in code if f'check("{exercise.id}", globals())' in cell.source]
        assert len(said) == 1
        assert "visible checks passed" in said[0], said[0]
        assert f"{exercise.points:g} of {exercise.points:g} points" in said[0], said[0]
