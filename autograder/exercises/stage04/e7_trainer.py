"""Exercise 4.7: a written answer, graded by hand."""

POINTS = 4
