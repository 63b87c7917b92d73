"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from lora_ref import assets

ROOT = Path(__file__).resolve().parents[1]

# The models here are tiny: a second thread only waits for the first, and beside other work it waits very long.
ALL_THREADS = torch.get_num_threads()
torch.set_num_threads(1)


# Hypothesis: no time limit on an example, and no examples kept from one run to the next.
settings.register_profile("course", deadline=None, database=None)
settings.load_profile("course")

#: The number from which the tests' order is drawn; pytest-xdist's workers inherit it. Another order at each run.
ORDER = os.environ.setdefault("LORA_TEST_ORDER", str(random.SystemRandom().randrange(10**6)))


def pytest_report_header():
    return f"random order; the same again: LORA_TEST_ORDER={ORDER}"


@pytest.hookimpl(tryfirst=True)  # before pytest brings together what shares a fixture's parameter
def pytest_collection_modifyitems(items):
    """Files in random order, and the tests within each; a file's stay together, for its fixtures' sake."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    draw = random.Random(ORDER)
    for tests in files.values():
        draw.shuffle(tests)
    items[:] = [item for file in draw.sample(list(files.values()), len(files)) for item in file]


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
def site_source(tmp_path_factory):
    """The course in a folder of its own, for Sphinx: it writes pages below docs/ and its cache to build/."""
    root = tmp_path_factory.mktemp("site-source")
    for path in ROOT.iterdir():
        if path.name not in ("docs", "build") and not path.name.startswith("."):
            (root / path.name).symlink_to(path)
    shutil.copytree(ROOT / "docs", root / "docs", ignore=shutil.ignore_patterns("stages", "__pycache__"))
    return root


@pytest.fixture(scope="session")
def bubblewrap():
    """The sandbox's program; where it could be had and is not there, the error says how to get it."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the sandbox needs Linux")
    if shutil.which("bwrap") is None:
        pytest.fail("bubblewrap is missing: apt-get install -y bubblewrap")
