"""Loads a task's data so that both stages can use it, and refuses what could not be judged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rerank_eval.errors import ConfigError, DataError, OfflineError
from rerank_eval.hub import go_offline_if_unreachable, why_unreachable
from rerank_eval.names import digest
from rerank_eval.tasks import mirror
from rerank_eval.typed import command

logger = logging.getLogger(__name__)

_RERANKING = ("Reranking", "InstructionReranking")


def fingerprint(task: Any) -> str:
    """Digest what identifies a task's data, without loading it.

    Returns:
        Sixteen hexadecimal characters over dataset, revision, splits, subsets and the task's own prompt, which an
        mteb release may change under the same data.
    """
    dataset = task.metadata.dataset
    mirrored = getattr(task, "mirror", None)
    path = dataset.get("path") if mirrored is None else mirrored.dataset
    facts = [path, dataset.get("revision"), sorted(task.eval_splits), sorted(task.hf_subsets)]
    facts.append(task.metadata.prompt)
    return digest([task.metadata.name, *facts, *_conventions(task)])


def _conventions(task: Any) -> list[str]:
    """Name what can change this task's candidates and earlier releases did otherwise.

    A result of theirs is then not taken for one of ours; nearly all tasks have none of it, and keep their results.
    """
    found = []
    if getattr(task, "has_own_documents", False):
        found.append("own documents")
    statistics = (task.metadata.descriptive_stats or {}).values() if from_hub(task) else ()
    if not gives_lists(task.metadata) and any(_has_lists(one) for one in statistics):
        found.append("lists to retrieve from")
    return found


def _has_lists(statistics: Mapping[str, Any]) -> bool:
    parts = (statistics.get("hf_subset_descriptive_stats") or {}).values()
    return any(part.get("top_ranked_statistics") for part in [statistics, *parts])


def gives_lists(task_metadata: Any) -> bool:
    """Tell whether `top_ranked` of such a task is its candidates, rather than where to look for them.

    Args:
        task_metadata: mteb's `TaskMetadata`.
    """
    return task_metadata.type in _RERANKING


def cells(task: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (subset, split, data) of a loaded task, in the order in which mteb evaluates them."""
    for split in task.eval_splits:
        for subset in task.hf_subsets:
            if subset in task.dataset and split in task.dataset[subset]:
                yield subset, split, task.dataset[subset][split]


def load(task: Any, data_root: Path | None = None) -> None:
    """Load a task's data in the format that both stages read, and check it.

    Args:
        task: An mteb task. Tasks in mteb's v1 format are converted, since `convert_to_reranking` cannot read them.
        data_root: A mirror from which hub data sets are read instead, or None.

    The task gets an attribute `remarks`, name -> number of ids that do not fit together, summed over its cells.

    Raises:
        ConfigError: The data has no such split.
        OfflineError: The data set is on the hub, is not in the cache, and the hub cannot be reached.
        DataError: The data cannot be judged: an empty corpus, a query twice, no judgements. Or it is not in the mirror.
    """
    dataset = task.metadata.dataset
    where = f"{task.metadata.name} ({dataset.get('path')}, revision {dataset.get('revision')})"
    folder = mirror.find(task, data_root) if data_root is not None and from_hub(task) else None
    mirror.use_datasets_cache(folder)
    if folder is not None:
        mirror.localize(task, folder)
    check_splits(task)
    with mirror.cards_parsed_once():
        _load_data(task, where, ask_hub=folder is None and from_hub(task))
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    checked = [_check(f"{task.metadata.name}, {subset}/{split}", data) for subset, split, data in cells(task)]
    task.remarks = {name: total for name in _REMARKS if (total := sum(one[name] for one in checked))}
    if not checked:
        raise DataError(f"{where}: none of its splits {list(task.eval_splits)} is there")


def check_splits(task: Any, data_root: Path | None = None) -> None:
    """Refuse a split that a hub task's data does not have; asked for before any model is loaded.

    mteb reads the only split of a data set whatever name it is asked for, and files the scores under that name.

    Args:
        task: An mteb task, not loaded.
        data_root: A mirror from which its data set is read, or None.

    Raises:
        ConfigError: Names the splits that are there.
    """
    listed = list(task.metadata.eval_splits)
    others = [split for split in task.eval_splits if split not in listed]
    if not others or not from_hub(task):
        return
    from datasets import get_dataset_split_names
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    known = listed
    if type(task).load_data is AbsTaskRetrieval.load_data:  # loaders of a task's own read what its metadata lists
        path, revision = str(task.metadata.dataset["path"]), task.metadata.dataset.get("revision")
        if data_root is not None and getattr(task, "mirror", None) is None:
            path = str(mirror.find(task, data_root).path.resolve())
        try:
            found = [get_dataset_split_names(path, name, revision=revision) for name in _qrels(task, path)]
        except (DatasetsError, HfHubHTTPError, OSError, ValueError):
            return  # loading it will tell what is missing
        known = [split for split in found[0] if all(split in splits for splits in found)]
    for split in others:
        if split not in known:
            raise ConfigError(f"split: {task.metadata.name} has no {split!r}; valid: {', '.join(known)}")


def _qrels(task: Any, path: str) -> list[str]:
    """Return the configurations of a task's judgements, as mteb's loader chooses them."""
    from datasets import get_dataset_config_names

    names = get_dataset_config_names(path, revision=task.metadata.dataset.get("revision"))
    alone = "default" if "default" in names else "qrels"
    return [alone if subset == "default" else f"{subset}-qrels" for subset in task.hf_subsets]


def from_hub(task: Any) -> bool:
    """Tell whether a task's data set is published on the hub, rather than made here or read from a BEIR folder."""
    return not str(task.metadata.dataset.get("path")).startswith(("local/", "rerank-eval/"))


def _load_data(task: Any, where: str, *, ask_hub: bool) -> None:
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if ask_hub:
        go_offline_if_unreachable()
    try:
        task.load_data()
        if ask_hub and "Instruction" in task.metadata.type:
            _fetch_changed_judgements(task)
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError) as error:
        raise OfflineError(_missing(task, where)) from error
    except (DatasetNotFoundError, HfHubHTTPError) as error:
        raise OfflineError(f"{where}: the hub has no such data set that you may read") from error
    except (DatasetsError, FileNotFoundError, ValueError) as error:
        # datasets tells a missing configuration by ValueError when it may not ask the hub.
        if ask_hub and go_offline_if_unreachable():
            raise OfflineError(_missing(task, where)) from error
        raise DataError(f"{where}: cannot be read ({type(error).__name__}: {error})") from error


def check_present(task: Any) -> None:
    """Refuse a hub task whose data is in no cache while the hub is out of reach, before any model is loaded.

    Raises:
        OfflineError: Names the command that fetches the data.
    """
    path = str(task.metadata.dataset.get("path"))
    if not from_hub(task) or not go_offline_if_unreachable():
        return
    import datasets.config
    import huggingface_hub.constants

    downloaded = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}"
    processed = Path(datasets.config.HF_DATASETS_CACHE) / path.replace("/", "___").lower()
    if not downloaded.is_dir() and not processed.is_dir():
        raise OfflineError(
            _missing(task, f"{task.metadata.name} ({path}, revision {task.metadata.dataset.get('revision')})"),
            lacking=f"{task.metadata.name}'s data ({path})",
        )


def _fetch_changed_judgements(task: Any) -> None:
    """Touch the second data set of FollowIR's kind, which mteb asks for only after all inference is done."""
    import datasets

    dataset = task.metadata.dataset
    configurations = datasets.get_dataset_config_names(dataset["path"], revision=dataset["revision"])
    for name in configurations:
        if name.endswith("qrel_diff"):
            datasets.load_dataset(dataset["path"], name, revision=dataset["revision"])


def changed_judgements(task: Any) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Return what p-MRR is about, for a loaded task of FollowIR's kind.

    Returns:
        (subset, split) -> pair of queries -> documents that the second one's instruction makes irrelevant; empty where
        relevance does not change with the instruction, or is not told in FollowIR's own layout.
    """
    if task.metadata.main_score != "p-MRR":
        return {}
    content = getattr(task, "content", None)
    if content is not None:
        return {(subset, split): dict(content(task.size, split).changed) for subset, split, _ in cells(task)}
    import datasets

    dataset = task.metadata.dataset
    names = datasets.get_dataset_config_names(dataset["path"], revision=dataset.get("revision"))
    if "qrel_diff" not in names:
        return {}
    rows = datasets.load_dataset(dataset["path"], "qrel_diff", split="qrel_diff", revision=dataset.get("revision"))
    changed = {str(row["query-id"]): list(row["corpus-ids"]) for row in rows}
    return {(subset, split): changed for subset, split, _ in cells(task)}


def _missing(task: Any, where: str) -> str:
    fetch = command("fetch", "--task", task.metadata.name, "--data-root", "DIR")
    return (
        f"{where}: not in the hub cache and {why_unreachable()}; run `{fetch}` where there is a network, and this "
        "with --set data_root=DIR"
    )


_REMARKS = ("judged_queries_missing", "judged_documents_missing", "queries_unjudged", "queries_without_candidates")


def _check(where: str, data: Any) -> dict[str, int]:
    """Refuse a cell that cannot be judged, leave out queries without a judgement, tell what does not fit together."""
    # As lists: a column of `datasets` takes 30 microseconds a row when it is walked through.
    documents, queries = data["corpus"]["id"][:], data["queries"]["id"][:]
    if len(documents) == 0:
        raise DataError(f"{where}: the corpus is empty")
    if len(queries) == 0:
        raise DataError(f"{where}: there are no queries")
    for kind, ids in (("document", documents), ("query", queries)):
        repeated = _first_repeated(ids)
        if repeated is not None:
            raise DataError(f"{where}: {kind} id {repeated!r} stands twice; ids must be unique")
    known_queries, known_documents = set(queries), set(documents)
    judged = [query for query, documents in data["relevant_docs"].items() if documents and query in known_queries]
    if not judged:
        raise DataError(f"{where}: no query has a judgement; are the ids of queries and qrels of the same kind?")
    strangers = set(data["relevant_docs"]) - known_queries
    _warn(where, "queries in the qrels are not among the queries and are left out, as mteb does", strangers)
    named = {document for query in judged for document in data["relevant_docs"][query]}
    _warn(
        where,
        "judged documents are not in the corpus; as in trec_eval, relevant ones stay in the ideal gain and in recall's "
        "denominator",
        named - known_documents,
    )
    _warn(where, "queries have no judgement and are left out, as mteb does", known_queries - set(judged))
    without = {query for query in judged if data["top_ranked"] and not data["top_ranked"].get(query)}
    _warn(where, "queries have no candidates and count as 0", without)
    for query, candidates in (data["top_ranked"] or {}).items():
        unknown = next((document for document in candidates if document not in known_documents), None)
        if unknown is not None:
            raise DataError(f"{where}: candidate {unknown!r} of query {query!r} is not in the corpus")
    if len(judged) < len(queries):  # as mteb does when it evaluates: nobody else has to know
        answered = set(judged)
        data["queries"] = data["queries"].select([row for row, one in enumerate(queries) if one in answered])
    counted = (strangers, named - known_documents, known_queries - set(judged), without)
    return dict(zip(_REMARKS, map(len, counted), strict=True))


def _first_repeated(ids: Any) -> str | None:
    seen: set[str] = set()
    for identifier in ids:
        if identifier in seen:
            return str(identifier)
        seen.add(identifier)
    return None


def _warn(where: str, what: str, ids: set[str]) -> None:
    if ids:
        logger.warning("%s: %d %s (such as %r)", where, len(ids), what, min(ids))


def unload(task: Any) -> None:
    """Free a task's data; mteb keeps those of a converted task in memory otherwise."""
    if task.data_loaded:
        task.unload_data()
