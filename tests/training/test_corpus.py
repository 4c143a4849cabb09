from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rerank_demo import corpus
from rerank_demo.corpus import Excluded, Package
from rerank_demo.data import TrainingData
from rerank_eval.errors import DataError
from rerank_eval.models.resolve import cache_dir
from rerank_eval.tasks.embedded.stdlib import Function, library, read
from rerank_eval.tasks.embedded.texts import normalised

REAL = Path(os.environ.get("RERANK_EVAL_TRAINING", cache_dir() / "train-demo")) / "functions.jsonl"


def _assert_none_of_the_library(functions: list[Function]) -> None:
    held_out = library().functions
    codes = {normalised(text) for one in held_out for text in (one.code, one.source)}
    summaries = {normalised(one.summary) for one in held_out}
    for one in functions:
        assert normalised(one.code) not in codes, one.id
        assert normalised(one.source) not in codes, one.id
        assert normalised(one.summary) not in summaries, one.id


def test_no_function_of_the_embedded_tasks_is_trained_on(data: TrainingData) -> None:
    assert len(data.functions) > 300
    _assert_none_of_the_library(data.functions)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="the training corpus is not built on this machine")
def test_no_function_of_the_embedded_tasks_is_in_the_real_corpus() -> None:
    _assert_none_of_the_library(corpus.read(REAL))


def test_a_package_that_copies_the_library_loses_the_copies(tmp_path: Path) -> None:
    import json as module

    package = Package("copycat", "1", "MIT")
    target = tmp_path / "packages" / "copycat-1" / "copycat"
    target.mkdir(parents=True)
    source = Path(module.__file__).with_name("decoder.py").read_text(encoding="utf-8")
    # Renamed variables and another first sentence: neither the code nor the sentence is the library's, the lines are.
    changed = source.replace("Return the Python representation", "Gives what Python has for").replace(
        "py_scanstring", "scan"
    )
    own = 'def double(number):\n    """Multiply a number by the constant two."""\n' + "    total = number\n" * 12
    (target / "copied.py").write_text(changed + "\n\n" + own, encoding="utf-8")
    found = corpus.functions_of(package, tmp_path / "packages" / "copycat-1", Excluded(library()))
    assert [one.name for one in found] == ["double"]


def test_backports_tests_and_vendored_folders_are_not_read(tmp_path: Path) -> None:
    for name in ("importlib_x/a.py", "dataclasses.py", "p/_vendor/b.py", "p/tests/c.py", "p/test_d.py", "p/e.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    assert [name for name, _ in corpus.source_files(tmp_path)] == ["importlib_x.a", "p.e"]


def test_held_out_packages_are_asked_about_and_never_trained_on(data: TrainingData) -> None:
    held = {corpus.package_of(one) for one, shard in zip(data.functions, data.shard, strict=True) if shard < 0}
    trained = {corpus.package_of(data.functions[i]) for i in data.bm25.queries}
    listed = {corpus.package_of(data.functions[i]) for i in data.bm25.documents.ravel() if i >= 0}
    assert held
    assert not held & (trained | listed)


def test_a_candidate_list_begins_with_what_bm25_likes_best(data: TrainingData) -> None:
    scores = data.bm25.scores
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    found = (data.bm25.documents == data.bm25.queries[:, None]).any(axis=1)
    assert found.mean() > 0.7


def test_the_corpus_is_the_same_when_built_again(
    listed: tuple[Path, list[Package]], data: TrainingData, tmp_path: Path
) -> None:
    folder, packages = listed
    (tmp_path / "packages").symlink_to(folder / "packages")
    again = corpus.build(tmp_path, allow_download=False, listed=packages)
    assert again.read_bytes() == (folder / "functions.jsonl").read_bytes()
    assert json.loads(again.read_text(encoding="utf-8").splitlines()[0])["id"] == data.functions[0].id


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no wheel of absent 1\.0"):
        corpus.build(tmp_path, allow_download=False, listed=[Package("absent", "1.0", "MIT")])


def test_the_list_holds_permissive_licences_only() -> None:
    listed = corpus.packages()
    assert len(listed) > 100
    assert not [one.name for one in listed if "GPL" in one.licence or "MPL" in one.licence or not one.licence]


def test_an_empty_library_excludes_nothing(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"m{number}.py").write_text("", encoding="utf-8")
    excluded = Excluded(read(tmp_path))
    assert library().functions[0] not in excluded
