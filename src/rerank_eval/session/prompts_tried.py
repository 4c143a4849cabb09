"""Other prompts that a pair may have been scored with: what servers and configs do to it, written by A's tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.prompts import PromptTokenizer, encodable, token_ids
from rerank_eval.engine.recipe import Recipe
from rerank_eval.engine.special_tokens import SpecialTokenMode
from rerank_eval.models.recipes import all_recipes
from rerank_eval.rerankers.family import Prepared
from rerank_eval.rerankers.instructions import InstructionPolicy, task_prompt

LENGTHS = (64, 128, 256, 384, 512, 1024, 2048, 4096, 8192)
"""Limits that servers have by default or are started with."""


@dataclass(frozen=True)
class ProbePair:
    """A query, its own instruction if it has one, and a document: texts as mteb gives them."""

    query: str
    own_instruction: str | None
    document: str


@dataclass(frozen=True)
class Hypothesis:
    """What may have become of a prompt.

    Attributes:
        kind: What a program calls it: `recipe`, `instruction`, `bare`, `cut`, `prompt`, `special_tokens`.
        words: What it says of B.
        recipe: Its answers are read.
        write: A pair -> token ids.
    """

    kind: str
    words: str
    recipe: Recipe
    write: Callable[[ProbePair], list[int]]


class Writer:
    """Writes a reranker's prompts, and others.

    Args:
        prepared: A causal reranker.
        tokenizer: Its tokenizer.
        task_metadata: mteb's, the source of a task's instruction.
    """

    def __init__(self, prepared: Prepared, tokenizer: Any, task_metadata: Any) -> None:
        assert prepared.max_length is not None  # noqa: S101 - a causal reranker has it
        self.prepared, self.tokenizer, self._metadata = prepared, tokenizer, task_metadata
        self.recipe, self.max_length = prepared.recipe, prepared.max_length
        self._mode: SpecialTokenMode = prepared.config.special_tokens

    @cached_property
    def own(self) -> Callable[[ProbePair], list[int]]:
        """Writes a pair's prompt as the reranker sends it."""
        return self._by(self.recipe, self.prepared.policy, self.max_length)

    def _by(
        self,
        recipe: Recipe,
        policy: InstructionPolicy,
        max_length: int,
        mode: SpecialTokenMode | None = None,
    ) -> Callable[[ProbePair], list[int]]:
        prompts = PromptTokenizer(self.tokenizer, recipe, max_length, mode or self._mode)

        def write(pair: ProbePair) -> list[int]:
            query = policy.query_text(pair.query, pair.own_instruction)
            return list(prompts.render(query, pair.document, self._chosen(policy, pair)).token_ids)

        return write

    def _chosen(self, policy: InstructionPolicy, pair: ProbePair) -> str | None:
        return policy.choose(pair.own_instruction, self._metadata)[1]

    def _policy(self, recipe: Recipe, setting: str | None = None) -> InstructionPolicy:
        """Return what chooses the instruction with another recipe, as a config with it would."""
        instructions = self.prepared.prompting.instructions if setting is None else None
        return InstructionPolicy(
            self.prepared.config.instruction if setting is None else setting,
            recipe.default_instruction,
            reads_task_prompt=recipe.reads_task_prompt,
            joins_own=recipe.joins_query_and_instruction,
            instructions=instructions,
        )

    def likely(self, lengths: Sequence[int]) -> Iterator[Hypothesis]:
        """Yield what changes one thing of the prompt.

        Args:
            lengths: Limits in tokens that the numbers point to, tried with other recipes and without template.
        """
        yield from self._instructed(self.recipe, "")
        for length in (self.max_length, *lengths):
            yield from self._bare(length)
        for recipe in self._recipes():
            words = f"B's prompt is that of recipe {recipe.name}"
            yield from self._made("recipe", words, recipe, self._policy(recipe), self.max_length)
            for length in lengths:
                cut = f"{words}, cut at {length} tokens"
                yield from self._made("recipe", cut, recipe, self._policy(recipe), length)
        yield from self._broken()

    def further(self, pairs: Sequence[ProbePair], lengths: Sequence[int]) -> Iterator[Hypothesis]:
        """Yield what changes two things: the instruction, and recipe, template or length; arguments as for `cuts`."""
        for recipe in self._recipes():
            yield from self._instructed(recipe, f"that of recipe {recipe.name}")
        for setting, words in (
            ("none", "without an instruction"),
            ("default", "with the recipe's default instruction"),
        ):
            policy = InstructionPolicy(setting, self.recipe.default_instruction)
            other = Writer(dataclasses.replace(self.prepared, policy=policy), self.tokenizer, self._metadata)
            for one in (*other._broken(), *other.cuts(pairs, lengths)):
                yield dataclasses.replace(one, words=f"{one.words}; {words} besides")

    def _recipes(self) -> list[Recipe]:
        return [one for one in all_recipes() if one.reads == "last" and one.name != self.recipe.name]

    def _made(
        self,
        kind: str,
        words: str,
        recipe: Recipe,
        policy: InstructionPolicy,
        max_length: int,
        *,
        mode: SpecialTokenMode | None = None,
    ) -> Iterator[Hypothesis]:
        try:
            yield Hypothesis(kind, words, recipe, self._by(recipe, policy, max_length, mode))
        except EngineError:  # the tokenizer does not fit the recipe, or the limit leaves no room
            return

    def _instructed(self, recipe: Recipe, name: str) -> Iterator[Hypothesis]:
        prompt = task_prompt(self._metadata)
        settings = {
            "without an instruction": InstructionPolicy("none", recipe.default_instruction),
            "with the recipe's default instruction": InstructionPolicy("default", recipe.default_instruction),
            "with the task's instruction": None if prompt is None else _fixed(prompt),
            "with the query's own instruction": InstructionPolicy("task", recipe.default_instruction),
        }
        for what, policy in settings.items():
            if policy is not None:
                words = f"B's prompt is {name} {what}" if name else f"B's prompt is A's, {what}"
                yield from self._made("instruction", words, recipe, policy, self.max_length)

    def _bare(self, limit: int) -> Iterator[Hypothesis]:
        """Yield query and document without a template, cut at a limit."""
        cut = "" if limit == self.max_length else f", cut at {limit} tokens"
        end = self.tokenizer.eos_token
        forms = {
            "query and document stand one behind the other": ("", ""),
            "query and document in two lines": ("\n", ""),
            "query and document with a blank between them": (" ", ""),
        }
        if end:
            forms |= {
                f"query and document, {end} behind each": (end, end),
                f"query and document, {end} between them": (end, ""),
                f"query and document, {end} behind them": ("", end),
            }
        for form, (between, behind) in forms.items():
            words = f"B sends no template (vLLM wants --chat-template): {form}{cut}"
            yield Hypothesis("bare", words, self.recipe, self._bare_by([0, between, 1, behind], limit))
        yield Hypothesis(
            "bare",
            f"B sends the document alone, without template and query{cut}",
            self.recipe,
            self._bare_by([1], limit),
        )

    def _bare_by(self, form: Sequence[str | int], limit: int) -> Callable[[ProbePair], list[int]]:
        def write(pair: ProbePair) -> list[int]:
            texts = (self.prepared.policy.query_text(pair.query, pair.own_instruction), pair.document)
            pieces = [texts[one] if isinstance(one, int) else one for one in form]
            ids = [i for piece in token_ids(self.tokenizer, [one for one in pieces if one]) for i in piece]
            return ids[:limit]

        return write

    def _broken(self) -> Iterator[Hypothesis]:
        """Yield what goes wrong with a template."""
        policy, own = self.prepared.policy, self.recipe
        for mode in ("keep", "escape"):
            if mode != self._mode:
                words = f"B reads special tokens in texts otherwise (special_tokens: {mode})"
                yield from self._made("special_tokens", words, own, policy, self.max_length, mode=mode)
        tail = len(token_ids(self.tokenizer, [own.suffix])[0])

        def without_suffix(pair: ProbePair) -> list[int]:
            return self.own(pair)[:-tail]

        yield Hypothesis("prompt", f"B's prompt lacks its end ({own.suffix!r})", own, without_suffix)
        if "<think>" in own.suffix:
            short = dataclasses.replace(own, suffix=own.suffix.partition("<think>")[0])
            words = "B's prompt lacks the empty think block at its end"
            yield from self._made("prompt", words, short, policy, self.max_length)
        if own.suffix.rstrip() and own.suffix != own.suffix.rstrip():
            trimmed = dataclasses.replace(own, suffix=own.suffix.rstrip())
            yield from self._made(
                "prompt", "B's prompt lacks the line breaks at its end", trimmed, policy, self.max_length
            )

        def exchanged(pair: ProbePair) -> list[int]:
            return self.own(ProbePair(pair.document, pair.own_instruction, pair.query))

        yield Hypothesis("prompt", "query and document are exchanged", own, exchanged)
        yield Hypothesis("prompt", "the template stands twice: the client's and the server's", own, self._twice)
        yield Hypothesis("prompt", "B's prompt does not hold the query", own, self._without("query"))
        yield Hypothesis("prompt", "B's prompt does not hold the document", own, self._without("document"))

    def _without(self, text: str) -> Callable[[ProbePair], list[int]]:
        return lambda pair: self.own(dataclasses.replace(pair, **{text: ""}))

    def _twice(self, pair: ProbePair) -> list[int]:
        policy = self.prepared.policy
        instruction, query = self._chosen(policy, pair), policy.query_text(pair.query, pair.own_instruction)
        parts = self.recipe.parts(instructed=instruction is not None)
        names = [part.name for part in parts]
        place = names.index("document")
        rendered = [part.render(query, pair.document, instruction) for part in parts]
        before, behind = "".join(rendered[:place]), "".join(rendered[place:])
        return self.own(ProbePair(before, pair.own_instruction, behind))

    def cuts(self, pairs: Sequence[ProbePair], lengths: Sequence[int]) -> Iterator[Hypothesis]:
        """Yield prompts that are cut: as the recipe does, at either end, the document alone.

        Args:
            pairs: What will be scored: only what is shorter than the longest of them is tried.
            lengths: Limits beside `LENGTHS`.
        """
        longest = max(len(self.own(pair)) for pair in pairs)
        for length in sorted({*LENGTHS, *lengths}):
            if length >= longest:
                break
            cut = f"B cuts at {length} tokens"
            yield from self._made(
                "cut", f"{cut}, as max_length: {length} does", self.recipe, self.prepared.policy, length
            )
            yield Hypothesis("cut", f"{cut}, the prompt's end among them", self.recipe, self._ids(slice(length)))
            yield Hypothesis("cut", f"{cut}, from the left", self.recipe, self._ids(slice(-length, None)))
            yield Hypothesis("cut", f"B cuts each document at {length} tokens", self.recipe, self._short(length))

    def _ids(self, kept: slice) -> Callable[[ProbePair], list[int]]:
        return lambda pair: self.own(pair)[kept]

    def _short(self, length: int) -> Callable[[ProbePair], list[int]]:
        def write(pair: ProbePair) -> list[int]:
            text = encodable(pair.document)
            offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            if len(offsets) > length:
                text = text[: offsets[length - 1][1]]
            return self.own(dataclasses.replace(pair, document=text))

        return write


def _fixed(text: str) -> InstructionPolicy:
    """Return a policy that always chooses one text, whatever it looks like."""
    return InstructionPolicy("task", text, reads_task_prompt=False)
