"""The table of messages is what the checks say now, and every message says something to act upon."""

import pytest

from autograder import messages
from autograder.bank import mutants
from autograder.contract import STAGES

#: The stage in which some mistakes are still left to hidden checks.
SOME_HIDDEN = {"03_roberta_injection"}


@pytest.mark.parametrize("stage", STAGES)
def test_the_table_is_what_the_checks_say(stage):
    kept = messages.TABLE.read_text(encoding="utf-8")
    for mutant in mutants(stage):
        seen, hidden = messages.told(stage, mutant)
        assert messages.row(mutant, seen, hidden) in kept, "stale: run `python -m autograder messages`"
        assert any(word in seen or word in hidden for word in ("Likely:", "Read:", "seen:")), mutant.id
        # the visible checks alone let a reader find each mistake and its cause
        assert mutant.says in seen or (not seen and stage in SOME_HIDDEN), f"{mutant.id}: {seen or hidden}"


def test_the_table_has_one_row_for_each_mistake():
    rows = [line for line in messages.TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(mutants(stage)) for stage in STAGES)
