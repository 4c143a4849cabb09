"""The engine stands alone: torch, transformers, numpy and the standard library."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages

import pytest

import rerank_eval.engine

MODULES = sorted(module.name for module in walk_packages(rerank_eval.engine.__path__, "rerank_eval.engine."))
ALLOWED = {"torch", "transformers", "numpy", "rerank_eval", *sys.stdlib_module_names}


@pytest.mark.parametrize("module", MODULES)
def test_imports_in_the_source(module):
    tree = ast.parse(Path(str(find_spec(module).origin)).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module))
    assert {name.split(".")[0] for name in found} <= ALLOWED
    assert all(name.startswith("rerank_eval.engine") for name in found if name.startswith("rerank_eval"))


def test_a_fresh_interpreter_loads_neither_mteb_nor_pydantic_nor_other_rooms():
    program = "\n".join(
        [f"import {module}" for module in MODULES]
        + [
            "import sys",
            "rooms = {n for n in sys.modules if n.startswith('rerank_eval.') and n.split('.')[1] != 'engine'}",
            "print(sorted(rooms | ({'mteb', 'pydantic', 'datasets'} & set(sys.modules))))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
