"""What an encoder makes of a text before its weights see it: chat turns, the end-of-text token, pooling.

sentence-transformers 6 wraps every text in a chat turn when the tokenizer has a chat template and the checkpoint does
not pin its modality to text (base/modules/transformer.py there). An embedder that was trained on plain text, and saved
anew, then embeds other ids than it learnt, and nothing says so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rerank_eval.config import RetrieverConfig
from rerank_eval.doctor.checkpoints import Subject
from rerank_eval.doctor.findings import Finding, failure, ok, said, warning
from rerank_eval.files import load_json
from rerank_eval.models.checkpoint import load_tokenizer
from rerank_eval.retrievers.embedders import embedding_engine, saved_pooling, takes_qwen3_instructions

TEXT = "Beijing is the capital of China."
PROMPT = "Instruct: Find what answers the question\nQuery:"
END_OF_TEXT = "<|endoftext|>"
QWEN3 = ("Qwen3Model", "Qwen3ForCausalLM")

_PIN = (
    "in sentence_bert_config.json leave `text` alone in modality_config (and fetch the file again if the hub's is "
    "another)"
)


def check_encoder_texts(subject: Subject, fetch: str) -> Iterator[Finding]:
    """Check tokenizer and pooling of a dense retriever whose files are here."""
    ref = subject.ref
    name = f"texts of {ref.label}"
    again = subject.again(fetch)
    try:
        tokenizer = _tokenizer(subject)
    except Exception as error:  # tokenizers raises classes of its own, straight from Exception
        yield failure(name, f"its tokenizer cannot be loaded: {said(error)}", again)
        return
    yield from _check_turns(subject, tokenizer)
    if ref.architecture in QWEN3:
        yield from _check_end_and_pooling(subject, tokenizer, again)


def sends_plain_texts(subject: Subject) -> bool:
    """Tell whether sentence-transformers sends a text's plain ids through an encoder whose files are here."""
    plain, sent = _plain_and_sent(subject, _tokenizer(subject))
    return plain == sent


def _tokenizer(subject: Subject) -> Any:
    return load_tokenizer(subject.ref, trust_remote_code=subject.config.trust_remote_code)


def _plain_and_sent(subject: Subject, tokenizer: Any) -> tuple[tuple[list[int], ...], tuple[list[int], ...]]:
    """Return the ids of a text, bare and behind a prompt: as tokenised plainly, and as sentence-transformers does."""
    assert subject.folder is not None  # noqa: S101 - the caller's choice
    plain = tuple(tokenizer(text)["input_ids"] for text in (TEXT, PROMPT + TEXT))
    return plain, sentence_ids(subject.folder, trust_remote_code=subject.config.trust_remote_code)


def _check_turns(subject: Subject, tokenizer: Any) -> Iterator[Finding]:
    """Compare the ids that sentence-transformers sends with those of the plain text."""
    config, name = subject.config, f"texts of {subject.ref.label}"
    assert isinstance(config, RetrieverConfig)  # noqa: S101 - the caller's choice
    plain, sent = _plain_and_sent(subject, tokenizer)
    if sent == plain:
        yield ok(name, f"sentence-transformers sends them as they are ({len(plain[0])} tokens for {TEXT!r})")
        return
    read = tokenizer.decode(sent[0])
    found = f"sentence-transformers reads {TEXT!r} as {read!r}"
    if embedding_engine(config, subject.ref) == "packed":
        found += "; the packed engine, which runs here, does not"
        yield warning(name, found, f"leave retriever.engine at auto or packed; for other programs, {_PIN}")
    elif takes_qwen3_instructions(subject.ref):
        remedy = f"{_PIN}; retriever.engine auto then takes the packed engine"
        yield failure(name, f"{found}, and Qwen3-Embedding was trained on plain texts", remedy)
    else:
        yield warning(name, found, f"right only if the model was trained so; if not, {_PIN}")


@functools.lru_cache(maxsize=4)
def sentence_ids(folder: Path, *, trust_remote_code: bool = False) -> tuple[list[int], list[int]]:
    """Return the ids that sentence-transformers makes of the test's text, without reading weights.

    Returns:
        Token ids of the bare text, and of the text with a prompt that is given apart, as the wrappers of mteb do.
    """
    import torch
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import AutoModel

    class Weightless(Transformer):  # type: ignore[misc] # not typed for us
        """The real module on a model whose weights have shapes and no values."""

        def _load_model(self, _name: str, _task: Any, config: Any, *_: Any, **__: Any) -> Any:
            with torch.device("meta"):
                return AutoModel.from_config(config, trust_remote_code=trust_remote_code)

    inside = _transformer_folder(folder)
    if inside is None:
        module = Weightless(str(folder))
    else:
        module = Weightless.load(str(inside), trust_remote_code=trust_remote_code)
    bare, behind = (module.preprocess([TEXT], prompt=prompt)["input_ids"][0].tolist() for prompt in (None, PROMPT))
    return bare, behind


def _transformer_folder(folder: Path) -> Path | None:
    """Return the folder of sentence-transformers' first module, or None where it has not saved this checkpoint."""
    try:
        steps = load_json(folder / "modules.json")
        return folder / str(steps[0]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _check_end_and_pooling(subject: Subject, tokenizer: Any, again: str) -> Iterator[Finding]:
    """Check that the last token, which is pooled, is the end of the text."""
    name = f"pooling of {subject.ref.label}"
    bad = failure if takes_qwen3_instructions(subject.ref) else warning
    ids, end = tokenizer(TEXT)["input_ids"], tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    right = True
    if ids[-1:] != [end]:
        right = False
        found = f"a text ends in {tokenizer.convert_ids_to_tokens(ids[-1])!r}, not in {END_OF_TEXT}"
        yield bad(name, f"{found}, which Qwen3-Embedding's vector is read from", f"{again}; tokenizer.json appends it")
    pooling = saved_pooling(subject.ref)
    if pooling != ["lasttoken"]:
        right = False
        kind = ", ".join(pooling) or "nothing that can be read"
        yield bad(name, f"its 1_Pooling/config.json says {kind}, not lasttoken", again)
    if right:
        yield ok(name, f"the last token, which is {END_OF_TEXT} ({end})")
