"""Blackboard: ``gradebook_COURSE_COLUMN_LOGIN_attempt_2027-03-01-12-00-00_02_lora_layer.ipynb``, and a ``.txt`` each.

Course, column and login may all have "_" in them, so the login is what stands after the last one, and two students
whose logins end alike (a_doe, b_doe) have a row that needs attention.
"""

import re

from autograder.intake.rule import Rule

DATE = "[0-9]{4}(?:-[0-9]{2}){5}"
RULE = Rule(
    "Blackboard",
    file=re.compile(
        rf"(?P<place>gradebook_.+?_(?P<id>[^_]+))_attempt_(?P<attempt>{DATE})(?:_(?P<file>.+)|\.txt\Z)",
    ),
    export=re.compile(rf"gradebook_.+_{DATE}(?:\.zip)?"),
)
