"""A kernel of another package, found by its entry point: `tests/plugin`, laid out as an installer leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rerank_eval.engine import kernels
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.loading import load_engine

PLUGIN = Path(__file__).parents[1] / "plugin"
GROUPS = [
    QueryGroup("rain", "find texts about weather", ["rivers flow through valleys", "rain fell", "silver coins"]),
    QueryGroup("money in old times", "find texts about weather", ["coins " * 50, "a bank"]),
]


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))


def test_a_package_s_kernel_gives_the_margins_of_the_built_in_ones(demo: Path) -> None:
    engines = {
        name: load_engine(demo, recipe="card", device="cpu", attention=name)
        for name in ("plain", "cpu_flash", "segments")
    }
    assert engines["plain"].settings["attention"] == "plain"
    margins = {
        name: np.concatenate([scores.margins for scores in engine.score_groups(GROUPS)])
        for name, engine in engines.items()
    }
    assert np.ptp(margins["segments"]) > 0.1
    np.testing.assert_allclose(margins["plain"], margins["segments"], atol=2e-5)
    np.testing.assert_allclose(margins["plain"], margins["cpu_flash"], atol=2e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base_two", r"attention base_two is off by [\d.]+ on this device; use auto or segments"),
        ("not_here", "attention not_here does not run here: AttributeError"),
        ("plane", "unknown attention 'plane'; valid: auto, segments, cpu_flash, .*, base_two, blind, not_here, plain"),
    ],
)
def test_a_wrong_kernel_is_refused(demo: Path, name: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        load_engine(demo, recipe="card", device="cpu", attention=name)


def test_a_package_cannot_change_what_a_built_in_name_means() -> None:
    assert kernels.get_kernel("cpu_flash").__module__ == "rerank_eval.engine.kernels.cpu_flash"


def test_a_name_that_two_packages_declare_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text(f"[{kernels.GROUP}]\nplain = other:attend\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    kernels.get_kernel.cache_clear()
    with pytest.raises(EngineError, match="'plain': declared as other:attend and as plain_attention:attend"):
        kernels.get_kernel("plain")
