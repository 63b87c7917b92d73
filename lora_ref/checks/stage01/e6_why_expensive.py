"""Exercise 1.6, what makes full fine-tuning expensive: a written answer."""

from lora_ref.checks.exercise import Exercise

EXERCISE = Exercise("1.6", "what makes full fine-tuning expensive")
