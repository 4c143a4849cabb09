"""Result files: what a run writes and everything reads."""
