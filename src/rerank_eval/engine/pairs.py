"""Query and document to the token ids of a pair, as a cross-encoder's tokenizer makes them, each text tokenised once.

Cut is `longest_first`, what `truncation=True` does in transformers: in the model cards of bge-reranker-v2-m3,
gte-multilingual-reranker-base and jina-reranker-v2-base-multilingual (their own `compute_score` among it), in
sentence-transformers and in mteb's wrapper of it. A query of up to half the room is kept whole and its document cut.
FlagEmbedding, which mteb's wrapper of bge calls, cuts only the document but first the query to three quarters of the
limit (at 512 tokens unless told otherwise), which gives the same ids for every query of up to half the room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import BoolArray, IntArray, QueryGroup, RenderedPrompt
from rerank_eval.engine.prompts import CACHED_TOKENS, PromptTokenizer, TokenCache, check_fast, token_ids
from rerank_eval.engine.recipe import Recipe
from rerank_eval.engine.special_tokens import EscapedTokenizer, SpecialTokenMode, SpecialTokens


@dataclass(frozen=True)
class TokenizedPairs:
    """A query with each of its documents.

    Attributes:
        ids: For each document, the pair's token ids.
        types: For each document, the pair's token types; empty where the model is given none.
        truncated: (n,) bool, whether the pair lost tokens to `max_length`.
        query_cut: Whether the query itself lost tokens in some pair.
        seconds: Wall time of tokenising.
    """

    ids: list[list[int]]
    types: list[list[int]]
    truncated: BoolArray
    query_cut: bool = False
    seconds: float = 0.0

    @property
    def lengths(self) -> IntArray:
        """(n,) int64, tokens of each pair as sent."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)


@dataclass(frozen=True)
class _Frame:
    """The special tokens around a pair, with their token types, and the types of the two texts."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]]

    @property
    def tokens(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def ids(self, query: Sequence[int], document: Sequence[int]) -> list[int]:
        return [*self.before, *query, *self.between, *document, *self.after]

    def token_types(self, query: int, document: int) -> list[int]:
        before, first, between, second, after = self.types
        return [*before, *[first] * query, *between, *[second] * document, *after]


class PairTokenizer:
    """Turns groups into pairs of token ids, of at most `max_length`, special tokens among them.

    A fast tokenizer encodes the two texts of a pair apart and puts special tokens around them, so that each text is
    tokenised once and the frame is learnt from the tokenizer itself. A `prompt` is put before every query as it stands,
    as sentence-transformers does, and is cut with it.

    Raises:
        EngineError: The tokenizer is a slow one or frames pairs in another way, `max_length` leaves no room for two
            texts beside the special tokens, or a prompt's special tokens would be escaped.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        special_tokens: SpecialTokenMode = "keep",
        prompt: str = "",
    ) -> None:
        check_fast(tokenizer)
        self.special_tokens = SpecialTokens(tokenizer)
        self._prompt = prompt
        if special_tokens == "escape" and (found := self.special_tokens.found(prompt)):
            raise EngineError(f"special_tokens: escape would escape {found[0]!r} of the checkpoint's own prompt")
        self._decode = tokenizer.decode
        self._tokenizer = EscapedTokenizer.of(tokenizer).tokenizer if special_tokens == "escape" else tokenizer
        self._typed = "token_type_ids" in tokenizer.model_input_names
        self._frame = _learn_frame(tokenizer)
        self._room = max_length - self._frame.tokens
        if self._room < 2:  # noqa: PLR2004 - a token of the query and one of the document
            raise EngineError(f"max_length {max_length} leaves no room beside {self._frame.tokens} special tokens")
        self._met = TokenCache(CACHED_TOKENS)

    def pairs(self, group: QueryGroup) -> TokenizedPairs:
        """Tokenise a group; a prompt stands before the query, and an instruction behind it, parted by a blank.

        A blank is how mteb joins query and instruction. The pairs equal `tokenizer(query, document, truncation=True,
        max_length=max_length)` unless special tokens are escaped.
        """
        distinct = list(dict.fromkeys(group.documents))
        whole_query = self._prompt + (f"{group.query} {group.instruction}" if group.instruction else group.query)
        (query_length, *query), *documents = self._met.encode([whole_query, *distinct], self._encode)
        made: dict[str, tuple[list[int], list[int], bool]] = {}
        cut = False
        for text, (length, *document) in zip(distinct, documents, strict=True):
            of_query, of_document = longest_first(query_length, length, self._room)
            types = self._frame.token_types(of_query, of_document) if self._typed else []
            lost = of_query < query_length or of_document < length
            made[text] = (self._frame.ids(query[:of_query], document[:of_document]), types, lost)
            cut |= of_query < query_length
        return TokenizedPairs(
            [made[text][0] for text in group.documents],
            [made[text][1] for text in group.documents] if self._typed else [],
            np.array([made[text][2] for text in group.documents], dtype=np.bool_),
            query_cut=cut,
        )

    def render(self, query: str, document: str, instruction: str | None = None) -> RenderedPrompt:
        """Render one pair as the model reads it; the text is made from the ids, so it is cut."""
        pairs = self.pairs(QueryGroup(query, instruction, [document]))
        text = str(self._decode(pairs.ids[0]))
        return RenderedPrompt(text, tuple(pairs.ids[0]), bool(pairs.truncated[0]))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return for each text its length, then its ids as far as they count."""
        return [[len(ids), *ids[: self._room]] for ids in token_ids(self._tokenizer, texts)]


class PromptPairs:
    """Turns groups into pairs that a recipe writes into one text, for a classifier that was trained on such texts.

    Args:
        tokenizer: A fast tokenizer.
        recipe: Its `reads` is `pooled`.
        max_length: Longest prompt in tokens.
        special_tokens: See `PairTokenizer`.

    Raises:
        EngineError: See `PromptTokenizer`, or the answer would be read at the prompt's last token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        max_length: int,
        special_tokens: SpecialTokenMode = "keep",
    ) -> None:
        if recipe.reads != "pooled":
            raise EngineError(f"recipe {recipe.name!r} reads an answer at the last token, which no classifier gives")
        self._prompts = PromptTokenizer(tokenizer, recipe, max_length, special_tokens)
        self.special_tokens = self._prompts.special_tokens

    def pairs(self, group: QueryGroup) -> TokenizedPairs:
        """Tokenise a group; each prompt is tokenised whole, and the model is given no token types."""
        found = self._prompts.whole(group)
        return TokenizedPairs(found.own, [], found.truncated, query_cut=found.query_cut)

    def render(self, query: str, document: str, instruction: str | None = None) -> RenderedPrompt:
        """Render one pair: the whole text and the ids as sent."""
        return self._prompts.render(query, document, instruction)


def longest_first(query: int, document: int, room: int) -> tuple[int, int]:
    """Return how many tokens of query and document are kept, as the fast tokenizers' `longest_first` does.

    From huggingface/tokenizers, `truncate_encodings`: the longer text is cut down to the shorter one's length first;
    where that does not suffice both keep half, and the longer one keeps the odd token (the document, if none is).
    """
    if query + document <= room:
        return query, document
    shorter = min(query, document)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room // 2 + room % 2
    return (longer, shorter) if query > document else (shorter, longer)


def _learn_frame(tokenizer: PreTrainedTokenizerBase) -> _Frame:
    """Read off an encoded pair what stands around the texts, and check it on pairs with an empty text."""
    # As lists: an empty second text given as a plain string is taken for none.
    encoding = tokenizer(["one"], ["two"], padding=False, truncation=False).encodings[0]
    places = [[i for i, number in enumerate(encoding.sequence_ids) if number == text] for text in (0, 1)]
    if not all(places) or places[0][-1] > places[1][0]:
        raise EngineError("the tokenizer does not put a query before its document, with special tokens around both")
    cuts = (0, places[0][0], places[0][-1] + 1, places[1][0], places[1][-1] + 1, len(encoding.ids))
    before, _, between, _, after = (tuple(encoding.ids[start:end]) for start, end in pairwise(cuts))
    kinds = [tuple(encoding.type_ids[start:end]) for start, end in pairwise(cuts)]
    frame = _Frame(before, between, after, (kinds[0], kinds[1][0], kinds[2], kinds[3][0], kinds[4]))
    for query, document in (("one", "two"), ("", "two three"), ("one", ""), ("", "")):
        first, second = token_ids(tokenizer, [query, document])
        whole = tokenizer([query], [document], padding=False, truncation=False).encodings[0]
        if (whole.ids, whole.type_ids) != (frame.ids(first, second), frame.token_types(len(first), len(second))):
            raise EngineError("the tokenizer does not frame every pair with the same special tokens")
    return frame
