"""Bytes that a stranger made raise nothing but what the code promises; `fuzzers` finds those that do."""

from __future__ import annotations

import subprocess
import sys

import fuzzers
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("target", ["wire", "intake", "zips"])
def test_a_minute_of_fuzzing(target):
    line = [sys.executable, fuzzers.__file__, target, "60"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("target", ["wire", "intake", "zips"])
def test_what_the_fuzzers_begin_with_passes(target):
    for data in fuzzers.corpus(target):
        getattr(fuzzers, f"fuzz_{target}")(data)
