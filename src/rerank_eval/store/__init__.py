"""The score store: every pair that was ever scored, under what it was scored with, so that none is scored twice."""
