"""`python -m rerank_eval`, the same as `rerank-eval`."""

from rerank_eval.cli import main

if __name__ == "__main__":
    main()
