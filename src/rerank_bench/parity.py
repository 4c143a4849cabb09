"""Parity, family by family: our margins and token ids beside those of the family's own code.

    python -m rerank_bench.parity --peers PYTHON --vllm PYTHON

The first PYTHON is of an environment with FlagEmbedding, mxbai-rerank and rerankers (which need transformers 4), the
second of one with vLLM; peers that run in this environment are asked anyway. Writes results/bench/parity.json, where
rows of peers that are not asked stay, and the table of docs/rerankers.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rerank_eval.engine.quiet import hush

hush()

import numpy as np  # noqa: E402 - what is imported with it reads settings that are set first

from rerank_bench import say  # noqa: E402
from rerank_bench.parity_families import FAMILIES, LENGTH, PAIRS, Family, tokenizer_class  # noqa: E402
from rerank_bench.table import put  # noqa: E402
from rerank_eval.config.schema import RerankerConfig  # noqa: E402
from rerank_eval.engine.chat_template import chat_template  # noqa: E402
from rerank_eval.engine.interface import QueryGroup  # noqa: E402
from rerank_eval.engine.recipes import RECIPES  # noqa: E402
from rerank_eval.files import load_json, write_json  # noqa: E402
from rerank_eval.models.resolve import resolve_model  # noqa: E402
from rerank_eval.rerankers.loading import load_reranking_engine  # noqa: E402

TOLERANCE = 1e-4
"""Largest difference of a margin in float32."""


def main() -> int:
    """Parse the arguments, compare, write."""
    parser = argparse.ArgumentParser(prog="python -m rerank_bench.parity", description=__doc__)
    parser.add_argument("--peers", help="python of an environment with FlagEmbedding, mxbai-rerank and rerankers")
    parser.add_argument("--vllm", help="python of an environment with vLLM")
    peers = sorted({peer for family in FAMILIES for peer in family.peers})
    parser.add_argument("--only", choices=peers, help="ask this peer alone")
    parser.add_argument("--output", default="results/bench/parity.json")
    parser.add_argument("--docs", default="docs/rerankers.md")
    told = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, family in enumerate(FAMILIES):
            if told.only not in {None, *family.peers}:
                continue
            python = sys.executable if family.here else told.peers if family.vllm is None else told.vllm
            if python is None:
                say(f"{family.name}, {', '.join(family.peers)}: needs {'--peers' if family.vllm is None else '--vllm'}")
                continue
            folder = Path(scratch) / str(number)
            folder.mkdir()
            family.build(folder)
            for peer in family.peers if told.only is None else (told.only,):
                rows.append(compare(family, folder, peer, python))
                say(row_text(rows[-1]))
    output = Path(told.output)
    kept = merged(rows, load_json(output)["rows"] if output.is_file() else [])
    write_json(output, {"rows": kept})
    put(Path(told.docs), table(kept), "parity")
    return 0 if all(row["largest"] <= TOLERANCE and row["ids_equal"] == row["pairs"] for row in rows) else 1


def merged(new: Sequence[dict[str, Any]], old: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the rows of peers that were not asked now, and put all in the families' order.

    Args:
        new: The rows of this run.
        old: Those of the file; one of the same family and package, of whatever version, gives way.
    """
    asked = {_who(row) for row in new}
    rows = [*new, *(row for row in old if _who(row) not in asked)]
    order = list(dict.fromkeys(family.name for family in FAMILIES))
    return sorted((row for row in rows if row["family"] in order), key=lambda row: order.index(row["family"]))


def _who(row: dict[str, Any]) -> tuple[str, str]:
    return row["family"], row["peer"].partition(" ")[0]


def compare(family: Family, folder: Path, peer: str, python: str) -> dict[str, Any]:
    """Score all pairs by our engines and by a peer."""
    settings = {"model": str(folder), "max_length": LENGTH}
    if family.recipe:
        settings["recipe"] = family.recipe
    found: dict[str, list[float]] = {"packed": [], "reference": []}
    ids: list[tuple[int, ...]] = []
    for name, margins in found.items():
        config = RerankerConfig.model_validate(settings | {"engine": name})
        engine = load_reranking_engine(config, resolve_model(str(folder), None, "parity"), "cpu")
        for instruction in family.instructions:
            groups = [QueryGroup(query, instruction, [text]) for query, text in _pairs(family)]
            margins += [float(one.margins[0]) for one in engine.score_groups(groups)]
            if name == "packed":
                ids += [engine.render(query, text, instruction).token_ids for query, text in _pairs(family)]
    theirs: list[float] = []
    their_ids: list[tuple[int, ...]] = []
    answer: dict[str, Any] = {}
    if peer == "FlagReranker":  # it frames pairs by the tokenizer's class, which has to be XLM-RoBERTa's
        folder = Path(shutil.copytree(folder, f"{folder}-theirs"))
        tokenizer_class(folder, "XLMRobertaTokenizerFast")
    for instruction in family.instructions:
        answer = ask(python, _question(family, folder, peer, instruction))
        theirs += answer["scores"]
        their_ids += [tuple(one) for one in answer["ids"]]
    differences = {name: float(np.abs(np.array(margins) - theirs).max()) for name, margins in found.items()}
    return {
        "family": family.name,
        "recipe": family.recipe,
        "peer": answer["version"],
        "pairs": len(theirs),
        "ids_equal": sum(one == other for one, other in zip(ids, their_ids, strict=True)),
        "spread": float(np.ptp(theirs)),
        **differences,
        "largest": max(differences.values()),
    }


def _pairs(family: Family) -> list[tuple[str, str]]:
    # For an encoder vLLM 0.32 calls tokenizer(text=query, text_pair=""), of which transformers makes the query alone.
    return [pair for pair in PAIRS if pair[1] or family.recipe or family.vllm is None]


def _question(family: Family, folder: Path, peer: str, instruction: str | None) -> dict[str, Any]:
    recipe = RECIPES.get(family.recipe)
    question: dict[str, Any] = {"peer": peer, "folder": str(folder), "instruction": instruction}
    question["pairs"] = [list(pair) for pair in _pairs(family)]
    if recipe is not None and peer == "AutoModelForSequenceClassification":  # its users write the prompts themselves
        question["pairs"] = [[recipe.prompt(query, text, instruction)] for query, text in _pairs(family)]
    if family.vllm is None:
        return question
    question["overrides"] = family.vllm
    if recipe is not None and recipe.tokenize == "apart":  # no chat template says so
        parts = recipe.parts(instructed=instruction is not None)
        question["pairs"] = [[part.render(*pair, instruction) for part in parts] for pair in _pairs(family)]
    elif recipe is not None:
        question["template"] = chat_template(recipe)
    return question


def ask(python: str, question: dict[str, Any]) -> dict[str, Any]:
    """Ask a peer in a process of its own."""
    script = find_spec("rerank_bench.parity_peers")
    assert script is not None and script.origin is not None  # noqa: S101, PT018 - it stands beside this file
    done = subprocess.run(  # noqa: S603 - the caller's own python
        [python, script.origin], input=json.dumps(question), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{question['peer']} failed in {python}:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index('{"scores"') :])
    return answer


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Render the comparison as Markdown."""
    lines = [
        "| family | recipe | beside | pairs | ids equal | margins' range | largest difference, packed | reference |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['family']} | {row['recipe'] or 'bare pair'} | {row['peer']} | {row['pairs']} | {row['ids_equal']} "
        f"| {row['spread']:.1f} | {row['packed']:.1e} | {row['reference']:.1e} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def row_text(row: dict[str, Any]) -> str:
    """Render one comparison in a line."""
    return (
        f"{row['family']}, {row['peer']}: ids equal {row['ids_equal']} of {row['pairs']}, largest difference "
        f"{row['packed']:.1e} packed, {row['reference']:.1e} reference (margins over {row['spread']:.1f})"
    )


if __name__ == "__main__":
    raise SystemExit(main())
