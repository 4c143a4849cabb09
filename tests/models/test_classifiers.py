"""The published classifiers' layouts, lengths, instructions and code, on tiny checkpoints of the same architectures."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.classifier import PairClassifier
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.errors import DeviceError, ModelError, OfflineError, RerankEvalError
from rerank_eval.models.architectures import effective_max_length, implementation, is_classifier
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.cross_encoder import score_groups
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from rerank_eval.rerankers.work import work_of
from tests.mirror.hub_layout import Repository
from tests.tiny_classifiers import (
    POSITIONS,
    bert,
    deberta,
    gte,
    modernbert,
    odd_score,
    save,
    save_as_jina,
    save_as_new,
    save_with_code,
    tokenizer,
    write_code,
    xlm_roberta,
)

DOCUMENTS = ["short", "a longer one here", "very long " * 200, ""]
COMMIT, CODE_COMMIT = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("classifiers")
    return {
        "bge": save(xlm_roberta(), folder / "bge"),
        "jina": save_as_jina(xlm_roberta(), folder / "jina"),
        "gte": save_as_new(gte(), folder / "gte"),
        "ms-marco": save(bert(), folder / "ms-marco"),
        "modernbert": save(modernbert(), folder / "modernbert"),
        "deberta": save(deberta(), folder / "deberta"),
    }


def resolved(folder: Path) -> ModelRef:
    return resolve_model(str(folder), None, "reranker.model")


def scorer_of(folder: Path, **options: Any) -> PairClassifier:
    config = RerankerConfig(model=str(folder), **options)
    assert is_classifier(config, resolved(folder))
    scorer = load_reranking_engine(config, resolved(folder), "cpu")
    assert isinstance(scorer, PairClassifier)
    return scorer


def plain(model: Any, query: str) -> list[float]:
    words = tokenizer()
    with torch.inference_mode():
        encoded = [
            words([query], [text], truncation=True, max_length=POSITIONS, return_tensors="pt") for text in DOCUMENTS
        ]
        return [model(**one).logits.item() for one in encoded]


@pytest.mark.parametrize(
    ("name", "kind", "model"),
    [
        ("bge", "transformers", xlm_roberta),
        ("jina", "xlm-roberta-flash", xlm_roberta),
        ("gte", "gte-new", gte),
        ("modernbert", "transformers", modernbert),
    ],
)
@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_each_published_layout_scores_as_transformers_does(
    folders: dict[str, Path], name: str, kind: str, model: Callable[[], Any], engine: str
) -> None:
    assert implementation(resolved(folders[name])) == kind
    scorer = scorer_of(folders[name], engine=engine)
    result = next(scorer.score_groups([QueryGroup("some query", None, DOCUMENTS)]))
    np.testing.assert_allclose(result.scores, plain(model(), "some query"), atol=1e-5, rtol=0)
    assert result.truncated.tolist() == [False, False, True, False]
    assert scorer.way == engine
    work = work_of(scorer, scorer.stats)
    assert work["prompt_tokens"] == result.tokens.sum()
    assert (work["padding_tokens"] > 0) == (engine == "reference")
    assert "saved" not in work


@pytest.mark.parametrize(
    ("options", "way"),
    [({}, "one by one"), ({"token_budget": 700}, "padded"), ({"engine": "reference", "batch_size": 3}, "reference")],
)
def test_deberta_scores_as_transformers_does(folders: dict[str, Path], options: dict[str, Any], way: str) -> None:
    scorer = scorer_of(folders["deberta"], **options)
    assert (scorer.way, scorer.max_length) == (way, POSITIONS)
    result = next(scorer.score_groups([QueryGroup("some query", None, DOCUMENTS)]))
    np.testing.assert_allclose(result.scores, plain(deberta(), "some query"), atol=1e-5, rtol=0)
    assert np.ptp(result.scores) > 0.1
    assert result.tokens.max() == POSITIONS
    with pytest.raises(ModelError, match=rf"max_length: {POSITIONS + 1} exceeds the {POSITIONS} positions"):
        scorer_of(folders["deberta"], max_length=POSITIONS + 1)


@pytest.mark.parametrize("name", ["modernbert", "deberta"])
def test_padding_stands_behind_what_is_read_by_its_first_token(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(saved | {"padding_side": "left"}))
    model = {"modernbert": modernbert, "deberta": deberta}[name]()
    result = scorer_of(folder, engine="reference", batch_size=4).score(QueryGroup("some query", None, DOCUMENTS))
    np.testing.assert_allclose(result.scores, plain(model, "some query"), atol=1e-5, rtol=0)


def test_scores_of_before_modernbert_was_packed_are_not_served(folders: dict[str, Path]) -> None:
    identities = {}
    for name in ("modernbert", "bge", "gte"):
        ref = resolved(folders[name])
        for engine in ("packed", "reference"):
            config = RerankerConfig(model=str(folders[name]), engine=engine)
            identities[name, engine] = dict(prepare_reranker(config, ref).identity)
    alike = {"dtype": "float32", "max_length": POSITIONS}
    assert identities["bge", "packed"] == identities["gte", "packed"] == alike
    assert identities["modernbert", "packed"] == alike | {"rows": "packed"}
    assert identities["modernbert", "reference"] == identities["bge", "reference"] == alike | {"engine": "reference"}


def test_positions_that_move_with_the_batch_are_not_packed(tmp_path: Path) -> None:
    """Dynamic scaling takes its angles from the longest pair of a batch, so that a pair's logit hung on the others."""
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    model = modernbert(rope_parameters={"full_attention": rope, "sliding_attention": rope}, max_position_embeddings=64)
    folder = save(model, tmp_path / "moving")
    assert scorer_of(folder).way == "one by one"
    assert scorer_of(save(modernbert(), tmp_path / "plain")).way == "packed"


def test_gte_s_frequencies_are_those_of_its_own_code(folders: dict[str, Path]) -> None:
    scorer = scorer_of(folders["gte"])
    found = scorer._network.gte.rotary_emb.inv_freq
    factor, dim = 8.0, 16
    # NTKScalingRotaryEmbedding of Alibaba-NLP/new-impl, written out
    expected = 1.0 / ((20_000 * factor) ** (torch.arange(0, dim, 2).float() / dim)) / factor ** (2 / dim)
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["bge", "jina", "gte"])
def test_half_precision_loads(folders: dict[str, Path], name: str, dtype: str) -> None:
    scorer = scorer_of(folders[name], dtype=dtype)
    assert {parameter.dtype for parameter in scorer._network.parameters()} == {getattr(torch, dtype)}
    result = next(scorer.score_groups([QueryGroup("some query", None, DOCUMENTS)]))
    exact = next(scorer_of(folders[name]).score_groups([QueryGroup("some query", None, DOCUMENTS)]))
    np.testing.assert_allclose(result.scores, exact.scores, atol=0.12)


@pytest.mark.parametrize(
    ("config", "tokenizer_limit", "expected"),
    [
        # the first three as in the published files
        ({"model_type": "xlm-roberta", "max_position_embeddings": 8194, "pad_token_id": 1}, 8192, 8192),
        ({"max_position_embeddings": 1026, "pad_token_id": 1, "auto_map": "flash"}, 1024, 1024),
        ({"model_type": "new", "max_position_embeddings": 8192, "auto_map": "new"}, 32_768, 8192),
        ({"model_type": "bert", "max_position_embeddings": 512}, int(1e30), 512),
        ({"model_type": "modernbert", "max_position_embeddings": 8192}, 512, 512),
        ({"model_type": {"a": 1}, "max_position_embeddings": 256}, 512, 256),
        ({"model_type": "new", "rope_scaling": "ntk", "max_position_embeddings": 256, "auto_map": "new"}, 512, 256),
    ],
    ids=[
        "bge",
        "jina",
        "gte",
        "no tokenizer limit",
        "tokenizer below",
        "a type that is none",
        "a scaling that is none",
    ],
)
def test_the_model_s_own_length(tmp_path: Path, config: dict[str, Any], tokenizer_limit: int, expected: int) -> None:
    codes = {
        "flash": "configuration_xlm_roberta.XLMRobertaFlashConfig",
        "new": "Alibaba-NLP/new-impl--configuration.NewConfig",
    }
    names = {"flash": "XLMRobertaForSequenceClassification", "new": "NewForSequenceClassification"}
    if (code := config.get("auto_map")) is not None:
        own = {"AutoConfig": codes[code], "AutoModelForSequenceClassification": "modeling.Any"}
        config = config | {"auto_map": own, "architectures": [names[code]]}
    else:
        config = config | {"architectures": ["AnyForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": tokenizer_limit}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    ref = resolved(tmp_path)
    model = str(tmp_path)
    assert effective_max_length(RerankerConfig(model=model), ref) == expected
    assert effective_max_length(RerankerConfig(model=model, max_length=100), ref) == 100
    positions = min(8192, expected if config.get("model_type") != "modernbert" else 8192)
    with pytest.raises(ModelError, match=rf"reranker.max_length: 9000 exceeds the {positions} positions"):
        effective_max_length(RerankerConfig(model=model, max_length=9000), ref)


def test_a_causal_reranker_s_length_is_what_it_was() -> None:
    ref = resolve_model("demo:qwen3-random", None, "reranker.model")
    assert effective_max_length(RerankerConfig(), ref) == 8192
    assert effective_max_length(RerankerConfig(max_length=512), ref) == 512


def test_a_causal_reranker_reads_no_more_than_it_was_made_for() -> None:
    ref = resolve_model("demo:qwen3-python", None, "reranker.model")
    assert effective_max_length(RerankerConfig(), ref) == 512
    with pytest.raises(ModelError, match=r"reranker\.max_length: 513 exceeds the 512 positions that"):
        effective_max_length(RerankerConfig(max_length=513), ref)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"instruction": "default"}, "reranker.instruction: local/bge is a sequence classifier, which reads no"),
        ({"instruction": "Judge whether it answers"}, "set it to task .* or none"),
        ({"dtype": "int8"}, "reranker.dtype: int8 is for causal rerankers"),
        ({"max_length": 301}, "reranker.max_length: 301 exceeds the 300 positions that local/bge was made for"),
    ],
)
def test_what_does_not_fit_is_refused_before_loading(
    folders: dict[str, Path], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    folder = Path(shutil.copytree(folders["bge"], tmp_path / "bge"))
    (folder / "model.safetensors").write_bytes(b"not weights")  # loading would fail on these
    with pytest.raises(ModelError, match=words) as caught:
        scorer_of(folder, **options)
    assert "\n" not in str(caught.value)


def test_an_own_instruction_stands_behind_the_query(folders: dict[str, Path]) -> None:
    config = RerankerConfig(model=str(folders["bge"]))
    scorer = scorer_of(folders["bge"])
    policy = prepare_reranker(config, resolved(folders["bge"])).policy
    origins = [policy.choose("only vises", None), policy.choose(None, object())]
    own, nothing = (text for _, text in origins)
    assert (own, nothing) == ("only vises", None)
    groups = [QueryGroup("some query", own, DOCUMENTS), QueryGroup("some query", nothing, DOCUMENTS)]
    with_own, without = scorer.score_groups(groups)
    np.testing.assert_allclose(with_own.scores, plain(xlm_roberta(), "some query only vises"), atol=1e-5, rtol=0)
    np.testing.assert_allclose(without.scores, plain(xlm_roberta(), "some query"), atol=1e-5, rtol=0)
    summary = policy.summary(Counter(origins))
    assert summary["place"] == "behind the query"
    assert summary["examples"] == ["only vises", None]
    without_own = config.model_copy(update={"instruction": "none"})
    assert prepare_reranker(without_own, resolved(folders["bge"])).policy.choose("x", None)[1] is None


def test_more_than_one_label_is_no_reranker(tmp_path: Path) -> None:
    folder = save(bert(num_labels=3), tmp_path / "nli")
    with pytest.raises(ModelError, match="local/nli has 3 labels; a reranker has one"):
        scorer_of(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"], config["label2id"]  # transformers then takes two
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="it has 2 labels; a reranker has one"):
        scorer_of(folder)


@pytest.mark.parametrize("name", ["bge", "jina", "gte"])
def test_a_missing_weight_is_named(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    state = load_file(folder / "model.safetensors")
    lost = next(key for key in state if key.endswith("classifier.weight") or key.endswith("out_proj.weight"))
    save_file({key: tensor for key, tensor in state.items() if key != lost}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 weights that would be left random: .*; the download is incomplete"):
        scorer_of(folder)


def test_out_of_memory_with_one_pair_is_one_clear_line(folders: dict[str, Path]) -> None:
    scorer = scorer_of(folders["bge"])

    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    scorer._network.roberta.encoder.layer[0].register_forward_pre_hook(exhausted)
    with pytest.raises(DeviceError, match=r"with one pair at a time; lower reranker\.max_length"):
        next(score_groups(scorer, [QueryGroup("query", None, ["a document", "another"])]))


# Code of its own


def test_own_code_is_refused_without_the_flag_and_run_with_it(tmp_path: Path) -> None:
    folder = save_with_code(tmp_path / "odd")
    with pytest.raises(ModelError, match=r"local/odd runs on Python code .* set reranker.trust_remote_code: true once"):
        scorer_of(folder)
    scorer = scorer_of(folder, trust_remote_code=True)
    result = next(scorer.score_groups([QueryGroup("some query", None, DOCUMENTS)]))
    # A table that the code computes when it is built: transformers 5's own loading leaves it uninitialised.
    np.testing.assert_allclose(result.scores, [odd_score(folder, "some query", text) for text in DOCUMENTS], atol=1e-5)
    assert scorer.way == "one by one"


def test_code_that_is_not_needed_is_not_run_even_if_allowed(folders: dict[str, Path]) -> None:
    scorer = scorer_of(folders["jina"], trust_remote_code=True)  # its code raises when imported
    assert type(scorer._network).__module__.startswith("transformers.models.xlm_roberta")


def put_in_cache(hub: Path, name: str, source: Path, commit: str, main: str | None = None) -> None:
    """Lay a repository out as the hub's cache does."""
    repository = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(main or commit)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants

    cache = tmp_path / "home" / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def hub_scorer(name: str, root: Path | None = None, **options: Any) -> PairClassifier:
    config = RerankerConfig(model=name, **({"trust_remote_code": True, "revision": COMMIT} | options))
    ref = resolve_model(name, config.revision, "reranker.model", root)
    scorer = load_reranking_engine(config, ref, "cpu")
    assert isinstance(scorer, PairClassifier)
    return scorer


def test_code_comes_from_the_pinned_commit_alone(tmp_path: Path, hub: Path) -> None:
    """Files that the code imports too: main holds another version of one of them."""
    pinned = save_with_code(tmp_path / "pinned")
    moved = Path(shutil.copytree(pinned, tmp_path / "moved"))
    write_code(moved, scale=7.0)
    put_in_cache(hub, "someone/odd", pinned, COMMIT)
    put_in_cache(hub, "someone/odd", moved, "c" * 40, main="c" * 40)
    expected = odd_score(pinned, "some query", "short")
    for commit, scale in ((COMMIT, 1.0), ("c" * 40, 7.0)):
        result = next(
            hub_scorer("someone/odd", revision=commit).score_groups([QueryGroup("some query", None, ["short"])])
        )
        assert result.scores[0] == pytest.approx(scale * expected, abs=1e-4)
    with pytest.raises(ModelError, match=r"reranker.revision: main may move; .* a commit \(40 digits\)"):
        hub_scorer("someone/odd", revision="main")


def test_code_in_another_repository_has_to_be_pinned_too(tmp_path: Path, hub: Path) -> None:
    folder = save_with_code(tmp_path / "odd", code="someone/code")
    put_in_cache(hub, "someone/odd", folder, COMMIT)
    with pytest.raises(ModelError, match=r"reranker.code_revision: someone/odd has its Python code in someone/code"):
        hub_scorer("someone/odd")
    with pytest.raises(ModelError, match=r"reranker.code_revision: .*; set it to a commit"):
        hub_scorer("someone/odd", code_revision="main")
    with pytest.raises(OfflineError, match=rf"hf download someone/code --revision {CODE_COMMIT}"):
        hub_scorer("someone/odd", code_revision=CODE_COMMIT)
    put_in_cache(hub, "someone/code", write_code(tmp_path / "code", scale=3.0), CODE_COMMIT)
    put_in_cache(hub, "someone/code", write_code(tmp_path / "newer"), "d" * 40, main="d" * 40)
    scorer = hub_scorer("someone/odd", code_revision=CODE_COMMIT)
    result = next(scorer.score_groups([QueryGroup("some query", None, ["short"])]))
    assert result.scores[0] == pytest.approx(3 * odd_score(folder, "some query", "short"), abs=1e-4)


def test_a_mirror_holds_model_and_code(tmp_path: Path, hub: Path) -> None:
    root = tmp_path / "mirror"
    folder = save_with_code(root / "someone" / "odd", code="someone/code")
    Repository(folder, COMMIT).note_downloads()
    with pytest.raises(ModelError, match=r"someone/code: no such folder; .*rerank-eval fetch --config FILE"):
        hub_scorer("someone/odd", root, code_revision=CODE_COMMIT)
    code = write_code(root / "someone" / "code", scale=3.0)
    Repository(code, "d" * 40).note_downloads()
    with pytest.raises(ModelError, match=f"is of commit {'d' * 40}, the pinned revision is {CODE_COMMIT}"):
        hub_scorer("someone/odd", root, code_revision=CODE_COMMIT)
    Repository(code, CODE_COMMIT).note_downloads()
    scorer = hub_scorer("someone/odd", root, code_revision=CODE_COMMIT)
    result = next(scorer.score_groups([QueryGroup("some query", None, ["short"])]))
    assert result.scores[0] == pytest.approx(3 * odd_score(folder, "some query", "short"), abs=1e-4)


def test_broken_code_is_one_clear_line(tmp_path: Path) -> None:
    folder = save_with_code(tmp_path / "odd")
    (folder / "parts.py").write_text("from transformers import nothing_of_this_name\n")
    with pytest.raises(RerankEvalError, match=r"local/odd cannot be loaded as a cross-encoder: .*nothing_of_this_name"):
        scorer_of(folder, trust_remote_code=True)
