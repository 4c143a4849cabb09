"""Numbers that others published, as data under `evals/published`, and how near a result has to come to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerank_eval.config.files import read_yaml
from rerank_eval.errors import ConfigError
from rerank_eval.files import at_home, load_json
from rerank_eval.names import did_you_mean
from rerank_eval.shipped import evals_root

MODEL_CARD = "model-card"
_M = TypeVar("_M", bound=BaseModel)


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Tolerance(_Data):
    """How far a score may be from the published one."""

    points: float = Field(gt=0)
    """Largest difference, on the published scale."""
    reason: str = Field(min_length=1)
    """Why so much."""


LOOSE = Tolerance(
    points=3.0,
    reason="the protocol is not published in full: what the model card's widest tolerance still calls close",
)
"""The bound of a close score where a table has no tolerances of its own."""


class SmallTask(Tolerance):
    """The tolerance of a task with few queries."""

    below_queries: int = Field(ge=1)
    """It holds for tasks with fewer queries than this."""


class Tolerances(_Data):
    """All tolerances of a published table."""

    close: float = Field(gt=1)
    """Up to so many times the tolerance a score is close; beyond, it is off."""
    same_run: Tolerance
    """For the published result files themselves."""
    suites: dict[str, Tolerance]
    """Suite -> tolerance of a rerun."""
    task: Tolerance
    """One task of the retriever, in a rerun."""
    small_task: SmallTask
    """One task of the retriever with few queries, in a rerun."""


class Difference(_Data):
    """A difference of protocol that always applies to some cells."""

    text: str = Field(min_length=1)
    """The footnote."""
    suites: tuple[str, ...] = ()
    """Suites it applies to; empty for all."""
    models: tuple[str, ...] = ()
    """Models it applies to; empty for all."""


class PublishedModel(_Data):
    """One row of a published table."""

    name: str
    """The name in the table."""
    hub: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    """The name on the hub."""
    stage: Literal["retriever", "reranker"]
    """What it was run as."""
    revision: str | None = None
    """The revision that was run, where it is known."""
    dtype: str | None = None
    """The dtype that was run, where it is known."""
    scores: dict[str, float]
    """Suite -> score, on the table's scale."""


class Published(_Data):
    """A published table with as much of its protocol as is known: what is left out is not."""

    name: str
    """What the table is called here."""
    source: str
    """Where it was published."""
    scale: float = Field(gt=0)
    """mteb's main scores times this are on the table's scale."""
    scale_note: str
    """The scale in words."""
    recipe: str | None = None
    """Prompt recipe of the causal rerankers."""
    mteb: str | None = None
    """mteb's version."""
    retriever: str | None = None
    """Hub name of the model whose candidates were reranked; left out where a score is a mean over several models'."""
    top_k: int = Field(ge=1)
    """Candidates a query."""
    per_task: str | None = None
    """File beside this one with the retriever's score on every task."""
    suites: tuple[str, ...] = Field(min_length=1)
    """Columns, in order."""
    models: tuple[PublishedModel, ...] = Field(min_length=1)
    """Rows, in order."""
    tolerances: Tolerances | None = None
    """How near is near enough; left out, `LOOSE` is the bound of a close score."""
    differences: tuple[Difference, ...] = ()
    """What always differs."""

    @property
    def known_in_full(self) -> bool:
        """Whether enough of the protocol is known for a score to count as reproduced."""
        return None not in (self.recipe, self.mteb, self.retriever, self.per_task, self.tolerances)

    def tolerance(self, suite: str) -> Tolerance:
        """Return how far a rerun of a suite may be from the published score."""
        return LOOSE if self.tolerances is None else self.tolerances.suites[suite]

    def task_tolerance(self, queries: int | None) -> Tolerance:
        """Return how far a rerun of one task of the retriever may be from the published score.

        Args:
            queries: The task's, None where their number is not fixed.
        """
        if self.tolerances is None:
            return LOOSE
        small = self.tolerances.small_task
        return small if queries is not None and queries < small.below_queries else self.tolerances.task

    @model_validator(mode="after")
    def _whole(self) -> Published:
        wanted = set(self.suites)
        names = {model.name for model in self.models}
        for model in self.models:
            if set(model.scores) != wanted:
                raise ValueError(f"{model.name}: scores: needs exactly {', '.join(self.suites)}")
            if any(abs(score) > self.scale for score in model.scores.values()):
                raise ValueError(f"{model.name}: scores: a score is beyond the scale of {self.scale:g}")
        if self.tolerances is not None and set(self.tolerances.suites) != wanted:
            raise ValueError(f"tolerances.suites: needs exactly {', '.join(self.suites)}")
        retrievers = [model.hub for model in self.models if model.stage == "retriever"]
        if self.retriever is not None and retrievers.count(self.retriever) != 1:
            raise ValueError(f"models: needs exactly one retriever, {self.retriever}")
        if self.retriever is None and (retrievers or self.per_task is not None):
            raise ValueError("retriever: is left out, so there can be no row and no per_task of one")
        for difference in self.differences:
            if unknown := (set(difference.suites) - wanted) | (set(difference.models) - names):
                raise ValueError(f"differences: unknown name {sorted(unknown)[0]!r}")
        return self


class PublishedTask(_Data):
    """The published score of one model on one task."""

    main_score: float = Field(ge=-1, le=1)
    """Mean over the published cells, on mteb's scale."""
    cells: int = Field(ge=1)
    """Number of published cells."""
    mteb_version: str
    """mteb's version."""
    dataset_revision: str
    """The data's revision."""
    scores: dict[str, dict[str, float]] = {}
    """Split -> subset -> score, where only some of the suite's cells are published."""


class PerTask(_Data):
    """One model's published scores on every task of the suites."""

    name: str
    """The name in the table."""
    hub: str
    """The name on the hub."""
    revision: str
    """The model's revision."""
    source: str
    """Where the scores were published."""
    scale: Literal[1]
    """mteb's own scale."""
    scale_note: str
    """The scale in words."""
    rule: str
    """How cells were averaged."""
    tasks: dict[str, PublishedTask]
    """Task -> its score."""


def published_names() -> tuple[str, ...]:
    """Return the names of the tables that come with the package, sorted."""
    return tuple(sorted(path.stem for path in (evals_root() / "published").glob("*.yaml")))


def published_file(name: str) -> Path:
    """Return the file of a published table.

    Args:
        name: A name of `published_names`, or a YAML file's path.

    Raises:
        ConfigError: There is neither; names the nearest valid name.
    """
    if name == MODEL_CARD or name in published_names():
        return evals_root() / "published" / f"{name}.yaml"
    path = at_home(Path(name))
    if path.is_file():
        return path
    raise ConfigError(f"--published {name!r}: no such table and no such file; {did_you_mean(name, published_names())}")


def load_published(name: str = MODEL_CARD) -> Published:
    """Read a published table.

    Args:
        name: As `published_file` takes it.

    Returns:
        The table.

    Raises:
        ConfigError: The file is missing or malformed; names file and key.
    """
    path = published_file(name)
    return _validated(Published, read_yaml(path), path)


def load_per_task(published: Published, name: str = MODEL_CARD) -> PerTask | None:
    """Read the retriever's published score on every task.

    Args:
        published: The table.
        name: What it was loaded by; its scores stand beside it.

    Returns:
        The scores; None where none are published.

    Raises:
        ConfigError: The file is missing, malformed, or of another model.
    """
    if published.per_task is None:
        return None
    path = published_file(name).parent / Path(published.per_task).name
    scores = _validated(PerTask, _json(path), path)
    if scores.hub != published.retriever:
        raise ConfigError(f"{path}: hub: is {scores.hub}, but the table's retriever is {published.retriever}")
    return scores


def _json(path: Path) -> Any:
    try:
        return load_json(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None


def _validated(model: type[_M], data: Any, path: Path) -> _M:
    try:
        return model.model_validate(data)
    except UnicodeEncodeError:
        raise ConfigError(f"{path}: holds half of a surrogate pair (\\ud800 to \\udfff)") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{path}: {f'{key}: ' if key else ''}{problem['msg']}") from None
