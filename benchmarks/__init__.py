"""Claims about time and memory: each module measures two sides in one run and prints both and their ratio."""
