"""The registry behind every kind of part: built-in ones and those of installed packages come through one door."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank_eval.errors import ConfigError
from rerank_eval.registry import Registry

GROUP = "rerank_eval.examples"


def install(folder: Path, name: str, points: dict[str, str], module: str = "") -> None:
    """Lay out a distribution as an installer does: its module, and its metadata beside it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "\n".join(f"{key} = {value}" for key, value in points.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")
    (folder / f"{name}.py").write_text(module)


def registry() -> Registry[object]:
    return Registry(GROUP, "example", {"dumps": "json:dumps", "loads": "json:loads"}, needs=["__doc__"])


def test_built_in_parts_come_first_and_case_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "extra_examples", {"sum": "extra_examples:total"}, "def total(): return 3")
    monkeypatch.syspath_prepend(tmp_path)
    found = registry()
    assert found.names() == list(found) == ["dumps", "loads", "sum"]
    assert "SUM" in found
    total = found.get("Sum")
    assert callable(total)
    assert total() == 3
    assert found.get("dumps") is __import__("json").dumps


def test_a_wrong_name_is_one_line_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^run.yaml: key: there is no example 'dump'; did you mean 'dumps'\?$"):
        registry().get("dump", "run.yaml: key")


def test_a_broken_package_is_told_only_when_its_name_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "broken_examples", {"broken": "broken_examples:it"}, "raise RuntimeError('no such\\ncard')")
    install(tmp_path, "empty_examples", {"empty": "empty_examples:it"})
    monkeypatch.syspath_prepend(tmp_path)
    found = registry()
    assert callable(found.get("loads"))
    assert "broken" in found
    with pytest.raises(
        ConfigError, match=r"'broken': broken_examples:it of the package broken_examples cannot be"
    ) as it:
        found.get("broken")
    assert "RuntimeError: no such card" in str(it.value)
    with pytest.raises(ConfigError, match=r"empty_examples cannot be imported \(AttributeError"):
        found.get("empty")


def test_a_name_that_two_declare_is_refused_and_others_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "twice_examples", {"Dumps": "twice_examples:it"}, "it = 1")
    monkeypatch.syspath_prepend(tmp_path)
    found = registry()
    assert callable(found.get("loads"))
    with pytest.raises(ConfigError, match=r"rerank-eval \(json:dumps\) and twice_examples \(twice_examples:it\) both"):
        found.get("dumps")


def test_what_lacks_a_member_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "bare_examples", {"bare": "bare_examples:it"}, "it = 1")
    monkeypatch.syspath_prepend(tmp_path)
    found = Registry[object](GROUP, "example", needs=["score", "title"])
    with pytest.raises(ConfigError, match=r"bare_examples:it of the package bare_examples has no score, title"):
        found.get("bare")


def test_a_program_registers_a_part_once() -> None:
    found = registry()
    part = object()
    assert found.register("Mine", part) is found.get("MINE") is part
    assert found.names() == ["dumps", "loads", "Mine"]
    for taken in ("mine", "loads"):
        with pytest.raises(ConfigError, match="is there already"):
            found.register(taken, part)
