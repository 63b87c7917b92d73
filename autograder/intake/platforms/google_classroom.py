"""Google Classroom: ``Jane Doe - 02_lora_layer.ipynb``, all in one folder, as it names each student's copy."""

import re

from autograder.exercises import STAGES
from autograder.intake.rule import Rule

NAMES = "|".join(STAGES)
RULE = Rule(
    "Google Classroom",
    file=re.compile(rf"(?!(?i:copy of) )(?P<who>[^\W\d_].*?) - (?P<file>(?i:copy of )?(?i:{NAMES})\b.*)"),
)
