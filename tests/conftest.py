"""Settings that hold for every test: no network, quiet libraries, a cache of our own."""

from __future__ import annotations

import os

# Before any hub library is imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

from hypothesis import settings

from rerank_eval.engine.quiet import hush

hush()

# Two processes share the cores: how long an example takes says nothing about what is tested. pytest-timeout ends hangs.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
