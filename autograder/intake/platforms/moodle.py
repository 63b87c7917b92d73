"""Moodle: ``First Last_1234567_assignsubmission_file_/02_lora_layer.ipynb``, or the file's name after the last "_"."""

import re

from autograder.intake.rule import Rule

NAME = re.compile(
    r"(?P<who>.+?)_(?P<mark>(?P<id>[0-9]{1,20})_assignsubmission_(?:file|onlinetext)_?)(?P<file>.*)",
)
RULE = Rule("Moodle", file=NAME, folder=NAME)
