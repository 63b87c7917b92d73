"""The contract: which exercises there are, what each is worth, and which names a student defines for it.

Everything that counts points reads this table: the build (points of a cell), the judges (their points must add up to
the exercise's), the reports and the tests.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exercise:
    """One graded exercise.

    Attributes:
        id: ``"2.1"``: stage, then number.
        points: the maximum.
        manual: graded by hand from a written answer.
        names: what the student's notebook must define for it.
    """

    id: str
    points: int
    manual: bool = False
    names: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """A few words, the same that the student's visible check prints."""
        import lora_ref.checks  # which imports torch: whoever only counts points need not wait for it

        return lora_ref.checks.title(self.id)


STAGES: dict[str, tuple[Exercise, ...]] = {
    "01_rank_theory": (
        Exercise("1.1", 2, names=("matrix_rank",)),
        Exercise("1.2", 3, names=("best_rank_k",)),
        Exercise("1.3", 2, names=("rank_factors",)),
        Exercise("1.4", 2, names=("lora_param_count", "break_even_rank")),
        Exercise("1.5", 3, names=("training_memory",)),
        Exercise("1.6", 3, manual=True),
    ),
    "02_lora_layer": (
        Exercise("2.1", 4, names=("LoRALayer",)),
        Exercise("2.2", 4, names=("LoRALayer",)),
        Exercise("2.3", 3, names=("LinearWithLoRA",)),
        Exercise("2.4", 2, names=("LinearWithLoRA",)),
        Exercise("2.5", 4, names=("LinearWithLoRA",)),
        Exercise("2.6", 3, names=("LoRAParametrization",)),
        Exercise("2.7", 2, names=("project_up", "fold_in", "make_factors")),
        Exercise("2.8", 3, manual=True),
    ),
    "03_roberta_injection": (
        Exercise("3.1", 2, names=("freeze",)),
        Exercise("3.2", 3, names=("match_targets",)),
        Exercise("3.3", 2, names=("replace_module",)),
        Exercise("3.4", 6, names=("inject_lora",)),
        Exercise("3.5", 2, names=("trainable_report",)),
        Exercise("3.6", 2, names=("unfreeze_blocks", "add_dropout", "as_convolution", "train_prompt")),
        Exercise("3.7", 3, manual=True),
    ),
    "04_sst2_training": (
        Exercise("4.1", 3, names=("tokenize", "collate")),
        Exercise("4.2", 2, names=("compute_metrics",)),
        Exercise("4.3", 2, names=("linear_schedule",)),
        Exercise("4.4", 6, names=("train",)),
        Exercise("4.5", 6, names=("save_adapter", "load_adapter")),
        Exercise("4.6", 2, names=("metrics_match",)),
        Exercise("4.7", 4, manual=True),
    ),
    "05_analysis": (
        Exercise("5.1", 2, names=("rank_sweep",)),
        Exercise("5.2", 2, names=("delta_spectrum",)),
        Exercise("5.3", 3, names=("subspace_similarity",)),
        Exercise("5.4", 2, names=("compose",)),
        Exercise("5.5", 6, manual=True),
    ),
}

POINTS: dict[str, int] = {e.id: e.points for exercises in STAGES.values() for e in exercises}


def stage_of(exercise_id: str) -> str:
    """The stage's name for an exercise id.

    Raises:
        KeyError: no stage has this exercise; the message lists what there is.
    """
    for stage, exercises in STAGES.items():
        if any(e.id == exercise_id for e in exercises):
            return stage
    raise KeyError(f"no exercise {exercise_id!r}; there are {', '.join(POINTS)}")


def exercise(exercise_id: str) -> Exercise:
    """The table's row for an exercise id (KeyError as `stage_of`)."""
    return next(e for e in STAGES[stage_of(exercise_id)] if e.id == exercise_id)
