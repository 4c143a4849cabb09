from __future__ import annotations

from collections import Counter
from pathlib import Path

import mteb
import pytest
import yaml

from rerank_eval.config import load_config
from rerank_eval.errors import ConfigError
from rerank_eval.models.instruction_sets import InstructionSet, find_instruction_set, shown_instruction
from rerank_eval.rerankers.instructions import InstructionPolicy, task_prompt
from rerank_eval.shipped import instruction_set_names
from rerank_eval.tasks.suites import load_suites

CARD_SUITES = ("MTEB-R", "CMTEB-R", "MMTEB-R", "MLDR", "MTEB-Code", "FollowIR")
TASKS = {task.name for suite in CARD_SUITES for task in load_suites()[suite].tasks}


class Metadata:
    prompt = {"query": "the task's prompt"}

    def __init__(self, name: str) -> None:
        self.name = name


def write(path: Path, **content: object) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def read(setting: str) -> InstructionSet:
    found = find_instruction_set(setting, "own.yaml: reranker.instruction")
    assert found is not None
    return found


def policy(instructions: InstructionSet, **options: bool) -> InstructionPolicy:
    return InstructionPolicy(instructions.name, "the default one", instructions=instructions, **options)


def test_the_set_mteb_is_what_the_installed_mteb_says() -> None:
    prompts = {name: task_prompt(mteb.get_task(name).metadata) for name in sorted(TASKS)}
    assert read("mteb").tasks == {name: prompt for name, prompt in prompts.items() if prompt}, (
        "mteb has changed a prompt: bring evals/instructions/mteb.yaml up to date"
    )


@pytest.mark.parametrize("name", instruction_set_names())
def test_every_set_names_its_source_and_tasks_that_exist(name: str) -> None:
    found = read(name)
    assert found.name == name
    assert found.source != str(name)
    assert set(found.tasks) <= TASKS


def test_the_set_qwen_leaves_out_one_task_alone() -> None:
    assert TASKS - set(read("qwen").tasks) == {"MultiLongDocRetrieval"}


def test_the_set_of_the_script_differs_where_it_formats_a_dictionary() -> None:
    clean, script = read("qwen"), read("qwen-script")
    apart = {name for name in TASKS if clean.for_pair(name) != script.for_pair(name)}
    assert apart == {"ArguAna", "CQADupstackGamingRetrieval", "CQADupstackUnixRetrieval"}
    for name in TASKS:
        for document in (False, True):
            assert clean.for_text(name, document=document) == script.for_text(name, document=document)
    for name in apart:
        told = {"query": clean.for_text(name, document=False), "passage": clean.for_text(name, document=True)}
        assert script.for_pair(name) == str(told)


def test_the_model_card_s_config_says_what_the_suites_say() -> None:
    config = load_config(Path(__file__).parents[2] / "configs" / "model-card.yaml")
    causal = [run for run in config.runs if run.reranker is not None and "Qwen3-Reranker" in run.reranker.model]
    assert len(causal) == 3
    for suite in CARD_SUITES:
        how = load_suites()[suite].published_with
        assert how is not None
        for run in causal:
            assert run.reranker is not None
            assert (run.reranker.recipe, run.reranker.instruction) == (how.recipe, how.instruction)
            assert run.retriever.instruction == how.retriever_instruction


@pytest.mark.parametrize(
    ("otherwise", "expected"),
    [
        ("default", "the default one"),
        ("none", None),
        ("task", "the task's prompt"),
        ("Find what answers.", "Find what answers."),
    ],
)
def test_a_task_that_is_left_out_inherits_nothing(tmp_path: Path, otherwise: str, expected: str | None) -> None:
    found = read(write(tmp_path / "mine.yaml", otherwise=otherwise, tasks={"A": "about A"}))
    chooser = policy(found)
    chosen = [chooser.choose(None, Metadata(name)) for name in ("A", "B", "A")]
    assert [text for _, text in chosen] == ["about A", expected, "about A"]
    assert chooser.summary(Counter(chosen))["distinct"] == 2


def test_a_query_s_own_instruction_comes_before_the_set() -> None:
    chooser = policy(read("qwen"))
    chosen = [chooser.choose(own, Metadata("Core17InstructionRetrieval")) for own in ("only x", None)]
    assert chosen[0] == ("query", "only x")
    assert (chosen[1][1] or "").startswith("Retrieval the relevant")
    summary = chooser.summary(Counter(chosen))
    assert summary["origins"] == {"query": 1, "set": 1}
    assert summary["set"]["name"] == read("qwen").identity
    joined = policy(read("qwen"), joins_own=True)
    assert joined.query_text("q", "only x") == "q only x"


def test_identity_follows_the_texts_and_nothing_else(tmp_path: Path) -> None:
    one = read(write(tmp_path / "mine.yaml", tasks={"A": "about A", "B": {"query": "about B"}}))
    same = read(write(tmp_path / "mine.yaml", source="a book", tasks={"B": "about B", "A": "about A"}))
    other = read(write(tmp_path / "mine.yaml", tasks={"A": "about A", "B": "about C"}))
    stricter = read(write(tmp_path / "mine.yaml", otherwise="none", tasks={"A": "about A", "B": "about B"}))
    assert one.identity == same.identity
    assert len({one.identity, other.identity, stricter.identity}) == 3
    assert shown_instruction(one.identity) == one.identity


def test_a_set_extends_another(tmp_path: Path) -> None:
    found = read(write(tmp_path / "mine.yaml", extends="qwen", tasks={"SCIDOCS": "cited papers"}))
    assert found.for_pair("SCIDOCS") == "cited papers"
    assert found.for_pair("TRECCOVID") == read("qwen").for_pair("TRECCOVID")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"tasks": {"A": 3}}, "mine.yaml: tasks.A"),
        ({"tasks": {}}, "mine.yaml: tasks"),
        ({"tasks": {"A": {"document": "x"}}}, "mine.yaml: tasks.A"),
        ({"tasks": {"A": {"qury": "x"}}}, "mine.yaml: tasks.A.qury: unknown key; did you mean 'query'?"),
        ({"taks": {"A": "x"}}, "mine.yaml: taks: unknown key; did you mean 'tasks'?"),
        ({"otherwise": "defualt", "tasks": {"A": "x"}}, "did you mean 'default'?"),
        ({"extends": "qwn", "tasks": {"A": "x"}}, "mine.yaml: extends: unknown instruction set 'qwn'; did you mean"),
        ({"name": "../x", "tasks": {"A": "x"}}, "mine.yaml: name: String should match"),
    ],
)
def test_a_malformed_set_gives_one_line(tmp_path: Path, content: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path / "mine.yaml", **content))
    assert expected in str(caught.value)


def test_a_set_that_extends_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match="circle"):
        read(write(path, extends=str(path), tasks={"A": "x"}))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", tasks={"A": "x"})
    with pytest.raises(ConfigError, match=r"did you mean '.*mine\.yaml'"):
        read(str(tmp_path / "mien.yaml"))


def test_a_set_may_refuse_tasks_that_it_leaves_out(tmp_path: Path) -> None:
    found = read(write(tmp_path / "mine.yaml", otherwise="error", tasks={"A": "x"}))
    found.check(["A"], "own.yaml: reranker.instruction")
    with pytest.raises(ConfigError, match=r"own\.yaml: reranker\.instruction: .* nothing for B"):
        found.check(["A", "B"], "own.yaml: reranker.instruction")


def test_names_and_texts_are_no_sets() -> None:
    for setting in ("task", "default", "none", "judge the code", "给定查询检索相关文档"):
        assert find_instruction_set(setting, "") is None
