"""What a prompt recipe is; the built-in ones are in `recipes`.

A prompt is `prefix + instruct + query + document + closing + suffix`. The parts are cut where tokenising them apart
gives the ids of tokenising them together (see `prompts.splits_exactly`): after the line break behind the instruction,
because Qwen2's split pattern lets a punctuation mark swallow the line breaks that follow it, and before the blank that
precedes the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rerank_eval.engine.errors import EngineError

Truncation = Literal["body", "message"]
SoftmaxDtype = Literal["model", "float32"]

MAX_LENGTH = 8192
"""Longest prompt in tokens where nobody says: that of all three sources."""


@dataclass(frozen=True)
class Recipe:
    """How a query, a document and an instruction become a prompt, and a prompt's logits a score.

    Attributes:
        name: What a config calls it.
        prefix: System turn and opening of the user turn.
        instruct_template: Holds `{instruction}`; left out altogether when the instruction is None.
        query_template: Holds `{query}`; ends where the document begins.
        document_template: Holds `{document}`.
        closing: What closes the user turn before the suffix; subject to truncation in mode `message`.
        suffix: Always whole: the last of its tokens is where the answer is read.
        default_instruction: What the recipe's own code uses when no instruction is given.
        truncation: `body`: the text between prefix and suffix is cut from the right to
            `max_length - len(prefix) - len(suffix)` tokens. `message`: everything before the suffix, the closing
            included, is cut to `max_length` tokens and the suffix comes on top.
        joins_query_and_instruction: On an instruction-following task the recipe's own code sends the instruction
            twice: as the instruction, and behind the query (`f"{query} {instruction}"`, mteb's data loader). The
            engine renders the query that it is given; whoever builds the group acts on this flag.
        softmax_dtype: Where the `recipe_softmax` head takes the softmax over [no, yes]: in the model's dtype or upcast.
        reads_task_prompt: Whether the recipe's own code gives each task its instruction; mteb's never does.
        yes: The answer that says relevant, one token.
        no: The answer that says irrelevant, one token.
    """

    name: str
    prefix: str
    instruct_template: str
    query_template: str
    document_template: str
    closing: str
    suffix: str
    default_instruction: str
    truncation: Truncation
    joins_query_and_instruction: bool
    softmax_dtype: SoftmaxDtype
    reads_task_prompt: bool = True
    yes: str = "yes"
    no: str = "no"

    def __post_init__(self) -> None:
        """Check the templates.

        Raises:
            EngineError: A placeholder is missing or unknown, the suffix is empty, a mode is unknown, or the answers are
                one and the same.
        """
        for field, key in (
            ("instruct_template", "instruction"),
            ("query_template", "query"),
            ("document_template", "document"),
        ):
            before, found, after = getattr(self, field).partition("{" + key + "}")
            if not found or "{" in before + after or "}" in before + after:
                raise EngineError(f"recipe {self.name!r}: {field} must hold {{{key}}} once and no other brace")
        if not self.suffix:
            raise EngineError(
                f"recipe {self.name!r}: the suffix is empty, so there is no position to read the answer at"
            )
        if self.truncation not in {"body", "message"} or self.softmax_dtype not in {"model", "float32"}:
            raise EngineError(f"recipe {self.name!r}: truncation is body or message, softmax_dtype model or float32")
        if not self.yes or not self.no or self.yes == self.no:
            raise EngineError(f"recipe {self.name!r}: yes and no must be two answers")

    def instruct_text(self, instruction: str | None) -> str:
        """Render the instruction's line with its line break; empty where there is no instruction."""
        return "" if instruction is None else self.instruct_template.format(instruction=instruction)

    def query_text(self, query: str) -> str:
        """Render the query up to where the document begins."""
        return self.query_template.format(query=query)

    def document_text(self, document: str) -> str:
        """Render the document's part."""
        return self.document_template.format(document=document)

    def body(self, query: str, document: str, instruction: str | None) -> str:
        """Render what stands between prefix and closing."""
        return self.instruct_text(instruction) + self.query_text(query) + self.document_text(document)

    def prompt(self, query: str, document: str, instruction: str | None) -> str:
        """Render the whole prompt, before any truncation."""
        return self.prefix + self.body(query, document, instruction) + self.closing + self.suffix
