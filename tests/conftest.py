"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import os
import random
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from course_site import make_site
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from autograder.system import BUBBLEWRAP, CHROMIUM, PROGRAMS, Program, left_out, must_run
from lora_ref import assets

ROOT = Path(__file__).resolve().parents[1]
#: What a student's computer runs, on Linux, Windows and macOS: `python -m pytest --student`.
STUDENT_SIDE = [
    "test_adapter_set",
    "test_adapters",
    "test_check_command",
    "test_checks",
    "test_costs",
    "test_data",
    "test_docstrings",
    "test_exercises",
    "test_inject",
    "test_layers",
    "test_masters",
    "test_models",
    "test_opening",
    "test_parametrize",
    "test_peft_format",
    "test_plots",
    "test_plots_injection",
    "test_plots_rank",
    "test_profiles",
    "test_published_mistakes",
    "test_rank",
    "test_stage01",
    "test_stage02",
    "test_stage03",
    "test_stage04",
    "test_stage05",
    "test_training",
    "test_vision",
]


def pytest_addoption(parser):
    parser.addoption("--student", action="store_true", help="the student's side alone, on any system")


def pytest_ignore_collect(collection_path, config):
    """With ``--student``: no module of the instructor's side is even imported, for some import what Linux alone has."""
    name = collection_path.stem
    wanted = not name.startswith("test_") or name in STUDENT_SIDE
    return None if wanted or not config.getoption("--student") else True


# Hypothesis: no time limit on an example, and no examples kept from one run to the next.
settings.register_profile("course", deadline=None, database=None)
settings.load_profile("course")

# What `make test` hands down would change what a make started by a test prints.
for inherited in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(inherited, None)

#: The number from which the tests' order is drawn; pytest-xdist's workers inherit it. Another order at each run.
ORDER = os.environ.setdefault("LORA_TEST_ORDER", str(random.SystemRandom().randrange(10**6)))


def pytest_report_header():
    return [f"random order; the same again: LORA_TEST_ORDER={ORDER}", *left_out(PROGRAMS).splitlines()]


#: What takes longest, most first: the workers end together if nothing long is left for the end.
LONG = [
    "test_exercises",
    "test_notebooks",
    "test_windows",
    "test_grade_cluster",
    "test_student",
    "test_grade_run",
    "test_marking",
    "test_gradescope",
    "test_time_limit",
    "test_site",
    "test_peft_format",
    "test_instructor_guide",
    "test_grade_nbgrader",
    "test_human_edits",
    "test_nbgrader",
    "test_command_line",
    "test_training",
    "test_grade_same",
    "test_colab",
    "test_grade_resume",
    "test_adding_an_exercise",
    "test_adapters",
    "test_processors",
    "test_system",
]


@pytest.hookimpl(tryfirst=True)  # before pytest brings together what shares a fixture's parameter
def pytest_collection_modifyitems(items):
    """A file's tests together, for its fixtures' sake, in random order; so are the files, after the long ones."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    draw = random.Random(ORDER)
    for tests in files.values():
        draw.shuffle(tests)
    order = draw.sample(list(files), len(files))
    order.sort(key=lambda file: LONG.index(file.stem) if file.stem in LONG else len(LONG))
    items[:] = [item for file in order for item in files[file]]


def pytest_collection_finish():
    """What is imported by now stays: without it each collection of garbage, which training asks for, is fast.

    The models here are tiny: a second thread only waits for the first, and beside other work it waits very long.
    """
    gc.collect()
    gc.freeze()
    if "torch" in sys.modules:  # not where workers run the tests, nor where a few tests need no torch
        sys.modules["torch"].set_num_threads(1)


class ByStageOrFile(LoadScopeScheduling):
    """Deals out to pytest-xdist's workers what shares answers or fixtures: a stage's tests, or else a file's."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        stage = re.search(r"\[(\d\d)_", test) if file.endswith("test_exercises.py") else None
        return f"{file}::{stage[1]}" if stage else SAME_WORKER.get(Path(file).stem, file)


#: Files that share a session's fixture with another one: the site is built once.
SAME_WORKER = {"test_pages": "tests/test_site.py"}


def pytest_xdist_auto_num_workers():
    """One more than there are cores: a third of the tests' time they wait, for a kernel, a browser, a limit to pass."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # pytest-xdist reads it
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False  # not by the number of tests: in the order of the collection
    return ByStageOrFile(config, log)


def hears_ctrl_c():
    """For a child process: take SIGINT, which a shell's background jobs (a CI's, say) are born to ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def all_threads():
    """Every core, for real training."""
    import torch

    torch.set_num_threads(max(1, os.cpu_count() or 1))
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def laptop_assets():
    """Folders of the real laptop assets, fetched once a machine; where they cannot be had, the error says why."""
    return assets.fetch_all()


@pytest.fixture
def no_choice(monkeypatch):
    """An environment in which nobody has chosen a profile, a hub or a cache."""
    for name in ("LORA_PROFILE", "LORA_ASSETS_FROM", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


# --- what was handed in -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def assignments():
    """The stage of `grade_course`, as it was released, for `discover`."""
    from grade_course import STAGE

    from autograder.engine.assignment import Assignment

    return {STAGE: Assignment.load(STAGE)}


@pytest.fixture(scope="session")
def complete():
    """A notebook in which all exercises are solved."""
    from grade_course import sample

    return sample("complete")


@pytest.fixture(scope="session")
def half():
    """One with half of them."""
    from grade_course import sample

    return sample("half-done")


# --- what pip does not bring -----------------------------------------------------------------------------


def need(program: Program) -> None:
    """Skip what needs a program that doesn't run here, and say why; with ``CI=true`` that is a failure."""
    problem = program.problem()
    if problem and must_run(program):
        pytest.fail(f"{problem}. To get it: {program.remedy()}")
    if problem:
        pytest.skip(problem)


@pytest.fixture(scope="session")
def site_source(tmp_path_factory):
    """The course in a folder of its own, for Sphinx: it writes pages below docs/ and its cache to build/."""
    root = tmp_path_factory.mktemp("site-source")
    for path in ROOT.iterdir():
        if path.name not in ("docs", "build") and not path.name.startswith("."):
            (root / path.name).symlink_to(path)
    shutil.copytree(ROOT / "docs", root / "docs", ignore=shutil.ignore_patterns("stages", "__pycache__"))
    return root


@pytest.fixture(scope="session")
def site(site_source, tmp_path_factory):
    """The site without its notebooks executed: text, links and what must not be there are the same."""
    return make_site(site_source, tmp_path_factory.mktemp("site") / "site", "-D", "nb_execution_mode=off")


@pytest.fixture(scope="session")
def bubblewrap():
    """The sandbox's program: every test that runs something in the sandbox takes this."""
    need(BUBBLEWRAP)


@pytest.fixture(scope="session")
def chromium():
    """Where the browser is: every test that looks at a page in one takes this."""
    need(CHROMIUM)
    return CHROMIUM.path()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Below everything else, where it is read: what this run has left out for want of a program."""
    result = yield
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])]
    missed = {program: sum((program.problem() or "\0") in reason for reason in reasons) for program in PROGRAMS}
    if any(missed.values()):
        counts = ", ".join(f"{program.name}'s tests ({count})" for program, count in missed.items() if count)
        terminalreporter.section(f"left out: {counts}", yellow=True)
        terminalreporter.line(left_out(program for program in PROGRAMS if missed[program]))
    return result
