"""Exercise 2.8, why B is zero and A is not: a written answer."""

from lora_ref.checks.exercise import Exercise

EXERCISE = Exercise("2.8", "why B is zero and A is not")
