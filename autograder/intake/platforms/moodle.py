"""Moodle: ``First Last_1234567_assignsubmission_file_/02_lora_layer.ipynb``, or the file's name after the last "_"."""

import re

from autograder.intake.rule import Rule

MARK = r"(?P<mark>(?P<id>[0-9]{1,20})_assignsubmission_(?:file|onlinetext)_?)"
#: Nothing of a student's follows in a folder's name, so that the last such text is the platform's; a student's own name
#: may have one too. In a file's name the first one counts (see `autograder.intake.identity`).
RULE = Rule(
    "Moodle",
    file=re.compile(rf"(?P<who>.+?)_{MARK}(?P<file>.*)"),
    folder=re.compile(rf"(?P<who>.+)_{MARK}(?P<file>.*)"),
)
