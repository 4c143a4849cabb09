"""Metrics of their own arithmetic, one a file, found by `metrics.registry.METRICS`; each holds its `PART`."""
