"""`python -m rerank_bench`: run the benchmark and write results/bench."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from rerank_eval.engine.quiet import hush

hush()

import torch  # noqa: E402 - what it reads when imported is set first

from rerank_bench import say  # noqa: E402
from rerank_bench.dtypes import effects  # noqa: E402
from rerank_bench.peers import PEERS  # noqa: E402
from rerank_bench.run import Settings, measure  # noqa: E402
from rerank_bench.shapes import SHAPES, write_checkpoint  # noqa: E402
from rerank_bench.workloads import WORKLOADS  # noqa: E402

GPU_BATCHES = {"model card": (4, 64), "sentence-transformers": (8, 128), "mteb": (8,)}
"""Beside the defaults, so that a peer is judged at its best."""


def main() -> int:
    """Parse the arguments, measure, write."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m rerank_bench", description=__doc__)
    parser.add_argument("--preset", choices=SHAPES, default="0.6b" if cuda else "tiny", help="the model's shape")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if cuda else "float32")
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), help="none: only follow growing pairs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", nargs="*", type=int, default=[10, 100, 1000] if cuda else [1, 10, 100])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tokenizer", help="folder with Qwen's tokenizer, where the package dashscope is missing")
    parser.add_argument("--vllm", help="python of an environment with vLLM, where it is not installed in this one")
    parser.add_argument("--peers", nargs="*", choices=[name for name in PEERS if name != "ours"], help="these alone")
    parser.add_argument("--checkpoints", default=str(Path(tempfile.gettempdir()) / "rerank-eval-bench"))
    parser.add_argument("--output", default="results/bench")
    told = parser.parse_args()
    if unknown := set(told.workloads) - set(WORKLOADS):
        parser.error(f"unknown workload {min(unknown)!r}; valid: {', '.join(WORKLOADS)}")
    started = time.perf_counter()
    folder = write_checkpoint(
        Path(told.checkpoints) / told.preset,
        SHAPES[told.preset],
        told.dtype,
        told.device,
        told.tokenizer,
    )
    settings = Settings(
        told.preset,
        folder,
        told.dtype,
        told.device,
        tuple(told.workloads),
        rounds=told.rounds,
        batch_sizes=GPU_BATCHES if cuda else {},
        growth=tuple(told.growth),
        threads=told.threads,
        small=not told.device.startswith("cuda"),
        together=not told.device.startswith("cuda"),
        pythons={"vllm": told.vllm} if told.vllm else {},
        peers=None if told.peers is None else tuple(told.peers),
    )
    document = measure(settings, say)
    document["dtypes"] = effects(folder, told.device, say) if told.workloads and told.peers is None else {}
    document["seconds"] = time.perf_counter() - started
    output = Path(told.output)
    output.mkdir(parents=True, exist_ok=True)
    beside = "".join(f"-{name.replace(' ', '_')}" for name in told.peers or ())
    path = output / f"{told.preset}-{told.device.partition(':')[0]}-{told.dtype}{beside}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    say(f"written: {path}")
    if find_spec("matplotlib"):  # else `python -m rerank_bench.plot` draws it elsewhere
        from rerank_bench.plot import draw

        say(f"written: {draw(document, path.with_suffix('.svg'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
