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

from rerank_bench import say
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
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "workers": lambda: _workers(arguments),
        "driver": lambda: _driver(arguments),
        "rates": lambda: _rates(arguments),
    }
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"unknown part {min(unknown)!r}; valid: {', '.join(parts)}")
    for part in arguments.parts or parts:
        started = time.perf_counter()
        document = parts[part]()
        document |= {"machine": _machine(), "seconds": time.perf_counter() - started}
        path = Path(arguments.output) / f"scaling-{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        say(f"written: {path}")
    return 0


def _workers(arguments: argparse.Namespace) -> dict[str, Any]:
    from rerank_bench.scaling_workers import measure

    with _ray():
        return measure(Path(arguments.checkpoints), rounds=arguments.rounds, groups=arguments.groups)


def _driver(arguments: argparse.Namespace) -> dict[str, Any]:
    from rerank_bench.scaling_driver import measure

    with _ray():
        return measure(seconds=arguments.seconds)


def _rates(arguments: argparse.Namespace) -> dict[str, Any]:
    from rerank_bench.scaling_rates import measure

    return measure(Path(arguments.output))


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


if __name__ == "__main__":
    sys.exit(main())
