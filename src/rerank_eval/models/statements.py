"""What a checkpoint's own files say about how it is scored: followed, told in a note, or refused in one line.

Read before anything is loaded: sentence-transformers' modules, prompts and activation, LogitScore's answers, the chat
template, adapters (`contents`), quantisation, labels. sentence-transformers 6 and vLLM score by these
(https://sbert.net/docs/cross_encoder/usage/custom_models.html), so a checkpoint that names other answers or another
prompt than the recipe would be scored with another model's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rerank_eval.config.schema import RerankerConfig, RetrieverConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.loading import READS_IMAGES, answer_ids
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import ModelError
from rerank_eval.models.architectures import check_labels, check_settings, implementation, is_decoder, is_known
from rerank_eval.models.checkpoint import as_mapping, load_tokenizer, modules, read_mapping
from rerank_eval.models.contents import MODULES, ROOT
from rerank_eval.models.head_modules import read_head, scores_by_modules, takes_query_prompt
from rerank_eval.models.own_recipe import is_id, logit_score, own_recipe, stated_answers
from rerank_eval.models.pair_templates import (
    DOCUMENT,
    INSTRUCTION,
    QUERY,
    default_prompt,
    first_difference,
    writes_pairs,
    written,
)
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.resolve import registered

_MAY_DEFAULT = {"task", "default"}
"""Instructions of a config that may come to the recipe's default."""
_MONOTONE = {"Identity", "Sigmoid", "Tanh", "LogSigmoid", "Softplus"}
"""Activations that keep the order of logits; the logit is what ranks here, so that nothing saturates and ties."""
CHANGES_TEXTS = ("do_lower_case", "query_length", "document_length", "query_expansion")
"""Keys of sentence_bert_config.json by which sentence-transformers changes texts before they are tokenised."""


def check_causal(config: RerankerConfig, ref: ModelRef, recipe: Recipe | None) -> tuple[ModelRef, Recipe]:
    """Hold a causal reranker's settings against what its checkpoint says, and find its recipe.

    Args:
        config: The reranker's section of the config.
        ref: The model, resolved.
        recipe: The recipe that the config names, or None for the checkpoint's own.

    Returns:
        The model, with a note for each thing that the config decides otherwise; and the recipe.

    Raises:
        ModelError: What the checkpoint says is not what would be computed, or nothing says with which prompt it was
            trained; one line that says what to set.
        OfflineError: A file has to come from the hub and the hub cannot be reached.
    """
    classifies = ref.architecture.endswith("ForSequenceClassification")
    if classifies:
        check_files(ref, ["Transformer"], "sequence-classification")
        check_labels(ref)
    else:
        task = "any-to-any" if ref.architecture in READS_IMAGES else "text-generation"
        check_files(ref, ["Transformer", "LogitScore"], task)
    _check_code(config, ref)
    check_activation(ref)
    if recipe is None:
        return ref, own_recipe(ref)
    notes = [] if classifies else _answer_notes(ref, recipe)
    notes += _prompt_notes(config, ref, recipe)
    return dataclasses.replace(ref, notes=(*ref.notes, *notes)) if notes else ref, recipe


def check_classifier(config: RerankerConfig, ref: ModelRef) -> None:
    """Refuse a sequence classifier of which other scores would come out than its checkpoint says, as `check_causal`."""
    check_files(ref, ["Transformer"], "sequence-classification")
    _check_pairs(ref)
    check_settings(config, ref)


def check_pooled(config: RerankerConfig, ref: ModelRef) -> None:
    """Refuse an encoder with a head of modules of which other scores would come out than its files say.

    Raises:
        ModelError: See `check_causal`.
    """
    if not scores_by_modules(ref):
        raise ModelError(
            f"reranker.kind: {ref.name} is no CrossEncoder with a Pooling in its {MODULES}; set it to auto"
        )
    kind = str(read_mapping(ref, "config.json").get("model_type"))
    if is_decoder(kind) or not is_known(kind):
        why = "a decoder" if is_decoder(kind) else "no type of transformers, and code of a checkpoint is not run for it"
        raise ModelError(f"reranker.model: {ref.name}: its transformer is a {kind!r} by its config.json, {why}")
    _refuse_quantised(ref, "reranker.model")
    _check_texts(ref, "feature-extraction")
    _check_network(ref)
    read_head(ref, config.dtype, prompted=bool(query_prompt(ref)))
    check_settings(config, ref)


def check_files(ref: ModelRef, known: Sequence[str], task: str) -> None:
    """Refuse modules, quantised weights and changed texts, of which no scorer here computes what the files say."""
    refuse_encoders(ref)
    _refuse_quantised(ref, "reranker.model")
    _refuse_modules(ref, known)
    _check_texts(ref, task)


def check_retriever(config: RetrieverConfig, ref: ModelRef) -> None:
    """Refuse as a retriever what its own files say is none, or whose vectors they do not define.

    Raises:
        ModelError: It is a reranker, or says not how a text becomes a vector.
    """
    if ref.origin == "built-in":
        return
    kinds = [kind for kind, _ in modules(ref)]
    saved = read_mapping(ref, "config_sentence_transformers.json").get("model_type") == "CrossEncoder"
    if saved or "LogitScore" in kinds or ref.architecture.endswith("ForSequenceClassification"):
        found = "a CrossEncoder by its files" if saved or "LogitScore" in kinds else ref.architecture
        raise ModelError(f"retriever.model: {ref.name} is a reranker ({found}); name it as reranker.model")
    entry = registered(ref.name) if ref.published else None
    if entry is not None and entry.is_cross_encoder:
        raise ModelError(f"retriever.model: {ref.name} is a reranker by mteb's registry; name it as reranker.model")
    if entry is None and not kinds:
        raise ModelError(
            f"retriever.model: {ref.name} has no {MODULES}, so that its files do not say how a text becomes a vector "
            "(sentence-transformers would take the mean of its tokens); save it with SentenceTransformer.save and its "
            "own pooling"
        )
    if config.engine == "packed" or entry is None:
        _refuse_quantised(ref, "retriever.model")


def query_prompt(ref: ModelRef) -> str:
    """Return what stands before every query by a checkpoint's files, as it stands; empty for nothing.

    Raises:
        ModelError: sentence-transformers would not put it there, or the default prompt is none of its prompts.
    """
    prompt = default_prompt(ref)
    if prompt is not None and not takes_query_prompt(ref):
        raise ModelError(
            f"reranker.model: {ref.name} puts {prompt[:60]!r} before every query by its "
            f"config_sentence_transformers.json (default_prompt_name), which is done only where {MODULES} makes it a "
            "CrossEncoder that reads plain text; it is not scored"
        )
    return prompt or ""


def check_pairs_apart(name: str, tokenizer: Any) -> None:
    """Refuse a classifier whose tokenizer puts nothing between query and document: its prompt is written elsewhere.

    Raises:
        ModelError: See above.
    """
    pair = tokenizer(QUERY, DOCUMENT)["input_ids"]
    bare = [one for text in (QUERY, DOCUMENT) for one in tokenizer(text, add_special_tokens=False)["input_ids"]]
    if any(pair[start : start + len(bare)] == bare for start in range(len(pair) - len(bare) + 1)):
        raise ModelError(
            f"reranker.model: {name} is a sequence classifier whose tokenizer puts nothing between query and document: "
            "it was trained behind a prompt that its files do not say, and would score the bare pair almost at random; "
            "it is not scored"
        )


def _refuse_quantised(ref: ModelRef, where: str) -> None:
    found = read_mapping(ref, "config.json").get("quantization_config")
    if found is not None:
        kind = as_mapping(found).get("quant_method") or "unknown"
        raise ModelError(
            f"{where}: {ref.name} is quantised by its config.json ({kind}), which is not computed here; name the "
            "checkpoint that it was made from (reranker.dtype: int8 or float8 quantises that one)"
        )


def refuse_encoders(ref: ModelRef) -> None:
    """Refuse as a reranker what is an encoder by its modules.

    Raises:
        ModelError: It is one.
    """
    if "Pooling" in [kind for kind, _ in modules(ref)] and not scores_by_modules(ref):
        raise ModelError(
            f"reranker.model: {ref.name} is an encoder (Pooling in its {MODULES}); name it as retriever.model"
        )


def _refuse_modules(ref: ModelRef, known: Sequence[str]) -> None:
    """Refuse modules that no scorer here computes, and a transformer that does not lie where it is loaded from."""
    found = modules(ref)
    kinds = [kind for kind, _ in found]
    if not found:
        return
    if kinds not in (list(known), list(known[:1])):
        raise ModelError(
            f"reranker.model: {ref.name} is scored through {', '.join(kinds)} by its {MODULES}, and only "
            f"{' and '.join(known)} is computed here; it is not scored"
        )
    if found[0][1] != ROOT:
        raise ModelError(
            f"reranker.model: {ref.name} keeps its transformer in {found[0][1]} by its {MODULES}, beside a config.json "
            "at its root; name the folder that is meant"
        )


def _check_texts(ref: ModelRef, task: str) -> None:
    """Refuse what changes how texts become ids, and a network that sentence-transformers would use for another task."""
    name, file = f"reranker.model: {ref.name}", "sentence_bert_config.json"
    saved = read_mapping(ref, file)
    if saved.get("transformer_task", task) != task:
        raise ModelError(f"{name} is saved for {saved['transformer_task']} by its {file}, not for {task}")
    options = as_mapping(saved.get("processing_kwargs"))
    changed = [key for key in CHANGES_TEXTS if saved.get(key)]
    changed += [f"processing_kwargs.{key}" for key, value in options.items() if key != "chat_template" and value]
    if changed:
        raise ModelError(f"{name} changes its texts by {', '.join(changed)} in its {file}, which is not done here")
    if read_mapping(ref, "tokenizer_config.json").get("truncation_side") == "left":
        raise ModelError(
            f"{name} cuts long texts at their beginning by its tokenizer_config.json (truncation_side), which is not "
            "done here"
        )


def _check_code(config: RerankerConfig, ref: ModelRef) -> None:
    """Refuse a causal reranker that brings a network of its own, unless the config runs that very code."""
    code = as_mapping(read_mapping(ref, "config.json").get("auto_map")).get("AutoModelForCausalLM")
    if code is None:
        return
    if not config.trust_remote_code:
        raise ModelError(
            f"reranker.model: {ref.name} runs on Python code that comes with it (auto_map in its config.json); to "
            "allow it, set reranker.trust_remote_code: true with reranker.engine: reference"
            + (" and reranker.revision to a commit that you have read" if ref.published else " once you have read it")
        )
    if config.engine == "packed":
        raise ModelError(
            f"reranker.engine: {ref.name} runs on Python code that comes with it, which the packed engine does not "
            "know; set it to reference"
        )


def _check_pairs(ref: ModelRef) -> None:
    """Refuse a sequence classifier that says that it reads more than the bare pair, or ranks otherwise."""
    config = read_mapping(ref, "config.json")
    kind, name = str(config.get("model_type")), f"reranker.model: {ref.name}"
    if is_decoder(kind):
        raise ModelError(
            f"{name} is {ref.architecture}, a decoder with a classification head: it was trained behind a prompt, and "
            "the bare pair would be scored almost at random; set reranker.kind to causal or auto"
        )
    _check_network(ref)
    query_prompt(ref)
    if writes_pairs(ref):
        raise ModelError(
            f"{name} is a sequence classifier whose chat template writes query and document into a prompt, which is "
            "not done here; it is not scored"
        )


def _check_network(ref: ModelRef) -> None:
    """Refuse an encoder that attends causally or whose positions are lost, and an activation that changes the order."""
    config, name = read_mapping(ref, "config.json"), f"reranker.model: {ref.name}"
    if config.get("is_decoder"):
        raise ModelError(f"{name} attends causally by its config.json (is_decoder), which is not computed here")
    positions = str(config.get("position_embedding_type") or "absolute")
    if positions.startswith("relative") and implementation(ref) == "transformers":
        raise ModelError(
            f"{name} has {positions} positions by its config.json, which transformers 5 leaves out without an error; "
            "it is not scored"
        )
    check_activation(ref)


def check_activation(ref: ModelRef) -> None:
    """Refuse an activation that may change the order of logits, or tie them."""
    config = read_mapping(ref, "config.json")
    saved = read_mapping(ref, "config_sentence_transformers.json")
    in_config = as_mapping(config.get("sentence_transformers"))
    stated = [
        saved.get("activation_fn"),
        in_config.get("activation_fn"),
        config.get("sbert_ce_default_activation_function"),
    ]
    for activation in stated:
        if activation is not None and str(activation).rsplit(".", 1)[-1] not in _MONOTONE:
            raise ModelError(
                f"reranker.model: {ref.name} puts its logit through {activation} by its files, which may change the "
                f"order; only {', '.join(sorted(_MONOTONE))} do not"
            )


def _answer_notes(ref: ModelRef, recipe: Recipe) -> list[str]:
    """Refuse a recipe whose answers are not those that LogitScore names."""
    stated = stated_answers(ref)
    if stated is None:
        return []
    tokenizer = load_tokenizer(ref)
    try:
        asked: tuple[int, int | None] | None = answer_ids(tokenizer, recipe)
    except EngineError:
        asked = None
    if asked == stated:
        has_prompt = writes_pairs(ref) or default_prompt(ref) is not None
        return [] if has_prompt else [f"its files name no prompt; recipe {recipe.name} was taken"]
    (path, _), (yes, no) = logit_score(ref) or ("", {}), stated
    answers = _token(tokenizer, yes) + (" alone" if no is None else f" and {_token(tokenizer, no)}")
    reads = repr(recipe.yes) + (" alone" if recipe.no is None else f" and {recipe.no!r}")
    raise ModelError(
        f"reranker.model: {ref.name} answers with {answers} by its {path}, recipe {recipe.name} reads {reads}; set "
        f"reranker.recipe to auto, or to a YAML file with `yes: {yes}` and `no: {'null' if no is None else no}`"
    )


def _decoded(tokenizer: Any, number: Any) -> str:
    return str(tokenizer.decode([number])) if is_id(number) else str(number)


def _token(tokenizer: Any, number: Any) -> str:
    return f"{_decoded(tokenizer, number)!r} ({number})"


def _prompt_notes(config: RerankerConfig, ref: ModelRef, recipe: Recipe) -> list[str]:
    """Say where the prompt of a recipe that the config names is not the one that the checkpoint's files state."""
    if not writes_pairs(ref):
        prompt = default_prompt(ref)
        known = f"it puts {prompt!r} before every query, without a chat template; the config names the recipe"
        return [] if prompt is None else [known]
    stated, ours = written(ref, INSTRUCTION), recipe.prompt(QUERY, DOCUMENT, INSTRUCTION)
    default = written(ref, default_prompt(ref))
    if stated != ours:
        problem = f"its chat template writes another prompt than recipe {recipe.name}: {first_difference(stated, ours)}"
    elif default != recipe.prompt(QUERY, DOCUMENT, recipe.default_instruction) and config.instruction in _MAY_DEFAULT:
        ours = (recipe.default_instruction or "")[:60]
        problem = f"its default instruction is not that of recipe {recipe.name}, {ours!r}"
    else:
        return []
    return [f"{problem}; the config names the recipe"]
