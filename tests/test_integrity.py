"""Hints that code does what only forging needs, and none for what an honest notebook does."""

from __future__ import annotations

import pytest

from autograder.engine.assignment import Assignment, source_of
from autograder.exercises import STAGES, alternates
from autograder.results.integrity import odd


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("import pickle", "imports pickle"),
        ("import os\nos.system('cp /a /b')", "runs a program"),
        ("import os as o\nx = o.system\nx('ls')\nopen(7, 'wb')", "opens a file by its number"),
        ("get_ipython().system('ls')", "uses get_ipython"),
        ("ip = get_ipython()\nip.run_cell('x')", "uses get_ipython"),
        ("get_ipython().run_line_magic('run', 'x.py')", "uses get_ipython"),
        ("get_ipython().run_cell_magic('time', '', 'x = 1')", "uses get_ipython"),
        ("import glob\nglob.glob('/course/*/layers*')", "names the folder /course/*/layers*"),
        ("open('/proc/self/maps')", "names the folder /proc/self/maps"),
        ("getattr(f, f\"__glo{'bals'}__\")", "names __globals__"),
        ("getattr(f, ''.join(['__glo', 'bals__']))", "names __globals__"),
        ("getattr(f, '__%s__' % 'globals')", "names __globals__"),
        ("getattr(f, '__{}__'.format('globals'))", "names __globals__"),
        ("torch.load('x', weights_only=False)", "unpickles"),
        ("np.load('x', allow_pickle=True)", "unpickles"),
        ("from logging.config import dictConfig", "imports logging.config"),
    ],
)
def test_what_only_forging_needs_is_told(source, hint):
    assert hint in odd(source)


@pytest.mark.parametrize(
    "source",
    [
        "get_ipython().run_line_magic('matplotlib', 'inline')",
        "import platform\nprint(platform.system())",
        "import logging, timeit, time\nlogging.getLogger(__name__)",
        "print('{:9999999999}'.format('x'), '%999999999s' % 'x', f'{1:9999}', f'{width:>{8}}')",
        "state = torch.load('adapter.pt', weights_only=True)\nwith open('notes.txt') as file:\n    file.read()",
        "', '.join(names)\n''.join(['a', 'b'])\n'%s of %s' % (1, 2)\n'{} and {}'.format(1, 2)",
        "path = '/content/course/data.csv'\nopen('/proc/meminfo')",
        "getattr(module, name)\nsetattr(module, name, new)",
    ],
)
def test_what_honest_notebooks_do_is_not(source):
    assert odd(source) == frozenset()


@pytest.mark.parametrize("stage", STAGES)
def test_right_answers_have_no_hint(stage):
    assignment = Assignment.load(stage)
    given = {what for c in assignment.release["cells"] if c["cell_type"] == "code" for what in odd(source_of(c))}
    sources = [source_of(c) for c in assignment.solution["cells"] if c["cell_type"] == "code"]
    sources += [path.read_text(encoding="utf-8") for path in alternates(stage)]
    assert {what for source in sources for what in odd(source)} <= given
