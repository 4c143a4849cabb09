"""Families of rerankers, one a file, found by `rerank_eval.registry.RERANKERS`; each holds its `PART`."""
