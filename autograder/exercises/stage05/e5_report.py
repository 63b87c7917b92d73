"""Exercise 5.5: a written answer, graded by hand."""

POINTS = 6
