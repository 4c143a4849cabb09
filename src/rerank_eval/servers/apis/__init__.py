"""Protocols of reranking servers, one file each; a file's name is what `reranker.api` calls it."""
