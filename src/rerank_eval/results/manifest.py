"""The manifest beside each result: its schema, its one reader and its one writer.

What stands under `timings` and `environment` may differ from run to run; everything else follows from config and data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from rerank_eval.errors import DataError
from rerank_eval.files import load_json, write_json
from rerank_eval.metrics import registry
from rerank_eval.names import digest
from rerank_eval.store import LOCK

MANIFEST = "manifest.json"
SCHEMA = 1
"""Raised when an older release could misread what is written; keys that are merely new do not raise it."""


class _Part(BaseModel):
    # Keys of later releases stay as they are: a manifest that is read and written again loses nothing.
    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True, populate_by_name=True)


class RunSpecPart(_Part):
    """The run that a result is of: one model with one set of settings."""

    kind: Literal["retriever", "reranker"]
    """The stage."""
    label: str
    """The model's short name."""
    detail: str
    """The settings that tell this run from others of the same model."""
    order: int = 0
    """Its position in the plan that computed it, from 0."""
    notes: list[str] = Field(default_factory=list)
    """What a reader of a table has to know, a sentence each."""


class IdentityPart(_Part):
    """All that can change a score."""

    digest: str
    """Digest of the stage's own settings below, 12 hexadecimal digits; names the folder."""
    candidates: str = ""
    """Digest of the retriever whose candidates these are; a retriever's own."""
    retriever: dict[str, Any] | None = None
    """A retriever's settings; None for a reranker."""
    reranker: dict[str, Any] | None = None
    """A reranker's settings; None for a retriever."""


class FirstStagePart(_Part):
    """The retriever whose candidates these are."""

    label: str
    """Its short name."""
    top_k: int = 0
    """Candidates kept for each query."""
    detail: str = ""
    """The settings that tell it from others of the same model."""


class TaskPart(_Part):
    """What was evaluated on."""

    name: str
    """The task's name; of a split that is not the usual one, `NAME@SPLIT`."""
    main_score: str
    """mteb's name of the main score."""
    kind: str = ""
    """`mteb`, `beir` or `embedded`."""
    suite: str | None = None
    """The suite that named it, or None."""
    dataset: str | None = None
    """The data set's name on the hub."""
    revision: str | None = None
    """The data's revision."""
    source: dict[str, str] = Field(default_factory=dict)
    """Where the data was read from: `kind`, and a mirror's `commit`."""
    candidates: str = ""
    """`native` where the task has candidates of its own, else `top K`."""


class CellPart(_Part):
    """One subset and split."""

    subset: str
    """The subset's name."""
    split: str
    """The split's name."""
    main: float
    """Main score on mteb's scale, not rounded."""
    mteb: float | None = None
    """The same as mteb's file has it, rounded to five digits."""
    n_queries: int = 0
    """Queries that count."""


class ScoresPart(_Part):
    """Means over all queries, on mteb's scale; every metric has a key of its own."""

    main: float
    """Main score: mean over the cells. Older releases took it from mteb, rounded to five digits."""
    cells: list[CellPart] = Field(default_factory=list)
    """The main score of each subset and split; empty in files of older releases."""
    recall_at_100: float = float("nan")
    """recall@100 of the candidates, 0 to 1."""
    oracle_ndcg_at_10: float = float("nan")
    """nDCG@10 of the best order of these candidates, 0 to 1."""
    tie_rate: float = float("nan")
    """Share of candidates whose score another candidate of the query has too, 0 to 1."""

    def metric(self, name: str) -> float | None:
        """Return a metric's mean, or None where the file has none of that name.

        Args:
            name: A key, such as `ndcg_at_10`.
        """
        value = getattr(self, name, None)
        return float(value) if isinstance(value, (int, float)) else None

    def unrounded(self, main_score: str) -> float:
        """Return the main score as precisely as the file tells it.

        Args:
            main_score: mteb's name of it. In files of older releases `main` is mteb's value, rounded to five digits,
                and the unrounded one stands beside it where the metric is among the usual ones.
        """
        exact = getattr(self, "p_mrr" if main_score == registry.P_MRR else main_score, None)
        return exact if isinstance(exact, float) and registry.agree(exact, self.main) else self.main


class InputsPart(_Part):
    """What the result was computed from; with other inputs it is computed again."""

    data: str = ""
    """Digest of the task's data."""
    candidates: str = ""
    """For a reranker, digest of the candidates that it reordered."""


class SpecialTokensPart(_Part):
    """Texts that hold special tokens such as `<|im_end|>`."""

    mode: str = "keep"
    """`keep` reads them as tokens; anything else as plain text."""
    pairs: int = 0
    """Pairs with such a text."""
    queries: int = 0
    """Queries that are such texts."""
    documents: int = 0
    """Documents that are such texts."""
    found: dict[str, int] = Field(default_factory=dict)
    """Special token -> texts that hold it, the most frequent first."""


class TruncationPart(_Part):
    """Prompts cut to max_length."""

    pairs: int = 0
    """Pairs whose prompt was cut."""
    rate: float = 0.0
    """Their share of all pairs, 0 to 1."""
    overlong_queries: int = 0
    """Queries that alone filled the prompt."""


class TimingsPart(_Part):
    """Times of the process that finished the result; rates stand under `pairs_per_second` and the like."""

    seconds: float = float("nan")
    """Wall time in seconds."""
    started: float = float("nan")
    """Unix time in seconds."""
    finished: float
    """Unix time in seconds."""
    mteb_result: str = ""
    """SHA-256 of mteb's file, which holds times too."""
    work: dict[str, int | float] = Field(default_factory=dict)
    """What this process computed: after an interruption, only what was left to do."""
    pairs_per_second: float | None = None
    """Pairs scored in a second; None for a retriever."""


class EnvironmentPart(_Part):
    """Where it was computed."""

    computed_on: list[str] = Field(default_factory=list, alias="scores_made_by")
    """What computed the scores, in words: device and package versions; several where the score cache had some."""


class Manifest(_Part):
    """A result's manifest: one run on one task.

    Attributes:
        sealed: Whether the file is as it was written.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")
    """Version of this schema."""
    complete: bool = True
    """Always true in a file: it is written last."""
    row: RunSpecPart
    """The run."""
    identity: IdentityPart
    """All that can change a score."""
    retriever: FirstStagePart
    """The first stage."""
    task: TaskPart
    """The task."""
    scores: ScoresPart
    """Means of the metrics."""
    inputs: InputsPart = Field(default_factory=InputsPart)
    """Digests of data and candidates."""
    digest: str = ""
    """Digest of every candidate and score."""
    native: bool = False
    """Whether the candidates are the task's own."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The config as resolved, as far as it is about this run."""
    mteb_result: str = ""
    """mteb's result file, from the results folder."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Texts, or queries, pairs and prompt tokens."""
    data: dict[str, Any] = Field(default_factory=dict)
    """What the data lacks or leaves out, by kind: counts."""
    instruction: dict[str, Any] = Field(default_factory=dict)
    """The setting and what it came to."""
    recipe: dict[str, Any] | None = None
    """The prompt recipe, field by field, of a reranker whose recipe is not built in: its checkpoint's own, a package's
    or a YAML file's."""
    special_tokens: SpecialTokensPart = Field(default_factory=SpecialTokensPart, alias="markers")
    """Special tokens in texts."""
    truncation: TruncationPart = Field(default_factory=TruncationPart)
    """Prompts that were cut."""
    timings: TimingsPart
    """Times."""
    environment: EnvironmentPart = Field(default_factory=EnvironmentPart)
    """Surroundings."""
    files: dict[str, str] | None = None
    """Name of each file beside the manifest -> its SHA-256; None in files of older releases."""
    seal: str | None = None
    """SHA-256 of all of the above."""

    _raw: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def raw(self) -> Mapping[str, Any]:
        """What the file holds, as read: for showing it whole."""
        return self._raw

    @cached_property
    def sealed(self) -> bool:
        """Whether the file is as it was written."""
        try:
            return self.seal is not None and seal_of(self._raw) == self.seal
        except ValueError:  # NaN, which is never written
            return False

    @property
    def settings(self) -> dict[str, Any]:
        """The stage's settings: all that can change its scores."""
        return (self.identity.retriever if self.row.kind == "retriever" else self.identity.reranker) or {}

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            DataError: The file is torn, unfinished, of something else, or of a newer release; names it.
            OSError: There is no such file, or it cannot be read.
        """
        path = path if path.name == MANIFEST else path / MANIFEST
        try:
            value = load_json(path)
        except ValueError as error:
            raise DataError(f"{path}: is no JSON ({error})") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}: is no JSON object")
        if value.get("schema") != SCHEMA or value.get("complete") is not True:
            raise DataError(f"{path}: schema {value.get('schema')!r}; this release reads {SCHEMA}, finished")
        try:
            manifest = cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        manifest._raw = value
        return manifest

    @classmethod
    def find(cls, folder: Path) -> Manifest | None:
        """Read the manifest of a folder, or return None where it holds no whole one.

        Args:
            folder: `results/runs/<model>/<identity>/<task>`.
        """
        try:
            return cls.read(folder)
        except (OSError, DataError):
            return None

    def write(self, folder: Path) -> None:
        """Write the manifest, sealed, with the digest of every file that stands beside it.

        Raises:
            StorageError: The folder cannot be written.
        """
        files = {
            path.name: file_digest(path)
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name not in {MANIFEST, LOCK}
        }
        whole = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"seal"})
        whole |= {"schema": SCHEMA, "complete": True, "files": files}
        write_json(folder / MANIFEST, {**whole, "seal": seal_of(whole)})


def seal_of(manifest: Mapping[str, Any]) -> str:
    """Digest a manifest, 64 hexadecimal digits."""
    return digest({key: value for key, value in manifest.items() if key != "seal"}, 64)


def file_digest(path: Path) -> str:
    """Digest a file: the SHA-256 of its bytes, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
