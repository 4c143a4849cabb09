"""From a YAML file and `--set` overrides to validated runs.

Precedence, strongest first: command line (`--set`, `--task`), the file, what it `extends`, defaults.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rerank_eval.config.files import find_config, is_file, is_name, parse_yaml, read_yaml
from rerank_eval.config.listwise import ListwiseConfig
from rerank_eval.config.renamed import renamed
from rerank_eval.config.schema import (
    RerankerConfig,
    RetrieverConfig,
    RunConfig,
    UnknownNameError,
    WorkersConfig,
)
from rerank_eval.errors import ConfigError
from rerank_eval.names import did_you_mean
from rerank_eval.shipped import config_names, shipped_config

logger = logging.getLogger(__name__)

_MAX_FILES = 100
_MAX_RUNS = 1000
_COMMAND_LINE = "--set"
_DEEPEST = 8
_OPTIONAL_SECTIONS: dict[str, Any] = {
    "retriever": RetrieverConfig,
    "reranker": RerankerConfig,
    "listwise": ListwiseConfig,
    "workers": WorkersConfig,
}

_SHORT = {"workers": "backend"}
"""Section -> the key that a name in its place stands for: `workers: ray`."""

Origins = dict[str, str]
"""Dotted key -> the file (or `--set`) that gave it its value: an error names the place a user has to edit."""


@dataclass(frozen=True)
class LoadedConfig:
    """A config file as resolved.

    Attributes:
        path: The file, or the name of a shipped config.
        base: The config without its grid.
        runs: The grid's runs in order, each a full config with an empty grid; one run when there is no grid.
        variants: For each run, the grid's keys and the values it took.
        overrides: The `--set` arguments that are part of it.
        given_tasks: The tasks that the command line gave it, in place of the file's.
        given_models: The hub's models that are left of it, where it was cut to some of its models.
    """

    path: Path
    base: RunConfig
    runs: tuple[RunConfig, ...]
    variants: tuple[dict[str, Any], ...]
    overrides: tuple[str, ...] = ()
    given_tasks: tuple[str, ...] = ()
    given_models: tuple[str, ...] = ()


def load_config(path: Path, overrides: Sequence[str] = (), extra: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Read, merge, override, validate and expand a config.

    Args:
        path: The YAML file, or a config's name as `find_config` takes it.
        overrides: `--set` arguments, `dotted.key=value` with the value in YAML.
        extra: Further top-level keys from the command line, such as `tasks`.

    Raises:
        ConfigError: One line that names the file, the key path and the nearest valid name.
    """
    path, file = find_config(path)
    merged, origins = _read_merged(file, (), itertools.count(1))
    for key, value in (extra or {}).items():
        _merge(merged, {key: value}, origins, "command line", "")
    for override in overrides:
        key, value = _parse_override(override)
        _put_on_top(merged, _of_today(_nest(key, value), _COMMAND_LINE), origins, _COMMAND_LINE)
    merged.pop("extends", None)
    base = _validate(merged, origins, path)
    runs, variants = _expand(merged, base, origins, path)
    tasks = tuple(str(task) for task in (extra or {}).get("tasks") or ())
    alone = base.model_copy(update={"grid": {}})
    return LoadedConfig(path, alone, tuple(runs), tuple(variants), tuple(overrides), tasks)


def flattened(path: Path) -> dict[str, Any]:
    """Read a config with all that it extends.

    Returns:
        One mapping that says the same, without `extends`.

    Raises:
        ConfigError: As for `load_config`.
    """
    merged, _ = _read_merged(path, (), itertools.count(1))
    return {key: value for key, value in merged.items() if key != "extends"}


def _parent(name: str, child: Path) -> Path:
    """Return the file that a config extends: one beside it, or a shipped config by its name alone."""
    if not is_name(Path(name)) or is_file(child.parent / name):
        return child.parent / name
    beside = child.parent / f"{name}.yaml"
    if name in config_names() and (beside == child or not is_file(beside)):  # a copy may extend what it is named after
        return shipped_config(name)
    return beside


def _read_merged(path: Path, chain: tuple[Path, ...], read: Iterator[int]) -> tuple[dict[str, Any], Origins]:
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):  # a link to itself; RuntimeError before Python 3.13
        raise ConfigError(f"{path}: cannot be read (a link that leads to itself)") from None
    if resolved in chain:
        raise ConfigError(f"{path}: extends: the files extend each other in a circle")
    if next(read) > _MAX_FILES:  # two parents a file, each the same two: thirty files are a thousand million
        raise ConfigError(f"{path}: extends: more than {_MAX_FILES} files are read; is this meant?")
    content = _of_today(read_yaml(path), str(path))
    parents = content.get("extends")
    names = [parents] if isinstance(parents, str) else (parents or [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: extends: must be a file name or a list of file names")
    merged: dict[str, Any] = {}
    origins: Origins = {}
    for name in names:
        parent, parent_origins = _read_merged(_parent(name, path), (*chain, resolved), read)
        _merge(merged, parent, origins, "", "")
        origins.update(parent_origins)
    _put_on_top(merged, content, origins, str(path))
    return merged, origins


def _of_today(data: dict[str, Any], origin: str) -> dict[str, Any]:
    """Give what the last release named otherwise its name, with a notice, before levels are merged."""
    replaced: list[tuple[str, str]] = []
    if isinstance(data.get("reranker"), Mapping):
        section, replaced = renamed(data["reranker"])
        data = {**data, "reranker": section}
    if isinstance(data.get("grid"), Mapping):
        grid: dict[str, Any] = {}
        for key, values in data["grid"].items():
            section, old_names = renamed({key.removeprefix("reranker."): values} if key.startswith("reranker.") else {})
            grid |= {f"reranker.{name}": value for name, value in section.items()} or {key: values}
            replaced += old_names
        data = {**data, "grid": grid}
    for old, new in replaced:
        logger.warning(
            "%s: reranker.%s is now reranker.%s; the next release reads the new name alone", origin, old, new
        )
    return data


def _put_on_top(target: dict[str, Any], source: Mapping[str, Any], origins: Origins, origin: str) -> None:
    """Merge a level of the config over those below it: what it fixes is no longer varied by an inherited grid."""
    inherited = target.get("grid")
    if isinstance(inherited, dict):
        fixed = list(_leaves({key: value for key, value in source.items() if key != "grid"}, ""))
        kept = {key: values for key, values in inherited.items() if not any(_covers(leaf, key) for leaf in fixed)}
        target["grid"] = {} if "grid" in source and not source["grid"] else kept
    _merge(target, source, origins, origin, "")
    if target.get("grid") is None:
        target.pop("grid", None)


def _leaves(data: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yield the dotted keys of what is not itself a section with keys."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _covers(fixed: str, key: str) -> bool:
    return key == fixed or key.startswith(f"{fixed}.")


def _merge(target: dict[str, Any], source: Mapping[str, Any], origins: Origins, origin: str, prefix: str) -> None:
    for key, given in source.items():
        dotted = f"{prefix}{key}"
        if origin:
            origins[dotted] = origin
        # A name for a section chooses, and leaves the section's other keys as they are.
        named = dotted in _SHORT and isinstance(given, str) and isinstance(target.get(key), dict)
        value = {_SHORT[dotted]: given} if named else given
        # `grid` maps whole dotted keys to lists, so its entries replace each other like any other list.
        if isinstance(value, Mapping):
            mine = target.get(key)
            target[key] = dict(mine) if isinstance(mine, dict) else {}
            _merge(target[key], value, origins, origin, f"{dotted}.")
        else:
            target[key] = value


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    if key.count(".") > _DEEPEST:
        raise ConfigError(f"{_COMMAND_LINE} {key[:40]!r}: no key has so many parts")
    if not equals or not key.strip():
        raise ConfigError(f"{_COMMAND_LINE} {text!r}: write it as key=value, such as reranker.dtype=float16")
    try:
        return key.strip(), parse_yaml(raw)
    except ValueError:
        raise ConfigError(f"{_COMMAND_LINE} {key}: {raw!r} is not valid YAML") from None


def _nest(dotted: str, value: Any) -> dict[str, Any]:
    if dotted.startswith("grid."):
        return {"grid": {dotted.removeprefix("grid."): value}}
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return dict(value)


def _validate(data: Mapping[str, Any], origins: Origins, path: Path, grid_key: str | None = None) -> RunConfig:
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_first_problem(error, origins, path, grid_key)) from None


def _first_problem(error: ValidationError, origins: Origins, path: Path, grid_key: str | None) -> str:
    # An unknown key explains the others (a misspelt key is also a missing one), so it is told first.
    problems = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    location = [str(part) for part in problems[0]["loc"]]
    key = f"grid.{grid_key}" if grid_key else ".".join(location)
    rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{_origin(key, origins, path)}: {key}: {_explain(problems[0], location)}{rest}"


def _origin(key: str, origins: Origins, path: Path) -> str:
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        found = origins.get(".".join(parts[:length]))
        if found is not None:
            return found
    return str(path)


def _explain(problem: Any, location: list[str]) -> str:
    kind, context = problem["type"], problem.get("ctx") or {}
    if kind == "extra_forbidden":
        return f"unknown key; {did_you_mean(location[-1], _valid_keys(location[:-1]))}"
    if kind == "literal_error":
        choices = [part.strip().strip("'") for part in context["expected"].replace(" or ", ", ").split(",")]
        return f"unknown value {problem['input']!r}; {did_you_mean(str(problem['input']), choices)}"
    if kind == "value_error":
        cause = context.get("error")
        if isinstance(cause, UnknownNameError):
            return f"{cause}; {did_you_mean(cause.name, cause.choices)}"
        return str(cause)
    return f"{problem['msg']}, got {_shown(problem['input'])}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - what fits on a line


def _valid_keys(section: list[str]) -> list[str]:
    model: Any = RunConfig
    for part in section:
        model = _OPTIONAL_SECTIONS.get(part) or _section(model, part)
    return list(model.model_fields)


def _section(model: Any, part: str) -> Any:
    field = model.model_fields.get(part)
    annotation = getattr(field, "annotation", None)
    return annotation if hasattr(annotation, "model_fields") else RunConfig


def _expand(
    merged: dict[str, Any], base: RunConfig, origins: Origins, path: Path
) -> tuple[list[RunConfig], list[dict[str, Any]]]:
    grid = base.grid
    count = math.prod(map(len, grid.values()))
    for key in grid:
        section, dot, _ = key.partition(".")
        origin = _origin(f"grid.{key}", origins, path)
        if section not in {"retriever", "reranker"}:
            raise ConfigError(f"{origin}: grid.{key}: this key cannot be varied in a grid")
        if dot and merged.get(section, section) is None:
            raise ConfigError(f"{origin}: grid.{key}: {section} is null, so there is nothing to vary; drop one of them")
    if count > _MAX_RUNS:
        raise ConfigError(f"{path}: grid: {count} combinations; more than {_MAX_RUNS} is surely a mistake")
    plain = {key: value for key, value in merged.items() if key != "grid"}
    for key, values in grid.items():  # each value alone first: the error then names the key and nothing else
        for value in values:
            _validate(_with(plain, {key: value}), origins, path, grid_key=key)
    variants = [dict(zip(grid, combination, strict=True)) for combination in itertools.product(*grid.values())]
    return [_validate(_with(plain, variant), origins, path) for variant in variants], variants


def _with(data: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    _merge(result, data, {}, "", "")
    for key, value in variant.items():
        _merge(result, _nest(key, value), {}, "", "")
    return result
