"""Whatever a file that this project did not write may say is followed, refused, told, or changes no score.

The table names for each thing said the verdict and the test that shows it. It is complete against the installed
packages: a key that sentence-transformers, mteb or transformers begins to save fails here until it has a row.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
from mteb.results import TaskResult
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.recipes import RecipeFile
from tests.tiny_classifiers import bert, save

Verdict = Literal["followed", "refused", "told", "changes no score"]
ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One thing that a file may say."""

    file: str
    says: str
    verdict: Verdict
    shown: str


def rows(file: str, *entries: tuple[str, Verdict, str]) -> list[Row]:
    return [Row(file, says, verdict, shown) for says, verdict, shown in entries]


CONTENTS, STATEMENTS = "models/test_contents.py", "models/test_statements.py"
CLASSIFIER = f"{STATEMENTS}::test_what_a_classifiers_files_say"
DENSE = "models/test_dense.py::test_auto_leaves_to_sentence_transformers_what_packed_would_change"
LOADING = "engine/test_engine_loading.py"
QRELS, BEIR, TREC = "analysis/test_qrels.py", "tasks/test_beir.py", "analysis/test_trec.py"
CANDIDATES, RESULTS = "tasks/test_candidates.py", "analysis/test_mteb_results.py"

TABLE = [
    *rows(
        "a checkpoint's folder",
        (
            "a whole file beside shards",
            "refused",
            f"{CONTENTS}::test_a_whole_file_beside_shards_can_be_read_in_two_ways",
        ),
        ("the same, published", "told", f"{CONTENTS}::test_what_transformers_loads_is_what_is_listed"),
        (
            "adapter_config.json, adapter weights",
            "refused",
            f"{CONTENTS}::test_what_is_no_checkpoint_of_one_reading_is_refused",
        ),
        (
            "weights of other names or formats",
            "refused",
            f"{CONTENTS}::test_what_is_no_checkpoint_of_one_reading_is_refused",
        ),
        ("weights in modules' folders", "followed", f"{CONTENTS}::test_a_modules_weights_change_a_retrievers_revision"),
        (
            "training's own checkpoints beside it",
            "changes no score",
            f"{CONTENTS}::test_files_that_no_loader_opens_are_no_part_of_a_checkpoint",
        ),
        (
            "code of its own (.py)",
            "refused",
            f"{STATEMENTS}::test_code_of_its_own_is_run_or_refused_and_never_left_out",
        ),
        (
            "a JSON file that is none",
            "refused",
            f"{STATEMENTS}::test_a_file_that_cannot_be_understood_is_refused_and_not_passed_over",
        ),
    ),
    *rows(
        "model.safetensors.index.json",
        ("weight_map", "followed", f"{CONTENTS}::test_a_whole_file_beside_shards_can_be_read_in_two_ways"),
        ("metadata", "changes no score", f"{CONTENTS}::test_a_whole_file_beside_shards_can_be_read_in_two_ways"),
    ),
    *rows(
        "config.json",
        (
            "architectures",
            "followed",
            f"{STATEMENTS}::test_a_decoder_with_a_classification_head_is_scored_behind_its_prompt",
        ),
        ("model_type", "followed", f"{LOADING}::test_checkpoints_that_do_not_fit"),
        ("transformers_weights", "followed", f"{CONTENTS}::test_what_transformers_loads_is_what_is_listed"),
        ("quantization_config", "refused", f"{STATEMENTS}::test_arithmetic_that_is_not_computed_here_is_refused"),
        (
            "is_causal, use_bidirectional_attention",
            "refused",
            f"{STATEMENTS}::test_arithmetic_that_is_not_computed_here_is_refused",
        ),
        ("layer_types, sliding_window", "refused", f"{LOADING}::test_checkpoints_that_do_not_fit"),
        ("is_decoder", "refused", CLASSIFIER),
        ("position_embedding_type", "refused", CLASSIFIER),
        ("id2label, num_labels", "refused", CLASSIFIER),
        ("sentence_transformers.activation_fn, sbert_ce_default_activation_function", "refused", CLASSIFIER),
        (
            "max_position_embeddings",
            "followed",
            "models/test_classifiers.py::test_a_causal_reranker_reads_no_more_than_it_was_made_for",
        ),
        ("auto_map", "refused", f"{STATEMENTS}::test_code_of_its_own_is_run_or_refused_and_never_left_out"),
        ("tie_word_embeddings", "followed", f"{LOADING}::test_a_head_of_its_own_is_read_and_not_taken_to_be_tied"),
        ("dtype", "changes no score", f"{LOADING}::test_the_dtype_is_the_one_asked_for"),
    ),
    *rows(
        "modules.json",
        ("type", "refused", f"{STATEMENTS}::test_modules_behind_the_network_are_refused"),
        ("path", "refused", f"{STATEMENTS}::test_modules_behind_the_network_are_refused"),
        ("idx", "changes no score", f"{STATEMENTS}::test_modules_behind_the_network_are_refused"),
        ("name", "changes no score", f"{STATEMENTS}::test_modules_behind_the_network_are_refused"),
        ("Pooling, for a reranker", "refused", f"{STATEMENTS}::test_an_encoder_is_refused_as_a_reranker"),
        ("LogitScore, for a retriever", "refused", f"{STATEMENTS}::test_what_is_no_encoder_is_refused_as_a_retriever"),
        ("nothing, for a retriever", "refused", f"{STATEMENTS}::test_what_is_no_encoder_is_refused_as_a_retriever"),
        (
            "a transformer elsewhere, for a retriever",
            "followed",
            f"{STATEMENTS}::test_a_transformer_elsewhere_keeps_an_encoder_from_the_engine_that_reads_the_root",
        ),
    ),
    *rows(
        "1_LogitScore/config.json",
        (
            "true_token_id",
            "followed",
            f"{STATEMENTS}::test_a_prompt_and_answers_that_are_a_known_recipes_are_called_by_its_name",
        ),
        (
            "false_token_id",
            "followed",
            f"{STATEMENTS}::test_other_answers_of_logit_score_are_followed_and_a_recipe_of_others_refused",
        ),
        ("module_input_name", "refused", f"{STATEMENTS}::test_scores_that_no_recipe_reads_are_refused"),
    ),
    *rows(
        "1_Pooling/config.json",
        ("pooling_mode", "followed", DENSE),
        ("include_prompt", "followed", DENSE),
        ("embedding_dimension", "changes no score", DENSE),
    ),
    *rows(
        "2_Normalize/config.json",
        ("module_input_name", "followed", DENSE),
        ("module_output_name", "changes no score", DENSE),
    ),
    *rows(
        "sentence_bert_config.json",
        ("transformer_task", "refused", CLASSIFIER),
        ("modality_config", "followed", DENSE),
        (
            "module_output_name",
            "changes no score",
            f"{STATEMENTS}::test_a_prompt_and_answers_that_are_a_known_recipes_are_called_by_its_name",
        ),
        ("processing_kwargs", "refused", CLASSIFIER),
        ("unpad_inputs", "changes no score", CLASSIFIER),
        ("query_length", "refused", CLASSIFIER),
        ("document_length", "refused", CLASSIFIER),
        ("query_expansion", "refused", CLASSIFIER),
        ("do_lower_case", "refused", CLASSIFIER),
        ("max_seq_length", "followed", f"{STATEMENTS}::test_the_length_that_sentence_transformers_saved_is_kept"),
    ),
    *rows(
        "config_sentence_transformers.json",
        ("prompts", "followed", "models/test_dense.py::test_saved_prompts_of_another_form_are_used_as_they_are"),
        (
            "default_prompt_name",
            "followed",
            f"{STATEMENTS}::test_the_checkpoints_default_instruction_is_the_default",
        ),
        (
            "default_prompt_name, for a retriever",
            "followed",
            f"{STATEMENTS}::test_a_default_prompt_keeps_an_encoder_from_the_engine_that_sends_none",
        ),
        ("model_type", "refused", f"{STATEMENTS}::test_what_is_no_encoder_is_refused_as_a_retriever"),
        ("activation_fn", "refused", CLASSIFIER),
        ("similarity_fn_name", "followed", DENSE),
        ("truncate_dim", "followed", DENSE),
        ("__version__", "changes no score", CLASSIFIER),
    ),
    *rows(
        "tokenizer files",
        (
            "chat_template.jinja, chat_template",
            "followed",
            f"{STATEMENTS}::test_another_prompt_of_the_chat_template_is_followed_unless_the_config_chose",
        ),
        (
            "a template that cannot be rendered",
            "refused",
            f"{STATEMENTS}::test_a_chat_template_that_cannot_be_rendered_is_one_line",
        ),
        ("model_max_length", "followed", f"{STATEMENTS}::test_a_tokenizers_or_sentence_transformers_limit_is_kept"),
        ("truncation_side", "refused", CLASSIFIER),
        (
            "tokens added around a text",
            "refused",
            "engine/test_prompts.py::test_unsuitable_tokenizers_and_limits_are_refused",
        ),
        (
            "nothing between query and document",
            "refused",
            f"{STATEMENTS}::test_a_classifier_whose_tokenizer_joins_the_pair_bare_is_refused",
        ),
        ("more tokens than the model has rows", "refused", f"{LOADING}::test_a_tokenizer_that_outgrows_the_model"),
    ),
    *rows(
        "corpus.jsonl, queries.jsonl",
        ("_id, title, text, instruction", "followed", f"{BEIR}::test_mteb_evaluates_it"),
        ("an id that stands twice", "refused", f"{BEIR}::test_what_is_wrong_is_told_by_file_and_line"),
        ("a document that is a query's own", "followed", f"{CANDIDATES}::test_a_query_s_own_document_in_a_folder"),
        (
            "a document of a query's id and other text",
            "told",
            f"{CANDIDATES}::test_the_same_id_with_another_text_is_kept_and_told",
        ),
    ),
    *rows(
        "judgements (qrels)",
        (
            "query, document and grade, under any name and in any order",
            "followed",
            f"{QRELS}::test_every_way_of_writing_the_same_judgements",
        ),
        ("a header of other columns", "refused", f"{QRELS}::test_what_cannot_be_read_is_one_line_with_its_place"),
        ("further columns", "told", f"{QRELS}::test_a_column_that_says_nothing_about_relevance_is_told_once"),
        ("comments", "followed", f"{QRELS}::test_every_way_of_writing_the_same_judgements"),
        ("a pair twice", "told", f"{QRELS}::test_a_judgement_that_stands_twice_is_told_and_counts_once"),
        (
            "ids that are not there",
            "told",
            "analysis/test_conventions.py::test_a_few_unknown_ids_in_a_folder_are_told_counted_and_scored_as_everywhere",
        ),
        ("several splits", "followed", "tasks/test_splits.py::test_two_splits_of_a_folder_stand_side_by_side"),
    ),
    *rows(
        "hub data sets",
        (
            "lists of allowed documents (BRIGHT)",
            "followed",
            f"{CANDIDATES}::test_what_bright_excludes_is_no_candidate_and_the_others_are_retrieved",
        ),
        (
            "candidates of its own",
            "followed",
            f"{CANDIDATES}::test_a_task_of_reranking_keeps_all_of_its_lists_unless_told_otherwise",
        ),
        (
            "main_score",
            "followed",
            "analysis/test_measures.py::test_every_main_score_of_mteb_s_retrieval_and_reranking_tasks_is_known",
        ),
        ("ignore_identical_ids", "followed", f"{CANDIDATES}::test_a_hub_task_is_as_mteb_has_it_and_says_so"),
    ),
    *rows(
        "TREC runs",
        ("query, document, score", "followed", f"{TREC}::test_every_tool_reads_the_same_numbers_back"),
        ("rank", "told", f"{TREC}::test_ranks_that_contradict_the_scores_are_told"),
        ("a document twice", "refused", f"{TREC}::test_a_malformed_run_names_the_line"),
        ("nothing", "refused", "pipeline/test_run_files.py::test_an_empty_run_is_refused"),
        ("not all queries", "refused", "pipeline/test_run_files.py::test_missing_queries_want_a_choice"),
    ),
    *rows(
        "results of other tools (mteb's layout)",
        ("scores", "followed", f"{RESULTS}::test_what_mteb_writes_is_read_as_mteb_reads_it"),
        ("task_name", "refused", f"{RESULTS}::test_a_file_of_another_task_or_with_a_subset_twice_is_left_out"),
        ("dataset_revision", "told", "analysis/test_verdicts.py::test_a_wrong_retriever_shows_task_by_task"),
        ("mteb_version", "told", "analysis/test_verdicts.py::test_verdicts_follow_the_tolerance"),
        ("evaluation_time", "changes no score", f"{RESULTS}::test_what_mteb_writes_is_read_as_mteb_reads_it"),
        ("evaluation_phases", "changes no score", f"{RESULTS}::test_what_mteb_writes_is_read_as_mteb_reads_it"),
        ("kg_co2_emissions", "changes no score", f"{RESULTS}::test_what_mteb_writes_is_read_as_mteb_reads_it"),
        ("date", "changes no score", f"{RESULTS}::test_what_mteb_writes_is_read_as_mteb_reads_it"),
        (
            "another model's name inside",
            "refused",
            "pipeline/test_reproduce.py::test_files_in_a_folder_named_like_another_model_are_refused",
        ),
    ),
    *rows(
        "recipes (YAML)",
        *(
            (name, "followed", "models/test_recipes.py::test_every_field_of_a_recipe_can_be_given")
            for name in RecipeFile.model_fields
        ),
        ("any other key", "refused", "models/test_recipes.py::test_a_malformed_recipe_gives_one_line"),
    ),
    *rows(
        "instruction sets (YAML)",
        *(
            (name, "followed", "models/test_instruction_sets.py::test_a_set_extends_another")
            for name in InstructionSet.model_fields
        ),
        ("any other key", "refused", "models/test_instruction_sets.py::test_a_malformed_set_gives_one_line"),
    ),
]
"""What may be said, and what becomes of it."""


def said(file: str) -> set[str]:
    return {row.says for row in TABLE if row.file == file}


@cache
def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.file}: {row.says}"[:80])
def test_each_row_is_shown_by_a_test_that_is_there(row: Row) -> None:
    file, _, name = row.shown.partition("::")
    assert name in names_in(ROOT / file)


def test_nothing_stands_twice() -> None:
    assert len({(row.file, row.says) for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("1_LogitScore/config.json", LogitScore.config_keys),
        ("1_Pooling/config.json", Pooling.config_keys),
        ("2_Normalize/config.json", Normalize.config_keys),
        ("sentence_bert_config.json", Transformer.config_keys),
        ("results of other tools (mteb's layout)", list(TaskResult.model_fields)),
    ],
)
def test_every_key_that_a_package_saves_has_a_row(file: str, keys: list[str]) -> None:
    assert set(keys) <= said(file)


def test_every_key_of_a_saved_cross_encoder_has_a_row(tmp_path: Path) -> None:
    CrossEncoder(str(save(bert(), tmp_path / "bert"))).save(str(tmp_path / "saved"))
    for name in ("config_sentence_transformers.json", "sentence_bert_config.json"):
        assert set(json.loads((tmp_path / "saved" / name).read_text())) <= said(name)
    [module] = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert set(module) <= said("modules.json")
