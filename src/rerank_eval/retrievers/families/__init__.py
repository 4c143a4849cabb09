"""Families of retrievers, one a file, found by `rerank_eval.registry.RETRIEVERS`; each holds its `PART`."""
