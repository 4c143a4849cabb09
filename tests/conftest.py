"""Settings that hold for every test: no network, quiet libraries, a cache of our own."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator

# Before any hub library is imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
import typer.main
from hypothesis import settings

from rerank_eval.engine.quiet import hush
from rerank_eval.registry import RERANKERS

hush()

# Two processes share the cores: how long an example takes says nothing about what is tested. pytest-timeout ends hangs.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Every call of the command line would build all of its commands anew, which takes longer than most of them run.
typer.main.get_command = functools.cache(typer.main.get_command)


@pytest.fixture(autouse=True, scope="module")
def _libraries_are_no_garbage() -> None:
    """Keep what stands before a file's tests out of the garbage collector's rounds.

    A run collects twice per task, so that weights go. In a process that holds every test and every library, looking
    through those takes longer than a small run itself.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the interpreter end as it would have."""
    gc.unfreeze()


_LONGEST = ("workers", "pipeline", "crash", "mirror", "tasks", "test_api.py", "training", "models", "engine")
"""Folders and files of tests that take longest, first: begun last, one of them would keep one core busy alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; a file's own order stays."""
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("/")[1].split("::")[0], len(places)))


@pytest.fixture(scope="module", autouse=True)
def _registered_names_stay_in_their_module() -> Iterator[None]:
    """Forget the rerankers that a module's tests have registered: messages elsewhere list every name."""
    names, objects = list(RERANKERS._registered), dict(RERANKERS._objects)
    yield
    RERANKERS._registered, RERANKERS._objects = names, objects
