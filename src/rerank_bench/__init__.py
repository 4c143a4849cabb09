"""Speed and memory of the packed engine beside its peers: same pairs, same checkpoint, same machine, one run.

Needs torch, transformers and numpy alone; a peer or the plot is left out where its package is not installed.
"""

import sys


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - runs where rich is not installed
