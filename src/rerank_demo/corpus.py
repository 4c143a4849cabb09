"""Functions of installed packages, as training material: the embedded tasks' form, and none of their functions.

Wheels are downloaded by pip and unpacked, never installed, imported or executed. `packages.tsv` lists them with
versions and licences (permissive ones only).
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from rerank_eval.errors import DataError
from rerank_eval.tasks.embedded.stdlib import SKIPPED_FOLDERS, Function, Library, library, parse_file
from rerank_eval.tasks.embedded.texts import informative, normalised, sha_order

MAX_PER_PACKAGE = 2_500
"""Functions kept of one package, so that generated clients do not fill the corpus."""
SHINGLE = 8
"""Words in a row that two functions share only when one is copied from the other."""
MAX_COPIED = 0.3
"""Share of a function's shingles that may stand in the standard library as well."""
SKIPPED = SKIPPED_FOLDERS | {
    "_vendor",
    "vendor",
    "_vendored",
    "vendored",
    "_distutils",
    "extern",
    "externals",
    "testing",
}
"""Folders that hold tests or copies of other packages."""
DOWNLOADED_TOGETHER = 50
"""Packages that one pip call downloads; starting pip takes longer than most of the wheels."""


@dataclass(frozen=True)
class Package:
    """A package whose functions are trained on.

    Attributes:
        name: On the package index.
        version: The version that is read.
        licence: As its metadata says.
    """

    name: str
    version: str
    licence: str


def packages() -> list[Package]:
    """Read the list of packages that the project carries."""
    text = files("rerank_demo").joinpath("packages.tsv").read_text(encoding="utf-8")
    return [Package(**row) for row in csv.DictReader(text.splitlines(), delimiter="\t")]


def download(listed: Iterable[Package], wheels: Path) -> None:
    """Download what is not there yet.

    Args:
        listed: The packages.
        wheels: Folder for the wheels.

    Raises:
        DataError: pip cannot get a package.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    missing = [package for package in listed if _wheel(package, wheels) is None]
    for start in range(0, len(missing), DOWNLOADED_TOGETHER):
        part = missing[start : start + DOWNLOADED_TOGETHER]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        wanted = [f"{package.name}=={package.version}" for package in part]
        done = subprocess.run([*command, "--dest", str(wheels), *wanted], capture_output=True, check=False)  # noqa: S603
        lacking = [f"{package.name}=={package.version}" for package in part if _wheel(package, wheels) is None]
        if done.returncode or lacking:
            raise DataError(
                f"pip cannot download {', '.join(lacking or wanted)}, which the training corpus is made of; "
                "is an index in reach?"
            )


def _wheel(package: Package, wheels: Path) -> Path | None:
    name = package.name.replace("-", "_").replace(".", "_").lower()
    for path in sorted(wheels.glob("*.whl")):
        found, version = path.name.split("-")[:2]
        if found.replace(".", "_").lower() == name and version == package.version:
            return path
    return None


def unpack(package: Package, wheels: Path, folder: Path) -> Path:
    """Unpack a wheel's Python sources, once.

    Args:
        package: The package.
        wheels: Where its wheel is.
        folder: Where the packages are unpacked, each in a folder of its own.

    Returns:
        The package's folder.

    Raises:
        DataError: The wheel is not there.
    """
    target = folder / f"{package.name}-{package.version}"
    if target.is_dir():
        return target
    wheel = _wheel(package, wheels)
    if wheel is None:
        raise DataError(f"{wheels} holds no wheel of {package.name} {package.version}; run without --no-download")
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(temporary, [name for name in archive.namelist() if name.endswith(".py")])
    temporary.rename(target)
    return target


def source_files(folder: Path) -> list[tuple[str, Path]]:
    """List a package's modules by dotted name, without tests and vendored copies.

    Modules named as one of the standard library's, wherever their top level is, are left out: they are backports.
    """
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        top = parts[0]
        if top in sys.stdlib_module_names or any(part in SKIPPED or not part.isidentifier() for part in parts):
            continue
        if parts[-1].startswith("test_") or parts[-1] == "conftest":
            continue
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts) or top, path))
    return found


class Excluded:
    """What may not be trained on: the standard library's functions, their sentences, and copies of them.

    Args:
        held_out: The library that the embedded tasks are made of.
    """

    def __init__(self, held_out: Library) -> None:
        self._library = held_out

    @cached_property
    def codes(self) -> frozenset[str]:
        """Normalised codes of all functions, with and without docstring."""
        return frozenset(normalised(text) for one in self._library.functions for text in (one.code, one.source))

    @cached_property
    def summaries(self) -> frozenset[str]:
        """Normalised first sentences of all functions."""
        return frozenset(normalised(one.summary) for one in self._library.functions)

    @cached_property
    def shingles(self) -> frozenset[int]:
        """Hashes of all runs of eight words."""
        return frozenset(shingle for one in self._library.functions for shingle in _shingles(one.code))

    def __contains__(self, function: Function) -> bool:
        """Say whether a function is one of the library's, shares its sentence with one, or is copied from one."""
        if normalised(function.summary) in self.summaries:
            return True
        if normalised(function.code) in self.codes or normalised(function.source) in self.codes:
            return True
        own = _shingles(function.code)
        return bool(own) and sum(one in self.shingles for one in own) > MAX_COPIED * len(own)


def _shingles(code: str) -> set[int]:
    words = normalised(code).split()
    return {hash(tuple(words[i : i + SHINGLE])) for i in range(len(words) - SHINGLE + 1)}


def functions_of(package: Package, folder: Path, excluded: Excluded) -> list[Function]:
    """Read a package's functions.

    Args:
        package: The package.
        folder: Where it is unpacked.
        excluded: What is left out.

    Returns:
        At most `MAX_PER_PACKAGE` functions, chosen by digest; their ids begin with the package's name.
    """
    found: dict[str, Function] = {}
    for module, path in source_files(folder):
        parsed = parse_file(module, path)
        for one in parsed[1] if parsed is not None else []:
            if one not in excluded:
                found.setdefault(f"{package.name}/{one.id}", replace(one, id=f"{package.name}/{one.id}"))
    chosen = sorted(found, key=lambda one: sha_order(f"corpus:{one}"))[:MAX_PER_PACKAGE]
    return [found[one] for one in sorted(chosen)]


def _distinct(functions: Iterable[Function]) -> Iterator[Function]:
    seen: set[str] = set()
    for function in functions:
        text = normalised(function.code)
        if text not in seen:
            seen.add(text)
            yield function


def build(folder: Path, *, allow_download: bool = True, listed: list[Package] | None = None) -> Path:
    """Build the corpus, once: `functions.jsonl`, one function a line.

    Args:
        folder: Working folder of the training.
        allow_download: Get missing wheels by pip.
        listed: The packages; those of `packages.tsv` when None.

    Returns:
        The file.

    Raises:
        DataError: A wheel is missing and cannot be downloaded.
    """
    target = folder / "functions.jsonl"
    if target.is_file():
        return target
    chosen = packages() if listed is None else listed
    if allow_download:
        download(chosen, folder / "wheels")
    excluded = Excluded(library())
    found: list[Function] = []
    for package in chosen:
        found += functions_of(package, unpack(package, folder / "wheels", folder / "packages"), excluded)
    temporary = target.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as handle:
        for one in _distinct(found):
            handle.write(json.dumps(asdict(one)) + "\n")
    temporary.rename(target)
    return target


def read(path: Path) -> list[Function]:
    """Read functions that `build` wrote."""
    with path.open(encoding="utf-8") as handle:
        rows = (json.loads(line) for line in handle)
        return [Function(**{**row, "decorators": tuple(row["decorators"])}) for row in rows]


def package_of(function: Function) -> str:
    """Name the package that a function of the corpus comes from."""
    return function.id.partition("/")[0]


def askable(functions: Iterable[Function]) -> list[int]:
    """Find the functions whose summary can serve as a query, by the embedded task's own rule.

    Returns:
        Their places.
    """
    listed = list(functions)
    count = Counter(normalised(one.summary) for one in listed)
    return [
        place
        for place, one in enumerate(listed)
        if informative(one.summary)
        and count[normalised(one.summary)] == 1
        and normalised(one.summary) not in normalised(one.code)
    ]
