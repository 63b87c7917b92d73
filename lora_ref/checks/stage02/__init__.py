"""Stage 02: a file an exercise, `shared` for what several of them use."""
