"""The house's rules: which room may import which, and that no files import each other in a circle."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src"
ROOMS = (
    "base",
    "config",
    "engine",
    "servers",
    "store",
    "metrics",
    "models",
    "results",
    "tasks",
    "rerankers",
    "retrievers",
    "workers",
    "pipeline",
    "doctor",
    "fetch",
    "analysis",
    "session",
    "reproduce",
    "commands",
)
"""From the ground up; `base` is the files beside the rooms, such as errors and names."""
TOP_FILES = {"cli": "commands", "__main__": "commands", "__init__": "commands"}
ENGINE_NEEDS = {"torch", "transformers", "numpy", "safetensors", "huggingface_hub", "tokenizers", "triton", "torchao"}


@cache
def modules():
    """Module name -> file, of the three packages."""
    found = {}
    for path in SOURCES.rglob("*.py"):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module):
    """The modules of ours, and the packages of others, that a module imports anywhere in its code."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = {name if name in modules() else node.module for name in names}
        elif isinstance(node, ast.Import):
            targets = {alias.name for alias in node.names}
        else:
            continue
        own |= {name for name in targets if name in modules()}
        others |= {name.partition(".")[0] for name in targets if name not in modules()}
    return own - {module}, others


def room(module):
    package, _, rest = module.partition(".")
    if package != "rerank_eval":
        return package
    first = rest.partition(".")[0]
    if (SOURCES / "rerank_eval" / first).is_dir() and first:
        return first
    return TOP_FILES.get(first or "__init__", "base")


def test_no_room_imports_one_above_it():
    up = [
        f"{module} -> {target}"
        for module in sorted(modules())
        if room(module) in ROOMS
        for target in sorted(imports(module)[0])
        if room(target) not in ROOMS or ROOMS.index(room(target)) > ROOMS.index(room(module))
    ]
    assert up == []


def test_no_files_import_each_other_in_a_circle():
    state, circles = {}, []

    def visit(module, path):
        state[module] = "open"
        for target in sorted(imports(module)[0]):
            if state.get(target) == "open":
                circles.append([*path[path.index(target) :], target])
            elif target not in state:
                visit(target, [*path, target])
        state[module] = "done"

    for module in sorted(modules()):
        if module not in state:
            visit(module, [module])
    assert circles == []


def test_the_engine_needs_torch_transformers_and_numpy_alone():
    engine = [module for module in modules() if room(module) == "engine"]
    assert len(engine) > 5
    for module in engine:
        own, others = imports(module)
        assert {room(name) for name in own} <= {"engine"}, module
        assert others - set(sys.stdlib_module_names) <= ENGINE_NEEDS, module


@pytest.mark.parametrize("name", ["metrics", "results", "analysis"])
def test_what_reads_results_never_imports_torch(name):
    reached, waiting = set(), [module for module in modules() if room(module) == name]
    assert waiting
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        assert "torch" not in imports(module)[1], module
        waiting += imports(module)[0]


def test_whatever_the_product_imports_is_a_dependency_that_it_declares():
    """The wheel's test shares the dependencies of the environment, so that it would not see what is not declared."""
    project = tomllib.loads((SOURCES.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(one for name in extras if name not in {"dev", "docs"} for one in extras[name])]
    declared = {re.split(r"[\[<>=! ]", one)[0].lower().replace("_", "-") for one in asked}
    distributions = packages_distributions()
    for module in sorted(modules()):
        if not module.startswith("rerank_eval"):
            continue
        for name in sorted(imports(module)[1] - set(sys.stdlib_module_names)):
            found = {one.lower().replace("_", "-") for one in distributions.get(name, [name])}
            assert found & declared, f"{module} imports {name}, which pyproject.toml does not declare"
