"""Data that comes with the package: configs, suites, instruction sets, published numbers.

A checkout keeps it at its top level, in `configs` and `evals`; a wheel carries both folders inside the package.
"""

from __future__ import annotations

import os
from pathlib import Path

from rerank_eval.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """Return the checkout that the package runs from, or None where it was installed as a wheel."""
    root = _PACKAGE.parents[1]
    return root if _PACKAGE.parent.name == "src" and (root / "pyproject.toml").is_file() else None


def _root(name: str) -> Path:
    return (checkout() or _PACKAGE / "_shipped") / name


def shipped_config(name: str) -> Path:
    """Return the file of a config that comes with the package; `config_names` lists the names."""
    return _root("configs") / f"{name}.yaml"


def config_names() -> tuple[str, ...]:
    """Return the names of the configs that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _root("configs").glob("*.yaml")))


def evals_root() -> Path:
    """Return the folder `evals`: suites, instruction sets and published numbers.

    Returns:
        `$RERANK_EVAL_EVALS`, else the checkout's folder, else the one in the wheel.

    Raises:
        ConfigError: It holds no suites.
    """
    given = os.environ.get("RERANK_EVAL_EVALS")
    root = Path(given) if given else _root("evals")
    if not (root / "suites").is_dir():
        remedy = "RERANK_EVAL_EVALS names it; unset that" if given else "install rerank-eval again"
        raise ConfigError(f"{root}: holds no suites; {remedy}")
    return root


def instruction_set_names() -> tuple[str, ...]:
    """Return the names of the instruction sets that come with the package, sorted."""
    return tuple(sorted(path.stem for path in (evals_root() / "instructions").glob("*.yaml")))
