"""Retrievers: BM25 and dense encoders, the first stage."""
