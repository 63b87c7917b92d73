"""Exercise 3.7: a written answer, graded by hand."""

POINTS = 3
