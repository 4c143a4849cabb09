"""Parity, family by family: our margins and token ids beside those of the family's own code.

    python -m rerank_bench.parity --peers PYTHON

PYTHON is an environment with FlagEmbedding, mxbai-rerank and rerankers (which need transformers 4); without it the
peers that run in this environment are asked. Weights are random, tokenizers are built with the real special tokens.
Writes results/bench/parity.json and the table of docs/rerankers.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rerank_eval.engine.quiet import hush

hush()

import numpy as np  # noqa: E402 - what is imported with it reads settings that are set first
import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, normalizers, processors  # noqa: E402
from transformers import (  # noqa: E402
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

from rerank_bench import say  # noqa: E402
from rerank_bench.table import put  # noqa: E402
from rerank_eval.config.schema import RerankerConfig  # noqa: E402
from rerank_eval.engine.interface import QueryGroup  # noqa: E402
from rerank_eval.engine.recipes import RECIPES  # noqa: E402
from rerank_eval.files import write_json  # noqa: E402
from rerank_eval.models.qwen_vocabulary import build_qwen_tokenizer  # noqa: E402
from rerank_eval.models.resolve import resolve_model  # noqa: E402
from rerank_eval.rerankers.loading import load_reranking_engine  # noqa: E402

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
TOLERANCE = 1e-4
"""Largest difference of a margin in float32."""
_LENGTH = 1_900
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
    """

    name: str
    build: Callable[[Path], None]
    recipe: str
    peers: tuple[str, ...]
    here: bool = False
    instructions: tuple[str | None, ...] = (None, INSTRUCTION)


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
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=_LENGTH, **names)


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
    _tokenizer_class(folder, "PreTrainedTokenizerFast")  # transformers 4 knows it as well


def _tokenizer_class(folder: Path, name: str) -> None:
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


def _head(folder: Path) -> None:
    made = build_qwen_tokenizer()
    config: Any = Qwen3Config(**_SIZES, vocab_size=len(made), head_dim=16, num_labels=1, pad_token_id=151_643)
    save_random(folder, config, made, head=True)


def _roberta(folder: Path) -> None:
    made = roberta_tokenizer()
    sizes = {name: value for name, value in _SIZES.items() if name != "num_key_value_heads"}
    config: Any = XLMRobertaConfig(**sizes, vocab_size=len(made), num_labels=1, pad_token_id=0)
    save_random(folder, config, made, head=True, eps=0.12)


def _modernbert(folder: Path) -> None:
    made = roberta_tokenizer()
    ids = {"pad_token_id": 0, "cls_token_id": made.cls_token_id, "sep_token_id": made.sep_token_id}
    ids |= {"bos_token_id": made.cls_token_id, "eos_token_id": made.sep_token_id}
    sizes = {name: value for name, value in _SIZES.items() if name != "num_key_value_heads"}
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
)


def main() -> int:
    """Parse the arguments, compare, write."""
    parser = argparse.ArgumentParser(prog="python -m rerank_bench.parity", description=__doc__)
    parser.add_argument("--peers", help="python of an environment with FlagEmbedding, mxbai-rerank and rerankers")
    parser.add_argument("--output", default="results/bench/parity.json")
    parser.add_argument("--docs", default="docs/rerankers.md")
    told = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, family in enumerate(FAMILIES):
            if not family.here and told.peers is None:
                say(f"{family.name}: needs --peers; left out")
                continue
            folder = Path(scratch) / str(number)
            folder.mkdir()
            family.build(folder)
            python = sys.executable if family.here or told.peers is None else told.peers
            for peer in family.peers:
                rows.append(compare(family, folder, peer, python))
                say(row_text(rows[-1]))
    write_json(Path(told.output), {"rows": rows})
    put(Path(told.docs), table(rows), "parity")
    return 0 if all(row["largest"] <= TOLERANCE and row["ids_equal"] == row["pairs"] for row in rows) else 1


def compare(family: Family, folder: Path, peer: str, python: str) -> dict[str, Any]:
    """Score all pairs by our engines and by a peer."""
    settings = {"model": str(folder), "max_length": _LENGTH}
    if family.recipe:
        settings["recipe"] = family.recipe
    found: dict[str, list[float]] = {"packed": [], "reference": []}
    ids: list[tuple[int, ...]] = []
    for name, margins in found.items():
        config = RerankerConfig.model_validate(settings | {"engine": name})
        engine = load_reranking_engine(config, resolve_model(str(folder), None, "parity"), "cpu")
        for instruction in family.instructions:
            groups = [QueryGroup(query, instruction, [text]) for query, text in PAIRS]
            margins += [float(one.margins[0]) for one in engine.score_groups(groups)]
            if name == "packed":
                ids += [engine.render(query, text, instruction).token_ids for query, text in PAIRS]
    theirs: list[float] = []
    their_ids: list[tuple[int, ...]] = []
    answer: dict[str, Any] = {}
    if peer == "FlagReranker":  # it frames pairs by the tokenizer's class, which has to be XLM-RoBERTa's
        folder = Path(shutil.copytree(folder, f"{folder}-theirs"))
        _tokenizer_class(folder, "XLMRobertaTokenizerFast")
    for instruction in family.instructions:
        pairs = [list(pair) for pair in PAIRS]
        if peer == "AutoModelForSequenceClassification":  # its users write the prompts themselves
            pairs = [[RECIPES[family.recipe].prompt(query, text, instruction)] for query, text in PAIRS]
        answer = ask(python, {"peer": peer, "folder": str(folder), "pairs": pairs, "instruction": instruction})
        theirs += answer["scores"]
        their_ids += [tuple(one) for one in answer["ids"]]
    differences = {name: float(np.abs(np.array(margins) - theirs).max()) for name, margins in found.items()}
    return {
        "family": family.name,
        "recipe": family.recipe,
        "peer": answer["version"],
        "pairs": len(theirs),
        "ids_equal": sum(one == other for one, other in zip(ids, their_ids, strict=True)),
        "spread": float(np.ptp(theirs)),
        **differences,
        "largest": max(differences.values()),
    }


def ask(python: str, question: dict[str, Any]) -> dict[str, Any]:
    """Ask a peer in a process of its own."""
    script = find_spec("rerank_bench.parity_peers")
    assert script is not None and script.origin is not None  # noqa: S101, PT018 - it stands beside this file
    done = subprocess.run(  # noqa: S603 - the caller's own python
        [python, script.origin], input=json.dumps(question), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{question['peer']} failed in {python}:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index('{"scores"') :])
    return answer


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Render the comparison as Markdown."""
    lines = [
        "| family | recipe | beside | pairs | ids equal | margins' range | largest difference, packed | reference |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['family']} | {row['recipe'] or 'bare pair'} | {row['peer']} | {row['pairs']} | {row['ids_equal']} "
        f"| {row['spread']:.1f} | {row['packed']:.1e} | {row['reference']:.1e} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def row_text(row: dict[str, Any]) -> str:
    """Render one comparison in a line."""
    return (
        f"{row['family']}, {row['peer']}: ids equal {row['ids_equal']} of {row['pairs']}, largest difference "
        f"{row['packed']:.1e} packed, {row['reference']:.1e} reference (margins over {row['spread']:.1f})"
    )


if __name__ == "__main__":
    raise SystemExit(main())
