"""What libraries would print beside our own output, and how threads wait; set before the libraries are imported."""

from __future__ import annotations

import logging
import os


def hush() -> None:
    """Set environment variables and log levels that the libraries read when they are imported."""
    # Read by tqdm: this project shows its own progress.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Read by OpenMP when torch is imported. Its threads spin while they wait, so that two runs on one laptop take each
    # other's cores: measured on two cores, 60 pairs/s each with spinning, 240 without, and alone 420 either way.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torchao warns of each CUDA kernel that it cannot load on a machine without CUDA, and torch of torchao's enums.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
