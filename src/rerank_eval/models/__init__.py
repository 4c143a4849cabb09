"""mteb protocols around the engine: retrievers and rerankers."""
