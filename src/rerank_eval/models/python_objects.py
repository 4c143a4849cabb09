"""Models that are Python code: `python:my_module:MyReranker`, what an installed package declares, or a live object.

Their identity is the code itself. What it reads beside that, such as weights, is known only by the attribute
`revision` of the class or object, a string that its author changes with them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rerank_eval.config.schema import PYTHON_NAME, RerankerConfig, RetrieverConfig
from rerank_eval.errors import ModelError
from rerank_eval.models.ref import ModelRef
from rerank_eval.names import digest
from rerank_eval.registry import Registry

_CODE = (".py", ".so", ".pyd")
_READ = {"model", "options", "instruction", "kind", "top_k", "candidates", "own_document", "listwise"}
"""Keys of a section that mean something for Python code too."""


def resolve_object(name: str, where: str, registry: Registry[Any]) -> ModelRef | None:
    """Find the Python object that a model's name stands for, and digest its code; the module is imported.

    Returns:
        The model; its `source` is `module:object`, or empty for an object of the running program, and its `folder` is
        the folder from which the module is imported. None where the name stands for no Python object.

    Raises:
        ModelError: It is not to be had: no such module or attribute, or importing it failed.
    """
    match = PYTHON_NAME.match(name)
    if match is None and (name not in registry or name in registry.builtins):
        return None
    source = f"{match[1]}:{match[2]}" if match else registry.source(name)
    if source is None:
        part = registry.get(name, where)
        revision = getattr(part, "revision", None)
        parts = [type(part).__qualname__, _of_this_process(name) if revision is None else str(revision)]
        return _ref(name, name, "", f"object-{digest(parts, 16)}", stated=revision is not None)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    module, _, attribute = source.partition(":")
    part = import_object(source, name, where)
    folder, code = _code_of(module, name, where)
    revision = getattr(part, "revision", None)
    facts = [module, attribute, code, None if revision is None else str(revision)]
    title, label = (f"{module}.{attribute}", attribute) if match else (name, name)
    return _ref(title, label, source, f"python-{digest(facts, 16)}", str(folder), stated=revision is not None)


def _ref(title: str, label: str, source: str, revision: str, folder: str = "", *, stated: bool) -> ModelRef:
    code = "its code is part of the result's identity" if source else "nothing of it is reused by another process"
    note = f"Python code that states no revision: {code}, weights and data that it reads are not"
    return ModelRef(f"python/{title}", label, source, revision, "python", "", () if stated else (note,), folder)


@functools.cache
def _of_this_process(name: str) -> str:
    return f"{name}-{uuid.uuid4()}"


def import_object(source: str, name: str, where: str) -> Any:
    """Import `module:object`.

    Raises:
        ModelError: There is no such module or attribute, or importing it failed.
    """
    module, _, attribute = source.partition(":")
    try:
        part = importlib.import_module(module)
        for one in attribute.split("."):
            part = getattr(part, one)
        return part
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ModelError(
                f"{where}: {name}: there is no module {error.name}; install its package, or run in the folder that "
                f"holds {error.name.partition('.')[0]}.py"
            ) from None
        raise ModelError(f"{where}: {name}: {module} imports {error.name}, which is not installed") from None
    except AttributeError as error:
        known = sys.modules.get(module)
        if known is not None and not hasattr(known, attribute.partition(".")[0]):
            raise ModelError(f"{where}: {name}: module {module} has no {attribute}") from None
        raise ModelError(f"{where}: {name}: importing {module} failed (AttributeError: {error})") from error
    except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
        raise ModelError(f"{where}: {name}: importing {module} failed ({type(error).__name__}: {error})") from error


def _code_of(module: str, name: str, where: str) -> tuple[Path, dict[str, str]]:
    """Return the folder that a module is imported from, and digests of its code: its package, and modules beside it."""
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    origin = None if spec is None else spec.origin
    if origin is None or not Path(origin).is_file():
        raise ModelError(f"{where}: {name}: {top} is no module in a file, so that its code has no digest")
    file = Path(origin).absolute()
    folder = file.parent.parent if file.name == "__init__.py" else file.parent
    found: dict[str, str] = {}
    _add(top, folder, found, follow=not {"site-packages", "dist-packages"} & set(folder.parts))
    return folder, found


def _add(top: str, folder: Path, found: dict[str, str], *, follow: bool) -> None:
    """Digest a module or package, and what it imports from the folder that it lies in itself."""
    package = folder / top
    files = [path for path in folder.glob(f"{top}.*") if path.suffix in _CODE]
    files += [path for path in package.rglob("*") if path.suffix in _CODE] if package.is_dir() else []
    for path in sorted(files):
        key = path.relative_to(folder).as_posix()
        if key in found:
            continue
        data = path.read_bytes()
        found[key] = hashlib.sha256(data).hexdigest()
        for other in sorted(_imported(data)) if follow and path.suffix == ".py" else ():
            if other != top and ((folder / f"{other}.py").is_file() or (folder / other / "__init__.py").is_file()):
                _add(other, folder, found, follow=follow)


def _imported(data: bytes) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def find_object(config: RerankerConfig | RetrieverConfig, ref: ModelRef, where: str, registry: Registry[Any]) -> Any:
    """Return a resolved model's class, function or object, and refuse keys that mean nothing to it.

    Args:
        config: The section of the config that names it.
        ref: The model, resolved.
        where: `reranker` or `retriever`.
        registry: Where the running program's objects are.

    Raises:
        ModelError: A key has a value that nothing reads, the class does not take the options, or the object is not to
            be had.
    """
    for key in config.set_beside(_READ):
        raise ModelError(
            f"{where}.{key}: {ref.label} is Python code, which does not read it; take it out, or pass it on by "
            f"{where}.options"
        )
    source, model = ref.source, config.model
    part = import_object(source, model, f"{where}.model") if source else registry.get(model, f"{where}.model")
    if not isinstance(part, type):
        if config.options:
            raise ModelError(f"{where}.options: {ref.label} is no class, so that nothing takes them; take them out")
        return part
    try:
        inspect.signature(part).bind(**_arguments(part, config.options, ""))
    except TypeError as error:
        raise ModelError(f"{where}.options: {ref.label} cannot be made with {config.options}: {error}") from None
    except ValueError:  # a class in C that does not say what it takes
        pass
    return part


def make_object(
    config: RerankerConfig | RetrieverConfig, ref: ModelRef, where: str, registry: Registry[Any], device: str
) -> Any:
    """Make an object of the class that `find_object` finds; a function or an object is returned as it is.

    Args:
        config: As for `find_object`.
        ref: As for `find_object`.
        where: As for `find_object`.
        registry: As for `find_object`.
        device: What a parameter `device` of the class is given where the options have none.

    Raises:
        ModelError: As for `find_object`, or the class raised an exception.
    """
    part = find_object(config, ref, where, registry)
    if not isinstance(part, type):
        return part
    try:
        return part(**_arguments(part, config.options, device))
    except Exception as error:  # whatever somebody's class does when it is made
        raise ModelError(
            f"{where}.model: {ref.label} could not be made with the options {config.options} "
            f"({type(error).__name__}: {error})"
        ) from error


def refuse_options(config: RerankerConfig | RetrieverConfig, ref: ModelRef, where: str) -> None:
    """Refuse `options` for what is no Python code, where nothing would read them."""
    if config.options and ref.origin != "python":
        raise ModelError(f"{where}.options: {ref.name} is no Python code, so that nothing takes them; take them out")


def _arguments(part: type, options: Mapping[str, Any], device: str) -> dict[str, Any]:
    return {**({"device": device} if "device" in parameters(part) else {}), **options}


def parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters, `self` not among them; none where it does not say."""
    try:
        return [name for name in inspect.signature(function).parameters if name != "self"]
    except (TypeError, ValueError):
        return []
