"""Encoders with a head of modules, built and saved by sentence-transformers, score as its own CrossEncoder says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from torch import nn

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.classifier import PairClassifier
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.pair_heads import ACTIVATIONS, DenseLayer, ModuleHead, NormLayer
from rerank_eval.errors import ModelError
from rerank_eval.models.contents import read_folder
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from tests.models.checkpoints import edit
from tests.tiny_classifiers import POSITIONS, bert, deberta, modernbert, xlm_roberta
from tests.tiny_pooled import build

QUERY = " which tool holds work still? "
DOCUMENTS = ["short", "a longer one here", "very long " * 200, "", *(f"a vise number {n} " * n for n in range(1, 9))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pooled") / "ettin")


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "ettin"))


def load(folder: Path, **options: Any) -> PairClassifier:
    config = RerankerConfig(model=str(folder), **options)
    scorer = load_reranking_engine(config, resolve_model(config.model, None, "reranker.model"), "cpu")
    assert isinstance(scorer, PairClassifier)
    return scorer


def revision(folder: Path) -> str:
    return resolve_model(str(folder), None, "reranker.model").revision


def expected(folder: Path, query: str = QUERY) -> np.ndarray:
    """What CrossEncoder says, pair by pair."""
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    with torch.inference_mode():
        return np.array([model.predict([(query, text)], activation_fn=nn.Identity())[0] for text in DOCUMENTS])


@pytest.mark.parametrize(
    ("model", "pooling", "last", "options", "way"),
    [
        (modernbert, "cls", nn.Identity(), {}, "packed"),
        (modernbert, "mean", nn.Identity(), {"bias": False}, "packed"),
        (bert, "cls", nn.Identity(), {}, "packed"),
        (bert, "mean", nn.Tanh(), {}, "packed"),
        (xlm_roberta, "cls", nn.Identity(), {}, "packed"),
        (deberta, "mean", nn.Identity(), {}, "one by one"),
    ],
    ids=["modernbert", "modernbert-mean", "bert", "bert-mean", "xlm-roberta", "deberta"],
)
def test_scores_are_those_of_sentence_transformers(
    tmp_path: Path, *, model: Callable[[], Any], pooling: str, last: nn.Module, options: dict[str, Any], way: str
) -> None:
    folder = build(tmp_path / "model", model(), pooling, last, options)
    wanted = expected(folder)
    assert np.ptp(wanted) > 0.01  # else a constant would pass
    group = QueryGroup(QUERY, None, DOCUMENTS)
    packed, padded = load(folder), load(folder, engine="reference", batch_size=5)
    assert (packed.way, padded.way) == (way, "reference")
    np.testing.assert_allclose(packed.score(group).scores, wanted, atol=1e-5, rtol=0)
    np.testing.assert_allclose(padded.score(group).scores, wanted, atol=1e-5, rtol=0)


def test_the_same_bits_in_any_company(saved: Path) -> None:
    whole = load(saved).score(QueryGroup(QUERY, None, DOCUMENTS)).scores
    alone = load(saved, token_budget=256)
    one_by_one = [alone.score(QueryGroup(QUERY, None, [text])).scores[0] for text in DOCUMENTS]
    assert np.array(one_by_one).tobytes() == whole.tobytes()


@pytest.mark.parametrize("width", [5, 64, 100])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_head_gives_the_same_bits_in_any_company(activation: str, width: int) -> None:
    generator = torch.Generator().manual_seed(width)

    def dense(outputs: int) -> DenseLayer:
        return DenseLayer(torch.randn(outputs, width, generator=generator) * 0.3, torch.ones(outputs), activation)

    head = ModuleHead("first", [dense(width), NormLayer(torch.ones(width), torch.zeros(width)), dense(1)])
    states = torch.randn(131, width, generator=generator) * 2
    with torch.inference_mode():
        whole = head(states)
        alone = torch.cat([head(states[i : i + 1]) for i in range(len(states))])
        halves = torch.cat([head(states[:70]), head(states[70:])])
    assert whole.numpy().tobytes() == alone.numpy().tobytes() == halves.numpy().tobytes()


def test_half_precision_keeps_the_head_in_float32(saved: Path) -> None:
    half = load(saved, dtype="bfloat16")
    network: Any = half._network
    assert {parameter.dtype for parameter in network.encoder.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in network.head.parameters()} == {torch.float32}
    scores = half.score(QueryGroup(QUERY, None, DOCUMENTS)).scores
    exact = load(saved).score(QueryGroup(QUERY, None, DOCUMENTS)).scores
    np.testing.assert_allclose(scores, exact, atol=0.12)
    assert len(set(scores.tolist())) == len(set(exact.tolist()))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_default_prompt_stands_before_the_query(tmp_path: Path, pooling: str) -> None:
    prompts = {"search": "Find the tool: ", "other": "x"}
    folder = build(tmp_path / "model", pooling=pooling, prompts=prompts, default_prompt_name="search")
    wanted = expected(folder)
    scorer = load(folder)
    np.testing.assert_allclose(scorer.score(QueryGroup(QUERY, None, DOCUMENTS)).scores, wanted, atol=1e-5, rtol=0)
    assert "find the tool : which tool" in scorer.render(QUERY, "a vise").text
    edit(folder / "config_sentence_transformers.json", default_prompt_name=None)
    without = load(folder).score(QueryGroup(QUERY, None, DOCUMENTS)).scores
    np.testing.assert_allclose(without, expected(folder), atol=1e-5, rtol=0)
    assert np.abs(without - wanted).max() > 1e-3
    edit(folder / "config_sentence_transformers.json", default_prompt_name="search")
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(ModelError, match=r"1_Pooling/config\.json leaves the prompt out"):
        load(folder)


@pytest.mark.parametrize("saved_length", [None, 40, 290])
def test_the_limit_is_sentence_transformers(copied: Path, saved_length: int | None) -> None:
    edit(copied / "tokenizer_config.json", model_max_length=200)
    if saved_length is not None:
        edit(copied / "sentence_bert_config.json", max_seq_length=saved_length)
    scorer = load(copied)
    model = CrossEncoder(str(copied), device="cpu", local_files_only=True)
    assert scorer.max_length == model.max_seq_length == (saved_length or 200)
    scores = scorer.score(QueryGroup(QUERY, None, DOCUMENTS)).scores
    np.testing.assert_allclose(scores, expected(copied), atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match=f"exceeds the {POSITIONS} positions"):
        load(copied, max_length=POSITIONS + 1)


@pytest.mark.parametrize("module", ["2_Dense", "3_LayerNorm", "4_Dense"])
def test_every_byte_of_a_head_is_in_the_revision(copied: Path, module: str) -> None:
    before = revision(copied)
    found = read_folder(copied)
    assert {f"{module}/config.json", f"{module}/model.safetensors"} <= set(found.loaded)
    path = copied / module / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert revision(copied) != before
    path.write_bytes(whole)
    assert revision(copied) == before
    config = copied / module / "config.json"
    config.write_text(config.read_text() + " ")
    assert revision(copied) != before


def test_it_is_a_reranker_and_an_embedding_model_is_not(copied: Path) -> None:
    config = RerankerConfig(model=str(copied))
    ref = resolve_model(config.model, None, "reranker.model")
    prepared = prepare_reranker(config, ref)
    assert not prepared.causal
    assert prepared.identity == {"dtype": "float32", "max_length": POSITIONS}
    edit(copied / "config_sentence_transformers.json", model_type="SentenceTransformer")
    with pytest.raises(ModelError, match=r"is an encoder \(Pooling in its modules\.json\)"):
        load(copied)
    with pytest.raises(ModelError, match=r"reranker\.kind: local/ettin is no CrossEncoder with a Pooling"):
        load(copied, kind="pooled-encoder")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pools by lasttoken"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pools by cls, mean"),
        ("1_Pooling/config.json", {"embedding_dimension": "64"}, "gives no number of embedding_dimension"),
        ("1_Pooling/config.json", {"pooling_weight": 2}, "has pooling_weight"),
        ("2_Dense/config.json", {"activation_function": "own.module.Square"}, "has the activation own.module.Square"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Softmax"}, "has the activation torch.nn.Softmax"),
        ("2_Dense/config.json", {"activation_function": None}, "has the activation None"),
        ("2_Dense/config.json", {"use_residual": True}, "has use_residual"),
        ("2_Dense/config.json", {"scale": 2}, "has scale"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "reads 'token_embeddings' where"),
        ("2_Dense/config.json", {"module_output_name": "hidden"}, None),
        ("2_Dense/config.json", {"in_features": 32}, "takes 32 numbers where 64 come"),
        ("2_Dense/config.json", {"bias": False}, "holds other weights than the config.json beside it says"),
        ("3_LayerNorm/config.json", {"dimension": 32}, "takes 32 numbers where 64 come"),
        ("3_LayerNorm/config.json", {"eps": 0.1}, "has eps"),
        ("4_Dense/config.json", {"module_output_name": None}, "gives 1 number.s. named 'sentence_embedding'"),
        ("4_Dense/config.json", {"out_features": 2}, "gives 2 number.s. named 'scores'"),
        ("sentence_bert_config.json", {"model_args": {"attn_implementation": "eager"}}, "has model_args"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "is saved for fill-mask"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "changes its texts by do_lower_case"),
        ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "has another modality_config"),
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.ReLU"}, "puts its logit through"),
        ("config.json", {"model_type": "qwen3"}, "is a 'qwen3' by its config.json, a decoder"),
        ("config.json", {"model_type": "new"}, "is a 'new' by its config.json, no type of transformers"),
        ("config.json", {"hidden_size": 32}, "cannot be loaded as a cross-encoder"),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, r"is quantised by its config\.json"),
    ],
)
def test_what_is_not_computed_is_refused_in_one_line(
    copied: Path, file: str, changes: dict[str, Any], message: str | None
) -> None:
    edit(copied / file, **changes)
    if message is None:  # another name for what goes on: LayerNorm reads one name only
        message = "3_LayerNorm/config.json reads 'sentence_embedding' where the module before it gives 'hidden'"
    with pytest.raises(ModelError, match=message) as caught:
        load(copied)
    assert "\n" not in str(caught.value)
    assert "local/ettin" in str(caught.value)


def test_modules_in_another_order_or_of_others_are_refused(copied: Path) -> None:
    listed = json.loads((copied / "modules.json").read_text())

    def refused(changed: list[dict[str, Any]], message: str) -> None:
        (copied / "modules.json").write_text(json.dumps(changed))
        with pytest.raises(ModelError, match=rf"its modules\.json {message}"):
            load(copied)

    refused([*listed[:3], listed[4], listed[3]], "is Transformer, Pooling, Dense, Dense, LayerNorm; only")
    refused(listed[:2], "is Transformer, Pooling; only")
    normalize = {"type": "sentence_transformers.base.modules.normalize.Normalize", "path": "5_Normalize"}
    refused([*listed[:2], normalize, *listed[2:]], "is Transformer, Pooling, Normalize, Dense")
    refused([*listed[:4], listed[4] | {"type": "own.module.Dense"}], r"names own\.module\.Dense")
    refused([listed[0] | {"path": "0_Transformer"}, *listed[1:]], "does not keep its transformer at the root")
    refused([*listed[:3], listed[3], listed[4] | {"path": "2_Dense"}], "does not keep .* each module in a folder")


def test_a_file_that_sentence_transformers_always_saves_must_be_there(copied: Path) -> None:
    (copied / "sentence_bert_config.json").rename(copied / "sentence_roberta_config.json")
    with pytest.raises(ModelError, match=r"local/ettin has no sentence_bert_config\.json"):
        load(copied)


def test_older_names_of_the_pooling_are_read(copied: Path) -> None:
    wanted = expected(copied)
    older = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (copied / "1_Pooling" / "config.json").write_text(json.dumps(older))
    np.testing.assert_array_equal(expected(copied), wanted)
    scores = load(copied).score(QueryGroup(QUERY, None, DOCUMENTS)).scores
    np.testing.assert_allclose(scores, wanted, atol=1e-5, rtol=0)


def test_a_dense_without_an_activation_has_sentence_transformers_default(copied: Path) -> None:
    path = copied / "2_Dense" / "config.json"
    config = json.loads(path.read_text())
    del config["activation_function"]
    path.write_text(json.dumps(config))
    scores = load(copied).score(QueryGroup(QUERY, None, DOCUMENTS)).scores
    np.testing.assert_allclose(scores, expected(copied), atol=1e-5, rtol=0)


def test_weights_that_are_missing_pickled_or_damaged_are_refused(copied: Path) -> None:
    path = copied / "4_Dense" / "model.safetensors"
    state = load_file(path)
    save_file({"linear.weight": state["linear.weight"]}, path)
    with pytest.raises(ModelError, match=r"4_Dense/model\.safetensors holds other weights"):
        load(copied)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"4_Dense/model\.safetensors cannot be read"):
        load(copied)
    path.unlink()
    torch.save(state, copied / "4_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"4_Dense/model\.safetensors is missing; pickled weights are not loaded"):
        load(copied)


def test_what_the_encoder_lacks_is_named(copied: Path) -> None:
    path = copied / "model.safetensors"
    state = load_file(path)
    lost = "layers.1.attn.Wqkv.weight"
    save_file({name: tensor for name, tensor in state.items() if name != lost}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"lacks 1 weights that would be left random: {lost}"):
        load(copied)


def test_modules_kept_in_float32_matter_in_half_precision_alone(copied: Path) -> None:
    edit(copied / "config_sentence_transformers.json", keep_in_fp32_modules=["4.linear"])
    load(copied, dtype="bfloat16")
    edit(copied / "config_sentence_transformers.json", keep_in_fp32_modules=["0.model.layers.0.mlp.Wi"])
    load(copied)
    with pytest.raises(ModelError, match=r"keeps 0\.model\.layers\.0\.mlp\.Wi of its encoder in float32"):
        load(copied, dtype="bfloat16")
