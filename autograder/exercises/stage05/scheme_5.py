"""Exercise 5.5: what each part of a written answer earns."""

from autograder.exercises.scheme import Part, Point

_NO_FIGURES = "Without two figures of your own, from the notebook's table, this part earns nothing."

SCHEME = (
    Part(
        "a",
        1.5,
        (
            Point(0.5, "a rank, with their accuracies of two ranks", "(a) A choice with your accuracies: good."),
            Point(0.5, "what it trades, with a number", "(a) And what it trades: good."),
            Point(0.5, "seeds or the interval, against the differences", "(a) You know what your numbers can't tell."),
            Point(0, "no figures of their own", f"(a) {_NO_FIGURES}"),
        ),
    ),
    Part(
        "b",
        1.5,
        (
            Point(0.5, "the accuracies of two groups", "(b) Two groups with your accuracies: good."),
            Point(0.5, "equal numbers of parameters, or what each changed", "(b) And compared fairly: good."),
            Point(0.5, "one seed decides nothing below the seeds' difference", "(b) And how far it can be trusted."),
            Point(0, "no figures of their own, or the paper's order", f"(b) {_NO_FIGURES}"),
        ),
    ),
    Part(
        "c",
        1.5,
        (
            Point(0.5, "trainable or bytes, against full fine-tuning", "(c) What LoRA saves, in numbers: good."),
            Point(0.5, "activations or time shrink less", "(c) And what it does not: good."),
            Point(0.5, "merging and its latency, or several on one base", "(c) And when it answers: good."),
            Point(0, "no figures; 'less memory', not which", f"(c) Which memory? {_NO_FIGURES}"),
        ),
    ),
    Part(
        "d",
        1.5,
        (
            Point(0.5, "a limit, with a figure", "(d) A limit, measured: good."),
            Point(0.5, "a second limit, with a figure", "(d) A second one: good."),
            Point(0.5, "what the measurement leaves open", "(d) And what is left open: good."),
            Point(0, "no figures of their own", f"(d) {_NO_FIGURES}"),
        ),
    ),
)
#: Phrases of the cells whose outputs the answer may quote.
EVIDENCE = ("display(figures.astype(str).to_frame())", "display(by_kind.round(3))", "plots.target_ablation(")
