from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_eval.config import load_config
from rerank_eval.errors import ConfigError, RerankEvalError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_precedence_is_command_line_then_file_then_parent_then_default(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "retriever: {top_k: 10, dtype: float16}\nreranker: {max_length: 512}")
    path = write(tmp_path, "own.yaml", "extends: base.yaml\nretriever: {top_k: 20}\nreranker: {dtype: float16}")
    config = load_config(path, ["reranker.dtype=bfloat16"]).base
    assert (config.retriever.top_k, config.retriever.dtype) == (20, "float16")
    assert config.reranker is not None
    assert (config.reranker.max_length, config.reranker.dtype) == (512, "bfloat16")
    assert config.reranker.recipe == "auto"


def test_several_parents_and_a_chain(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "retriever: {top_k: 1}\nembedded: {size: full}")
    write(tmp_path, "b.yaml", "extends: a.yaml\nretriever: {batch_size: 7}")
    write(tmp_path, "c.yaml", "retriever: {top_k: 3}")
    config = load_config(write(tmp_path, "d.yaml", "extends: [b.yaml, c.yaml]")).base
    assert (config.retriever.top_k, config.retriever.batch_size, config.embedded.size) == (3, 7, "full")


def test_grid_expands_to_every_combination_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "grid.yaml",
        "grid:\n  reranker.dtype: [float32, bfloat16]\n  reranker.instruction: [none, task, judge the code]\n",
    )
    loaded = load_config(path)
    assert [(run.reranker.dtype, run.reranker.instruction) for run in loaded.runs if run.reranker] == [
        (dtype, instruction) for dtype in ("float32", "bfloat16") for instruction in ("none", "task", "judge the code")
    ]
    assert all(run.grid == {} for run in loaded.runs)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("retriever.model", "[bm25, Qwen/Qwen3-Embedding-0.6B]"),
        ("retriever.top_k", "[10, 100]"),
        ("reranker.model", "[Qwen/Qwen3-Reranker-0.6B, Qwen/Qwen3-Reranker-4B]"),
        ("reranker.recipe", "[card, qwen_eval, mteb]"),
        ("reranker.engine", "[packed, reference]"),
        ("reranker.head", "[float32, recipe_softmax]"),
        ("reranker.max_length", "[512, 8192]"),
        ("reranker", "[null, {dtype: float16}]"),
    ],
)
def test_any_key_can_be_varied(tmp_path: Path, key: str, values: str) -> None:
    loaded = load_config(write(tmp_path, "grid.yaml", f"grid:\n  {key}: {values}\n"))
    assert len(loaded.runs) == len(loaded.variants) >= 2
    assert len({run.model_dump_json() for run in loaded.runs}) == len(loaded.runs)


@pytest.mark.parametrize(
    ("text", "overrides", "notices"),
    [
        ("reranker: {markers: neutralise}", [], ["markers is now reranker.special_tokens", "neutralise is now"]),
        ("{}", ["reranker.markers=neutralise"], ["--set: reranker.markers is now", "neutralise is now"]),
        ("reranker: {special_tokens: escape}", [], []),
        ("grid: {reranker.markers: [neutralise]}", [], ["reranker.markers is now", "neutralise is now"]),
        ("reranker: {markers: keep}", ["reranker.special_tokens=escape"], ["reranker.markers is now"]),
    ],
)
def test_the_last_release_s_names_are_read_with_a_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, overrides: list[str], notices: list[str]
) -> None:
    [run] = load_config(write(tmp_path, "own.yaml", text), overrides).runs
    assert run.reranker is not None
    assert run.reranker.special_tokens == "escape"
    assert len(caplog.messages) == len(notices)
    for notice, message in zip(notices, caplog.messages, strict=True):
        assert notice in message
        assert "\n" not in message


def test_the_last_release_s_head_is_read_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "own.yaml", "reranker: {head: faithful}")
    loaded = load_config(path)
    assert [run.reranker.head for run in loaded.runs if run.reranker] == ["recipe_softmax"]
    assert "reranker.head: faithful is now reranker.head: recipe_softmax" in caplog.text
    assert str(path) in caplog.text


def test_both_names_at_once_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reranker\.markers: unknown key"):
        load_config(write(tmp_path, "own.yaml", "reranker: {markers: keep, special_tokens: escape}"))


def test_command_line_fixes_what_the_grid_varies(tmp_path: Path) -> None:
    path = write(tmp_path, "grid.yaml", "grid:\n  reranker.dtype: [float32, bfloat16]\n")
    runs = load_config(path, ["reranker.dtype=float16"]).runs
    assert [run.reranker.dtype for run in runs if run.reranker] == ["float16"]


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("reranker: {dtpe: float16}", [], "own.yaml: reranker.dtpe: unknown key; did you mean 'dtype'?"),
        ("rerankr: {}", [], "own.yaml: rerankr: unknown key; did you mean 'reranker'?"),
        ("reranker: {dtype: bf16}", [], "own.yaml: reranker.dtype: unknown value 'bf16'; did you mean 'bfloat16'?"),
        ("reranker: {instruction: tsk}", [], "reranker.instruction: unknown instruction 'tsk'; did you mean 'task'?"),
        ("retriever: {model: bm52}", [], "own.yaml: retriever.model: unknown retriever 'bm52'; did you mean 'bm25'?"),
        ("grid: {reranker.dtype: [float32, bf16]}", [], "own.yaml: grid.reranker.dtype: unknown value 'bf16'"),
        ("grid: {reranker.dtype: []}", [], "own.yaml: grid.reranker.dtype: List should have at least 1 item"),
        ("grid: {tasks: [a]}", [], "own.yaml: grid.tasks: this key cannot be varied in a grid"),
        ("retriever: {top_k: 0}", [], "own.yaml: retriever.top_k: Input should be greater than or equal to 1, got 0"),
        ("reranker: {trust_remote_code: true}", [], "trust_remote_code needs a pinned revision"),
        ("- a\n- b", [], "own.yaml: the top level must be `key: value` lines, not a list"),
        ("a: 1\na: 2", [], "own.yaml: line 2: key 'a' stands twice"),
        ("a: &x [1]\nb: *x", [], "own.yaml: line 2: aliases are not allowed here"),
        ("a: [", [], "own.yaml: line 1:"),
        ("!!python/object/apply:os.system [ls]", [], "own.yaml: line 1:"),
        ("", ["reranker.dtype=bf16"], "--set: reranker.dtype: unknown value 'bf16'; did you mean 'bfloat16'?"),
        ("", ["dtype"], "--set 'dtype': write it as key=value"),
        ("extends: gone.yaml", [], "gone.yaml: no such config file"),
        ("extends: own.yaml", [], "extends: the files extend each other in a circle"),
        ("extends: 3", [], "own.yaml: extends: must be a file name or a list of file names"),
    ],
)
def test_a_mistake_gives_one_line_with_file_key_and_remedy(
    tmp_path: Path, text: str, overrides: list[str], expected: str
) -> None:
    path = write(tmp_path, "own.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_names_the_file_that_holds_the_mistake(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "reranker: {dtype: bf16}")
    path = write(tmp_path, "own.yaml", "extends: base.yaml\nreranker: {recipe: mteb}")
    with pytest.raises(ConfigError, match=r"base\.yaml: reranker\.dtype"):
        load_config(path)


def test_a_missing_config_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "offline.yaml", "")
    with pytest.raises(ConfigError, match=r"did you mean '.*offline\.yaml'"):
        load_config(tmp_path / "ofline.yaml")


@given(st.binary(max_size=300))
def test_no_bytes_whatever_raise_anything_but_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "c.yaml"
    path.write_bytes(data)
    with contextlib.suppress(RerankEvalError):  # anything else fails the test
        load_config(path)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60), st.text(max_size=60))
def test_no_override_whatever_raises_anything_but_a_config_error(key: str, value: str) -> None:
    with contextlib.suppress(RerankEvalError):  # anything else fails the test
        load_config(Path(__file__).parents[2] / "configs" / "base.yaml", [f"{key}={value}"])


GRID = "retriever: {model: bm25}\ngrid:\n  reranker.dtype: [float32, bfloat16]\n  retriever.top_k: [10, 20]\n"


def variants(path: Path, overrides: list[str]) -> list[dict[str, object]]:
    return list(load_config(path, overrides).variants)


def test_what_a_file_fixes_is_not_varied_by_the_grid_it_extends(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", GRID)
    child = write(tmp_path, "child.yaml", "extends: base.yaml\nreranker: {dtype: float16}\n")
    assert variants(child, []) == [{"retriever.top_k": 10}, {"retriever.top_k": 20}]
    own = write(
        tmp_path, "own.yaml", "extends: base.yaml\nreranker: {dtype: float16}\ngrid: {reranker.dtype: [int8]}\n"
    )
    assert [one["reranker.dtype"] for one in variants(own, [])] == ["int8", "int8"]


@pytest.mark.parametrize("override", ["reranker=null", "reranker={dtype: float16}"])
def test_a_section_set_as_a_whole_drops_the_grids_keys_below_it(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, "grid.yaml", GRID)
    assert variants(path, [override]) == [{"retriever.top_k": 10}, {"retriever.top_k": 20}]
    runs = load_config(path, [override]).runs
    assert all((run.reranker is None) == (override == "reranker=null") for run in runs)


@pytest.mark.parametrize("cleared", ["grid={}", "grid=null"])
def test_a_grid_can_be_switched_off(tmp_path: Path, cleared: str) -> None:
    path = write(tmp_path, "grid.yaml", GRID)
    assert variants(path, [cleared]) == [{}]
    child = write(tmp_path, "child.yaml", "extends: grid.yaml\ngrid: {}\n")
    assert variants(child, []) == [{}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reranker: null\ngrid: {reranker.dtype: [float32]}", "reranker is null, so there is nothing to vary"),
        ("grid: {embedded.size: [small, full]}", "embedded.size: this key cannot be varied"),
        ("grid: {device: [cpu, cuda]}", "device: this key cannot be varied"),
    ],
)
def test_grids_that_could_not_do_what_they_say_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, "grid.yaml", text))


def test_an_instruction_without_blanks_in_another_script(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "reranker: {instruction: 给定查询检索相关文档}")
    reranker = load_config(path).base.reranker
    assert reranker is not None
    assert reranker.instruction == "给定查询检索相关文档"


def test_parents_that_double_with_each_file_are_one_line(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path, f"{number}.yaml", f"extends: [{number + 1}.yaml, {number + 1}.yaml]")
    write(tmp_path, "30.yaml", "tasks: [Embedded]")
    with pytest.raises(ConfigError, match="extends: more than 100 files are read"):
        load_config(tmp_path / "0.yaml")


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "loop.yaml", "zero.yaml", "/dev/zero"):
        for path in (tmp_path / name, write(tmp_path, "own.yaml", f"extends: {name}")):
            with pytest.raises(ConfigError, match="cannot be read"):
                load_config(path)


def test_a_config_may_come_from_a_shell_s_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"tasks: [SciFact]")
    os.close(writer)
    assert load_config(Path(f"/dev/fd/{reader}")).base.tasks == ["SciFact"]
    os.close(reader)


@pytest.mark.parametrize(
    "setting",
    [
        "gpus_per_worker: 1.5",  # Ray takes whole ones, or shares of one, of a ten-thousandth at least
        "gpus_per_worker: 0.00001",
        "gpus_per_worker: .inf",
        "cpus_per_worker: 100000000000000000000",
        "hang_seconds: .inf",  # no timeout that Ray takes
        "hang_seconds: 1e300",
    ],
)
def test_what_ray_would_not_take_is_one_line(tmp_path: Path, setting: str) -> None:
    path = write(tmp_path, "own.yaml", f"workers: {{{setting}}}")
    with pytest.raises(ConfigError, match=setting.partition(":")[0]):
        load_config(path)


def test_shares_of_a_gpu_and_whole_ones(tmp_path: Path) -> None:
    for number in ("0.25", "1", "2"):
        assert load_config(write(tmp_path, "own.yaml", f"workers: {{gpus_per_worker: {number}}}")).base.workers


@pytest.mark.parametrize("section", ["retriever", "reranker"])
def test_a_batch_that_no_loop_counts_is_one_line(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError, match=f"{section}.batch_size: Input should be less than"):
        load_config(write(tmp_path, "own.yaml", f"{section}: {{batch_size: {10**40}}}"))


def test_a_name_for_a_section_leaves_its_other_keys(tmp_path: Path) -> None:
    """`deploy/slurm.sbatch` ends in `--set workers=ray`, behind whatever is said of the workers before."""
    path = write(tmp_path, "own.yaml", "workers: {cpus_per_worker: 8}")
    workers = load_config(path, ["workers.num_workers=4", "workers=ray"]).base.workers
    assert workers is not None
    assert (workers.cpus_per_worker, workers.num_workers, workers.backend) == (8, 4, "ray")
    assert load_config(path, ["workers=null"]).base.workers is None
    with pytest.raises(ConfigError, match=r"workers\.backend: unknown value 'rey'"):
        load_config(path, ["workers=rey"])
