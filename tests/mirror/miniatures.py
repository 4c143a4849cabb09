"""A miniature of every data set that the suites read, in the layout that its mteb task expects from the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rerank_eval.tasks.registry import build, resolve
from rerank_eval.tasks.suites import load_suites
from tests.mirror.hub_layout import Repository
from tests.mirror.texts import Writer

_CHINESE = {
    *("T2Retrieval", "MMarcoRetrieval", "DuRetrieval", "CovidRetrieval"),
    *("CmedqaRetrieval", "EcomRetrieval", "MedicalRetrieval", "VideoRetrieval"),
}
_CODE_LANGUAGES = [
    *("python", "javascript", "typescript", "go", "ruby", "java", "php"),
    *("c", "c++", "rust", "swift", "scala", "shell"),
]
_NUMBERED = {"TwitterHjerneRetrieval", "LegalBenchCorporateLobbying"}
"""Tasks whose ids stand as numbers in the files."""


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        queries: Of a cell; the rare cell of a task with hundreds has fewer.
        documents: Of a cell.
    """

    queries: int = 6
    documents: int = 24


@dataclass(frozen=True)
class Cell:
    """One cell's rows."""

    corpus: list[dict[str, Any]]
    queries: list[dict[str, Any]]
    qrels: list[dict[str, Any]]


SUITES = ("MTEB-R", "CMTEB-R", "MMTEB-R", "MLDR", "MTEB-Code", "FollowIR")


def suite_tasks() -> list[str]:
    """Return the names of all tasks of the model card's six suites, each once."""
    suites = load_suites()
    return list(dict.fromkeys(task.name for suite in SUITES for task in suites[suite].tasks))


def write_mirror(root: Path, tasks: Iterable[str]) -> Path:
    """Write the data sets of tasks into a mirror.

    Args:
        root: The mirror.
        tasks: mteb's names.

    Returns:
        The mirror.
    """
    for name in tasks:
        [ref] = resolve([name])
        write_task(root, build(ref))
    return root


def write_task(root: Path, task: Any) -> Repository:
    """Write one task's data set: every split and subset that the task reads."""
    dataset = task.metadata.dataset
    repository = Repository(root / dataset["path"], dataset["revision"])
    _LAYOUTS.get(task.metadata.name, _instructions if "Instruction" in task.metadata.type else _standard)(
        task, repository
    )
    repository.finish()
    return repository


def _cell(task: Any, subset: str, split: str, size: Size) -> Cell:
    name = task.metadata.name
    kind = "chinese" if name in _CHINESE else "code" if task.metadata.dataset["path"].startswith("CoIR") else "english"
    writer = Writer(kind, f"{name} {subset} {split}")
    texts = [writer.document(_characters(name, split)) for _ in range(size.documents)]
    number = int if name in _NUMBERED else str
    documents = [number(f"{index}") if name in _NUMBERED else f"doc{index}" for index in range(size.documents)]
    queries, qrels = [], []
    for index in range(size.queries):
        wanted = index * 3 % size.documents
        # Where mteb drops identical ids, half of the queries carry the id of a document, as in ArguAna.
        own = task.ignore_identical_ids and index % 2 == 0
        query_id = documents[(wanted + 1) % size.documents] if own else number(f"{1000 + index}")
        queries.append({"_id": query_id, "text": writer.query(texts[wanted])})
        qrels.append({"query-id": query_id, "corpus-id": documents[wanted], "score": 1 + index % 2})
        qrels.append({"query-id": query_id, "corpus-id": documents[(wanted + 2) % size.documents], "score": 0})
    queries.append({"_id": number("9999"), "text": "a query that nobody judged"})
    corpus = [{"_id": one, "title": "", "text": text} for one, text in zip(documents, texts, strict=True)]
    return Cell(corpus, queries, qrels)


def _characters(name: str, split: str) -> int:
    if name == "LEMBPasskeyRetrieval":
        return 4 * int(split.removeprefix("test_"))
    return 20_000 if name == "MultiLongDocRetrieval" else 0


def _standard(task: Any, repository: Repository) -> None:
    """`corpus`, `queries`, `default`; CoIR's name the first two's only split after them; `SUBSET-corpus` and so on."""
    coir = task.metadata.dataset["path"].startswith("CoIR-Retrieval/")
    cells = len(task.hf_subsets) * len(task.eval_splits)
    size = Size() if cells == 1 else Size(3, 8)
    for subset in task.hf_subsets:
        before = "" if subset == "default" else f"{subset}-"
        for split in task.eval_splits:
            cell = _cell(task, subset, split, size)
            repository.add(f"{before}corpus", "corpus" if coir else split, cell.corpus)
            repository.add(f"{before}queries", "queries" if coir else split, cell.queries)
            repository.add(f"{before}qrels" if before else "default", split, cell.qrels)


def _instructions(task: Any, repository: Repository) -> None:
    """FollowIR's: each topic twice, with the original and the changed instruction, over candidates of its own."""
    [split] = task.eval_splits
    topics, candidates = 4, 20
    cell = _cell(task, "default", split, replace(Size(), queries=topics, documents=topics * candidates))
    documents = [row["_id"] for row in cell.corpus]
    queries, qrels, ranked, told, changed = [], [], [], [], []
    for topic, row in enumerate(cell.queries[:topics]):
        own = documents[topic * candidates : (topic + 1) * candidates]
        for version, relevant in (("og", own[:4]), ("changed", own[:2])):
            query_id = f"{topic}-{version}"
            queries.append({"_id": query_id, "text": row["text"]})
            told.append({"query-id": query_id, "instruction": f"Relevant passages name {version} {own[0]}."})
            ranked.append({"query-id": query_id, "corpus-ids": own})
            qrels += [{"query-id": query_id, "corpus-id": one, "score": int(one in relevant)} for one in own[:8]]
        changed.append({"query-id": str(topic), "corpus-ids": own[2:4]})
    parts = {"corpus": cell.corpus, "queries": queries, "default": qrels, "top_ranked": ranked, "instruction": told}
    for config, rows in parts.items():
        repository.add(config, split, rows)
    repository.add("qrel_diff", "qrel_diff", changed)


def _belebele(task: Any, repository: Repository) -> None:
    """One file a language, in parallel: passage and question of the same link belong together."""
    languages = {one.replace("-", "_") for subset in task.hf_subsets for one in task.metadata.eval_langs[subset]}
    for language in sorted(languages):
        writer = Writer("english", f"belebele {language}")
        rows = []
        for passage in range(4):
            text = f"{language}: {writer.document()}"
            for question in range(1 + passage % 2):
                row = {"link": f"link{passage}", "question_number": question + 1, "flores_passage": text}
                row |= {"question": f"{writer.query(text)}?", "correct_answer_num": "1"}
                row |= {f"mc_answer{number}": f"answer {number}" for number in range(1, 5)}
                rows.append({**row, "dialect": language, "ds": "2023-05-03"})
        repository.write(f"data/{language}.jsonl", rows)
        repository.configs[language] = {"test": f"data/{language}.jsonl"}


def _code_edits(_: Any, repository: Repository) -> None:
    """A folder a language and no configurations: the task asks for `data_dir`."""
    for language in _CODE_LANGUAGES:
        writer = Writer("code", f"edits {language}")
        rows = []
        for number in range(6):
            text = writer.document()
            row = {"commit": f"{number:040x}", "lang": language, "instruction": writer.query(text)}
            rows.append({**row, "diff": f"--- a\n+++ b\n+{text}"})
        repository.write(f"{language}/train-00000-of-00001.parquet", rows)


def _code_search_net(task: Any, repository: Repository) -> None:
    """CoIR's: all partitions' queries in one split, of which the task takes `test`."""
    for language in task.hf_subsets:
        cell = _cell(task, language, "test", Size(5, 12))
        partitions = ["test"] * (len(cell.queries) - 1) + ["train"]
        queries = [{**row, "partition": partition} for row, partition in zip(cell.queries, partitions, strict=True)]
        repository.add(f"{language}-corpus", "corpus", cell.corpus)
        repository.add(f"{language}-queries", "queries", queries)
        for split in ("train", "test"):
            repository.add(f"{language}-qrels", split, cell.qrels)


_LAYOUTS: dict[str, Callable[[Any, Repository], None]] = {
    "BelebeleRetrieval": _belebele,
    "CodeEditSearchRetrieval": _code_edits,
    "CodeSearchNetCCRetrieval": _code_search_net,
    "COIRCodeSearchNetRetrieval": _code_search_net,
}


def expected_cells(task: str) -> Sequence[tuple[str, str]]:
    """Return (subset, split) of every cell of a task, from mteb's own metadata."""
    [ref] = resolve([task])
    built = build(ref)
    return [(subset, split) for split in built.eval_splits for subset in built.hf_subsets]
