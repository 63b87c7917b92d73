"""The same texts and the same points on every processor.

Other processors are had on this one: libraries take the paths that they would take there, each setting in a process of
its own. One more processor does not exist: it rounds as badly as any may (`other_rounding`).
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autograder import messages
from autograder.exercises import STAGES

#: The stages whose numbers come from singular values.
SINGULAR = ("01_rank_theory", "05_analysis")
PROGRAM = Path(__file__).with_name("one_processor.py")
_ANY = {"MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Nehalem"}
#: A processor's name -> environment and options of `one_processor`.
PROCESSORS = {
    "this one": ({}, []),
    "without vectors": ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", **_ANY}, []),
    "AVX2, two threads": (
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_CBWR": "AVX2",
            "OPENBLAS_CORETYPE": "Haswell",
        },
        ["--threads", "2"],
    ),
    "AVX-512 without matrices": (
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_CBWR": "AVX512", "OPENBLAS_CORETYPE": "SkylakeX"},
        ["--threads", "2"],
    ),
    "one way of rounding": ({}, ["--rounding", "1"]),
    "another way of rounding": ({"ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell"}, ["--rounding", "2"]),
}


def answers(processor, *options):
    """What `one_processor` prints there."""
    environment, own = PROCESSORS[processor]
    variables = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **environment}
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(PROGRAM), *own, *options]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def assert_same(found):
    """The kept table's rows, notebooks as they are, and no point lost by a right answer."""
    kept = dict(re.findall(r"^\| `(.+?)`<br>(?:.*?) \| (.*) \|$", messages.TABLE.read_text(encoding="utf-8"), re.M))
    assert found["messages"]
    for name, seen in found["messages"].items():
        assert messages.cell(seen) == kept[name]
    assert {name: lost for name, lost in found["right"].items() if any(lost)} == {}
    assert found["stale"] == []


def test_where_no_vector_unit_is_the_table_is_the_same():
    """A part of it; the slow test has the whole."""
    found = answers("without vectors", "--stages", *SINGULAR, "02_lora_layer", "--share", "3")
    assert_same(found)
    points = {exercise.id: exercise.points for stage in STAGES for exercise in STAGES[stage]}
    assert all(earned < points[name.partition("/")[0]] for name, (earned,) in found["points"].items())


@pytest.mark.slow
def test_rounding_that_no_processor_has_changes_no_text_where_it_matters_most():
    """The exercises on singular values, whose small ones are rounding and nothing else."""
    assert_same(answers("one way of rounding", "--stages", *SINGULAR, "--share", "4"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_processor_gives_the_same_texts_and_points(stage):
    here = answers("this one", "--stages", stage, "--seeds", "5")
    assert_same(here)
    for processor in PROCESSORS:
        if processor != "this one":
            found = answers(processor, "--stages", stage, "--seeds", "5")
            assert_same(found)
            assert found == here, processor
