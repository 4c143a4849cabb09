"""What the families of classifiers share: a pair in, one logit out, whatever network and head stand in between."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rerank_eval.config.renamed import spelled_before
from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.classifier import PairClassifier
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.loading import ids_of, resolve_device
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import ModelError
from rerank_eval.models.ref import ModelRef
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.instructions import InstructionPolicy


def prepared_pairs(
    config: RerankerConfig, ref: ModelRef, prompting: Prompting, max_length: int, **more: Any
) -> Prepared:
    """Return a classifier that was checked; `more` stands in its identity beside dtype and limit.

    What changes scores only sometimes stands in the identity only then. These models take no instruction, so only a
    query's own is used.
    """
    identity: dict[str, Any] = {"dtype": config.dtype, "max_length": max_length, **more}
    if config.engine != "packed":  # padding moves the last bits
        identity["engine"] = config.engine
    if config.special_tokens != "keep":
        identity["markers"] = spelled_before(config.special_tokens)
    policy = InstructionPolicy(config.instruction, None, reads_task_prompt=False, place="behind the query")
    return Prepared(config, ref, prompting, policy, identity, max_length=max_length)


@contextmanager
def loading(ref: ModelRef) -> Iterator[None]:
    """Name the model in whatever goes wrong while it is loaded.

    Raises:
        ModelError: Something did.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # safetensors, tokenizers and a model's own code raise whatever they like
        raise ModelError(f"reranker.model: {ref.name} cannot be loaded as a cross-encoder: {error}") from error


def load_weights(
    network_class: Any, folder: Path, network_config: Any, dtype: str, attention: str | None
) -> tuple[Any, set[str]]:
    """Load a network from safetensors; return it with the names of the weights that would be left random."""
    network, report = network_class.from_pretrained(
        folder,
        config=network_config,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        attn_implementation=attention,
        ignore_mismatched_sizes=True,  # they are refused in one line by the caller
        output_loading_info=True,
    )
    return network, {*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])}


def refuse_missing(names: Collection[str], hint: str = "") -> None:
    """Refuse a network of which something would stay random; `hint` says where that may come from.

    Raises:
        EngineError: There are such weights.
    """
    absent = sorted(set(names))
    if absent:
        raise EngineError(f"it lacks {len(absent)} weights that would be left random: {', '.join(absent[:3])}{hint}")


def pair_engine(
    prepared: Prepared, network: Any, tokenizer: Any, device: str, *, prompt: str = "", recipe: Recipe | None = None
) -> PairClassifier:
    """Put the engine of a classifier together; for `prompt` and `recipe` see `PairClassifier`.

    Raises:
        EngineError: The tokenizer is another model's, or a setting does not fit.
    """
    config = prepared.config
    base = network.base_model
    if (tokens := ids_of(tokenizer)) > base.get_input_embeddings().num_embeddings:
        raise EngineError(f"its tokenizer has {tokens} tokens, more than its embedding has rows")
    return PairClassifier(
        network.to(resolve_device(device)).eval(),
        tokenizer,
        max_length=prepared.max_length or 0,
        token_budget=config.token_budget or 0,
        batch_size=config.batch_size if config.engine == "reference" else 0,
        special_tokens=config.special_tokens,
        prompt=prompt,
        recipe=recipe,
    )
