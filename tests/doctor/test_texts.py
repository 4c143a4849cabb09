"""Ids that differ from those a model was trained with are found before its weights are read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rerank_eval.doctor.encoder_texts import PROMPT, TEXT, check_encoder_texts, sends_plain_texts, sentence_ids
from rerank_eval.doctor.findings import Finding
from rerank_eval.doctor.vocabulary import check_vocabulary
from tests.doctor.conftest import reranker, retriever
from tests.doctor.taught import swap_ids
from tests.tiny_embedding import QUERY_PROMPT, write_qwen3_embedding

FETCH = "rerank-eval fetch --config x.yaml"


@pytest.fixture
def copy(tmp_path: Path, demo: Path) -> Path:
    """Link the demo reranker's files into a folder of their own; a test replaces what it changes."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in demo.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def change(folder: Path, name: str, **keys: Any) -> None:
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).unlink()
    (folder / name).write_text(json.dumps(content | keys, ensure_ascii=False), encoding="utf-8")


def vocabulary(folder: Path | str, **settings: Any) -> list[Finding]:
    return list(check_vocabulary(reranker(folder, **settings), FETCH))


@pytest.mark.parametrize(
    "recipe", ["card", pytest.param("qwen_eval", marks=pytest.mark.slow), pytest.param("mteb", marks=pytest.mark.slow)]
)
def test_the_real_vocabulary_has_the_published_ids(recipe: str) -> None:
    [finding] = vocabulary("demo:qwen3-random", recipe=recipe)
    assert finding.level == "ok"
    assert "yes 9693, no 2152, prefix 39, suffix 9 tokens" in finding.found


def test_another_recipe_is_not_held_against_the_card_s_ids() -> None:
    [finding] = vocabulary("demo:qwen3-random", recipe="mxbai_v2")
    assert finding.level == "ok"
    assert "single '1' and '0'" in finding.found


def test_other_ids_of_yes_and_no_are_a_failure(copy: Path) -> None:
    swap_ids(copy)
    findings = vocabulary(copy)
    assert {finding.level for finding in findings} == {"failure"}
    assert findings[0].found == "'yes' is [2152], and was 9693 when the model was trained"
    assert "the prompt's prefix" not in " ".join(finding.found for finding in findings)
    assert findings[0].remedy == f"put the checkpoint's files into {copy} again, unchanged"  # no hub has this folder
    subject = reranker(copy)
    assert FETCH in replace(subject, ref=replace(subject.ref, origin="mirror")).again(FETCH)


@pytest.mark.slow
def test_a_marker_that_is_no_token_any_more_is_a_failure(copy: Path) -> None:
    content = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    kept = [token for token in content["added_tokens"] if token["content"] != "<|im_start|>"]
    change(copy, "tokenizer.json", added_tokens=kept)
    settings = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    text = json.dumps(settings).replace("<|im_start|>", "<|endoftext|>")
    (copy / "tokenizer_config.json").unlink()
    (copy / "tokenizer_config.json").write_text(text)
    found = " ".join(finding.found for finding in vocabulary(copy) if finding.level == "failure")
    assert "prefix is" in found
    assert "and has to be 39" in found
    assert "suffix is" in found


@pytest.mark.slow
def test_a_tokenizer_of_a_larger_model_is_a_failure(copy: Path) -> None:
    change(copy, "config.json", vocab_size=151_000)
    [finding] = vocabulary(copy)
    assert "151669 tokens and the model 151000 rows" in finding.found


@pytest.mark.slow
def test_a_prompt_without_room_is_a_failure() -> None:
    [finding] = vocabulary("demo:qwen3-random", max_length=64)
    assert finding.level == "ok"
    subject = reranker("demo:qwen3-random")
    config = subject.config.model_copy(update={"max_length": 48})
    [finding] = check_vocabulary(type(subject)(subject.role, config, subject.ref, subject.folder), FETCH)
    assert "max_length 48 leaves no room" in finding.found


def test_a_broken_tokenizer_file_is_a_failure(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").write_text("{")
    [finding] = vocabulary(copy)
    assert finding.level == "failure"
    assert "cannot be loaded" in finding.found


@pytest.mark.parametrize("words", [["yes", "no"], ["yes"]])
def test_another_vocabulary_is_judged_by_its_structure(copy: Path, words: list[str]) -> None:
    merges = [("y", "e"), ("ye", "s")] + ([("n", "o")] if "no" in words else [])
    tokens = ["[UNK]", *map(chr, range(33, 127)), *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    for path in copy.glob("*token*"):
        path.unlink()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(copy)
    findings = vocabulary(copy)
    slower = [finding for finding in findings if finding.level == "warning"]
    assert "share less" in slower[0].found
    rest = [finding for finding in findings if finding.level != "warning"]
    if len(words) == 2:
        assert [finding.level for finding in rest] == ["ok"]
        assert "single 'yes' and 'no'" in rest[0].found
    else:
        assert [finding.found for finding in rest] == ["'no' is 2 tokens, and has to be a single one"]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    return write_qwen3_embedding(tmp_path_factory.mktemp("embedder") / "published", demo)


@pytest.fixture(scope="module")
def saved_anew(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """Save an embedder by sentence-transformers 6 from a checkpoint whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("anew") / "embedder"
    module = Transformer(str(demo))
    pooling = Pooling(module.get_embedding_dimension(), "lasttoken")
    model = SentenceTransformer(modules=[module, pooling, Normalize()], prompts={"query": QUERY_PROMPT, "document": ""})
    model.save(str(folder))
    return folder


def texts(folder: Path, **settings: Any) -> dict[str, Finding]:
    found = list(check_encoder_texts(retriever(folder, **settings), FETCH))
    return {finding.name.split(" of ")[0]: finding for finding in found}


@pytest.mark.slow
def test_an_embedder_as_published_is_right(embedder: Path) -> None:
    found = texts(embedder)
    assert {finding.level for finding in found.values()} == {"ok"}
    assert found["pooling"].found == "the last token, which is <|endoftext|> (151643)"
    assert sends_plain_texts(retriever(embedder))


def test_an_embedder_that_was_saved_anew_reads_chat_turns(saved_anew: Path) -> None:
    finding = texts(saved_anew)["texts"]
    assert finding.level == "failure"
    assert f"reads {TEXT!r} as '<|im_start|>user\\n{TEXT}<|im_end|>" in finding.found
    assert "sentence_bert_config.json" in finding.remedy


@pytest.mark.slow
def test_what_is_looked_at_without_weights_is_what_happens_with_them(saved_anew: Path) -> None:
    real = SentenceTransformer(str(saved_anew), device="cpu")
    bare, behind = sentence_ids(saved_anew)
    assert bare == real.preprocess([TEXT])["input_ids"][0].tolist()
    assert behind == real.preprocess([TEXT], prompt=PROMPT)["input_ids"][0].tolist()
    assert not sends_plain_texts(retriever(saved_anew))


@pytest.mark.slow
def test_its_remedy_mends_it(saved_anew: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved_anew, tmp_path / "mended")
    path = folder / "sentence_bert_config.json"
    content = json.loads(path.read_text())
    content["modality_config"] = {"text": content["modality_config"]["text"]}
    path.write_text(json.dumps(content))
    assert texts(folder)["texts"].level == "ok"


@pytest.mark.slow
def test_a_model_that_may_have_been_trained_so_is_a_warning(saved_anew: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved_anew, tmp_path / "other")
    change(folder, "config_sentence_transformers.json", prompts={})
    finding = texts(folder)["texts"]
    assert finding.level == "warning"
    assert "right only if the model was trained so" in finding.remedy


@pytest.mark.slow
def test_a_tokenizer_without_end_of_text_is_a_failure(embedder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(embedder, tmp_path / "endless")
    change(folder, "tokenizer.json", post_processor=None)
    finding = texts(folder)["pooling"]
    assert finding.level == "failure"
    assert "a text ends in '.', not in <|endoftext|>" in finding.found


@pytest.mark.slow
def test_another_pooling_is_a_failure(embedder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(embedder, tmp_path / "mean")
    change(folder, "1_Pooling/config.json", pooling_mode_lasttoken=False, pooling_mode_mean_tokens=True)
    finding = texts(folder)["pooling"]
    assert finding.level == "failure"
    assert "says mean_tokens, not lasttoken" in finding.found
