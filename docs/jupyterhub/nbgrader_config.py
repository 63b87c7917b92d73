"""nbgrader's settings for everybody on a hub: /etc/jupyter/nbgrader_config.py."""

c = get_config()  # noqa: F821  nbgrader puts it here

c.CourseDirectory.course_id = "lora"  # as in autograder/nbgrader_config.py
c.Exchange.root = "/srv/nbgrader/exchange"  # made once: chmod 1777
c.Execute.timeout = 600  # seconds a cell for the Validate button: nbgrader's 30 are too few where a cell trains
