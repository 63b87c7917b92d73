"""Exercise 3.7: what each part of a written answer earns."""

from autograder.exercises.scheme import Part, Point

SCHEME = (
    Part(
        "a",
        1,
        (
            Point(0.5, "a choice, with a count of section 3.5", "(a) A choice with its cost: good."),
            Point(0.5, "a reason, or what would change it", "(a) And a reason that can be tested: good."),
            Point(0, "'all layers, more is better', without cost", "(a) What does your choice cost, in parameters?"),
        ),
    ),
    Part(
        "b",
        1,
        (
            Point(0.5, "a new head is random; a low-rank update makes up", "(b) Right: a new head is random."),
            Point(0.5, "the rule by name froze it; a number of the lab", "(b) With the lab's number: good."),
        ),
    ),
    Part(
        "c",
        1,
        (
            Point(0.5, "a head that was trained for the same classes", "(c) Right: for the same classes."),
            Point(0.5, "the gain: original model, shared head, smaller file", "(c) And what it gains: good."),
        ),
    ),
)
#: Phrases of the cells whose outputs the answer may quote.
EVIDENCE = ("known.items()", "plots.new_head(")
