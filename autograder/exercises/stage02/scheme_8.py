"""Exercise 2.8: what each part of a written answer earns."""

from autograder.exercises.scheme import Part, Point

SCHEME = (
    Part(
        "a",
        1,
        (
            Point(1, "no update at the start: outputs as pretrained", "(a) Right: as pretrained."),
            Point(0, "to save memory, against overfitting", "(a) What does the update do to the outputs at the start?"),
        ),
    ),
    Part(
        "b",
        1,
        (
            Point(1, "both gradients: each contains the other factor", "(b) Right: each gradient contains the other."),
            Point(
                0.5,
                "'symmetry breaking' without the gradients",
                "(b) Symmetry explains why A is random. Why it is not zero shows in the two gradients.",
            ),
        ),
    ),
    Part(
        "c",
        1,
        (
            Point(0.5, "rank and learning rate depend less on one another", "(c) Right: less retuning with the rank."),
            Point(0.5, "the size is not constant, with a number of their figure", "(c) With your own number: good."),
            Point(
                0,
                "'keeps the update the same size for every rank'",
                "(c) Look at your figure of the first step: how large is the update at rank 1, and at rank 256?",
            ),
        ),
    ),
)
#: Phrases of the cells whose outputs the answer may quote.
EVIDENCE = ("plots.step_sizes(sizes)",)
