"""Where a prompt's parts may be tokenised apart: proved joint by joint, for every text.

A tokenizer cuts added tokens out of the raw text first and treats each stretch between them by itself, so a joint with
an added token on one side is exact in any pipeline. Elsewhere the proof is for NFC (or no) normalisation, the split
pattern of Qwen2 or Llama 3, and byte-level BPE, where no piece spans

- a line break and a fixed character behind it that is no blank: whatever matches the break stops there;
- a fixed character that is no blank, and a blank behind it: a blank only ever begins or continues blanks, and runs of
  letters, digits and punctuation stop before it;
- anything, and a blank with a fixed character behind it that is no blank: blanks before it are one piece without it;

and none of these pairs composes under NFC. No added token may reach over a joint. Held by property tests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.recipe import Part, Recipe

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = _PATTERN.replace("DIGITS", r"\p{N}")
"""Qwen2's and Qwen3's split pattern, from transformers' tokenization_qwen2.py."""
LLAMA3_PATTERN = _PATTERN.replace("DIGITS", r"\p{N}{1,3}")
"""Llama 3's, from its tokenizer.json: numbers of three digits, else the same."""

Unit = tuple[Part, ...]
"""Parts that are tokenised together."""


@dataclass(frozen=True)
class Layout:
    """A prompt's parts as they are tokenised.

    Attributes:
        before: Units before the document's.
        document: The document's unit.
        behind: Units between the document's and the suffix.
        suffix: The last unit, which no limit cuts.
    """

    before: tuple[Unit, ...]
    document: Unit
    behind: tuple[Unit, ...]
    suffix: Unit

    @property
    def document_apart(self) -> bool:
        """Whether the document is tokenised without query and instruction, so that it is the same for each query."""
        return all(part.texts <= {"document"} for part in self.document)


def lay_out(tokenizer: PreTrainedTokenizerBase, recipe: Recipe, *, instructed: bool) -> Layout | None:
    """Lay out the prompts of a recipe for a tokenizer.

    Returns:
        The layout; None where document and suffix cannot be told apart, so that prompts are tokenised whole.
    """
    joints = Joints(tokenizer)
    apart = recipe.tokenize == "apart"
    parts = recipe.parts(instructed=instructed)
    units: list[Unit] = [parts[:1]]
    for left, right in pairwise(parts):
        if _by_definition(recipe, left, right) or (not apart and joints.exact(left, right)):
            units.append((right,))
        else:
            units[-1] = (*units[-1], right)
    place = next(i for i, unit in enumerate(units) if any("document" in part.texts for part in unit))
    if place == len(units) - 1 or len(units[-1]) > 1:
        return None
    return Layout(tuple(units[:place]), units[place], tuple(units[place + 1 : -1]), units[-1])


def _by_definition(recipe: Recipe, left: Part, right: Part) -> bool:
    """Say whether the recipe's own code tokenises two neighbours apart."""
    if recipe.tokenize == "apart":
        return {left.name, right.name} != {"instruction", "query"}
    if recipe.truncation in {"document", "prompt"}:
        return False
    return right.name == "suffix" or (left.name == "prefix" and recipe.truncation == "body")


def splits_exactly(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> bool:
    """Say whether a document may be tokenised apart from the rest of its prompt, with an instruction and without."""
    layouts = [lay_out(tokenizer, recipe, instructed=one) for one in (False, True)]
    return all(found is not None and found.document_apart for found in layouts)


class Joints:
    """Says of two neighbouring parts whether tokenising them apart gives the ids of tokenising them together."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend: Any = tokenizer.backend_tokenizer
        added = list(backend.get_added_tokens_decoder().values())
        self._stretches = any(one.single_word or one.lstrip or one.rstrip or one.normalized for one in added)
        self._special = [str(token.content) for token in added]
        self._known_pattern = _is_known_pipeline(backend)

    def exact(self, left: Part, right: Part) -> bool:
        """Say whether a joint is proved, whatever texts stand in both parts."""
        end, start = left.tail, right.head
        if self._stretches or any(_reaches_over(token, end, start) for token in self._special):
            return False
        return _added_token_at(end, start, self._special) or (self._known_pattern and _between_pieces(end, start))

    def best_cut(self, fixed: str, *, last: bool = True) -> int:
        """Return where fixed text between two others is cut: at the last or first exact joint, else at its end."""
        for cut in range(len(fixed), -1, -1) if last else range(len(fixed) + 1):
            if self.exact(Part("query", "{query}" + fixed[:cut]), Part("document", fixed[cut:] + "{document}")):
                return cut
        return len(fixed)


def _between_pieces(end: str, start: str) -> bool:
    """Say whether the split pattern always splits between two fixed texts; see the module."""
    if start[:1] == " " and _is_visible(start[1:2]):
        return True
    if end[-1:] == "\n":
        return _is_visible(start[:1])
    return _is_visible(end[-1:]) and start[:1] == " "


def _is_visible(character: str) -> bool:
    return character.isascii() and character.isprintable() and not character.isspace() and bool(character)


def _added_token_at(left: str, right: str, special: Sequence[str]) -> bool:
    """Say whether an added token ends `left` or begins `right`, whatever text stands before `left`."""
    if any(right.startswith(token) for token in special):
        return True
    # An added token that overlaps the last one's beginning would be cut out in its place.
    return any(
        left.endswith(last) and not any(_overlaps(other, last) for other in special if other != last)
        for last in special
    )


def _overlaps(other: str, last: str) -> bool:
    """Say whether `other` can cover the beginning of `last` from further left."""
    return last in other or any(other.endswith(last[:size]) for size in range(1, len(last)))


def _is_known_pipeline(backend: Any) -> bool:
    """Say whether a tokenizer is NFC or nothing, then a pattern of the two, then byte-level BPE."""
    # The states are the components' JSON; serialising the whole tokenizer would take half a second for its vocabulary.
    parts = (backend.normalizer, backend.pre_tokenizer)
    normalizer, splitter = (json.loads(part.__getstate__()) if part is not None else {} for part in parts)
    steps = splitter.get("pretokenizers", [])
    return (
        normalizer in ({}, {"type": "NFC"})
        and type(backend.model).__name__ == "BPE"
        and [step["type"] for step in steps] == ["Split", "ByteLevel"]
        and steps[0]["pattern"].get("Regex") in {QWEN2_PATTERN, LLAMA3_PATTERN}
        and (steps[0]["behavior"], steps[0]["invert"]) == ("Isolated", False)
        and (steps[1]["add_prefix_space"], steps[1]["use_regex"]) == (False, False)
    )


def _reaches_over(token: str, left: str, right: str) -> bool:
    """Say whether a token can stand across the boundary between the end `left` of a text and the beginning `right`."""
    for cut in range(1, len(token)):
        head, tail = token[:cut], token[cut:]
        meets_left = head.endswith(left) or left.endswith(head)
        meets_right = tail.startswith(right) or right.startswith(tail)
        if meets_left and meets_right:
            return True
    return False
