"""What the tests of all stages' checks ask of a report, and a solution cell as students get it."""

from __future__ import annotations

import nbformat

from autograder.publish.preprocessors import ClearGaps
from lora_ref.checks import visible_checks
from lora_ref.checks.verdicts import run_check


def faults_of_visible(exercise, namespace):
    """Messages of the exercise's visible checks that fail."""
    verdicts = [run_check(check, namespace) for check in visible_checks(exercise)]
    return [verdict.message for verdict in verdicts if not verdict.passed]


def earned(report):
    """Points by exercise."""
    return {result.id: result.earned for result in report.results}


def release(source):
    """A solution cell as students get it."""
    cell = nbformat.v4.new_code_cell(source)
    ClearGaps()._replace_solution_region(cell, "python")
    return cell.source
