"""Suites: named lists of mteb tasks, as data under `evals/suites`."""

from __future__ import annotations

import functools

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank_eval.errors import ConfigError
from rerank_eval.shipped import evals_root


class SuiteTask(BaseModel):
    """One task of a suite."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """mteb's name of the task."""
    splits: tuple[str, ...] = Field(min_length=1)
    """Splits that count."""
    subsets: int = Field(ge=1)
    """Number of subsets, all of which count."""
    main_score: str
    """mteb's name of the task's main score."""
    queries: int | None
    """Queries over all splits and subsets; null where they depend on a size setting."""
    pairs: int | None
    """Pairs at 100 candidates a query, fewer where the corpus is smaller; FollowIR's are its own 1000."""


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


_ORDER = ("Embedded", "MTEB-R", "CMTEB-R", "MMTEB-R", "MLDR", "MTEB-Code", "FollowIR")


@functools.cache
def load_suites() -> dict[str, Suite]:
    """Read all suites.

    Returns:
        Name -> suite; the model card's columns in its order, then any others by name.

    Raises:
        ConfigError: A file is malformed; names file and key.
    """
    found: dict[str, Suite] = {}
    for path in sorted((evals_root() / "suites").glob("*.yaml")):
        try:
            suite = Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
            detail = error.errors()[0] if isinstance(error, ValidationError) else None
            problem = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" if detail else str(error)
            raise ConfigError(f"{path}: {problem}") from None
        found[suite.name] = suite
    return {name: found[name] for name in [*(n for n in _ORDER if n in found), *sorted(set(found) - set(_ORDER))]}


def suite_tasks() -> dict[str, list[str]]:
    """Return the names of each suite's tasks.

    Raises:
        ConfigError: As for `load_suites`.
    """
    return {name: [task.name for task in suite.tasks] for name, suite in load_suites().items()}
