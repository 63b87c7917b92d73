"""Exercise 3.7, which layers, and why a new head must train: a written answer."""

from lora_ref.checks.exercise import Exercise

EXERCISE = Exercise("3.7", "which layers, and why a new head must train")
