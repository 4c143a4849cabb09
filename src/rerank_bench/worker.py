"""A process that holds one peer and scores what it is told: a JSON line in, a JSON line out.

Each peer has a process of its own, so that its peak memory is its own, and peers can take turns, so that a machine that
slows down for a while slows all of them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from rerank_bench.peers import PEERS
from rerank_bench.workloads import WORKLOADS, Texts


def main() -> None:
    """Load what the first argument (JSON) says, then answer until the input ends."""
    told = json.loads(sys.argv[1])
    if told["threads"]:
        torch.set_num_threads(told["threads"])
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries print; the answers' stream is ours alone
    make, _, default = PEERS[told["peer"]]
    size = told["batch_size"] if told["batch_size"] is not None else default
    peer = make(Path(told["folder"]), told["dtype"], told["device"], size)
    tokenizer = AutoTokenizer.from_pretrained(told["folder"])
    texts = Texts(tokenizer, WORKLOADS[told["workload"]], told["group"])
    memory = _Memory(told["device"])
    facts = {"batch_size": size, "settings": _settings(peer), "version": getattr(peer, "version", "")}
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        groups = list(texts.groups(order["first"], order["groups"])) if order["ready"] else None
        memory.reset()
        started = time.perf_counter()
        stream = iter(groups) if groups is not None else texts.groups(order["first"], order["groups"])
        first: list[float] = []
        pairs = 0
        for scores in peer.score(stream):
            pairs += len(scores)
            first = first or scores.tolist()
        seconds = time.perf_counter() - started
        answer = {"seconds": seconds, "pairs": pairs, "peak_bytes": memory.peak(), "p_yes": first}
        print(json.dumps(answer), file=answers, flush=True)


def _settings(peer: Any) -> dict[str, Any]:
    engine = getattr(peer, "engine", None)
    return {} if engine is None else {key: value for key, value in engine.settings.items() if key != "model"}


class _Memory:
    """Peak memory since the last reset, above what the loaded model takes."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self._base = torch.cuda.memory_allocated() if self._cuda else _status("VmRSS")

    def reset(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak resident set size

    def peak(self) -> int:
        return (torch.cuda.max_memory_allocated() if self._cuda else _status("VmHWM")) - self._base


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
