"""How the demo reranker that ships with the project is trained; nothing here is needed to use it."""
