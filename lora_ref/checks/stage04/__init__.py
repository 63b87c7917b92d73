"""Stage 04: a file an exercise, and `adamw` for one of them.

Probes build what they need on the spot: a word-level tokenizer, a classifier of a few dozen numbers whose gradients fit
in six lines of NumPy, a tiny RoBERTa with LoRA. No assets, no network, milliseconds each.
"""
