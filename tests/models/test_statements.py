"""What a checkpoint's own files say about how it is scored is followed, told, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoTokenizer

from rerank_eval.cli import _run
from rerank_eval.config import RerankerConfig, RetrieverConfig
from rerank_eval.doctor.sources import find_models
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.recipe import Recipe
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.errors import ModelError
from rerank_eval.models.demo import SHIPPED
from rerank_eval.models.pair_templates import written
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers import load_reranker
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from rerank_eval.retrievers.embedders import embedding_engine
from rerank_eval.retrievers.family import load_backend
from tests.models.checkpoints import CARD_DEFAULT, PAIR_TEMPLATE, TRANSFORMER, as_cross_encoder, copy_of, edit
from tests.tiny_classifiers import bert, save

PAIR = ("Parse a JSON document into a Python object", "def loads(s): return json.JSONDecoder().decode(s)")
MARGIN = -3.7486
"""What the shipped reranker says of the pair with the card's prompt and its default instruction."""
TEMPLATE = PAIR_TEMPLATE.replace("DEFAULT", CARD_DEFAULT)


def ids(*words: str) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    found = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    assert [len(one) for one in found] == [1] * len(words)
    return [one[0] for one in found]


def load(folder: Path, **settings: Any) -> Any:
    config = RerankerConfig(model=str(folder), **settings)
    return load_reranking_engine(config, resolve_model(config.model, None, "reranker.model"), "cpu")


def notes(folder: Path, **settings: Any) -> tuple[str, ...]:
    config = RerankerConfig(model=str(folder), **settings)
    ref = resolve_model(config.model, None, "reranker.model")
    return prepare_reranker(config, ref).ref.notes


def margin(engine: Any, instruction: str | None = CARD_DEFAULT) -> float:
    return float(engine.score(QueryGroup(PAIR[0], instruction, [PAIR[1]])).margins[0])


def classification_head(folder: Path) -> Path:
    """The conversion that vLLM's and TEI's users run: one label, whose row is that of yes less that of no."""
    copy_of(
        folder,
        {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}},
    )
    yes, no = ids("yes", "no")
    state = load_file(folder / "model.safetensors")
    rows = state["model.embed_tokens.weight"].float()
    state["score.weight"] = (rows[yes] - rows[no])[None].to(torch.bfloat16)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def theirs(folder: Path, prompt: str | None = None) -> float:
    """What sentence-transformers says of the pair by the same files."""
    model = CrossEncoder(
        str(folder), device="cpu", activation_fn=torch.nn.Identity(), model_kwargs={"dtype": "float32"}
    )
    return float(model.predict([PAIR], prompt=prompt)[0])


def recipe_of(folder: Path, **settings: Any) -> Recipe:
    config = RerankerConfig(model=str(folder), **settings)
    return prepare_reranker(config, resolve_model(config.model, None, "reranker.model")).recipe


def test_a_decoder_with_a_classification_head_is_scored_behind_its_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = classification_head(tmp_path / "converted")
    with pytest.raises(ModelError, match=r"neither local/converted's files nor its name say with which prompt"):
        load_reranker(RerankerConfig(model=str(folder)), "cpu")
    with pytest.raises(ModelError, match=r"set reranker\.kind to causal or auto"):
        load(folder, kind="sequence-classification")
    asked = ["score", "-q", PAIR[0], "-d", PAIR[1], "--set", f"reranker.model={folder}"]
    assert _run([*asked, "--config", str(Path(__file__).parents[2] / "configs" / "base.yaml")]) == 4
    assert "nor its name say with which prompt" in capsys.readouterr().err
    causal = margin(load(SHIPPED, recipe="card"))
    assert causal == pytest.approx(MARGIN, abs=1e-3)
    for engine in ("packed", "reference"):  # its rows were subtracted in bfloat16
        assert margin(load(folder, recipe="card", engine=engine)) == pytest.approx(causal, abs=0.02)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert recipe_of(folder) is RECIPES["card"]
    assert margin(load(folder)) == margin(load(folder, recipe="card"))


def test_a_classification_head_of_two_labels_is_refused(tmp_path: Path) -> None:
    folder = classification_head(tmp_path / "converted")
    edit(folder / "config.json", id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1})
    with pytest.raises(ModelError, match="has 2 labels; a reranker has one"):
        load(folder, recipe="card")


def test_doctor_fails_where_a_run_would_be_refused(tmp_path: Path) -> None:
    from rerank_eval.config import load_config

    folder = classification_head(tmp_path / "converted")
    config = Path(__file__).parents[2] / "configs" / "base.yaml"
    subjects, findings = find_models(load_config(config, [f"reranker.model={folder}"]))
    assert [subject.role for subject in subjects] == ["retriever"]
    assert [finding.level for finding in findings] == ["failure"]


def test_a_prompt_and_answers_that_are_a_known_recipes_are_called_by_its_name(tmp_path: Path) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), *ids("yes", "no"), TEMPLATE)
    assert notes(folder) == ()
    assert recipe_of(folder) is RECIPES["card"]
    assert margin(load(folder, instruction="default")) == pytest.approx(MARGIN, abs=1e-3)
    assert theirs(folder) == pytest.approx(MARGIN, abs=1e-3)


def test_other_answers_of_logit_score_are_followed_and_a_recipe_of_others_refused(tmp_path: Path) -> None:
    true, false = ids("true", "false")
    folder = as_cross_encoder(copy_of(tmp_path / "model"), true, false, TEMPLATE)
    assert (recipe_of(folder).yes, recipe_of(folder).no) == (true, false)
    assert recipe_of(folder).name.startswith("checkpoint@")
    assert margin(load(folder)) == pytest.approx(theirs(folder), abs=1e-3)
    message = rf"answers with 'true' .* by its 1_LogitScore/config\.json, recipe card .*auto, .*`yes: {true}`"
    with pytest.raises(ModelError, match=message):
        load(folder, recipe="card")
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"extends: card\nyes: 'true'\nno: {false}\n")
    assert margin(load(folder, recipe=str(recipe))) == margin(load(folder))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "./1_LogitScore/"  # opened by the name that the hub's list of files has
    (folder / "modules.json").write_text(json.dumps(modules))
    assert recipe_of(folder).yes == true
    (folder / "modules.json").unlink()  # the file alone says as much
    assert recipe_of(folder).yes == true


def test_one_answer_alone_is_its_logit(tmp_path: Path) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), ids("yes")[0], None, TEMPLATE)
    assert recipe_of(folder).no is None
    for engine in ("packed", "reference"):
        assert margin(load(folder, engine=engine)) == pytest.approx(theirs(folder), abs=1e-3)
    with pytest.raises(ModelError, match=r"answers with 'yes' .* alone by its .*`no: null`"):
        load(folder, recipe="card")


@pytest.mark.parametrize("changes", [{"true_token_id": None}, {"module_input_name": "scores"}])
def test_scores_that_no_recipe_reads_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), *ids("yes", "no"), TEMPLATE)
    edit(folder / "1_LogitScore" / "config.json", **changes)
    for recipe in ("auto", "card"):
        with pytest.raises(ModelError, match="does not say which token's logit"):
            load(folder, recipe=recipe)


def test_an_answer_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), 10**6, None, TEMPLATE)
    with pytest.raises(ModelError, match=r"the answer is token 1000000, and the model's output layer has"):
        load(folder)


def test_answers_without_a_prompt_are_refused_or_told(tmp_path: Path) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), *ids("yes", "no"))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="nor its name say with which prompt"):
        load(folder)
    assert notes(folder, recipe="card") == ("its files name no prompt; recipe card was taken",)


def test_a_prompt_without_answers_is_refused(tmp_path: Path) -> None:
    folder = copy_of(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with pytest.raises(ModelError, match="no file of it says which token's logit is the answer"):
        load(folder)


def test_a_folder_of_a_known_models_name_is_told_which_recipe_that_has(tmp_path: Path) -> None:
    folder = copy_of(tmp_path / "Qwen3-Reranker-0.6B")
    with pytest.raises(ModelError, match=r"\(card is that of Qwen/Qwen3-Reranker-0\.6B on the hub\)"):
        load(folder)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_another_prompt_of_the_chat_template_is_followed_unless_the_config_chose(tmp_path: Path, place: str) -> None:
    other = TEMPLATE.replace("<Query>:", "Query:")
    folder = as_cross_encoder(copy_of(tmp_path / "model"), *ids("yes", "no"), other)
    if place == "tokenizer_config.json":
        (folder / "chat_template.jinja").unlink()
        edit(folder / place, chat_template=other)
    assert margin(load(folder)) == pytest.approx(theirs(folder), abs=1e-3)
    [note] = notes(folder, recipe="qwen_eval")
    assert "its chat template writes another prompt than recipe qwen_eval" in note
    assert "the config names the recipe" in note
    recipe = tmp_path / "own.yaml"
    recipe.write_text('extends: card\nquery_template: "Query: {query}\\n<Document>:"\n')
    assert notes(folder, recipe=str(recipe)) == ()


def test_the_checkpoints_default_instruction_is_the_default(tmp_path: Path) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), *ids("yes", "no"), TEMPLATE)
    saved = {"prompts": {"tools": "Find a tool"}, "default_prompt_name": "tools"}
    edit(folder / "config_sentence_transformers.json", **saved)
    assert recipe_of(folder).default_instruction == "Find a tool"
    found = next(iter(load(folder).score_groups([QueryGroup(PAIR[0], "Find a tool", [PAIR[1]])]))).margins[0]
    assert found == pytest.approx(theirs(folder), abs=1e-3)
    [note] = notes(folder, recipe="card")
    assert "its default instruction is not that of recipe card" in note
    assert notes(folder, recipe="card", instruction="Find a tool") == ()


PLAIN = (
    "{%- for m in messages %}{%- if m['role'] == 'system' %}{%- elif m['role'] == 'query' %}Q: {{ m['content'] }}\n"
    "{%- else %}D: {{ m['content'] }}\nRelevant?{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [PLAIN, PLAIN.replace("['role'] == 'query'", ".role[0] == 'q'")])
def test_a_template_for_pairs_is_known_by_what_it_writes(tmp_path: Path, template: str) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), *ids("yes", "no"), template)
    recipe = recipe_of(folder)
    assert recipe.prompt("q", "d", None) == "Q: qD: d\nRelevant?"
    assert recipe.prompt("q", "d", "only x") == "Q: q only xD: d\nRelevant?"  # the template reads no instruction
    assert recipe.default_instruction is None
    assert margin(load(folder), None) == pytest.approx(theirs(folder), abs=1e-3)


_MESSAGES = "{%- for m in messages if m.role == ROLE %}{{ m.content }}{% endfor -%}"
_SYSTEM, _QUERY, _DOCUMENT = (_MESSAGES.replace("ROLE", f"'{role}'") for role in ("system", "query", "document"))
_IF = "{%- if messages[0].role == 'system' -%}"
_BREAK, _END = "{{ '\n' }}", "{%- endif -%}"
ORDERS = {
    "instruction in front": f"{_IF}Task: {_SYSTEM}{_BREAK}{_END}Q: {_QUERY} D: {_DOCUMENT} so?",
    "instruction behind": f"Q: {_QUERY}{_IF}{_BREAK}Task: {_SYSTEM}{_END}{_BREAK}D: {_DOCUMENT} so?",
    "document first": f"D: {_DOCUMENT}{_BREAK}Q: {_QUERY}{_IF}{{{{ ' ' }}}}{_SYSTEM}{_END}{{{{ ' ??' }}}}",
    "instruction and document first": f"{_IF}Task: {_SYSTEM}{_BREAK}{_END}D: {_DOCUMENT}, Q: {_QUERY} so?",
    "framed": f"{_IF}<q>{_QUERY}</q><i>{_SYSTEM}</i>{{%- else -%}}{_QUERY}{{%- endif -%}}<d>{_DOCUMENT}</d>",
}


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_templates_of_any_order_become_recipes(tmp_path: Path, name: str) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), *ids("yes", "no"), ORDERS[name])
    ref = resolve_model(str(folder), None, "reranker.model")
    recipe = recipe_of(folder)
    for query, document, instruction in [("a", "b", "c"), (" a?\n", "\n{b} ", " c\n"), ("", "", "x")]:
        assert recipe.prompt(query, document, instruction) == written(ref, instruction, query, document)
        assert recipe.prompt(query, document, None) == written(ref, None, query, document)
    for engine in ("packed", "reference"):
        for instruction in (None, "Find the tool"):
            found = margin(load(folder, engine=engine), instruction)
            assert found == pytest.approx(theirs(folder, instruction), abs=1e-3)


@pytest.mark.parametrize("template", [TEMPLATE, ORDERS["document first"]])
def test_a_long_prompt_is_cut_as_sentence_transformers_does(tmp_path: Path, template: str) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), *ids("yes", "no"), template)
    model = CrossEncoder(
        str(folder), device="cpu", activation_fn=torch.nn.Identity(), model_kwargs={"dtype": "float32"}
    )
    model.max_seq_length = 150
    document = PAIR[1] * 20
    wanted = float(model.predict([(PAIR[0], document)])[0])
    instruction = recipe_of(folder).default_instruction
    for engine in ("packed", "reference"):
        group = QueryGroup(PAIR[0], instruction, [document])
        scores = load(folder, max_length=150, engine=engine).score(group)
        assert (scores.tokens.tolist(), scores.truncated.tolist()) == ([150], [True])
        assert scores.margins[0] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (f"{_QUERY} {_DOCUMENT} {_QUERY}?", "writes the query twice"),
        (f"{_IF}query{{%- endif -%}}'document' {_QUERY}?", "leaves out the document"),
        (f"{_QUERY} {_DOCUMENT.replace('m.content', 'm.content | trim')}?", "on other texts, which no recipe does"),
        (f"Q: {_QUERY} D: {_DOCUMENT}{_IF} I: {_SYSTEM}{{%- endif -%}}?", "query, document, instruction in this order"),
        (f"{_QUERY} {{{{ '{{' }}}} {_DOCUMENT}?", "its chat template: "),
    ],
)
def test_templates_that_no_recipe_says_are_refused(tmp_path: Path, template: str, message: str) -> None:
    folder = as_cross_encoder(copy_of(tmp_path / "model"), *ids("yes", "no"), template)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_a_chat_template_that_cannot_be_rendered_is_one_line(tmp_path: Path) -> None:
    folder = as_cross_encoder(
        copy_of(tmp_path / "model"), *ids("yes", "no"), "{{ raise_exception('no') }} 'query' 'document'"
    )
    with pytest.raises(ModelError, match="its chat template cannot be rendered"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, r"is quantised by its config\.json \(gptq\)"),
        ({"is_causal": False}, "attends in both directions"),
    ],
)
def test_arithmetic_that_is_not_computed_here_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(copy_of(tmp_path / "model", config), recipe="card")


@pytest.mark.parametrize(
    "name", ["sentence_bert_config.json", "config_sentence_transformers.json", "tokenizer_config.json", "modules.json"]
)
@pytest.mark.parametrize("content", ["{", '"text"'])
def test_a_file_that_cannot_be_understood_is_refused_and_not_passed_over(
    tmp_path: Path, name: str, content: str
) -> None:
    folder = save(bert(), tmp_path / "model")
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=f"its {name}"):
        load(folder)


def test_code_of_its_own_is_run_or_refused_and_never_left_out(tmp_path: Path) -> None:
    code = {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
    folder = copy_of(tmp_path / "model", code)
    with pytest.raises(ModelError, match=r"runs on Python code that comes with it .* to allow it"):
        load(folder)
    with pytest.raises(ModelError, match=r"which the packed engine does not know; set it to reference"):
        load(folder, trust_remote_code=True)
    (folder / "modeling_own.py").write_text(
        "from transformers import Qwen3ForCausalLM\n\n\nclass Own(Qwen3ForCausalLM):\n    pass\n"
    )
    found = margin(load(folder, trust_remote_code=True, engine="reference", recipe="card"))
    assert found == pytest.approx(MARGIN, abs=1e-3)


def test_a_tokenizers_or_sentence_transformers_limit_is_kept(tmp_path: Path) -> None:
    folder = copy_of(tmp_path / "model", {"max_position_embeddings": 4096})
    edit(folder / "tokenizer_config.json", model_max_length=300)
    assert load(folder, recipe="card").settings["max_length"] == 300
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 200}')
    assert load(folder, recipe="card").settings["max_length"] == 200


def test_modules_behind_the_network_are_refused(tmp_path: Path) -> None:
    folder = copy_of(tmp_path / "model")
    dense = {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}
    (folder / "modules.json").write_text(json.dumps([TRANSFORMER, dense]))
    with pytest.raises(ModelError, match="is scored through Transformer, Dense"):
        load(folder)
    (folder / "modules.json").write_text(json.dumps([TRANSFORMER | {"path": "0_Transformer"}]))
    with pytest.raises(ModelError, match="keeps its transformer in 0_Transformer"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"num_labels": 2}, "2 labels|a reranker has one"),
        ("config.json", {"id2label": {"0": "a", "1": "b", "2": "c"}}, "has 3 labels"),
        ("config.json", {"is_decoder": True}, "attends causally"),
        ("config.json", {"position_embedding_type": "relative_key_query"}, "relative_key_query positions"),
        ("config.json", {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Softmax"}}, "Softmax"),
        ("config.json", {"sbert_ce_default_activation_function": "torch.nn.ReLU"}, "ReLU"),
        ("config_sentence_transformers.json", {"activation_fn": "own.module.Square"}, "own.module.Square"),
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.modules.linear.Identity"}, None),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
            "puts 'query: ' before every query",
        ),
        ("config_sentence_transformers.json", {"prompts": {"query": "query: "}, "default_prompt_name": None}, None),
        ("config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": "q"}, "none of its prompts"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "changes its texts by do_lower_case"),
        ("sentence_bert_config.json", {"query_length": 32}, "changes its texts by query_length"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"x": 1}}}, r"by processing_kwargs\.text"),
        ("sentence_bert_config.json", {"transformer_task": "feature-extraction"}, "is saved for feature-extraction"),
        ("sentence_bert_config.json", {"transformer_task": "sequence-classification", "unpad_inputs": True}, None),
        ("tokenizer_config.json", {"truncation_side": "left"}, "cuts long texts at their beginning"),
        ("tokenizer_config.json", {"chat_template": PAIR_TEMPLATE}, "writes query and document into a prompt"),
        ("modules.json", [TRANSFORMER, {"path": "1_D", "type": "x.Dense"}], "is scored through Transformer, Dense"),
    ],
)
def test_what_a_classifiers_files_say(tmp_path: Path, file: str, content: Any, message: str | None) -> None:
    folder = save(bert(), tmp_path / "model")
    path = folder / file
    if isinstance(content, dict):
        before = json.loads(path.read_text()) if path.is_file() else {}
        if "num_labels" in content:
            before.pop("id2label", None)
        content = before | content
    path.write_text(json.dumps(content))
    if message is None:
        load(folder)
    else:
        with pytest.raises(ModelError, match=message):
            load(folder)


def test_the_length_that_sentence_transformers_saved_is_kept(tmp_path: Path) -> None:
    folder = save(bert(), tmp_path / "model")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 77}')
    assert load(folder).max_length == 77


def test_a_classifier_whose_tokenizer_joins_the_pair_bare_is_refused(tmp_path: Path) -> None:
    """nemotron's kind: an encoder by its class, trained behind `question: ... passage: ...`."""
    folder = save(bert(), tmp_path / "model")
    bare = AutoTokenizer.from_pretrained(SHIPPED)
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").unlink(missing_ok=True)
    bare.save_pretrained(folder)
    with pytest.raises(ModelError, match="puts nothing between query and document"):
        load(folder, max_length=128)


def encoder(folder: Path, **settings: Any) -> Path:
    """An encoder as Qwen3-Embedding is saved, from the shipped reranker's weights."""
    base = copy_of(folder.with_name(f"{folder.name}-base"))
    module = Transformer(str(base))
    SentenceTransformer(
        modules=[module, Pooling(module.get_embedding_dimension(), "lasttoken"), Normalize()], **settings
    ).save(str(folder))
    (folder / "sentence_bert_config.json").unlink()
    return folder


def engine_of(folder: Path) -> str:
    config = RetrieverConfig(model=str(folder))
    return embedding_engine(config, resolve_model(config.model, None, "retriever.model"))


def test_a_default_prompt_keeps_an_encoder_from_the_engine_that_sends_none(tmp_path: Path) -> None:
    plain = encoder(tmp_path / "plain")
    assert engine_of(plain) == "packed"
    prompted = encoder(tmp_path / "prompted", prompts={"all": "text: "}, default_prompt_name="all")
    assert engine_of(prompted) == "sentence-transformers"
    assert "default_prompt_name" in (prompted / "config_sentence_transformers.json").read_text()


def test_a_transformer_elsewhere_keeps_an_encoder_from_the_engine_that_reads_the_root(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "model")
    inside = folder / "0_Transformer"
    inside.mkdir()
    for path in [*folder.glob("*.json"), folder / "model.safetensors"]:
        if path.name != "modules.json":
            shutil.copy(path, inside)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    before = resolve_model(str(folder), None, "retriever.model").revision
    assert engine_of(folder) == "sentence-transformers"
    weights = load_file(inside / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, inside / "model.safetensors", {"format": "pt"})
    assert resolve_model(str(folder), None, "retriever.model").revision != before


def test_an_encoder_is_refused_as_a_reranker(tmp_path: Path) -> None:
    """Qwen3-Embedding's architecture is Qwen3ForCausalLM: its yes and no would be read, and mean nothing."""
    folder = encoder(tmp_path / "model")
    edit(folder / "config.json", architectures=["Qwen3ForCausalLM"])
    with pytest.raises(
        ModelError, match=r"is an encoder \(Pooling in its modules\.json\); name it as retriever\.model"
    ):
        load(folder)


@pytest.mark.parametrize("kind", ["classifier", "CrossEncoder", "LogitScore", "no modules", "published reranker"])
def test_what_is_no_encoder_is_refused_as_a_retriever(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    if kind == "classifier":
        save(bert(), folder)
    else:
        copy_of(folder)
    if kind in {"LogitScore", "CrossEncoder"}:
        as_cross_encoder(folder, *ids("yes", "no"))
    if kind == "LogitScore":
        (folder / "config_sentence_transformers.json").unlink()
    config = RetrieverConfig(model=str(folder))
    ref = resolve_model(config.model, None, "retriever.model")
    if kind == "published reranker":
        import dataclasses

        ref = dataclasses.replace(ref, name="Qwen/Qwen3-Reranker-0.6B", origin="mirror")
    message = "no modules.json" if kind == "no modules" else "is a reranker"
    with pytest.raises(ModelError, match=message):
        load_backend(config, ref, "cpu")


def test_settled_checkpoints_are_left_alone() -> None:
    config = RerankerConfig(model="demo:qwen3-python")
    ref = resolve_model(config.model, None, "reranker.model")
    assert prepare_reranker(config, ref).ref == ref
    scores = [margin(load(SHIPPED, recipe="card")) for _ in range(2)]
    assert np.ptp(scores) == 0
