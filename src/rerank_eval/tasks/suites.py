"""Suites: named lists of mteb tasks, as data under `evals/suites` or in an installed package."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerank_eval.errors import ConfigError
from rerank_eval.registry import Registry
from rerank_eval.shipped import evals_root

logger = logging.getLogger(__name__)


class SuiteTask(BaseModel):
    """One task of a suite."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """mteb's name of the task."""
    splits: tuple[str, ...] = Field(min_length=1)
    """Splits that count."""
    subsets: int = Field(ge=1)
    """Number of subsets, all of which count."""
    subset_names: tuple[str, ...] = ()
    """Their names; left out, none are known, or `default` where there is one subset."""
    main_score: str
    """mteb's name of the task's main score."""
    queries: int | None
    """Queries over all splits and subsets; null where they depend on a size setting."""
    members: tuple[str, ...] = ()
    """Tasks that are run in its place where mteb defines it as their mean."""
    pairs: int | None
    """Pairs at 100 candidates a query, fewer where the corpus is smaller; FollowIR's are its own 1000."""

    @model_validator(mode="before")
    @classmethod
    def _the_only_subset(cls, data: Any) -> Any:
        only = isinstance(data, Mapping) and data.get("subsets") == 1 and "subset_names" not in data
        return {**data, "subset_names": ["default"]} if only else data

    @model_validator(mode="after")
    def _as_many_names(self) -> SuiteTask:
        if self.subset_names and len(set(self.subset_names)) != self.subsets:
            raise ValueError(f"subset_names of {self.name}: needs the names of {self.subsets} subset(s)")
        return self


class PublishedWith(BaseModel):
    """What the published numbers of a suite were made with, where models read prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    recipe: str
    """The rerankers' prompt recipe."""
    instruction: str
    """The rerankers' instruction set."""
    retriever_instruction: str
    """The retriever's instruction set."""


class Suite(BaseModel):
    """A suite of tasks whose mean is reported."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """Name, as in the model card's table."""
    place: int = 1000
    """Suites are listed in the order of their places, then of their names."""
    benchmark: str | None
    """mteb's name of the benchmark that the tasks are taken from."""
    source: str
    """Where the suite is defined."""
    average: str
    """How the suite's score comes from its tasks'."""
    published_with: PublishedWith | None = None
    """What to set for a reproduction; null where nothing is published."""
    tasks: tuple[SuiteTask, ...] = Field(min_length=1)
    """The tasks, in mteb's order."""

    @property
    def queries(self) -> int:
        """Queries of all tasks whose number is fixed."""
        return sum(task.queries or 0 for task in self.tasks)

    @property
    def pairs(self) -> int:
        """Pairs of all tasks whose number is fixed."""
        return sum(task.pairs or 0 for task in self.tasks)


SUITES: Registry[Suite | Mapping[str, Any] | str | Path] = Registry("rerank_eval.suites", "suite")
"""Suites of installed packages: a `Suite`, what stands in a suite's file, or the file."""


def load_suites() -> dict[str, Suite]:
    """Read all suites: the files under `evals/suites`, then those of installed packages and of the running program.

    Returns:
        Name -> suite, in the order of their places.

    Raises:
        ConfigError: A file is malformed; names file and key.
    """
    return _load(evals_root(), tuple(SUITES))


@functools.cache
def _load(root: Path, declared: tuple[str, ...]) -> dict[str, Suite]:
    found = [_read(path, str(path)) for path in sorted((root / "suites").glob("*.yaml"))]
    names = {suite.name.lower() for suite in found}
    for name in declared:
        try:
            suite = _read(SUITES.get(name), f"suite {name!r} of an installed package")
            if suite.name.lower() in names:
                raise ConfigError(f"suite {name!r}: a package declares what is {suite.name} here already")
        except ConfigError as error:  # somebody else's package ends no run that does not name it
            logger.warning("%s; it is left out", error)
            continue
        found.append(suite)
    return {suite.name: suite for suite in sorted(found, key=lambda suite: (suite.place, suite.name))}


def _read(source: Suite | Mapping[str, Any] | str | Path, where: str) -> Suite:
    if isinstance(source, Suite):
        return source
    try:
        data = yaml.safe_load(Path(source).read_text(encoding="utf-8")) if isinstance(source, str | Path) else source
        return Suite.model_validate(data)
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        detail = error.errors()[0] if isinstance(error, ValidationError) else None
        problem = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" if detail else str(error)
        raise ConfigError(f"{where}: {problem}") from None


def published_suites() -> list[str]:
    """Return the suites with published numbers, which are the columns of the model card's table.

    Raises:
        ConfigError: As for `load_suites`.
    """
    return [name for name, suite in load_suites().items() if suite.published_with is not None]


def suite_tasks() -> dict[str, list[str]]:
    """Return the names of each suite's tasks.

    Raises:
        ConfigError: As for `load_suites`.
    """
    return {name: [task.name for task in suite.tasks] for name, suite in load_suites().items()}
