"""A byte-level BPE of the reranker's own, in which an identifier's words are the tokens of the same words in prose.

The normaliser parts `parseHeader` and `parse_header` into words and lowers case, and a blank before anything else is
dropped, so that a word has a single token wherever it stands. That loses case and blanks, as an uncased BERT does;
nothing is ever decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from string import ascii_uppercase

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rerank_demo.network import POSITIONS
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.models.qwen_vocabulary import CHAT_TEMPLATE

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN = ("<think>", "</think>", "<Instruct>:", "<Query>:", "<Document>:")
"""Found in any text before the BPE sees it; the last three are the recipes' own markers, one token each."""
ANSWERS = ("yes", "no")
_NEW_WORD = "(?<=[a-z0-9]){letter}|(?<=[A-Z]){letter}(?=[a-z])"
_JOINT = r"(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])"
_BLANK = r" (?=\S)"
_PIECES = r"\p{L}+|\p{N}{1,3}|[^\s\p{L}\p{N}]+|\s+"
_PROMPT_REPEATS = 50
"""How often the prompts' fixed text is shown to the BPE, so that each of its words becomes a token."""


def _pipeline() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # One rule a letter: a rule that matches nothing but a place between two letters makes the library panic.
    capitals = (normalizers.Replace(Regex(_NEW_WORD.format(letter=letter)), f" {letter}") for letter in ascii_uppercase)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(_JOINT), " "), *capitals, normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_BLANK), behavior="removed"),
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def prompt_texts() -> list[str]:
    """Return the fixed text of all recipes, without the markers."""
    texts = [*ANSWERS]
    for recipe in RECIPES.values():
        text = recipe.prompt("", "", recipe.default_instruction)
        for marker in (*SPECIAL, *PLAIN):
            text = text.replace(marker, "\n")
        texts.append(text)
    return texts


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """Train the BPE.

    Args:
        texts: Code and prose.
        size: Entries of the vocabulary, markers included.

    Returns:
        A fast tokenizer set up as Qwen3-Reranker's: padding on the left with `<|endoftext|>`, no tokens of its own
        around a text, `yes` and `no` single tokens.

    Raises:
        ValueError: `yes` or `no` did not become a token, so the texts are too few.
    """
    tokenizer = _pipeline()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL) - len(PLAIN),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def all_texts() -> Iterable[str]:
        yield from texts
        for _ in range(_PROMPT_REPEATS):
            yield from prompt_texts()

    tokenizer.train_from_iterator(all_texts(), trainer)
    # normalized=False: markers are found in the text as it is, before words are parted and lowered.
    tokenizer.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in SPECIAL])
    tokenizer.add_tokens([AddedToken(one, special=False, normalized=False) for one in PLAIN])
    for answer in ANSWERS:
        if len(tokenizer.encode(answer).ids) != 1:
            raise ValueError(f"{answer!r} is not a single token: too few texts for a vocabulary of {size}")
    return wrapped(tokenizer)


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    """Give the BPE the settings of Qwen3-Reranker's tokenizer."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        padding_side="left",
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that was saved into a folder."""
    return wrapped(Tokenizer.from_file(str(folder / "tokenizer.json")))
