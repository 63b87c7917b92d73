"""Exercise 2.8: a written answer, graded by hand."""

POINTS = 3
