"""The table of messages is what the checks say now, and every message says something to act upon."""

import pytest

from autograder import messages
from autograder.exercises import STAGES, mutants


@pytest.mark.parametrize("stage", STAGES)
def test_the_table_is_what_the_checks_say(stage):
    kept = messages.TABLE.read_text(encoding="utf-8")
    for mutant in mutants(stage):
        seen = messages.told(stage, mutant)
        assert messages.row(mutant, seen) in kept, "stale: run `python -m autograder messages`"
        # the visible checks alone let a reader find each mistake and its cause
        assert mutant.says in seen, f"{mutant.id}: {seen or 'no visible check fails'}"


def test_the_table_has_one_row_for_each_mistake():
    rows = [line for line in messages.TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(mutants(stage)) for stage in STAGES)
