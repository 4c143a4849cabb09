"""Metrics of each query, from scores and qrels."""
