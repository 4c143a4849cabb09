"""Recipe and texts to token ids: what a group's prompts share once, and what each document adds."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import BoolArray, IntArray, QueryGroup, RenderedPrompt
from rerank_eval.engine.recipe import Recipe
from rerank_eval.engine.special_tokens import EscapedTokenizer, SpecialTokenMode, SpecialTokens

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's and Qwen3's split pattern, from transformers' tokenization_qwen2.py."""

CACHED_TOKENS = 8_000_000
"""Tokens of documents kept for the next query that has them among its candidates: 32 MB."""

_SAFE_PAIRS = {("\n", "<"), (":", " ")}
"""Ends of two texts between which Qwen2's pattern always splits."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TokenizedGroup:
    """A group's prompts: prompt i is `shared + own[i]`.

    Attributes:
        shared: Ids that all prompts begin with.
        own: Per document the ids that follow, at least the recipe's suffix.
        truncated: (n,) bool, whether the prompt lost tokens to `max_length`.
        root: How many of the shared ids are the root's: system turn and instruction.
        query_cut: Whether the query alone reached `max_length`, so that no token of a document is left.
        seconds: Wall time of rendering and tokenising.
    """

    shared: list[int]
    own: list[list[int]]
    truncated: BoolArray
    root: int = 0
    query_cut: bool = False
    seconds: float = 0.0

    @property
    def lengths(self) -> IntArray:
        """(n,) int64, tokens of each prompt."""
        return np.array([len(self.shared) + len(ids) for ids in self.own], dtype=np.int64)


class TokenCache:
    """Token ids of texts met lately, by digest; those met longest ago go first, four bytes a token."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._tokens = 0
        self._ids: OrderedDict[bytes, array[int]] = OrderedDict()

    def encode(self, texts: Sequence[str], encode: Callable[[list[str]], list[list[int]]]) -> list[list[int]]:
        """Tokenise texts, those met lately from memory: a document is a candidate of many queries."""
        keys = [hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest() for text in texts]
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._ids}
        for key, ids in zip(fresh, encode(list(fresh.values())), strict=True):
            self._ids[key] = array("i", ids)
            self._tokens += len(ids)
        for key in keys:
            self._ids.move_to_end(key)
        found = [self._ids[key].tolist() for key in keys]
        while self._tokens > self._capacity:
            self._tokens -= len(self._ids.popitem(last=False)[1])
        return found


class PromptTokenizer:
    """Turns groups into token ids by one recipe; `max_length` is read as the recipe's truncation mode does.

    Attributes:
        recipe: The recipe.
        special_tokens: Finds special tokens in texts.
        exact_split: Whether the parts of a prompt may be tokenised apart.

    Raises:
        EngineError: The tokenizer is a slow one or adds tokens of its own around a text, or `max_length` leaves no room
            behind the recipe's prefix and suffix.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        max_length: int,
        special_tokens: SpecialTokenMode = "keep",
    ) -> None:
        check_fast(tokenizer)
        self.recipe = recipe
        self.special_tokens = SpecialTokens(tokenizer)
        # The recipes' own code lets the tokenizer add its special tokens to the body; Qwen's adds none.
        if tokenizer("x")["input_ids"] != tokenizer("x", add_special_tokens=False)["input_ids"]:
            raise EngineError("the tokenizer adds special tokens around a text, which no recipe provides for")
        if special_tokens == "escape":
            escaped = EscapedTokenizer.of(tokenizer)
            tokenizer, recipe = escaped.tokenizer, escaped.recipe(recipe)
        self._tokenizer, self._recipe = tokenizer, recipe
        self._prefix, self._suffix = self._encode([recipe.prefix, recipe.suffix])
        self._closing = self._encode([recipe.closing])[0] if recipe.closing else []
        frame = len(self._prefix) + len(self._suffix)
        if max_length <= frame:
            raise EngineError(f"max_length {max_length} leaves no room: prefix and suffix alone take {frame} tokens")
        # What is cut in mode "message" is the whole message; in mode "body" what stands between prefix and suffix.
        self._limit = max_length - (frame if recipe.truncation == "body" else 0)
        self.exact_split = splits_exactly(tokenizer, recipe)
        self._met = TokenCache(CACHED_TOKENS)

    def whole(self, group: QueryGroup) -> TokenizedGroup:
        """Tokenise each prompt as the recipe's own code does: in one string, nothing shared."""
        bodies = [self._recipe.body(group.query, document, group.instruction) for document in group.documents]
        if self._recipe.truncation == "message":
            fixed: list[int] = []
            cuttable = self._encode([self._recipe.prefix + body + self._recipe.closing for body in bodies])
        else:
            fixed = self._prefix
            cuttable = self._encode([body + self._recipe.closing for body in bodies])
        truncated = np.array([len(ids) > self._limit for ids in cuttable], dtype=np.bool_)
        own = [fixed + ids[: self._limit] + self._suffix for ids in cuttable]
        cut = bool(truncated.any()) and self._query_fills(group)
        return TokenizedGroup([], own, truncated, query_cut=cut)

    def _query_fills(self, group: QueryGroup) -> bool:
        """Say whether instruction and query alone reach the limit."""
        text = self._recipe.instruct_text(group.instruction) + self._recipe.query_text(group.query)
        if self._recipe.truncation == "message":
            text = self._recipe.prefix + text
        return len(self._encode([text])[0]) >= self._limit

    def factored(self, group: QueryGroup) -> TokenizedGroup:
        """Tokenise what the prompts share once and each distinct document once; ids equal those of `whole`.

        Where tokenising the parts apart is not proved to be exact, the whole strings are tokenised and their longest
        common prefix is what is shared.
        """
        if not self.exact_split:
            return share_common_prefix(self.whole(group), keep=len(self._suffix))
        head = self._recipe.instruct_text(group.instruction)
        distinct = list(dict.fromkeys(group.documents))
        first = [self._recipe.prefix + head if self._recipe.truncation == "message" else head]
        first.append(self._recipe.query_text(group.query))
        root, query, *documents = self._met.encode(
            first + [self._recipe.document_text(text) for text in distinct], self._encode
        )
        room = max(0, self._limit - len(root) - len(query))
        before = self._prefix if self._recipe.truncation == "body" else []
        shared = before + (root + query)[: self._limit]
        cut = len(root) + len(query) > self._limit
        tails: dict[str, tuple[list[int], bool]] = {}
        for text, ids in zip(distinct, documents, strict=True):
            tail = ids + self._closing
            tails[text] = (tail[:room] + self._suffix, cut or len(tail) > room)
        return TokenizedGroup(
            shared,
            [tails[text][0] for text in group.documents],
            np.array([tails[text][1] for text in group.documents], dtype=np.bool_),
            root=len(before) + min(len(root), self._limit),
            query_cut=len(root) + len(query) >= self._limit,
        )

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """Render one pair: the whole text and the ids as sent."""
        prompt = self.whole(QueryGroup(query, instruction, [document]))
        text = encodable(self.recipe.prompt(query, document, instruction))
        return RenderedPrompt(text, tuple(prompt.own[0]), bool(prompt.truncated[0]))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return token_ids(self._tokenizer, texts)


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer written in Python: the engine needs what only a fast one tells."""
    if not getattr(tokenizer, "is_fast", False):
        raise EngineError(f"{type(tokenizer).__name__} is a slow tokenizer; the checkpoint needs a tokenizer.json")


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts in one batch, without special tokens around them and without a limit."""
    if not texts:
        return []
    encoded = tokenizer(
        [encodable(text) for text in texts],
        add_special_tokens=False,
        return_attention_mask=False,
        padding=False,
        truncation=False,
        verbose=False,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def encodable(text: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts, by U+FFFD, so that one broken text does not end a run."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


def share_common_prefix(prompts: TokenizedGroup, keep: int) -> TokenizedGroup:
    """Move the longest common prefix of all prompts into the shared part; the last `keep` tokens of each stay."""
    columns = zip(*(ids[: len(ids) - keep] for ids in prompts.own), strict=False)
    common = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    return replace(prompts, shared=common, own=[ids[len(common) :] for ids in prompts.own])


def splits_exactly(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> bool:
    """Say whether tokenising a recipe's parts apart provably gives the ids of tokenising the prompt whole.

    The proof holds for every text. A tokenizer cuts added tokens out of the raw text first and treats each stretch
    between them by itself, so a boundary with an added token on one side is exact in any pipeline. Elsewhere, with NFC
    (or no) normalisation, Qwen2's split pattern and byte-level BPE, no piece spans a boundary `line break | <`
    (whatever matches the break stops before `<`, which begins a new piece) nor `: | blank` (a blank only ever begins or
    continues blanks, and the run of punctuation stops before it), and neither pair composes under NFC. No added token
    may reach over a boundary, and the closing must begin with one. Held by property tests with Qwen's vocabulary and
    the demo reranker's.
    """
    added = list(tokenizer.backend_tokenizer.get_added_tokens_decoder().values())
    if any(token.single_word or token.lstrip or token.rstrip or token.normalized for token in added):
        return False
    special = [str(token.content) for token in added]
    instruct_head, _, instruct_tail = recipe.instruct_template.partition("{instruction}")
    query_head, _, query_tail = recipe.query_template.partition("{query}")
    boundaries = [(instruct_tail, query_head), (query_tail, recipe.document_template.partition("{document}")[0])]
    if recipe.truncation == "message":
        boundaries += [(recipe.prefix, instruct_head), (recipe.prefix, query_head)]
    if recipe.closing:
        if not any(recipe.closing.startswith(token) for token in special):
            return False
        boundaries.append(("", recipe.closing))
    qwen = _is_qwen_pipeline(tokenizer.backend_tokenizer)
    return all(
        (_added_token_at(left, right, special) or (qwen and (left[-1:], right[:1]) in _SAFE_PAIRS))
        and not any(_reaches_over(token, left, right) for token in special)
        for left, right in boundaries
    )


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


def _is_qwen_pipeline(backend: Any) -> bool:
    """Say whether a tokenizer is NFC or nothing, then Qwen2's pattern, then byte-level BPE."""
    # The states are the components' JSON; serialising the whole tokenizer would take half a second for its vocabulary.
    parts = (backend.normalizer, backend.pre_tokenizer)
    normalizer, splitter = (json.loads(part.__getstate__()) if part is not None else {} for part in parts)
    steps = splitter.get("pretokenizers", [])
    return (
        normalizer in ({}, {"type": "NFC"})
        and type(backend.model).__name__ == "BPE"
        and [step["type"] for step in steps] == ["Split", "ByteLevel"]
        and steps[0]["pattern"] == {"Regex": QWEN2_PATTERN}
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
