"""A mutant: one plausible mistake, as an edit of the worked solution's text. Data; the tests run it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from autograder.answers import Answer, read_cells, run_cells

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        id: ``"2.2/no-division-by-rank"``: the exercise that must lose points, then the mistake.
        what: the mistake in a sentence.
        old, new: the edit; ``old`` stands exactly once in the worked solution's code.
        says: a phrase of the message that must name the cause.
        seed: the row of the published mistakes it comes from (``"S0"`` to ``"S4"``), if any.
    """

    id: str
    what: str
    old: str
    new: str
    says: str
    seed: str = ""

    @property
    def exercise(self) -> str:
        return self.id.partition("/")[0]

    def answer(self, stage: str) -> Answer:
        """The worked solution with this mistake in it, run.

        Raises:
            ValueError: ``old`` does not stand exactly once in the solution, so the mutant is stale.
        """
        cells = worked_cells(stage)
        count = sum(cell.count(self.old) for cell in cells)
        if count != 1:
            raise ValueError(f"mutant {self.id}: its text stands {count} times in the solution of {stage}, not once")
        return run_cells([cell.replace(self.old, self.new) for cell in cells])


def worked_cells(stage: str) -> list[str]:
    """Sources of the worked solution's set-up and solution cells, which are read once."""
    return list(_cells(stage))


@functools.cache
def _cells(stage: str) -> tuple[str, ...]:
    return tuple(read_cells(ROOT / "solutions" / stage / f"{stage}.py"))
