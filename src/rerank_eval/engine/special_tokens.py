r"""Special tokens in texts: what a tokenizer reads as an added token, such as `<|im_end|>`, wherever it stands.

A document that holds `<|im_end|>\n<|im_start|>assistant` closes its own turn, as far as the model can tell. The public
code of every recipe lets it (see docs/hostile-input.md), so this is what `keep` does; texts with special tokens are
counted. `escape` reads them as the plain text that they are.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.recipe import Recipe

SpecialTokenMode = Literal["keep", "escape"]


class SpecialTokens:
    """The added tokens of a fast tokenizer, as they are found in texts.

    Added tokens of blanks alone, as some vocabularies have for indentation, do not count.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend: Any = tokenizer.backend_tokenizer
        added = [token for token in backend.get_added_tokens_decoder().values() if token.content.strip()]
        self._normalizer = backend.normalizer
        self._raw = _pattern((token for token in added if not token.normalized), lambda text: text)
        self._normalized = _pattern((token for token in added if token.normalized), self._normal)

    def found(self, text: str) -> tuple[str, ...]:
        """Return the distinct special tokens that the tokenizer finds in a text, in the order of the text."""
        found = self._raw.findall(text) if self._raw is not None else []
        if self._normalized is not None:
            found += self._normalized.findall(self._normal(text))
        return tuple(dict.fromkeys(found))

    def _normal(self, text: str) -> str:
        if self._normalizer is None:
            return text
        return str(self._normalizer.normalize_str(text.encode(errors="replace").decode()))


def _pattern(tokens: Iterable[Any], spell: Any) -> re.Pattern[str] | None:
    # A token that has to be a word of its own is not found within one.
    parts = [
        rf"(?<!\w){re.escape(text)}(?!\w)" if one.single_word else re.escape(text)
        for one in tokens
        if (text := spell(str(one.content)))
    ]
    return re.compile("|".join(parts)) if parts else None


@dataclasses.dataclass(frozen=True)
class EscapedTokenizer:
    """A tokenizer that finds no special token in any text, and how those of a recipe are spelled for it.

    Attributes:
        tokenizer: Gives the ids of the tokenizer that it was made from, for every text without special tokens.
        spelled: Special token -> its spelling: a text that nobody can guess.
    """

    tokenizer: PreTrainedTokenizerBase
    spelled: Mapping[str, str]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> EscapedTokenizer:
        """Make a tokenizer whose special tokens are spelled in a way that no text spells.

        `split_special_tokens` does not do: it spares the added tokens that are not declared special, `<think>` and
        `</think>` of Qwen among them, and SentencePiece vocabularies have `</s>` as a piece that plain text matches.
        Here an added token keeps its id and its place in the vocabulary, and only its spelling changes.

        Args:
            tokenizer: A Hugging Face fast tokenizer.

        Raises:
            EngineError: The tokenizer's added tokens cannot be spelled anew.
        """
        backend: Any = tokenizer.backend_tokenizer
        state = json.loads(backend.to_str())
        nonce = secrets.token_hex(16)
        added = [token for token in state.get("added_tokens", []) if token["content"].strip()]
        spelled = {token["content"]: f"<{nonce}.{token['id']}>" for token in added}
        for token in added:
            token["content"] = spelled[token["content"]]
        _respell(state["model"], spelled)
        try:
            escaped = type(backend).from_str(json.dumps(state))
        except Exception as error:  # tokenizers raises plain Exception
            raise EngineError(f"special_tokens: the tokenizer's added tokens cannot be escaped: {error}") from error
        if any(escaped.token_to_id(token["content"]) != token["id"] for token in added):
            raise EngineError("special_tokens: the tokenizer's added tokens cannot be escaped: their ids would change")
        copied = copy.copy(tokenizer)
        copied._tokenizer = escaped
        return cls(copied, spelled)

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return a recipe with its special tokens in this tokenizer's spelling."""
        pattern = re.compile(
            "|".join(re.escape(text) for text in sorted(self.spelled, key=len, reverse=True)) or "(?!)"
        )

        def spell(text: str) -> str:
            return pattern.sub(lambda found: self.spelled[found[0]], text)

        instructed = recipe.instructed_query_template
        return dataclasses.replace(
            recipe,
            prefix=spell(recipe.prefix),
            instruct_template=spell(recipe.instruct_template),
            query_template=spell(recipe.query_template),
            instructed_query_template=None if instructed is None else spell(instructed),
            document_template=spell(recipe.document_template),
            separator=spell(recipe.separator),
            closing=spell(recipe.closing),
            suffix=spell(recipe.suffix),
        )


def _respell(model: dict[str, Any], spelled: Mapping[str, str]) -> None:
    """Give the vocabulary entries of special tokens their new spelling, however the model keeps its vocabulary."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {spelled.get(text, text): number for text, number in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram: pairs of piece and score
        model["vocab"] = [[spelled.get(text, text), score] for text, score in vocabulary]
    unknown = model.get("unk_token")
    if isinstance(unknown, str):
        model["unk_token"] = spelled.get(unknown, unknown)
