"""Which files of a data set's repository a task reads: mteb's configurations and the front matter that maps them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

CARD = "README.md"
_NEVER_DATA = (".gitattributes", ".gitignore", "LICENSE*", "*.py", "*.md")


@dataclass(frozen=True)
class Wanted:
    """What a task reads of its data set.

    Attributes:
        required: Sets of configuration names, of each of which one has to be there.
        optional: Configurations that are read where they are there.
        folders: Folders that are read without a configuration.
        known: False for a task with a loader that this module does not know: everything counts.
    """

    required: tuple[tuple[str, ...], ...] = ()
    optional: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    known: bool = True


class LayoutError(Exception):
    """The front matter does not offer what the task reads; the message is a clause without the folder."""


def wanted(task: Any) -> Wanted:
    """Tell what a task reads, as mteb 2.26's `RetrievalDatasetLoader` and the four v1-format loaders ask for it."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    loader = _OWN_LOADERS.get(task.metadata.name)
    if loader is not None:
        return loader(task)
    if type(task).load_data is not AbsTaskRetrieval.load_data:
        return Wanted(known=False)
    required: list[tuple[str, ...]] = []
    optional: list[str] = []
    for subset in task.hf_subsets:
        before = "" if subset == "default" else f"{subset}-"
        qrels = (f"{before}qrels",) if before else ("default", "qrels")
        required += [(f"{before}corpus",), (f"{before}queries", "query"), qrels]
        optional += [f"{before}top_ranked", f"{before}instruction"]
    if "Instruction" in task.metadata.type:  # p-MRR is scored on it, after all inference
        required.append(("qrel_diff",))
    return Wanted(tuple(required), tuple(optional))


def _belebele(task: Any) -> Wanted:
    languages = {one.replace("-", "_") for subset in task.hf_subsets for one in task.metadata.eval_langs[subset]}
    return Wanted(tuple((language,) for language in sorted(languages)))


def _code_search_net(task: Any) -> Wanted:
    parts = ("qrels", "corpus", "queries")
    return Wanted(tuple((f"{language}-{part}",) for language in task.hf_subsets for part in parts))


def _code_edits(task: Any) -> Wanted:
    return Wanted(folders=tuple(task.metadata.eval_langs))  # it reads all of them, whatever subsets are asked for


_OWN_LOADERS: dict[str, Callable[[Any], Wanted]] = {
    "BelebeleRetrieval": _belebele,
    "CodeEditSearchRetrieval": _code_edits,
    "CodeSearchNetCCRetrieval": _code_search_net,
    "COIRCodeSearchNetRetrieval": _code_search_net,
}


def files_of(want: Wanted, card: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Choose a repository's files that a task reads.

    Returns:
        The files in order, README.md first where there is one.

    Raises:
        LayoutError: A configuration, or a file that it names, is not there.
    """
    names = sorted(names)
    data = [name for name in names if not any(fnmatch(name, pattern) for pattern in _NEVER_DATA)]
    first = [CARD] if CARD in names else []
    if not want.known:
        return first + data
    chosen: set[str] = set()
    for folder in want.folders:
        inside = [name for name in data if name.startswith(f"{folder}/")]
        if not inside:
            raise LayoutError(f"holds no file in {folder}/")
        chosen.update(inside)
    if want.required:
        for config, patterns in _chosen_configs(want, _configs(card)).items():
            for pattern in patterns:
                found = [name for name in data if _matches(name, pattern)]
                if not found:
                    raise LayoutError(f"lacks {pattern}, which its configuration {config!r} names")
                chosen.update(found)
    return first + sorted(chosen)


def _chosen_configs(want: Wanted, configs: dict[str, list[str]]) -> dict[str, list[str]]:
    chosen: dict[str, list[str]] = {}
    for options in want.required:
        name = next((option for option in options if option in configs), None)
        if name is None:
            raise LayoutError(f"has no configuration {' or '.join(map(repr, options))} in {CARD}")
        chosen[name] = configs[name]
        # mteb prefers a configuration `query`, and may read the other as well.
        chosen.update({option: configs[option] for option in options if option in configs})
    chosen.update({name: configs[name] for name in want.optional if name in configs})
    first = next(iter(configs))  # datasets looks at its files to tell their format, whichever is asked for
    chosen.setdefault(first, configs[first])
    return chosen


def _configs(card: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return configuration -> patterns of its files, from a data set card's `configs`."""
    listed = card.get("configs")
    found: dict[str, list[str]] = {}
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("config_name"), str):
            continue
        inside = str(entry.get("data_dir") or "")
        found[entry["config_name"]] = [
            str(PurePosixPath(inside, pattern)) for pattern in _patterns(entry.get("data_files")) or ["*"]
        ]
    if not found:
        raise LayoutError(f"has no {CARD} whose front matter names configurations")
    for patterns in found.values():
        for pattern in patterns:
            if pattern.startswith("/") or ".." in PurePosixPath(pattern).parts or "://" in pattern:
                raise LayoutError(f"names {pattern!r} in {CARD}, which is outside of it")
    return found


def _patterns(data_files: Any) -> list[str]:
    if isinstance(data_files, str):
        return [data_files]
    if isinstance(data_files, dict):
        return [one for value in data_files.values() for one in _patterns(value)]
    if isinstance(data_files, list):
        return [
            one for entry in data_files for one in _patterns(entry.get("path") if isinstance(entry, dict) else entry)
        ]
    return []


def _matches(name: str, pattern: str) -> bool:
    pattern = pattern.removeprefix("./")
    return name == pattern or fnmatch(name, pattern) or fnmatch(name, f"{pattern}/*")
