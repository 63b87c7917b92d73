"""Exercise 4.7: what each part of a written answer earns."""

from autograder.exercises.scheme import Part, Point

SCHEME = (
    Part(
        "a",
        1,
        (
            Point(0.5, "a table with typed columns (Arrow)", "(a) Right: a table with typed columns."),
            Point(0.5, "map: a dict of lists; columns into a new Dataset", "(a) And what map is handed: good."),
            Point(0, "only 'applies the function to every row'", "(a) With batched=True, what is your function given?"),
        ),
    ),
    Part(
        "b",
        1,
        (
            Point(0.5, "three of the steps, in an order that works", "(b) Right as far as it goes."),
            Point(0.5, "a fourth step", "(b) A complete step of training: good."),
        ),
    ),
    Part(
        "c",
        1,
        (
            Point(0.5, "evaluation mode, no gradients, no update", "(c) Right: nothing is learned in evaluate()."),
            Point(0.5, "all logits to compute_metrics; eval_ and timing keys", "(c) And what it returns: good."),
        ),
    ),
    Part(
        "d",
        1,
        (
            Point(0.5, "every line explained", "(d) Right, line by line."),
            Point(0.5, "the shapes, and argmax's axis", "(d) With the shapes: good."),
        ),
    ),
)
