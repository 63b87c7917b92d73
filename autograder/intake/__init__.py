"""What was handed in: walking and unpacking it, whose it is, which notebook counts, which of its cells are answers.

`discover.discover` is the way in for a class, `notebook.answers` for each submission of it.

walk        folders and zip files, as files; what is read of them is bounded
platforms/  what a learning platform's names say, a file each; `rule.Rule` is what one consists of
plain       names that no platform wrote; `nbgrader`, that tool's own layout
identity    whose each file is
choice      which notebook counts, for which stage
notebook    which of its cells are answers
"""
