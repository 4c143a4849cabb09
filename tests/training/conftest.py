"""A few real functions of packages that the tests' environment has anyway, as training data."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

import pytest

from rerank_demo.corpus import Package
from rerank_demo.data import TrainingData, prepare

NAMES = {"click": "click", "Jinja2": "jinja2", "fsspec": "fsspec", "networkx": "networkx", "requests": "requests"}
MODULES = 12


def lay_out_packages(folder: Path) -> list[Package]:
    """Put installed packages where `corpus.unpack` would have put their wheels' sources."""
    listed = []
    for name, module in NAMES.items():
        package = Package(name, importlib.metadata.version(name), "permissive")
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent
        target = folder / "packages" / f"{package.name}-{package.version}"
        for path in sorted(source.rglob("*.py"))[: MODULES * 2]:
            copy = target / module / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        listed.append(package)
    return listed


@pytest.fixture(scope="session")
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Package]]:
    folder = tmp_path_factory.mktemp("training")
    return folder, lay_out_packages(folder)


@pytest.fixture(scope="session")
def data(listed: tuple[Path, list[Package]]) -> TrainingData:
    folder, packages = listed
    return prepare(folder, allow_download=False, vocabulary=3000, listed=packages)
