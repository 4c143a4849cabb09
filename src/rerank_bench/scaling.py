"""`python -m rerank_bench.scaling`: how two workers do against one, and where driver, disk and tokenizer saturate.

Writes results/bench/scaling-*.json, from which `rerank_bench.scaling_table` makes the tables of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rerank_eval.engine.quiet import hush

hush()

STORE_BYTES = 2 << 30


def main() -> int:
    """Parse the arguments, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m rerank_bench.scaling", description=__doc__)
    parser.add_argument("parts", nargs="*", help="workers, driver, rates; all of them by default")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each number of workers")
    parser.add_argument("--groups", type=int, default=24, help="queries of a turn, 20 documents each")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each simulated run")
    parser.add_argument("--checkpoints", default=str(Path(tempfile.gettempdir()) / "rerank-eval-bench"))
    parser.add_argument("--output", default="results/bench")
    told = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "workers": lambda: _workers(told),
        "driver": lambda: _driver(told),
        "rates": lambda: _rates(told),
    }
    if unknown := set(told.parts) - set(parts):
        parser.error(f"unknown part {min(unknown)!r}; valid: {', '.join(parts)}")
    for part in told.parts or parts:
        started = time.perf_counter()
        document = parts[part]()
        document |= {"machine": _machine(), "seconds": time.perf_counter() - started}
        path = Path(told.output) / f"scaling-{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        say(f"written: {path}")
    return 0


def _workers(told: argparse.Namespace) -> dict[str, Any]:
    from rerank_bench.scaling_workers import measure

    with _ray():
        return measure(Path(told.checkpoints), rounds=told.rounds, groups=told.groups)


def _driver(told: argparse.Namespace) -> dict[str, Any]:
    from rerank_bench.scaling_driver import measure

    with _ray():
        return measure(seconds=told.seconds)


def _rates(told: argparse.Namespace) -> dict[str, Any]:
    from rerank_bench.scaling_rates import measure

    return measure(Path(told.output))


@contextmanager
def _ray() -> Iterator[None]:
    """Start a cluster of this machine that believes in more CPUs than there are; threads are counted all the same."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=STORE_BYTES,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _machine() -> dict[str, Any]:
    from rerank_eval.pipeline.estimate_rate import processor

    names = ("ray", "torch", "transformers", "mteb", "datasets", "pyarrow")
    return {"device": processor(), "cpus": os.cpu_count()} | {name: version(name) for name in names}


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a command's progress


if __name__ == "__main__":
    sys.exit(main())
