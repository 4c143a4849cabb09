"""Published numbers, and whether ours agree with them."""
