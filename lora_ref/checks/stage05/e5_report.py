"""Exercise 5.5, four questions, your figures: a written answer."""

from lora_ref.checks.exercise import Exercise

EXERCISE = Exercise("5.5", "four questions, your figures")
