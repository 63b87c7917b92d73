"""nbgrader's exchange: ``inbound/LOGIN+02_lora_layer+2027-03-01 12:00:00.000000 UTC+RANDOM/02_lora_layer.ipynb``."""

import re

from autograder.exercises import STAGES
from autograder.intake.rule import Rule

RULE = Rule(
    "Exchange",
    folder=re.compile(
        rf"(?P<id>.+)\+(?:{'|'.join(STAGES)})\+(?P<attempt>[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[ _T][^+]*)(?:\+.*)?\Z"
    ),
)
