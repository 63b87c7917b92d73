"""Marking written answers: ``graded/mark.ipynb`` in JupyterLab.

likeness    which answers are alike, and in what order they are read
ledger      points and comments in nbgrader's gradebook, each change a transaction that can be undone
desk        one marker at one question: what is shown, what a key does; no browser, no widgets
panel       the widgets on top of a desk
page        the notebook
"""
