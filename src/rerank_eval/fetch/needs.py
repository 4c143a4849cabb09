"""What a run will read: repositories, and which files of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rerank_eval.config import RerankerConfig, RetrieverConfig, RunConfig
from rerank_eval.errors import ConfigError, DataError, ModelError
from rerank_eval.fetch.repository import Repository
from rerank_eval.files import load_json
from rerank_eval.models.contents import CONFIG, TELLING, ContentsError, code_repositories, contents
from rerank_eval.models.resolve import on_hub, registered_revision
from rerank_eval.tasks.layout import CARD, LayoutError, Wanted, files_of, wanted
from rerank_eval.tasks.prepare import from_hub
from rerank_eval.tasks.registry import TaskRef, build


@dataclass(frozen=True)
class DataNeed:
    """A data set that tasks read.

    Attributes:
        name: `ORG/NAME`.
        revision: The revision that mteb pins, or None where it pins none.
        wanted: For each task that reads it, what it reads.
    """

    name: str
    revision: str | None
    wanted: dict[str, Wanted]

    def first(self, _: Repository) -> list[str]:
        """Return the files that tell which others are needed."""
        return [CARD]

    def files(self, repository: Repository, read: dict[str, Path]) -> list[str]:
        """Choose the files to fetch.

        Args:
            repository: The repository as the hub lists it.
            read: The files of `first` that are there, by name.

        Returns:
            The files in order.

        Raises:
            DataError: The card cannot be read, or the repository lacks what a task reads.
        """
        from huggingface_hub import metadata_load

        chosen: set[str] = set()
        for task, want in self.wanted.items():
            try:
                card = metadata_load(read[CARD]) if CARD in read else None
                chosen.update(files_of(want, card or {}, repository.files))
            except LayoutError as error:
                raise DataError(f"{task}: {self.name}, revision {repository.commit}: {error}") from None
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise DataError(f"{task}: {self.name}: {CARD} cannot be read ({type(error).__name__})") from None
        return sorted(chosen)


@dataclass(frozen=True)
class ModelNeed:
    """A checkpoint.

    Attributes:
        name: `ORG/NAME`.
        revision: The config's revision, else the one that mteb's registry pins, else None for the newest.
        remote_code: Whether the config lets it run code of its own.
        code_revision: Where that code is another repository's, that one's commit.
        code_only: It is code alone, that another checkpoint runs.
    """

    name: str
    revision: str | None
    remote_code: bool = False
    code_revision: str | None = None
    code_only: bool = False

    def first(self, repository: Repository) -> list[str]:
        """Return the files that tell which others are needed."""
        return [] if self.code_only else [one for one in TELLING if one in repository.files]

    def files(self, repository: Repository, read: dict[str, Path]) -> list[str]:
        """Choose the files to fetch; see `DataNeed.files`.

        Raises:
            ModelError: The repository holds no checkpoint of safetensors.
        """
        if self.code_only:
            return sorted(name for name in repository.files if name.endswith(".py"))
        read_files = {name: _json(path) for name, path in read.items()}
        try:
            found = contents(repository.files, read_files.get, pinned=True)
            return sorted([*found.loaded, *(found.code if self.remote_code else ())])
        except ContentsError as error:
            raise ModelError(f"{self.name}, revision {repository.commit}: {error}") from None

    def more(self, read: dict[str, Path]) -> list[ModelNeed]:
        """Return the repositories whose code this checkpoint runs, where the config says at which commit."""
        if self.code_revision is None:
            return []
        others = code_repositories(_json(read.get(CONFIG)))
        return [ModelNeed(name, self.code_revision, code_only=True) for name in others if name != self.name]


Need = DataNeed | ModelNeed


def _json(path: Path | None) -> Any:
    try:
        return None if path is None else load_json(path)
    except ValueError:
        raise ModelError(f"{path}: not a JSON file") from None


def data_needs(tasks: Sequence[TaskRef]) -> list[DataNeed]:
    """Return the data sets that tasks read from the hub, each once; tasks that read none are left out.

    Raises:
        ConfigError: Two tasks pin two revisions of one data set, which one folder cannot hold.
    """
    found: dict[str, DataNeed] = {}
    for ref in tasks:
        if ref.kind != "mteb":
            continue
        task = build(ref)
        if not from_hub(task):
            continue
        name, revision = str(task.metadata.dataset["path"]), task.metadata.dataset.get("revision")
        need = found.setdefault(name, DataNeed(name, revision, {}))
        if need.revision != revision:
            raise ConfigError(
                f"{ref.name} and {next(iter(need.wanted))} read two revisions of {name}; fetch them by two commands "
                "into two folders of --data-root"
            )
        need.wanted[ref.name] = wanted(task)
    return list(found.values())


def model_needs(runs: Iterable[RunConfig], names: Sequence[str], where: str) -> list[ModelNeed]:
    """Return the checkpoints that runs load from the hub, each once; built-in models and folders are left out.

    Args:
        runs: The runs of a config, or none.
        names: Models named on the command line, `ORG/NAME` or `ORG/NAME@REVISION`. They replace the runs' models,
            but what a run says of them (revision, code) holds.
        where: The config's path, for error messages.

    Raises:
        ConfigError: A name is no hub model's, or two revisions of one model are asked for.
    """
    found: dict[str, ModelNeed] = {}
    for run in runs:
        for section in (run.retriever, run.reranker):
            if section is None or not on_hub(section.model):
                continue
            need = found.setdefault(section.model, _model_need(section))
            other = _model_need(section)
            if (need.revision, need.code_revision or other.code_revision) != (
                other.revision,
                other.code_revision or need.code_revision,
            ):
                raise ConfigError(
                    f"{where}: asks for two revisions of {section.model}, which one folder of model_root cannot hold"
                )
            found[section.model] = replace(
                need,
                remote_code=need.remote_code or other.remote_code,
                code_revision=need.code_revision or other.code_revision,
            )
    return [_named(name, found) for name in dict.fromkeys(names)] if names else list(found.values())


def _model_need(section: RetrieverConfig | RerankerConfig) -> ModelNeed:
    revision = section.revision or registered_revision(section.model)
    code = section.code_revision if isinstance(section, RerankerConfig) else None
    return ModelNeed(section.model, revision, section.trust_remote_code, code)


def _named(text: str, known: dict[str, ModelNeed]) -> ModelNeed:
    name, _, revision = text.partition("@")
    if not on_hub(name) or name.count("/") != 1:
        raise ConfigError(f"--model {text!r}: not a hub name; write ORG/NAME or ORG/NAME@REVISION")
    need = known.get(name)
    if revision:
        return replace(need or ModelNeed(name, revision), revision=revision)
    return need or ModelNeed(name, registered_revision(name))
