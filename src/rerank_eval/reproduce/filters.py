"""Says which results of a folder count: those of the table's protocol, or of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rerank_eval.config import LoadedConfig, RerankerConfig, RetrieverConfig
from rerank_eval.config.renamed import spelled_before
from rerank_eval.config.schema import BM25, MINILM
from rerank_eval.models.instruction_sets import find_instruction_set, shown_instruction
from rerank_eval.models.recipes import find_recipe, known_recipe
from rerank_eval.reproduce.choice import Filter
from rerank_eval.reproduce.published import MODEL_CARD, Published
from rerank_eval.session.choice import read_config

CONFIG = Path(MODEL_CARD)
_LABELS = {BM25: "BM25", MINILM: "all-MiniLM-L6-v2"}


def filters_of(
    published: Published, config: Path | None, overrides: Sequence[str] = (), *, default: Path | None = CONFIG
) -> dict[str, list[Filter]]:
    """Say which results count when nothing is run.

    Args:
        published: The table.
        config: The config given by the user, whose settings then decide. Without one the table's protocol decides, and
            where that leaves several results, the table's own config and the published revision are preferred.
        overrides: `--set` arguments, which change the config.
        default: The table's own config, or None where it has none.

    Returns:
        Hub name -> filters, for `choose`.

    Raises:
        ConfigError: The config cannot be loaded.
    """
    chosen = config or default
    settings = {} if chosen is None else _config_settings(read_config(chosen, overrides=overrides))
    protocol: dict[str, object] = {"top_k": published.top_k}
    if published.retriever is not None:
        protocol["retriever"] = label(published.retriever)
    if published.recipe is not None:
        protocol["recipe"] = published.recipe
    filters: dict[str, list[Filter]] = {}
    for model in published.models:
        of_model: list[Filter] = []
        if config is None and model.stage == "reranker":
            of_model.append(Filter((protocol,), decisive=True))
        if alternatives := tuple(settings.get(label(model.hub), ())):
            of_model.append(Filter(alternatives, decisive=config is not None))
        if model.revision is not None:
            of_model.append(Filter(revision=model.revision))
        filters[model.hub] = of_model
    return filters


def _config_settings(loaded: LoadedConfig) -> dict[str, list[Mapping[str, object]]]:
    """Return each model's settings in a config, by label, as its results are filed under them (`RunSpec.meta`)."""
    found: dict[str, list[Mapping[str, object]]] = {}
    for run in loaded.runs:
        first = run.retriever
        candidates = None if first.candidates == "auto" else first.candidates
        shared: dict[str, object] = {"top_k": first.top_k, "candidates": candidates}
        extra: dict[str, object] = {}
        if first.model != BM25:
            extra = {
                "dtype": first.dtype,
                "instruction": _filed(first.instruction, loaded.path),
                "max_length": first.max_length,
            }
        _add(found, first, shared | extra)
        if run.reranker is not None:
            second = run.reranker
            extra = second.model_dump(include={"dtype", "max_length", "engine"})
            extra["head"] = spelled_before(second.head)
            recipe = find_recipe(second.recipe, f"{loaded.path}: reranker.recipe") or known_recipe(second.model)
            if recipe is not None:
                extra["recipe"] = recipe.name
            extra |= {"instruction": _filed(second.instruction, loaded.path), "retriever": label(first.model)}
            if second.max_length is None:  # what it comes to is known with the model's files alone, so any will do
                del extra["max_length"]
            _add(found, second, shared | extra)
    return found


def _add(
    found: dict[str, list[Mapping[str, object]]], model: RetrieverConfig | RerankerConfig, settings: dict[str, object]
) -> None:
    known = found.setdefault(label(model.model), [])
    if model.revision is not None:
        settings["revision"] = model.revision
    if settings not in known:
        known.append(settings)


def _filed(instruction: str, path: Path) -> str:
    """Return an instruction as results are filed under it (`RunSpec.meta`)."""
    found = find_instruction_set(instruction, f"{path}: instruction")
    return shown_instruction(instruction if found is None else found.identity)


def label(model: str) -> str:
    """Return the name under which a model's results are filed."""
    return _LABELS.get(model) or Path(model).name
