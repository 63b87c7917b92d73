"""Moodle: ``First Last_1234567_assignsubmission_file_/02_lora_layer.ipynb``, or the file's name after the last "_"."""

import re

from autograder.intake.rule import Rule

MARK = r"(?P<mark>(?P<id>[0-9]{1,20})_assignsubmission_(?:file|onlinetext)_?)"
#: A file's name with the platform's text in it twice tells nobody: it may stand in a student's name as well as in what
#: the student called the file. In a folder's name the last one is the platform's, as nothing of a student's follows.
ONCE = r"(?!(?:.+?_[0-9]{1,20}_assignsubmission_(?:file|onlinetext)){2})"
RULE = Rule(
    "Moodle",
    file=re.compile(rf"{ONCE}(?P<who>.+?)_{MARK}(?P<file>.*)"),
    folder=re.compile(rf"(?P<who>.+)_{MARK}(?P<file>.*)"),
)
