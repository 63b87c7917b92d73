"""Microsoft Teams: ``Submitted files/Jane Doe/Homework 2/Version 2/x.ipynb``.

Which version is the newest, `autograder.intake.choice` reads from the folders' names. ``Working files`` are as the
students left them: they count where nothing was submitted.
"""

import re

from autograder.intake.rule import Rule

#: The folder of what was not turned in.
WORKING = re.compile("Working files", re.IGNORECASE)
RULE = Rule(
    "Teams",
    export=re.compile(r"(?:Submitted files|Working files|Student Work)", re.IGNORECASE),
    students=re.compile(r"(?:Submitted|Working) files", re.IGNORECASE),
)
