"""Fixtures that several test modules share."""

from __future__ import annotations

import shutil
import signal
import sys

import pytest
import torch

from lora_ref import assets

#: What a student's computer runs, on Linux, Windows and macOS: `python -m pytest --student`.
STUDENT_SIDE = [
    "test_adapter_set",
    "test_adapters",
    "test_check_command",
    "test_checks",
    "test_data",
    "test_docstrings",
    "test_every_stage",
    "test_inject",
    "test_layers",
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


# The models here are tiny: a second thread only waits for the first, and beside other work it waits very long.
ALL_THREADS = torch.get_num_threads()
torch.set_num_threads(1)


def hears_ctrl_c():
    """For a child process: take SIGINT, which a shell's background jobs (a CI's, say) are born to ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def all_threads():
    """Every core, for real training."""
    torch.set_num_threads(ALL_THREADS)
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


@pytest.fixture(scope="session")
def bubblewrap():
    """The sandbox's program; where it could be had and is not there, the error says how to get it."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the sandbox needs Linux")
    if shutil.which("bwrap") is None:
        pytest.fail("bubblewrap is missing: apt-get install -y bubblewrap")
