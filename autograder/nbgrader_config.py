"""nbgrader's settings for this course. The root's `nbgrader_config.py` loads them: run nbgrader from there.

Beyond these settings this is nbgrader as it comes: `nbgrader generate_assignment 02_lora_layer`, `nbgrader
autograde`, `nbgrader generate_feedback`, `nbgrader export`, and formgrader in JupyterLab.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # formgrader runs in a Jupyter server, which does not look for modules here
    sys.path.insert(0, str(ROOT))
if shutil.which("alembic") is None:  # nbgrader runs this command for a new gradebook; a venv need not be activated
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])

from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor  # noqa: E402
from nbgrader.preprocessors import (  # noqa: E402
    AssignLatePenalties,
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ComputeChecksums,
    GetGrades,
    IgnorePattern,
    LimitOutput,
    LockCells,
    OverwriteKernelspec,
    SaveAutoGrades,
    SaveCells,
)

from autograder.publish.preprocessors import (  # noqa: E402
    ClearGaps,
    ExecuteForGrading,
    HideMarkSchemesInFeedback,
    HideTestsInFeedback,
    RestoreCells,
)

if TYPE_CHECKING:
    from traitlets.config import get_config  # nbgrader puts its own here
c = get_config()

# --- Where things are ---
c.CourseDirectory.course_id = "lora"  # the name in the exchange and in exported grades
c.CourseDirectory.root = str(ROOT)  # formgrader may be started elsewhere; gradebook.db lies here too
c.CourseDirectory.source_directory = "solutions"  # made by `make build` from the .py masters
c.CourseDirectory.release_directory = "notebooks"  # the same files, byte for byte, that `make build` writes
c.CourseDirectory.submitted_directory = "submitted"  # these three are git-ignored
c.CourseDirectory.autograded_directory = "autograded"
c.CourseDirectory.feedback_directory = "feedback"
c.CourseDirectory.ignore = [
    ".ipynb_checkpoints",
    "*.pyc",
    "__pycache__",
    "feedback",
    "[0-9][0-9]_*.py",  # nbgrader copies what lies beside a notebook: the masters must go nowhere
    "*.html",  # executed solutions that an instructor put beside them
    "*.tmp",  # a build that is just writing
]

# --- generate_assignment: solutions/ -> notebooks/ ---
c.GenerateAssignment.force = True  # notebooks/ always exists, and without this nbgrader would skip it silently
c.GenerateAssignment.preprocessors = [  # nbgrader's list and order, less two steps the course does not use
    LockCells,
    ClearGaps,  # for ClearSolutions: the stub names its exercise
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
    SaveCells,  # into the gradebook, with hidden tests and mark schemes
    ClearHiddenTests,
    ClearMarkScheme,
    ComputeChecksums,  # again, for what is left
    CheckCellMetadata,
]
c.ClearMarkScheme.enforce_metadata = False  # nbgrader wants a task cell; ours is the locked cell above the answer

# --- autograde: submitted/ -> autograded/ and the gradebook ---
c.Autograde.sanitize_preprocessors = [
    ClearOutput,
    OverwriteKernelspec,
    RestoreCells,  # for DeduplicateIds and OverwriteCells: a copied, deleted or altered cell stops nobody
    CheckCellMetadata,
]
c.Autograde.autograde_preprocessors = [
    ExecuteForGrading,  # for Execute: LORA_PROFILE=tiny, quiet libraries, unless the instructor set another
    IgnorePattern,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
# An error ends its own cell, never the notebook: nbgrader itself fixes Execute.allow_errors at True.
c.Execute.timeout = 600  # seconds a cell: real training on a laptop takes minutes (nbgrader: 30)
c.Execute.startup_timeout = 120  # a busy grading machine may need more than nbclient's 60 to start a kernel
c.Execute.interrupt_on_timeout = True  # stop the cell and go on: that cell gets 0, the others their points
c.Execute.error_on_timeout = {
    "ename": "CellTimeoutError",
    "evalue": "stopped after 600 seconds",
    "traceback": ["CellTimeoutError: this cell ran for more than 600 seconds and was stopped"],
}
c.Execute.iopub_timeout = 30  # seconds for late outputs; at nbclient's 4 a busy machine loses whole submissions
c.Execute.shutdown_kernel = "immediate"  # the kernel has nothing to save: 2 s less for each submission
c.IgnorePattern.enabled = True  # off by default
c.IgnorePattern.pattern = r"[\s\S]"  # all of stderr goes: one line of it in a check cell is 0 points to nbgrader
c.LimitOutput.max_lines = 500  # a print in a training loop must not make a feedback page of megabytes
c.LimitOutput.max_traceback = 20  # frames; torch's are long and the student's own come first and last

# --- generate_feedback: autograded/ -> feedback/, HTML ---
c.GenerateFeedback.preprocessors = [
    GetGrades,
    HideTestsInFeedback,  # after nbgrader's own: messages and points stay, the test goes
    HideMarkSchemesInFeedback,
    CSSHTMLHeaderPreprocessor,
]
