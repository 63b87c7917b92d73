"""Canvas: ``lastfirst_123456_789012_02_lora_layer.ipynb``, or ``lastfirst_LATE_123456_...``; no folders.

A file that is handed in again is called ``02_lora_layer-1.ipynb``, then ``-2``. Where the grading is anonymous it is
``anon_x8Gh2_789012_02_lora_layer.ipynb``.
"""

import re

from autograder.intake.rule import Rule

RULE = Rule(
    "Canvas",
    file=re.compile(
        r"(?P<who>anon_[A-Za-z0-9]{5}|.+?)_(?:(?i:LATE)_)?"
        r"(?P<mark>(?:(?<=\Aanon_.{5}_)|(?<=\Aanon_.{5}_(?i:LATE)_)|(?P<id>[0-9]{1,20})_)[0-9]+_)"
        r"(?P<file>.+?-(?P<attempt>[0-9]{1,3})(?=\.\w+\Z).+|.+)",
    ),
)
