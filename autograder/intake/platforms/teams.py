"""Microsoft Teams: ``Submitted files/Jane Doe/Homework 2/Version 2/x.ipynb``.

Which version is the newest, `autograder.intake.choice` reads from the folders' names.
"""

import re

from autograder.intake.rule import Rule

RULE = Rule("Teams", export=re.compile(r"(?:Submitted files|Working files|Student Work)", re.IGNORECASE))
