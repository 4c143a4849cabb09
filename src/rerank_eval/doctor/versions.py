"""Python and packages: the versions that this package's own metadata asks for, and whether they can be imported."""

from __future__ import annotations

import importlib
import platform
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from rerank_eval.doctor.findings import Finding, failure, ok, said, warning

PACKAGE = "rerank-eval"
IMPORTED = {
    "numpy": "numpy",
    "pyarrow": "pyarrow",
    "torch": "torch",
    "transformers": "transformers",
    "datasets": "datasets",
    "sentence-transformers": "sentence_transformers",
    "pytrec-eval-terrier": "pytrec_eval",
    "mteb": "mteb",
}
"""Distribution -> module, of the packages with compiled code or many dependencies, where an import is what breaks."""
_SHOWN = ("torch", "transformers", "mteb", "datasets", "sentence-transformers")
_REINSTALL = "install what is named into the environment that runs rerank-eval, with pip install --upgrade"


def check_python(found: str | None = None, wanted: str | None = None) -> Iterator[Finding]:
    """Compare Python's version with the one that is asked for.

    Args:
        found: A version; None takes the running Python's.
        wanted: A specifier such as `>=3.11`; None takes the package's own.
    """
    found = found or platform.python_version()
    wanted = wanted or _requires_python()
    if SpecifierSet(wanted).contains(found, prereleases=True):
        yield ok("python", f"{found} on {platform.platform()}")
    else:
        remedy = "install into an environment of a newer one, such as that of `python3.12 -m venv`"
        yield failure("python", f"{found}, and {wanted} is needed", remedy)


def _requires_python() -> str:
    try:
        return metadata(PACKAGE)["Requires-Python"]
    except (PackageNotFoundError, KeyError):
        return ">=3.11"


def check_packages(requirements: Sequence[str] | None = None) -> Iterator[Finding]:
    """Compare installed packages with what is asked for.

    Args:
        requirements: Requirements as in pyproject.toml; None takes the package's own metadata.
    """
    if requirements is None:
        try:
            requirements = requires(PACKAGE) or []
        except PackageNotFoundError:
            yield warning("packages", f"{PACKAGE} is not installed, so that it is unknown what it needs", _REINSTALL)
            return
    right = {}
    for requirement in map(Requirement, requirements):
        optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            if not optional:
                yield failure(
                    requirement.name, f"not installed; {_wanted(requirement)} is needed", _install(requirement)
                )
            continue
        if requirement.specifier.contains(found, prereleases=True):
            right[requirement.name] = found
            continue
        level = warning if optional else failure
        yield level(requirement.name, f"{found} is installed, {_wanted(requirement)} is needed", _install(requirement))
    shown = ", ".join(f"{name} {right[name]}" for name in _SHOWN if name in right)
    yield ok("packages", f"{len(right)} are of the versions asked for{f', {shown} among them' if shown else ''}")


def _wanted(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _install(requirement: Requirement) -> str:
    return f"run `pip install '{_wanted(requirement)}'`"


def check_imports() -> Iterator[Finding]:
    """Import what the runs import."""
    started = time.monotonic()
    done = []
    for name, module in IMPORTED.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a compiled module of another version raises whatever it likes
            yield failure(f"import {module}", said(error), f"install {name} again: {_REINSTALL}")
        else:
            done.append(module)
    if done:
        yield ok("imports", f"{', '.join(done)} ({time.monotonic() - started:.1f} s)")


def importable(module: str) -> bool:
    """Tell whether a module can be imported."""
    try:
        importlib.import_module(module)
    except Exception:
        return False
    return True
