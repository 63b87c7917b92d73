"""A course of one small stage, for tests of the build, of nbgrader and of the release: no torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
STAGE = "09_toy"
EXERCISES = (
    SimpleNamespace(id="9.1", points=2, manual=False),
    SimpleNamespace(id="9.2", points=4, manual=False),
    SimpleNamespace(id="9.3", points=3, manual=True),
)
CONTRACT = {STAGE: EXERCISES}

MASTER = '''\
# ---
# jupyter:
#   kernelspec:
#     display_name: Other
#     name: something-else
# ---

# %% [markdown]
# # A toy stage
# Hint: multiply.

# %% locked="setup" tags=["hide-input"]
import math


# %% solution="numbers"
def double(x):
    """Twice x."""
    ### BEGIN SOLUTION 9.1
    twice_as_much = 2 * x
    return twice_as_much
    ### END SOLUTION


class Box:
    def area(self, width, height):
        ### BEGIN SOLUTION 9.2
        return width * height + 0 * width
        ### END SOLUTION


# %% check="9.1"
check("9.1", globals())

# %%
picture = 1

# %% check="9.2"
check("9.2", globals())

# %% [markdown]
# Why is twice two four?

# %% [markdown] written="9.3"
# Because addition is what it is.
#
# ### BEGIN MARK SCHEME
# - 3 points: names the successor function.
# ### END MARK SCHEME
'''

# Stands for the real `autograder` in the toy course: same calls, same kind of result.
GRADER = '''\
def grade_cell(exercise, names):
    """Prints a message and returns the points."""
    try:
        if exercise == "9.1":
            earned = 2.0 if names["double"](21) == 42 else 0.0
        else:
            box = names["Box"]()
            earned = 2.0 * (box.area(2, 3) == 6) + 2.0 * (box.area(0, 3) == 0)
        print(f"message for {exercise}: {earned}")
        return earned
    except Exception as error:
        print(f"message for {exercise}: {type(error).__name__}: {error}")
        return 0.0
'''

# Stands for the real visible checks.
CHECKER = """\
def check(exercise, names):
    print("visible check of", exercise)
"""


def make(root: Path) -> Path:
    """Lays out the toy course, with the project's own nbgrader settings, in `root`; returns the master."""
    folder = root / "solutions" / STAGE
    folder.mkdir(parents=True)
    (folder / f"{STAGE}.py").write_text(MASTER, encoding="utf-8")
    (root / "autograder" / "publish").mkdir(parents=True)
    (root / "autograder" / "__init__.py").write_text(GRADER, encoding="utf-8")
    (root / "lora_ref").mkdir()
    (root / "lora_ref" / "__init__.py").touch()  # without it an installed lora_ref would be found first
    (root / "lora_ref" / "checks.py").write_text(CHECKER, encoding="utf-8")
    copied = ["nbgrader_config.py", "autograder/nbgrader_config.py"]
    copied += [f"autograder/publish/{name}.py" for name in ("__init__", "preprocessors")]
    for name in (*copied, "lora_ref/environment.py"):  # the last: every set-up ends with it
        shutil.copy(ROOT / name, root / name)
    return folder / f"{STAGE}.py"
