"""How long each worked notebook takes from its first cell to its last, on the real model and on the tiny one.

The executed notebooks are kept in ``build/executed/PROFILE/``, to be read.
"""

from __future__ import annotations

import contextlib
import io
import time

#: Seconds that a notebook may take on two CPU cores, its kernel's start counted.
LIMITS = {"tiny": 40, "laptop": 240}


def run() -> bool:
    """Print the seconds of each notebook beside the limit; True if all keep it."""
    import nbformat

    from autograder.demo import run_notebook
    from autograder.exercises import ROOT, STAGES

    held = True
    for profile, limit in LIMITS.items():
        for stage in STAGES:
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):  # its line of progress
                executed = run_notebook(ROOT / "solutions" / stage / f"{stage}.ipynb", profile)
            seconds = time.perf_counter() - start
            kept = ROOT / "build" / "executed" / profile / f"{stage}.ipynb"
            kept.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(executed, kept)
            held = held and seconds <= limit
            print(f"   {stage:<22} {profile:<7} {seconds:5.0f} s of {limit}, ratio {seconds / limit:.2f}", flush=True)
    return held
