"""Exercise 1.6: a written answer, graded by hand."""

POINTS = 3
