"""Exercise 1.6: what each part of a written answer earns."""

from autograder.exercises.scheme import Part, Point

SCHEME = (
    Part(
        "a",
        1,
        (
            Point(0.5, "gradients and two optimiser states beside each weight", "(a) Right: gradients and states."),
            Point(0.5, "a figure in bytes, or the backward pass's time", "(a) A cost with a number: good."),
            Point(0, "only 'many parameters', 'needs a lot of GPU'", "(a) Which numbers are kept for each parameter?"),
        ),
    ),
    Part(
        "b",
        1,
        (
            Point(0.5, "a full copy of the weights for each task, stored", "(b) Right: each task keeps a whole model."),
            Point(0.5, "loaded or swapped when serving; or its size in bytes", "(b) And what that costs: good."),
        ),
    ),
    Part(
        "c",
        1,
        (
            Point(0.5, "cuts gradients, states, the file of a task", "(c) Right: what LoRA cuts."),
            Point(0.5, "does not cut frozen weights, activations or time", "(c) And what it leaves: good."),
            Point(0, "'everything 65 times cheaper'", "(c) The frozen weights and most activations stay as they were."),
        ),
    ),
)
#: Phrases of the cells whose outputs the answer may quote.
EVIDENCE = ('display(measured.set_index("method").T)', "plots.memory_check(measured)")
