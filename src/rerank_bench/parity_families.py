"""The families of rerankers whose parity is looked at: tiny checkpoints with random weights, and who is asked.

Tokenizers are built with the real special tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GemmaConfig,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    XLMRobertaConfig,
)

from rerank_eval.engine.recipes import RECIPES
from rerank_eval.models.qwen_vocabulary import build_qwen_tokenizer

PAIRS = [
    ("what holds work still", "A vise holds work still."),
    ("What is the capital of China?", "The capital of China is Beijing."),
    ("什么是重力", "重力是物体之间的吸引力。"),
    ("wie misst man Länge?\n", " Ein Maßstab – oder ein Lineal – misst Länge.\n\n"),
    ("def read(path):", "import json\n\n\ndef read(path):\n\treturn json.load(open(path))"),
    ("3.14159 or 22/7?", "π = 3.14159265…, not 22/7 🎉"),
    ("a", ""),
    ("Who's there?", "I don't know: <b>nobody</b> {here}"),
    ("long documents", "A long document says the same thing many times. " * 30),
]
INSTRUCTION = "Find the passage that answers the query"
LENGTH = 1_900
_CHAT = "{%- for m in messages if m.role == ROLE %}{{ m.content }}{% endfor -%}"
_SYSTEM, _QUERY, _DOCUMENT = (_CHAT.replace("ROLE", f"'{role}'") for role in ("system", "query", "document"))
_GIVEN = "{%- if messages[0].role == 'system' -%}"
_CARD = RECIPES["card"]
CARD_TEMPLATE = (
    f"{{{{ {json.dumps(_CARD.prefix)} }}}}{_GIVEN}<Instruct>: {_SYSTEM}{{{{ '\\n' }}}}{{%- endif -%}}<Query>: {_QUERY}"
    f"{{{{ '\\n<Document>: ' }}}}{_DOCUMENT}{{{{ {json.dumps(_CARD.suffix)} }}}}"
)
ZERANK_TEMPLATE = (
    f"<|im_start|>system{{{{ '\\n' }}}}{_GIVEN}<query>{_QUERY}</query>{{{{ '\\n' }}}}<instruction>{_SYSTEM}"
    f"</instruction>{{%- else -%}}{_QUERY}{{%- endif -%}}<|im_end|>{{{{ '\\n<|im_start|>user\\n' }}}}{_DOCUMENT}"
    "<|im_end|>{{ '\\n<|im_start|>assistant\\n' }}"
)
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2_048,
}


@dataclass(frozen=True)
class Family:
    """A family of rerankers, and who is asked beside us.

    Attributes:
        name: For the table.
        build: Writes a tiny checkpoint of it into a folder.
        recipe: What our config names; `auto` where the checkpoint's files say it, empty for pairs without a prompt.
        peers: Names in `parity_peers.PEERS`.
        here: Whether the peers run in this environment.
        instructions: What is asked with.
        vllm: For the peer vLLM, which runs in an environment of its own: what its config says instead of the
            checkpoint's; None for all other peers.
    """

    name: str
    build: Callable[[Path], None]
    recipe: str
    peers: tuple[str, ...]
    here: bool = False
    instructions: tuple[str | None, ...] = (None, INSTRUCTION)
    vllm: dict[str, Any] | None = None


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """A small tokenizer as Gemma's is built: blanks as `▁`, no split pattern, bytes for what it lacks, `<bos>`."""
    text = " ".join([RECIPES["bge_gemma"].suffix, *(text for pair in PAIRS for text in pair), INSTRUCTION])
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += sorted({*"▁\n", *text.replace(" ", "▁"), *"abcdefghijklmnopqrstuvwxyzAB:.?!'0123456789"})
    merges = [("A", ":"), ("B", ":"), ("▁", "t"), ("▁t", "h"), (".", "\n"), ("?", "\n"), ("Y", "e"), ("Ye", "s")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<pad>", "<eos>", "<bos>"])
    first = ("<bos>", backend.token_to_id("<bos>"))
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[first])
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=LENGTH, **names)


def save_random(
    folder: Path, config: Any, tokenizer: PreTrainedTokenizerBase, *, head: bool = False, eps: float = 0.3
) -> None:
    """Save a network with random weights, and a tokenizer that transformers 4 reads as well.

    Args:
        folder: Where to.
        config: Sizes and kind.
        tokenizer: Its tokenizer.
        head: Whether it classifies, with one label.
        eps: Standard deviation of the matrices.
    """
    torch.manual_seed(0)
    kind: Any = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    network = kind.from_config(config)
    for name, weights in network.named_parameters():  # large enough for attention to matter
        if weights.dim() > 1 and "embed" not in name:
            torch.nn.init.normal_(weights, std=eps)
    network.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer_class(folder, "PreTrainedTokenizerFast")  # transformers 4 knows it as well


def tokenizer_class(folder: Path, name: str) -> None:
    """Write the class of a checkpoint's tokenizer into its files."""
    saved = folder / "tokenizer_config.json"
    content = json.loads(saved.read_text(encoding="utf-8")) | {"tokenizer_class": name}
    saved.write_text(json.dumps(content), encoding="utf-8")


def _decoder(config: Any, tokenizer: Callable[[], PreTrainedTokenizerBase], **changes: Any) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        made = tokenizer()
        sizes = _SIZES | {"vocab_size": max(made.get_vocab().values()) + 1, "tie_word_embeddings": False} | changes
        save_random(folder, config(**sizes), made)

    return build


def _with_files(build: Callable[[Path], None], template: str, yes: str, no: str | None) -> Callable[[Path], None]:
    """Add what sentence-transformers saves with a causal reranker."""

    def built(folder: Path) -> None:
        build(folder)
        tokenizer = build_qwen_tokenizer()
        numbers = [None if word is None else tokenizer.encode(word)[0] for word in (yes, no)]
        names = ("base.modules.transformer.Transformer", "cross_encoder.modules.logit_score.LogitScore")
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{name}"}
            for i, (name, path) in enumerate(zip(names, ("", "1_LogitScore"), strict=True))
        ]
        forward = {"method": "forward", "method_output_name": "logits"}
        (folder / "1_LogitScore").mkdir()
        for name, content in {
            "modules.json": modules,
            "config_sentence_transformers.json": {"model_type": "CrossEncoder", "prompts": {}},
            "sentence_bert_config.json": {
                "transformer_task": "text-generation",
                "modality_config": {"text": forward, "message": forward | {"format": "flat"}},
                "module_output_name": "causal_logits",
            },
            "1_LogitScore/config.json": {"true_token_id": numbers[0], "false_token_id": numbers[1]},
        }.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")

    return built


def _head(folder: Path, head_dim: int = 16) -> None:
    made = build_qwen_tokenizer()
    config: Any = Qwen3Config(**_SIZES, vocab_size=len(made), head_dim=head_dim, num_labels=1, pad_token_id=151_643)
    save_random(folder, config, made, head=True)


def _roberta(folder: Path, heads: int = 4) -> None:
    made = roberta_tokenizer()
    sizes = {name: value for name, value in _SIZES.items() if name != "num_key_value_heads"}
    sizes |= {"num_attention_heads": heads}
    config: Any = XLMRobertaConfig(**sizes, vocab_size=len(made), num_labels=1, pad_token_id=0)
    save_random(folder, config, made, head=True, eps=0.12)


def _modernbert(folder: Path, heads: int = 4) -> None:
    made = roberta_tokenizer()
    ids = {"pad_token_id": 0, "cls_token_id": made.cls_token_id, "sep_token_id": made.sep_token_id}
    ids |= {"bos_token_id": made.cls_token_id, "eos_token_id": made.sep_token_id}
    sizes = {name: value for name, value in _SIZES.items() if name != "num_key_value_heads"}
    sizes |= {"num_attention_heads": heads}
    layers = {"num_hidden_layers": 4, "global_attn_every_n_layers": 3, "local_attention": 32}
    config: Any = ModernBertConfig(**sizes | ids | layers, vocab_size=len(made), num_labels=1)
    save_random(folder, config, made, head=True, eps=0.12)


def _ettin(folder: Path) -> None:
    """A ModernBERT whose head lies in sentence-transformers' modules, as sentence-transformers saves it."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    base = folder.with_name(f"{folder.name}-base")
    base.mkdir()
    _modernbert(base)
    AutoModelForSequenceClassification.from_pretrained(base).base_model.save_pretrained(base)
    width = _SIZES["hidden_size"]
    first = Dense(width, width, activation_function=torch.nn.GELU())
    answer = Dense(width, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    modules = [Transformer(str(base)), Pooling(width, "cls"), first, LayerNorm(width), answer]
    CrossEncoder(modules=modules, device="cpu").save(str(folder))


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """A small tokenizer that puts marks around a pair as XLM-RoBERTa's does."""
    made = gemma_tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A <eos> <eos> $B <eos>",
        special_tokens=[(one, made.convert_tokens_to_ids(one)) for one in ("<bos>", "<eos>")],
    )
    made.cls_token, made.sep_token = "<bos>", "<eos>"
    return made


def _qwen(config: Any) -> Callable[[Path], None]:
    return _decoder(config, build_qwen_tokenizer, **({"head_dim": 16} if config is Qwen3Config else {}))


FAMILIES = (
    Family(
        "Qwen3-Reranker",
        _with_files(_qwen(Qwen3Config), CARD_TEMPLATE, "yes", "no"),
        "auto",
        ("CrossEncoder",),
        here=True,
    ),
    Family("Qwen3-Reranker as classifier", _head, "card", ("AutoModelForSequenceClassification",), here=True),
    Family("mxbai-rerank-v2", _qwen(Qwen2Config), "mxbai_v2", ("MxbaiRerankV2", "MxBaiV2Ranker")),
    Family(
        "zerank", _with_files(_qwen(Qwen3Config), ZERANK_TEMPLATE, "Yes", None), "auto", ("CrossEncoder",), here=True
    ),
    Family("ctxl-rerank-v2", _qwen(Qwen3Config), "ctxl_v2", ("the card's code",), here=True),
    Family("ctxl-rerank-v2 on Llama", _qwen(LlamaConfig), "ctxl_v2", ("the card's code",), here=True),
    Family(
        "bge-reranker-v2-gemma",
        _decoder(GemmaConfig, gemma_tokenizer, head_dim=16, hidden_activation="gelu_pytorch_tanh"),
        "bge_gemma",
        ("FlagLLMReranker",),
        instructions=(None,),
    ),
    Family("bge-reranker-v2-m3", _roberta, "", ("FlagReranker",), instructions=(None,)),
    Family("ModernBERT classifiers", _modernbert, "", ("CrossEncoder",), here=True, instructions=(None,)),
    Family("Ettin rerankers", _ettin, "", ("CrossEncoder",), here=True, instructions=(None,)),
    # vLLM's attention on a CPU wants heads of 32 or more.
    Family(
        "Qwen3-Reranker",
        _decoder(Qwen3Config, build_qwen_tokenizer, head_dim=32),
        "card",
        ("vLLM",),
        vllm={
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "is_original_qwen3_reranker": True,
        },
    ),
    Family("Qwen3-Reranker as classifier", partial(_head, head_dim=32), "card", ("vLLM",), vllm={}),
    Family(
        "mxbai-rerank-v2",
        _decoder(Qwen2Config, build_qwen_tokenizer, num_attention_heads=2),
        "mxbai_v2",
        ("vLLM",),
        vllm={
            "architectures": ["Qwen2ForSequenceClassification"],
            "classifier_from_token": ["0", "1"],
            "method": "from_2_way_softmax",
        },
    ),
    Family(
        "zerank",
        _decoder(Qwen3Config, build_qwen_tokenizer, head_dim=32),
        "zerank",
        ("vLLM",),
        vllm={
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["Yes"],
            "method": "no_post_processing",
        },
    ),
    Family("bge-reranker-v2-m3", partial(_roberta, heads=2), "", ("vLLM",), instructions=(None,), vllm={}),
    Family("ModernBERT classifiers", partial(_modernbert, heads=2), "", ("vLLM",), instructions=(None,), vllm={}),
)
