"""A checkpoint's chat template for pairs: whether it has one, and the prompt that it writes.

sentence-transformers 6 and vLLM render a pair as turns of the roles `query` and `document`, behind a `system` turn with
the instruction (https://sbert.net/docs/cross_encoder/usage/custom_models.html).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.prompts import check_fast
from rerank_eval.engine.recipe import TEXTS, Recipe
from rerank_eval.engine.splitting import Joints
from rerank_eval.errors import ModelError
from rerank_eval.models.checkpoint import as_mapping, load_tokenizer, modules, read_mapping, read_text
from rerank_eval.models.ref import ModelRef

QUERY, DOCUMENT, INSTRUCTION = "what holds work still", "A vise holds work still.", "Find the tool that is meant"
_SIZES = {"restore_suffix", "truncation", "max_length", "padding", "tokenize", "return_tensors", "return_dict"}
"""Settings of sentence-transformers for a chat template that change no text."""
_AROUND = 20


def default_prompt(ref: ModelRef) -> str | None:
    """Return the prompt that sentence-transformers puts before every text of a checkpoint, or None for none.

    Raises:
        ModelError: The name of the default prompt is none of its prompts'.
    """
    saved = read_mapping(ref, "config_sentence_transformers.json")
    prompts, name = saved.get("prompts"), saved.get("default_prompt_name")
    if name is not None and (not isinstance(prompts, Mapping) or name not in prompts):
        raise ModelError(
            f"{ref.name}: its config_sentence_transformers.json names the default prompt {str(name)[:60]!r}, which is "
            "none of its prompts; mend default_prompt_name"
        )
    found = prompts.get(name) if isinstance(prompts, Mapping) and isinstance(name, str) else None
    return str(found) if found else None


def writes_pairs(ref: ModelRef) -> bool:
    """Tell whether a checkpoint's chat template is one for pairs, with turns of the roles query and document."""
    found = [read_text(ref, "chat_template.jinja") or ""]
    kept = read_mapping(ref, "tokenizer_config.json").get("chat_template")
    found += [str(one.get("template")) for one in kept if isinstance(one, Mapping)] if isinstance(kept, list) else []
    found += [kept] if isinstance(kept, str) else []
    whole = "LogitScore" in [kind for kind, _ in modules(ref)]
    sent = "message" in as_mapping(read_mapping(ref, "sentence_bert_config.json").get("modality_config"))
    return any(_is_for_pairs(text, any_will_do=whole and sent) for text in found if text)


@functools.lru_cache(maxsize=16)
def _is_for_pairs(template: str, *, any_will_do: bool) -> bool:
    """Tell whether a template writes a query's and a document's turns, and not as it does any others."""
    if all(any(f"{quote}{role}{quote}" in template for quote in "\"'") for role in ("query", "document")):
        return True
    pair, chat = (_rendered(template, roles) for roles in (("query", "document"), ("user", "user")))
    if pair is None or not (QUERY in pair and DOCUMENT in pair):
        return False
    same = [re.sub("query|document", "user", text or "") for text in (pair, chat)]
    return any_will_do or same[0] != same[1]


def _rendered(template: str, roles: tuple[str, str]) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = [{"role": role, "content": text} for role, text in zip(roles, (QUERY, DOCUMENT), strict=True)]
    try:
        return str(render_jinja_template([turns], chat_template=template)[0][0])
    except Exception:  # a template for other turns may raise anything
        return None


def written(ref: ModelRef, instruction: str | None, query: str = QUERY, document: str = DOCUMENT) -> str:
    """Return the prompt that a checkpoint's chat template writes for a pair, as sentence-transformers calls it."""
    saved = read_mapping(ref, "sentence_bert_config.json")
    kwargs = as_mapping(as_mapping(saved.get("processing_kwargs")).get("chat_template"))
    options = {str(key): value for key, value in kwargs.items() if key not in _SIZES}
    turns = [("system", instruction)] if instruction is not None else []
    turns += [("query", query), ("document", document)]
    structured = as_mapping(as_mapping(saved.get("modality_config")).get("message")).get("format") == "structured"
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if structured else text} for role, text in turns
    ]
    try:
        return str(load_tokenizer(ref).apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:  # a template is a program of somebody else's, which may raise anything
        raise ModelError(
            f"reranker.model: {ref.name}: its chat template cannot be rendered for a query and a document "
            f"({type(error).__name__}: {str(error)[:80]})"
        ) from None


def first_difference(one: str, other: str) -> str:
    """Show where two prompts part, the checkpoint's first."""
    place = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(one), len(other)) if place is None else place
    start = max(place - _AROUND, 0)
    return f"{one[start : place + _AROUND]!r} where the recipe has {other[start : place + _AROUND]!r}"


_PROBES = (
    ("what holds work still", "A vise holds work still.", "Find the tool that is meant"),
    (" a \n", "\n\tan {x} <b>'s&amp;\n", " \u00e9 {{y}}\n"),
    ("", "", "\u2028"),
)
"""Texts that a template may change: blanks around them, braces, markup, nothing at all."""


def stated_recipe(ref: ModelRef, default: str | None) -> Recipe:
    """Return the recipe that a checkpoint's chat template for pairs says.

    sentence-transformers cuts such a prompt from the right and puts back what stands behind the last text, which is
    truncation `prompt`. The answers are not the template's to say.

    Args:
        ref: The model; its template `writes_pairs`.
        default: The prompt that is sent as instruction where none is given, or None for what the template itself does.

    Raises:
        ModelError: The template cannot be rendered, or writes something that no recipe does.
    """
    marks: dict[str, str] = {name: f"q{name}7x" for name in TEXTS}
    bare = _between(ref, written(ref, None, marks["query"], marks["document"]), marks)
    full = _between(ref, written(ref, marks["instruction"], marks["query"], marks["document"]), marks)
    tokenizer = load_tokenizer(ref)
    try:
        check_fast(tokenizer)
    except EngineError as error:
        raise ModelError(f"reranker.model: {ref.name}: {error}") from None
    own = _own_default(bare, full) if default is None else default
    try:
        fields = _fields(ref, bare, full, Joints(tokenizer))
        recipe = Recipe(
            name="checkpoint",
            default_instruction=own,
            truncation="prompt",
            bos=False,
            **fields,
        )
    except (EngineError, ValueError) as error:  # braces of its own
        raise ModelError(f"reranker.model: {ref.name}: its chat template: {error}; it is not scored") from None
    for query, document, instruction in _PROBES:
        for given in (instruction, default) if "instruction" in full.order else (None,):
            asked, ours = written(ref, given, query, document), recipe.prompt(query, document, given or own)
            if asked != ours:
                raise ModelError(
                    f"reranker.model: {ref.name}: its chat template writes {first_difference(asked, ours)} of the "
                    "same template on other texts, which no recipe does; set reranker.recipe to a YAML file"
                )
    return recipe


@dataclasses.dataclass(frozen=True)
class _Rendered:
    """A rendered prompt: the order of its texts, and the fixed text before, between and behind them."""

    order: tuple[str, ...]
    fixed: tuple[str, ...]


def _between(ref: ModelRef, prompt: str, marks: Mapping[str, str]) -> _Rendered:
    places = {name: prompt.find(mark) for name, mark in marks.items() if mark in prompt}
    twice = [name for name in places if prompt.count(marks[name]) > 1]
    lacking = {"query", "document"} - places.keys()
    if twice or lacking:
        problem = f"writes the {twice[0]} twice" if twice else f"leaves out the {min(lacking)}"
        raise ModelError(f"reranker.model: {ref.name}: its chat template {problem}, which no recipe does")
    order = tuple(sorted(places, key=lambda name: places[name]))
    pattern = "|".join(re.escape(marks[name]) for name in order)
    return _Rendered(order, tuple(re.split(pattern, prompt)))


def _own_default(bare: _Rendered, full: _Rendered) -> str | None:
    """Return the instruction that a template writes where none is given, or None where it writes none."""
    if full.order[0] != "instruction":
        return None
    before, behind = full.fixed[:2]
    found = bare.fixed[0]
    if len(found) > len(before) + len(behind) and found.startswith(before) and found.endswith(behind):
        return found[len(before) : len(found) - len(behind)]
    return None


def _fields(ref: ModelRef, bare: _Rendered, full: _Rendered, joints: Joints) -> dict[str, Any]:
    """Return a recipe's templates and order, of prompts without an instruction and with one."""
    pair = tuple(name for name in full.order if name != "instruction")
    if pair != bare.order or (full.order[-1] == "instruction" and pair[-1] == "document"):
        raise ModelError(
            f"reranker.model: {ref.name}: its chat template writes {', '.join(full.order)} in this order, which no "
            "recipe does"
        )
    if "instruction" not in full.order:  # the template leaves it out: a query's own then stands behind the query
        first, middle, suffix = bare.fixed
        fields = _pair(pair, first, "{query}", middle, joints)
        fields["instructed_query_template"] = fields["query_template"].replace("{query}", "{query} {instruction}")
        return {**fields, "suffix": suffix, "reads_task_prompt": False}
    if full.order[0] == "instruction":
        return _instruction_first(ref, bare, full, joints)
    return _instruction_with_query(ref, bare, full, joints)


def _pair(pair: tuple[str, ...], prefix: str, query: str, middle: str, joints: Joints) -> dict[str, Any]:
    """Return prefix, both templates and the order, with what stands between them cut where it splits no token."""
    cut = joints.best_cut(middle)
    templates = {"query": query, "document": "{document}"}
    first, second = pair
    return {
        "prefix": prefix,
        "instruct_template": "",
        f"{first}_template": templates[first] + middle[:cut],
        f"{second}_template": middle[cut:] + templates[second],
        "order": ("instruction", *pair),
    }


def _instruction_first(ref: ModelRef, bare: _Rendered, full: _Rendered, joints: Joints) -> dict[str, Any]:
    """Read the instruction's line off two prompts: what stands before the first other text in one and not the other."""
    before, behind, middle, suffix = full.fixed
    _check_same(ref, (middle, suffix), bare.fixed[1:])
    pair = full.order[1:]
    fields = _pair(pair, before, "{query}", middle, joints)
    if _own_default(bare, full) is not None:  # its line is then what stands around the instruction
        shared = before.rfind("\n") + 1
        cut = joints.best_cut(behind, last=False)
        head = behind[cut:]
    else:
        shared = len(_common_start(before, bare.fixed[0]))
        head = bare.fixed[0][shared:]
        if not behind.endswith(head):
            raise ModelError(
                f"reranker.model: {ref.name}: its chat template frames the query otherwise behind an instruction, "
                "which no recipe does"
            )
        cut = len(behind) - len(head)
    fields["prefix"] = before[:shared]
    line = before[len(fields["prefix"]) :] + "{instruction}" + behind[:cut]
    fields[f"{pair[0]}_template"] = head + fields[f"{pair[0]}_template"]
    return {**fields, "instruct_template": line, "suffix": suffix}


def _instruction_with_query(ref: ModelRef, bare: _Rendered, full: _Rendered, joints: Joints) -> dict[str, Any]:
    """Read a query's template with an instruction and without one, the two being neighbours behind the first text."""
    if full.order[0] == "query":  # query, instruction, document
        middle = _common_end(full.fixed[2], bare.fixed[1])
        _check_same(ref, full.fixed[3:], bare.fixed[2:])
        shared = len(_common_start(full.fixed[0], bare.fixed[0]))
        fields = _pair(("query", "document"), full.fixed[0][:shared], "{query}", middle, joints)
        rest = fields["query_template"].removeprefix("{query}")
        one, two, three = full.fixed[0][shared:], full.fixed[1], full.fixed[2][: len(full.fixed[2]) - len(middle)]
        fields["instructed_query_template"] = f"{one}{{query}}{two}{{instruction}}{three}{rest}"
        last = bare.fixed[1][: len(bare.fixed[1]) - len(middle)]
        fields["query_template"] = f"{bare.fixed[0][shared:]}{{query}}{last}{rest}"
        return {**fields, "suffix": full.fixed[3]}
    _check_same(ref, full.fixed[:1], bare.fixed[:1])
    middle = _common_start(full.fixed[1], bare.fixed[1])
    suffix = _common_end(full.fixed[3], bare.fixed[2])
    fields = _pair(("document", "query"), full.fixed[0], "{query}", middle, joints)
    names = full.order[1:]
    one, two, three = full.fixed[1][len(middle) :], full.fixed[2], full.fixed[3][: len(full.fixed[3]) - len(suffix)]
    head = fields["query_template"].removesuffix("{query}")
    fields["instructed_query_template"] = f"{head}{one}{{{names[0]}}}{two}{{{names[1]}}}{three}"
    last = bare.fixed[2][: len(bare.fixed[2]) - len(suffix)]
    fields["query_template"] = f"{head}{bare.fixed[1][len(middle) :]}{{query}}{last}"
    return {**fields, "suffix": suffix}


def _common_start(one: str, other: str) -> str:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in same)


def _common_end(one: str, other: str) -> str:
    return _common_start(one[::-1], other[::-1])[::-1]


def _check_same(ref: ModelRef, one: Sequence[str], other: Sequence[str]) -> None:
    if tuple(one) != tuple(other):
        raise ModelError(
            f"reranker.model: {ref.name}: its chat template frames the document otherwise where there is an "
            "instruction, which no recipe does"
        )
