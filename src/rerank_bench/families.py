"""Times our packed engine beside a family's own code: one decoder and one encoder, in turns, on a CPU.

    python -m rerank_bench.families --peers PYTHON

PYTHON is an environment with mxbai-rerank and FlagEmbedding. Writes results/bench/families.json and the table of
docs/engine.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from pydoc_data import topics
from statistics import median
from typing import Any

from rerank_eval.engine.quiet import hush

hush()

import numpy as np  # noqa: E402 - what is imported with it reads settings that are set first
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoTokenizer, Qwen2Config, XLMRobertaConfig  # noqa: E402

from rerank_bench import say  # noqa: E402
from rerank_bench.parity_families import roberta_tokenizer, save_random  # noqa: E402
from rerank_bench.scorer import Scorer  # noqa: E402
from rerank_bench.shapes import SHAPES  # noqa: E402
from rerank_bench.table import put  # noqa: E402
from rerank_eval.files import load_json, write_json  # noqa: E402
from rerank_eval.models.qwen_vocabulary import ADDED_TOKENS, build_qwen_tokenizer  # noqa: E402
from rerank_eval.pipeline.estimate_rate import processor  # noqa: E402

TOLERANCE = 1e-4
"""Largest difference of a margin in float32."""
MAX_LENGTH = 512
_TINY = SHAPES["tiny"]
_SIZES = {
    "hidden_size": _TINY.hidden,
    "intermediate_size": _TINY.intermediate,
    "num_hidden_layers": _TINY.layers,
    "num_attention_heads": _TINY.heads,
    "max_position_embeddings": 2_048,
}
_STD = 0.1
"""Of the random matrices: large enough for attention to matter at this width."""
_QUERY = 12
_DOCUMENT = (100, 200)
"""Tokens of a query, and the least and most of a document."""

Groups = list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Family:
    """A family of rerankers.

    Attributes:
        name: For the table.
        kind: What it is, for the table.
        build: Writes a small checkpoint of it into a folder.
        recipe: What our config names; empty for pairs without a prompt.
        peer: Name in `families_worker.SCORERS`.
        tokenizer: What the peer's copy of tokenizer_config.json says, where its code asks the tokenizer's class.
    """

    name: str
    kind: str
    build: Callable[[Path], None]
    recipe: str
    peer: str
    tokenizer: dict[str, str] = field(default_factory=dict)


def _qwen2(folder: Path) -> None:
    # With the whole vocabulary the peer's logits would outweigh four small layers, which flatters us.
    made = build_qwen_tokenizer(_TINY.vocabulary - len(ADDED_TOKENS))
    config: Any = Qwen2Config(
        **_SIZES, num_key_value_heads=_TINY.key_value_heads, vocab_size=len(made), tie_word_embeddings=True
    )
    save_random(folder, config, made, eps=_STD)


def _xlm_roberta(folder: Path) -> None:
    made = roberta_tokenizer()
    config: Any = XLMRobertaConfig(**_SIZES, vocab_size=len(made), num_labels=1, pad_token_id=0)
    save_random(folder, config, made, head=True, eps=_STD)


FAMILIES = (
    Family("mxbai-rerank-v2", "Qwen2 decoder", _qwen2, "mxbai_v2", "MxbaiRerankV2"),
    Family(
        "bge-reranker-v2-m3",
        "XLM-R encoder",
        _xlm_roberta,
        "",
        "FlagReranker",
        # FlagEmbedding joins ids by this class's method; transformers' general class puts no marks around a pair there.
        {"tokenizer_class": "XLMRobertaTokenizerFast", "cls_token": "<bos>", "sep_token": "<eos>"},
    ),
)


class Worker(Scorer):
    """A scorer in a process of its own, see `families_worker`."""

    def __init__(self, python: str, question: dict[str, Any], scratch: Path) -> None:
        script = find_spec("rerank_bench.families_worker")
        assert script is not None and script.origin is not None  # noqa: S101, PT018 - it stands beside this file
        asked = scratch / f"{question['peer']}.json"
        asked.write_text(json.dumps(question), encoding="utf-8")
        threads = {"OMP_NUM_THREADS": str(question["threads"]), "TOKENIZERS_PARALLELISM": "false"}
        super().__init__([python, script.origin, str(asked)], os.environ | threads)

    def turn(self, first: int, groups: int) -> dict[str, Any]:
        """Score some groups.

        Args:
            first: Number of the first group.
            groups: How many.

        Returns:
            `seconds` and `scores`.
        """
        return self.ask(f"{first} {groups}")

    def ended(self, said: str) -> BaseException:
        """See `Scorer.ended`."""
        return SystemExit("a scorer ended:\n" + said[-3000:])


def texts(folder: Path, queries: int, documents: int) -> Groups:
    """Draw English text of given token counts by a checkpoint's tokenizer; the same at each call."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    prose = "\n".join(topics.topics[name] for name in sorted(topics.topics))[:200_000]
    ids: list[int] = tokenizer(prose, add_special_tokens=False, verbose=False)["input_ids"]
    generator = np.random.default_rng(20_261_128)

    def draw(tokens: int) -> str:
        start = int(generator.integers(0, len(ids) - tokens))
        text: str = tokenizer.decode(ids[start : start + tokens])
        return text.strip()

    low, high = _DOCUMENT
    lengths = generator.integers(low, high + 1, (queries, documents))
    return [(draw(_QUERY), [draw(int(tokens)) for tokens in row]) for row in lengths]


def measure(family: Family, python: str, scratch: Path, told: argparse.Namespace) -> dict[str, Any]:
    """Let our engine and the family's own code take turns on the same pairs.

    Args:
        family: Which.
        python: The peers' interpreter.
        scratch: Folder for the checkpoint.
        told: The command's `queries`, `documents`, `rounds` and `threads`.

    Returns:
        A row of the document.
    """
    folders = {"ours": scratch / f"{family.peer}-ours", family.peer: scratch / f"{family.peer}-theirs"}
    folders["ours"].mkdir()
    family.build(folders["ours"])
    shutil.copytree(folders["ours"], folders[family.peer])
    config = folders[family.peer] / "tokenizer_config.json"
    config.write_text(json.dumps(load_json(config) | family.tokenizer), encoding="utf-8")
    groups = texts(folders["ours"], 1 + told.rounds * told.queries, told.documents)
    shared = {"recipe": family.recipe, "threads": told.threads, "max_length": MAX_LENGTH, "groups": groups}
    asked = {peer: {**shared, "peer": peer, "folder": str(folder)} for peer, folder in folders.items()}
    answers: dict[str, list[dict[str, Any]]] = {"ours": [], family.peer: []}
    with ExitStack() as stack:
        workers = {
            peer: stack.enter_context(Worker(sys.executable if peer == "ours" else python, question, scratch))
            for peer, question in asked.items()
        }
        for worker in workers.values():
            worker.turn(0, 1)
        for number in range(told.rounds):  # other texts at each turn: our engine remembers a text's token ids
            for peer, worker in workers.items():
                answers[peer].append(worker.turn(1 + number * told.queries, told.queries))
        version = workers[family.peer].facts["version"]
    return {
        "family": family.name,
        "kind": family.kind,
        "peer": f"{family.peer}, {version}",
        **figures(answers["ours"], answers[family.peer]),
    }


def figures(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Reckon what two scorers' paired turns say.

    Args:
        ours: Our turns, `seconds` and `scores`.
        theirs: The peer's, turn by turn.

    Returns:
        Pairs per second of each, the ratio of the medians and the turns' least and most, and how far scores differ.
    """
    pairs = len(ours[0]["scores"])
    seconds = [median(one["seconds"] for one in turns) for turns in (ours, theirs)]
    ratios = [their["seconds"] / our["seconds"] for our, their in zip(ours, theirs, strict=True)]
    first, second = (np.array([one["scores"] for one in turns]) for turns in (ours, theirs))
    return {
        "pairs": pairs,
        "ours_pairs_per_second": pairs / seconds[0],
        "theirs_pairs_per_second": pairs / seconds[1],
        "times_as_long_as_ours": seconds[1] / seconds[0],
        "times_as_long_range": [min(ratios), max(ratios)],
        "largest_difference": float(np.abs(first - second).max()),
        "scores_range": float(np.ptp(second)),
    }


def main() -> int:
    """Parse the arguments, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m rerank_bench.families", description=__doc__)
    parser.add_argument("--peers", required=True, help="python of an environment with mxbai-rerank and FlagEmbedding")
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="results/bench/families.json")
    parser.add_argument("--docs", default="docs/engine.md")
    told = parser.parse_args()
    before = os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for family in FAMILIES:
            rows.append(measure(family, told.peers, Path(scratch), told))
            say(row_text(rows[-1]))
    machine = {
        "device": processor(),
        "cores": os.cpu_count(),
        "threads": told.threads,
        "load": [before, os.getloadavg()[0]],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    document = {"machine": machine, "queries": told.queries, "rounds": told.rounds, "rows": rows}
    write_json(Path(told.output), document)
    put(Path(told.docs), to_markdown(document), "families")
    return 0 if all(row["largest_difference"] <= TOLERANCE for row in rows) else 1


def to_markdown(document: dict[str, Any]) -> str:
    """Render the benchmark.

    Args:
        document: What `main` wrote.

    Returns:
        What it was measured on, and a table.
    """
    machine = document["machine"]
    before, after = machine["load"]
    lines = [
        f"{machine['device']}, {machine['cores']} cores, {machine['threads']} thread(s) for each scorer, torch "
        f"{machine['torch']}; {document['rounds']} turns of {document['queries']} queries. The machine's load was "
        f"{before:.1f} before and {after:.1f} after.",
        "",
        "| family | beside | pairs a turn | our pairs/s | its pairs/s | times as long | largest difference of a margin "
        "| margins' range |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in document["rows"]:
        low, high = row["times_as_long_range"]
        lines.append(
            f"| {row['family']}, {row['kind']} | {row['peer']} | {row['pairs']} | {row['ours_pairs_per_second']:.1f} "
            f"| {row['theirs_pairs_per_second']:.1f} | {row['times_as_long_as_ours']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {row['largest_difference']:.1e} | {row['scores_range']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def row_text(row: dict[str, Any]) -> str:
    """Render one family in a line."""
    low, high = row["times_as_long_range"]
    return (
        f"{row['family']}: ours {row['ours_pairs_per_second']:.1f} pairs/s, {row['peer']} "
        f"{row['theirs_pairs_per_second']:.1f}: {row['times_as_long_as_ours']:.2f}x ({low:.2f} to {high:.2f}), largest "
        f"difference {row['largest_difference']:.1e} of margins over {row['scores_range']:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
