"""Hidden checks, one module a stage: a list ``HIDDEN`` of `lora_ref.checks.verdicts.Check` with points.

A module's points add up, exercise by exercise, to the contract's (`autograder.contract`); a test holds them to it.
"""
