"""Checkpoints: which files they consist of, what they state, and where they come from."""
