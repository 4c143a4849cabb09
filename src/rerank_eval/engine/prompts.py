"""Recipe and texts to token ids: what a group's prompts share once, and what each document adds."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import BoolArray, IntArray, QueryGroup, RenderedPrompt
from rerank_eval.engine.recipe import Part, Recipe
from rerank_eval.engine.special_tokens import EscapedTokenizer, SpecialTokenMode, SpecialTokens
from rerank_eval.engine.splitting import Layout, Unit, lay_out

CACHED_TOKENS = 8_000_000
"""Tokens of documents kept for the next query that has them among its candidates: 32 MB."""

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
        exact_split: Whether a document is tokenised apart from the rest of its prompt, once for all queries.

    Raises:
        EngineError: The tokenizer is a slow one or adds special tokens that the recipe does not provide for, or
            `max_length` leaves no room beside the recipe's fixed text.
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
        self._bos = _bos_ids(tokenizer, recipe)
        if special_tokens == "escape":
            escaped = EscapedTokenizer.of(tokenizer)
            tokenizer, recipe = escaped.tokenizer, escaped.recipe(recipe)
        self._tokenizer, self._recipe = tokenizer, recipe
        self._prefix, self._suffix = self._encode([recipe.prefix, recipe.suffix])
        frame = len(self._bos) + len(self._prefix) + len(self._suffix)
        if max_length <= frame:
            raise EngineError(f"max_length {max_length} leaves no room: prefix and suffix alone take {frame} tokens")
        # What is cut in mode "message" is the whole message; in mode "body" what stands between prefix and suffix.
        reserved = {"body": frame, "prompt": len(self._suffix)}
        self._limit = max_length - reserved.get(recipe.truncation, 0)
        self._layouts = {one: lay_out(tokenizer, recipe, instructed=one) for one in (False, True)}
        self.exact_split = all(found is not None and found.document_apart for found in self._layouts.values())
        self._met = TokenCache(CACHED_TOKENS)
        self._most: dict[str | None, int] = {}

    def whole(self, group: QueryGroup) -> TokenizedGroup:
        """Tokenise each prompt as the recipe's own code does, nothing shared."""
        if self._recipe.truncation == "document":
            return self._fitted(group)
        mode, suffix = self._recipe.truncation, self._suffix
        fixed = self._bos + self._prefix if mode == "body" else []
        first = [] if mode == "body" else self._bos
        apart = {"body": {"prefix", "suffix"}, "message": {"suffix"}, "prompt": set[str]()}[mode]
        whole = self._recipe.parts(instructed=group.instruction is not None)
        parts = tuple(part for part in whole if part.name not in apart)
        cuttable = [first + ids for ids in self._encode([_text(parts, group, text) for text in group.documents])]
        # In mode "prompt" the suffix stands in the text, and over its end where that is cut.
        most = self._limit + (len(suffix) if mode == "prompt" else 0)
        truncated = np.array([len(ids) > most for ids in cuttable], dtype=np.bool_)
        own = [
            fixed + (ids if mode == "prompt" and len(ids) <= most else ids[: self._limit] + suffix) for ids in cuttable
        ]
        before = _text(tuple(takewhile(lambda part: part.name != "document", parts)), group)
        cut = bool(truncated.any()) and len(first) + len(self._encode([before])[0]) >= self._limit
        return TokenizedGroup([], own, truncated, query_cut=cut)

    def factored(self, group: QueryGroup) -> TokenizedGroup:
        """Tokenise what the prompts share once and each distinct document once; ids equal those of `whole`.

        Where tokenising the parts apart is not proved to be exact, the whole strings are tokenised and their longest
        common prefix is what is shared.
        """
        layout = self._layouts[group.instruction is not None]
        if layout is None or not layout.document_apart:
            return share_common_prefix(self.whole(group), keep=len(self._suffix))
        if self._recipe.truncation == "document":
            return self._fitted_apart(group, layout)
        distinct = list(dict.fromkeys(group.documents))
        units = [*layout.before, *layout.behind]
        found = self._met.encode(
            [_text(unit, group) for unit in units] + [_text(layout.document, group, text) for text in distinct],
            self._encode,
        )
        before, documents = found[: len(layout.before)], found[len(units) :]
        behind = [one for ids in found[len(layout.before) : len(units)] for one in ids]
        fixed, cuttable, root = list(self._bos), [], 0
        for unit, ids in zip(layout.before, before, strict=True):
            if unit[0].name == "prefix" and self._recipe.truncation == "body":
                fixed += ids
            else:
                cuttable += ids
            root += len(ids) if _is_root(unit) else 0
        if self._recipe.truncation != "body":
            fixed, cuttable = [], fixed + cuttable
        room = max(0, self._limit - len(cuttable))
        cut = len(cuttable) > self._limit
        tails: dict[str, tuple[list[int], bool]] = {}
        for text, ids in zip(distinct, documents, strict=True):
            tail = ids + behind
            tails[text] = (tail[:room] + self._suffix, cut or len(tail) > room)
        return TokenizedGroup(
            fixed + cuttable[: self._limit],
            [tails[text][0] for text in group.documents],
            np.array([tails[text][1] for text in group.documents], dtype=np.bool_),
            root=min(len(self._bos) + root, len(fixed) + self._limit),
            query_cut=len(cuttable) >= self._limit,
        )

    def _fitted(self, group: QueryGroup) -> TokenizedGroup:
        """Tokenise each prompt and cut its document, and a query of more than three quarters of the room."""
        parts = self._recipe.parts(instructed=group.instruction is not None)
        pieces = self._pieces(parts)
        own, truncated = [], []
        most = self._most_of_a_query(group.instruction)
        for document in group.documents:
            encoded = [self._cuttable(unit, group, document) for unit in pieces]
            size = len(self._bos) + sum(len(one.ids) for one in encoded)
            queries, documents = (sum(one.count(name) for one in encoded) for name in ("query", "document"))
            kept = min(queries, most)
            room = self._limit - (size - queries - documents) - kept
            own.append(self._bos + [i for one in encoded for i in one.cut(query=kept, document=max(0, room))])
            truncated.append(kept < queries or room < documents)
        return TokenizedGroup([], own, np.array(truncated, dtype=np.bool_))

    def _fitted_apart(self, group: QueryGroup, layout: Layout) -> TokenizedGroup:
        """Tokenise and cut as `_fitted` does, what the prompts share once."""
        most = self._most_of_a_query(group.instruction)
        before, behind = (
            [self._cuttable(unit, group, "") for unit in units]
            for units in (layout.before, (*layout.behind, layout.suffix))
        )
        queries = sum(one.count("query") for one in (*before, *behind))
        kept = min(queries, most)
        shared = self._bos + [i for one in before for i in one.cut(query=kept, document=0)]
        last = [i for one in behind for i in one.cut(query=kept, document=0)]
        root = len(self._bos)
        for unit, one in zip(layout.before, before, strict=True):
            root += len(one.ids) if _is_root(unit) else 0
        room = self._limit - len(shared) - len(last)
        distinct = list(dict.fromkeys(group.documents))
        texts = [_text(layout.document, group, text) for text in distinct]
        tails: dict[str, tuple[list[int], bool]] = {}
        for text, ids in zip(distinct, self._met.encode(texts, self._encode), strict=True):
            tail, long = ids, len(ids) > room
            if long:
                found = self._cuttable(layout.document, group, text)
                tail = found.cut(query=0, document=max(0, room - (len(found.ids) - found.count("document"))))
            tails[text] = (tail + last, long or kept < queries)
        return TokenizedGroup(
            shared,
            [tails[text][0] for text in group.documents],
            np.array([tails[text][1] for text in group.documents], dtype=np.bool_),
            root=root,
        )

    def _most_of_a_query(self, instruction: str | None) -> int:
        """Return how many of its tokens a query keeps in mode `document`: three quarters of what the rest leaves."""
        if instruction not in self._most:  # mostly a task has one
            parts = self._recipe.parts(instructed=instruction is not None)
            bare = QueryGroup("", instruction, [])
            frame = len(self._bos)
            for unit in self._pieces(parts):
                one = self._cuttable(unit, bare, "")
                frame += len(one.ids) - one.count("query") - one.count("document")
            room = self._limit - frame
            if room < 2:  # noqa: PLR2004 - a token of the query and one of the document
                raise EngineError(
                    f"max_length {self._limit} leaves no room: the prompt without query and document takes {frame} "
                    "tokens"
                )
            self._most = {instruction: room * 3 // 4}
        return self._most[instruction]

    def _pieces(self, parts: tuple[Part, ...]) -> list[Unit]:
        """Return what the recipe's own code tokenises together."""
        if self._recipe.tokenize == "whole":
            return [parts]
        pieces: list[Unit] = []
        for part in parts:
            if pieces and {pieces[-1][-1].name, part.name} == {"instruction", "query"}:
                pieces[-1] = (*pieces[-1], part)
            else:
                pieces.append((part,))
        return pieces

    def _cuttable(self, unit: Unit, group: QueryGroup, document: str) -> Cuttable:
        """Tokenise a unit, and find which of its tokens belong to the query and to the document alone.

        Where the recipe's code tokenises pieces apart it cuts the piece, fixed text in it included.
        """
        text, spans = "", {}
        for part in unit:
            start, rendered = len(text), part.render(group.query, document, group.instruction)
            text += rendered
            for name in part.texts & {"query", "document"}:
                before, _, rest = part.template.partition("{" + name + "}")
                before, rest = (
                    piece.format(query=group.query, document=document, instruction=group.instruction)
                    for piece in (before, rest)
                )
                spans[name] = (start + len(before), len(text) - len(rest))
        if self._recipe.tokenize == "apart":
            (ids,) = self._encode([text])
            return Cuttable(ids, {name: (0, len(ids)) for name in spans})
        encoded = self._tokenizer(
            encodable(text), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
        )
        offsets = encoded["offset_mapping"]
        ranges = {}
        for name, (start, end) in spans.items():
            inside = [i for i, (_, last) in enumerate(offsets) if start < last <= end]
            ranges[name] = (inside[0], inside[-1] + 1) if inside else (0, 0)
        return Cuttable(list(encoded["input_ids"]), ranges)

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """Render one pair: the whole text and the ids as sent."""
        prompt = self.whole(QueryGroup(query, instruction, [document]))
        text = encodable(self.recipe.prompt(query, document, instruction))
        return RenderedPrompt(text, tuple(prompt.own[0]), bool(prompt.truncated[0]))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return token_ids(self._tokenizer, texts)


@dataclass(frozen=True)
class Cuttable:
    """Token ids, and which of them belong to query or document: `start` to before `end`."""

    ids: list[int]
    ranges: Mapping[str, tuple[int, int]]

    def count(self, name: str) -> int:
        """Return how many tokens belong to a text."""
        start, end = self.ranges.get(name, (0, 0))
        return end - start

    def cut(self, **kept: int) -> list[int]:
        """Return the ids with the first `kept` tokens of each text and everything else."""
        gone: set[int] = set()
        for name, (start, end) in self.ranges.items():
            gone |= set(range(min(start + kept[name], end), end))
        return [number for i, number in enumerate(self.ids) if i not in gone]


def _text(unit: Unit, group: QueryGroup, document: str = "") -> str:
    return "".join(part.render(group.query, document, group.instruction) for part in unit)


def _is_root(unit: Unit) -> bool:
    """Say whether a unit is the same for all queries of a task that have the same instruction."""
    return all(part.texts <= {"instruction"} for part in unit)


def _bos_ids(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> list[int]:
    """Return what stands before every prompt, and refuse special tokens that the recipe does not provide for."""
    bare, framed = (list(tokenizer("x", add_special_tokens=one)["input_ids"]) for one in (False, True))
    first = tokenizer.bos_token_id
    if recipe.bos is None and framed != bare:
        raise EngineError("the tokenizer adds special tokens around a text, which no recipe provides for")
    if not recipe.bos or first is None or first == tokenizer.pad_token_id:
        return []
    if framed not in (bare, [first, *bare]):
        raise EngineError(f"the tokenizer adds other special tokens than {tokenizer.bos_token!r} around a text")
    return [int(first)]


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
