"""From the masters to what is published: notebooks, the release, pages, Gradescope's zip."""
