load_subconfig("autograder/nbgrader_config.py")  # noqa: F821  nbgrader reads its settings from the current folder
