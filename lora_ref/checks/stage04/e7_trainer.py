"""Exercise 4.7, the Trainer, line by line: a written answer."""

from lora_ref.checks.exercise import Exercise

EXERCISE = Exercise("4.7", "the Trainer, line by line")
