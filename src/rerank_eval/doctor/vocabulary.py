"""A reranker's tokenizer: the ids that the recipes were published with, and that splitting prompts changes none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rerank_eval.config import RerankerConfig
from rerank_eval.doctor.checkpoints import Subject
from rerank_eval.doctor.findings import Finding, failure, ok, said, warning
from rerank_eval.doctor.pairs import PAIRS
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.prompts import PromptTokenizer
from rerank_eval.engine.recipe import Recipe
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.errors import ModelError
from rerank_eval.models.architectures import effective_max_length
from rerank_eval.models.checkpoint import load_tokenizer, read_mapping
from rerank_eval.models.contents import CONFIG
from rerank_eval.models.own_recipe import own_recipe
from rerank_eval.models.qwen_vocabulary import BPE_TOKENS
from rerank_eval.models.recipes import find_recipe

GOLDEN_ANSWERS = {"yes": 9693, "no": 2152}
GOLDEN_PREFIX_TOKENS = 39
GOLDEN_SUFFIX = [151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271]
"""What Qwen3-Reranker's own tokenizer makes of the model card's prompt, which all recipes' prefix and suffix are."""
MARKERS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


def check_vocabulary(subject: Subject, fetch: str) -> Iterator[Finding]:
    """Check the tokenizer of a causal reranker whose files are here."""
    config, name = subject.config, f"tokenizer of {subject.ref.label}"
    assert isinstance(config, RerankerConfig)  # noqa: S101 - the caller's choice
    again = subject.again(fetch)
    try:
        tokenizer = load_tokenizer(subject.ref, trust_remote_code=config.trust_remote_code)
    except ModelError as error:
        yield failure(name, f"cannot be loaded: {said(error.__cause__ or error)}", again)
        return
    try:
        recipe = find_recipe(config.recipe, "reranker.recipe") or own_recipe(subject.ref)
        prompts = PromptTokenizer(tokenizer, recipe, effective_max_length(config, subject.ref), config.special_tokens)
    except (EngineError, ModelError) as error:
        yield failure(name, str(error), again)
        return
    golden = len(tokenizer) >= BPE_TOKENS and _is_qwen3_reranker_s(recipe)
    problems = _wrong_ids(tokenizer, recipe) if golden else _wrong_structure(tokenizer, recipe)
    rows = read_mapping(subject.ref, CONFIG).get("vocab_size")
    if isinstance(rows, int) and len(tokenizer) > rows:
        problems.append(f"it has {len(tokenizer)} tokens and the model {rows} rows: it belongs to another model")
    problems += _wrong_splits(prompts, recipe)
    for problem in problems:
        yield failure(name, problem, again)
    if not prompts.exact_split:
        found = "not built as Qwen's, so that a query's documents are tokenised whole and share less"
        yield warning(name, found, "nothing to do: scores are right, only slower")
    if not problems:
        answers = " and ".join(repr(one) for one in (recipe.yes, recipe.no) if one is not None)
        kind = "the published ids: yes 9693, no 2152, prefix 39, suffix 9 tokens" if golden else f"single {answers}"
        yield ok(name, f"{kind}; split prompts have the ids of whole ones")


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _wrong_ids(tokenizer: Any, recipe: Recipe) -> list[str]:
    """Hold the Qwen vocabulary against the ids that Qwen3-Reranker was trained with."""
    problems = [
        f"{word!r} is {found}, and was {wanted} when the model was trained"
        for word, wanted in GOLDEN_ANSWERS.items()
        if (found := _ids(tokenizer, word)) != [wanted]
    ]
    prefix, suffix = _ids(tokenizer, recipe.prefix), _ids(tokenizer, recipe.suffix)
    if len(prefix) != GOLDEN_PREFIX_TOKENS:
        problems.append(f"the prompt's prefix is {len(prefix)} tokens, and has to be {GOLDEN_PREFIX_TOKENS}")
    if suffix != GOLDEN_SUFFIX:
        problems.append(f"the prompt's suffix is {suffix}, and has to be {GOLDEN_SUFFIX}")
    return problems


def _is_qwen3_reranker_s(recipe: Recipe) -> bool:
    """Tell whether a recipe sends the model card's system turn and suffix and reads its answers."""
    card = RECIPES["card"]
    return all(getattr(recipe, name) == getattr(card, name) for name in ("prefix", "suffix", "yes", "no"))


def _wrong_structure(tokenizer: Any, recipe: Recipe) -> list[str]:
    """Ask of another vocabulary what any must have: answers of one token each, special tokens kept whole."""
    prompt = recipe.prompt("", "", None)
    words = [one for one in (recipe.yes, recipe.no) if isinstance(one, str)]
    words += [marker for marker in MARKERS if marker in prompt]
    found = {word: _ids(tokenizer, word) for word in words}
    problems = [
        f"{text!r} is {len(ids)} tokens, and has to be a single one" for text, ids in found.items() if len(ids) != 1
    ]
    if isinstance(recipe.no, str) and found.get(str(recipe.yes)) == found[recipe.no]:
        problems.append(f"{recipe.yes!r} and {recipe.no!r} are the same token")
    return problems


def _wrong_splits(prompts: PromptTokenizer, recipe: Recipe) -> list[str]:
    """Tokenise the known pairs whole and in parts."""
    for pair in PAIRS:
        group = QueryGroup(pair.query, recipe.default_instruction, [pair.relevant, pair.irrelevant])
        whole, parts = prompts.whole(group), prompts.factored(group)
        if whole.own != [parts.shared + own for own in parts.own]:
            return [f"the prompt of {pair.query!r} has other ids whole than in parts"]
    return []
