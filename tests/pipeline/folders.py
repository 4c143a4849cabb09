"""A small BEIR folder with real words, for tests of the whole path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]

TOOLS = ["hammer", "saw", "drill", "chisel", "wrench", "level", "clamp", "file", "plane", "vise"]
USES = ["drive nails", "cut wood", "bore holes", "carve joints", "turn bolts", "check floors"]


def write_beir_folder(folder: Path, queries: int = 12) -> Path:
    """Write corpus.jsonl, queries.jsonl and qrels/test.tsv: sixty documents, one relevant for each query."""
    documents = {
        f"d{tool}-{use}": f"The {TOOLS[tool]} is used to {USES[use]} in workshop {tool * 7 + use}."
        for tool in range(len(TOOLS))
        for use in range(len(USES))
    }
    ids = list(documents)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as handle:
        for document_id, text in documents.items():
            handle.write(json.dumps({"_id": document_id, "title": "", "text": text}) + "\n")
    qrels = ["query-id\tcorpus-id\tscore"]
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as handle:
        for number in range(queries):
            document_id = ids[number * 7 % len(ids)]
            tool, use = document_id[1:].split("-")
            text = f"which tool can {USES[int(use)]}, the {TOOLS[int(tool)]} number {number}"
            handle.write(json.dumps({"_id": f"q{number}", "text": text}) + "\n")
            qrels.append(f"q{number}\t{document_id}\t1")
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return folder


def configs_with_random_weights(folder: Path) -> None:
    """Copy the project's configs with random weights for the reranker, which are fast and right about nothing.

    The trained default is right about all of so small a folder, so that every number would be 1.
    """
    target = shutil.copytree(ROOT / "configs", folder / "configs")
    base = target / "base.yaml"
    base.write_text(base.read_text().replace("demo:qwen3-python", "demo:qwen3-random"))
