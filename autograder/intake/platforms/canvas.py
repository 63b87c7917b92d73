"""Canvas: ``lastfirst_123456_789012_02_lora_layer.ipynb``, or ``lastfirst_LATE_123456_...``; no folders.

A file that is handed in again is called ``02_lora_layer-1.ipynb``, then ``-2``.
"""

import re

from autograder.intake.rule import Rule

RULE = Rule(
    "Canvas",
    file=re.compile(
        r"(?P<who>.+?)_(?:LATE_)?(?P<mark>(?P<id>[0-9]{1,20})_[0-9]+_)"
        r"(?P<file>.+?-(?P<attempt>[0-9]{1,3})(?=\.\w+\Z).+|.+)",
    ),
)
