"""What a prompt recipe is; the built-in ones are in `recipes`.

A prompt is a row of parts: prefix, then instruction, query and document in the recipe's order, closing, suffix. Where
a joint between two parts is proved to split no token (`splitting`), they are tokenised apart: what prompts share is
then tokenised once, and each document once.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal, get_args

from rerank_eval.engine.errors import EngineError

Truncation = Literal["body", "message", "document", "prompt"]
SoftmaxDtype = Literal["model", "float32"]
Tokenize = Literal["whole", "apart"]
Reads = Literal["last", "pooled"]
PartName = Literal["prefix", "instruction", "query", "separator", "document", "closing", "suffix"]

MAX_LENGTH = 8192
"""Longest prompt in tokens where nobody says: that of Qwen3-Reranker's card, QwenLM's script and mteb's wrapper."""
TEXTS: tuple[PartName, ...] = ("instruction", "query", "document")


@dataclass(frozen=True)
class Part:
    """A part of a prompt: fixed text around what the template names in braces."""

    name: PartName
    template: str

    @property
    def head(self) -> str:
        """The fixed text before the first placeholder, or all of it."""
        return self.template.partition("{")[0] if self.texts else self.template

    @property
    def tail(self) -> str:
        """The fixed text behind the last placeholder, or all of it."""
        return self.template.rpartition("}")[2] if self.texts else self.template

    @property
    def texts(self) -> frozenset[str]:
        """Which of query, document and instruction it holds; what is no template may hold braces of its own."""
        if self.name not in TEXTS:
            return frozenset()
        return frozenset(name for _, name, _, _ in string.Formatter().parse(self.template) if name)

    def render(self, query: str, document: str, instruction: str | None) -> str:
        """Fill the template in."""
        if not self.texts:
            return self.template
        return self.template.format(query=query, document=document, instruction=instruction)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a query, a document and an instruction become a prompt, and a prompt's logits a score.

    Attributes:
        name: What a config calls it.
        prefix: System turn and opening of the user turn.
        instruct_template: Holds `{instruction}`; left out altogether when the instruction is None. Empty where
            `instructed_query_template` says it all.
        query_template: Holds `{query}`.
        document_template: Holds `{document}`.
        closing: What closes the user turn before the suffix; subject to truncation in mode `message`.
        suffix: Always whole: the last of its tokens is where the answer is read. Empty only where `reads` is `pooled`.
        default_instruction: What the recipe's own code uses when no instruction is given; None for none.
        truncation: `body`: the text between prefix and suffix is cut from the right to
            `max_length - len(prefix) - len(suffix)` tokens. `message`: everything before the suffix, the closing
            included, is cut to `max_length` tokens and the suffix comes on top. `prompt`: the whole prompt is one text,
            cut from the right to `max_length` tokens with the suffix written over its end, as sentence-transformers 6
            does with a chat template. `document`: the document alone is cut,
            so that the prompt has `max_length` tokens; a query keeps at most three quarters of the room for both.
        joins_query_and_instruction: On an instruction-following task the recipe's own code sends the instruction
            twice: as the instruction, and behind the query (`f"{query} {instruction}"`, mteb's data loader). The
            engine renders the query that it is given; whoever builds the group acts on this flag.
        softmax_dtype: Where the `recipe_softmax` head takes the softmax over [no, yes]: in the model's dtype or upcast.
        reads_task_prompt: Whether the recipe's own code gives each task its instruction; mteb's never does.
        yes: The answer that says relevant: a text of one token, or a token's id.
        no: The answer that says irrelevant, likewise; None where the logit of `yes` alone is the score.
        order: Instruction, query and document in the order of the prompt.
        instructed_query_template: Holds `{query}` and `{instruction}`; stands for both parts where there is an
            instruction. None where they are apart.
        separator: Stands behind the query and behind the document.
        tokenize: `whole`: the recipe's own code tokenises the prompt in one string; `apart`: it tokenises prefix, query
            with instruction, separator, document, closing and suffix one by one.
        bos: Whether the tokenizer's beginning-of-sequence token stands first, where it has one. None: the recipe was
            written for tokenizers that add none, and others are refused.
        scale: Divides the margin before the sigmoid that makes a probability of it.
        models: Checkpoints on the hub that were trained with it; `recipe: auto` takes it for them.
        max_length: The authors' limit in tokens; None for `MAX_LENGTH`.
        dtype: The dtype that the authors publish scores in; empty where they do not say.
        reads: `last`: the answer is read at the last token. `pooled`: a classifier pools the states of all tokens, as
            its own config says, and `yes` and `no` are not read.
    """

    name: str
    prefix: str
    instruct_template: str
    query_template: str
    document_template: str
    closing: str = ""
    suffix: str
    default_instruction: str | None = None
    truncation: Truncation
    joins_query_and_instruction: bool = False
    softmax_dtype: SoftmaxDtype = "float32"
    reads_task_prompt: bool = True
    yes: str | int = "yes"
    no: str | int | None = "no"
    order: tuple[str, ...] = TEXTS
    instructed_query_template: str | None = None
    separator: str = ""
    tokenize: Tokenize = "whole"
    bos: bool | None = None
    scale: float = 1.0
    models: tuple[str, ...] = ()
    max_length: int | None = None
    dtype: str = ""
    reads: Reads = "last"

    def __post_init__(self) -> None:
        """Check the templates.

        Raises:
            EngineError: A placeholder is missing or unknown, the suffix is empty, a mode is unknown, or the answers are
                one and the same.
        """
        for field, keys in (
            ("instruct_template", ("instruction",)),
            ("query_template", ("query",)),
            ("document_template", ("document",)),
            ("instructed_query_template", ("query", "instruction")),
        ):
            _check_template(self, field, keys)
        if not self.suffix and self.reads == "last":
            raise EngineError(
                f"recipe {self.name!r}: the suffix is empty, so there is no position to read the answer at"
            )
        for field, valid in (
            ("truncation", Truncation),
            ("softmax_dtype", SoftmaxDtype),
            ("tokenize", Tokenize),
            ("reads", Reads),
        ):
            if getattr(self, field) not in get_args(valid):
                raise EngineError(f"recipe {self.name!r}: {field} is {' or '.join(get_args(valid))}")
        if self.yes == "" or self.no in {"", self.yes}:
            raise EngineError(f"recipe {self.name!r}: yes and no must be two answers (no: null for one alone)")
        if sorted(self.order) != sorted(TEXTS):
            raise EngineError(f"recipe {self.name!r}: order must name {', '.join(TEXTS)}, each once")
        if self.scale <= 0:
            raise EngineError(f"recipe {self.name!r}: scale must be positive, not {self.scale}")
        if self.tokenize == "apart" and self.truncation != "document":
            raise EngineError(f"recipe {self.name!r}: what is tokenised apart is cut by truncation: document")

    def parts(self, *, instructed: bool) -> tuple[Part, ...]:
        """Return the parts of a prompt with or without an instruction, in their order; empty ones are left out."""
        joined = instructed and self.instructed_query_template is not None
        templates: dict[str, str] = {
            "instruction": self.instruct_template if instructed and not joined else "",
            "query": (self.instructed_query_template or "") if joined else self.query_template,
            "document": self.document_template,
        }
        found = [Part("prefix", self.prefix)]
        for name in TEXTS if self.order == TEXTS else self.order:
            found.append(Part(name, templates[name]))  # type: ignore[arg-type]
            if name != "instruction":
                found.append(Part("separator", self.separator))
        found += [Part("closing", self.closing), Part("suffix", self.suffix)]
        return tuple(part for part in found if part.template)

    def prompt(self, query: str, document: str, instruction: str | None) -> str:
        """Render the whole prompt, before any truncation."""
        parts = self.parts(instructed=instruction is not None)
        return "".join(part.render(query, document, instruction) for part in parts)


def _check_template(recipe: Recipe, field: str, keys: tuple[str, ...]) -> None:
    template = getattr(recipe, field)
    if template is None or (field == "instruct_template" and not template and recipe.instructed_query_template):
        return
    rest = template
    for key in keys:
        rest = rest.replace("{" + key + "}", "", 1) if "{" + key + "}" in rest else "{"
    if "{" in rest or "}" in rest:
        wanted = " and ".join("{" + key + "}" for key in keys)
        raise EngineError(f"recipe {recipe.name!r}: {field} must hold {wanted} once and no other brace")
