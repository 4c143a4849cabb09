"""What `rerank-eval parity` says of real servers: `python -m rerank_bench.servers_parity`, or `make servers-parity`.

Starts vLLM with the model card's template, without one, with another recipe's and with prompts rendered here, with the
demo reranker, and Infinity with it as a classifier, which reads the bare pair. Writes results/bench/servers.json and
the table of docs/servers.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_bench import say
from rerank_bench.servers import QWEN3_OVERRIDES, Server, demo_folder, infinity, vllm, write_classifier, write_template
from rerank_bench.table import put
from rerank_eval.cli import main as rerank_eval
from rerank_eval.files import write_json

TASK = "PyFunctionRetrieval"
_SHARED = ["retriever.model=bm25", "retriever.top_k=20", "device=cpu"]
_DEMO = ["reranker.checkpoint=demo:qwen3-python"]


@dataclass(frozen=True)
class Case:
    """A server, and what is asked of it.

    Attributes:
        title: For the table.
        server: Makes it, in a folder of its own.
        both: Settings of both sides.
        server_side: Settings of the server's alone.
    """

    title: str
    server: Callable[[Path], Server]
    both: Sequence[str] = ()
    server_side: Sequence[str] = ()


def _vllm(template: str | None) -> Callable[[Path], Server]:
    def make(folder: Path) -> Server:
        written = None if template is None else write_template(template, folder / f"{template}.jinja")
        return vllm(demo_folder(), folder / "vllm.log", template=written, overrides=QWEN3_OVERRIDES)

    return make


def _infinity(folder: Path) -> Server:
    return infinity(write_classifier(folder / "classifier"), folder / "infinity.log")


CASES = (
    Case("vLLM 0.32, `--chat-template` of the card", _vllm("card"), server_side=_DEMO),
    Case("vLLM 0.32, no template, prompts rendered here", _vllm(None), server_side=["reranker.api=vllm-score", *_DEMO]),
    Case("vLLM 0.32, no template", _vllm(None), server_side=_DEMO),
    Case("vLLM 0.32, `--chat-template` of recipe `sglang`", _vllm("sglang"), server_side=_DEMO),
    Case("vLLM 0.32, `head: recipe_softmax`", _vllm("card"), server_side=[*_DEMO, "reranker.head=recipe_softmax"]),
    Case("Infinity 0.0.78, the weights as a classifier", _infinity, both=["reranker.instruction=none"]),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, ask each server, write file and table."""
    parser = argparse.ArgumentParser(prog="python -m rerank_bench.servers_parity", description=__doc__)
    parser.add_argument("--output", default="results/bench/servers.json")
    parser.add_argument("--docs", default="docs/servers.md")
    parser.add_argument("--queries", type=int, default=10)
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        rows = [_asked(case, Path(temporary) / str(number), told.queries) for number, case in enumerate(CASES)]
    write_json(Path(told.output), rows)
    put(Path(told.docs), table(rows), "servers")
    say(f"written: {told.output}, {told.docs}")
    return 0


def _asked(case: Case, folder: Path, queries: int) -> dict[str, Any]:
    folder.mkdir()
    with case.server(folder) as server:
        arguments = ["parity", "offline", server.address, "--task", TASK, "--queries", str(queries)]
        for key in (*_SHARED, *case.both, "grid=null", f"results_dir={folder}/results"):
            arguments += ["--set", key]
        for key in case.server_side:
            arguments += ["--set-b", key]
        try:
            rerank_eval([*arguments, "--json", str(folder / "parity.json")])
        except SystemExit as ended:
            code = ended.code
    found = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    say(f"{case.title}: exit code {code}, largest difference {found['margins']['largest']:.2g}")
    return {
        "server": case.title,
        "code": code,
        "pairs": found["pairs"],
        "largest": found["margins"]["largest"],
        "tau": found["orders"]["tau_mean"],
        "diagnosis": [one["text"] for one in found["diagnosis"]],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Render what came out as Markdown."""
    lines = [
        "| server, in float32 | pairs | largest margin difference | Kendall's tau | what parity says |",
        "|---|--:|--:|--:|---|",
    ]
    for row in rows:
        said = "; ".join(row["diagnosis"]) or "the same"
        lines.append(f"| {row['server']} | {row['pairs']} | {row['largest']:.2g} | {row['tau']:.3f} | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
