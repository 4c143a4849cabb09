"""What libraries would print beside our own output, and how threads wait."""

from __future__ import annotations

import logging
import os

from rerank_eval.engine.waiting import wait_asleep


def hush() -> None:
    """Prepare a process that is ours: set what the libraries read when they are imported; see `settle` for the rest."""
    # Read by tqdm: this project shows its own progress.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    settle()


def settle() -> None:
    """Prepare any process, a user's own among them: threads that sleep while they wait, and no false alarms.

    It takes nothing from a program that uses this package as a library: its bars and its warnings stay.
    """
    wait_asleep()
    # torchao warns of each CUDA kernel that it cannot load on a machine without CUDA, and torch of torchao's enums.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
