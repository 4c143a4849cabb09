"""Config files by path or name, and YAML that is safe and small: no aliases, no silent duplicates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from rerank_eval.config.schema import is_yaml_file
from rerank_eval.errors import ConfigError
from rerank_eval.names import did_you_mean, nearest
from rerank_eval.shipped import config_names, shipped_config

_MAX_BYTES = 1_000_000
_CONFIG = "config file"
_CONFIGS = Path("configs")
_PIPES = ("/dev/fd/", "/proc/self/fd/")  # what a shell makes of <(command)
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_BOOLEAN, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
_LONGEST_NUMBER = 100
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")
_BROKEN = (ValueError, RecursionError, AttributeError, LookupError, TypeError, OverflowError)
"""What PyYAML raises besides its own errors: for `!!timestamp x`, `!!bool x`, `!!int ''`."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (a few lines of them can expand to gigabytes) and without silent duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="aliases are not allowed here: use `extends`", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and (found := _UNUSABLE.search(value)):
            raise yaml.MarkedYAMLError(
                problem=f"holds {found[0]!r}, which is no character of a name or a text", problem_mark=node.start_mark
            )
        if node.tag in _NUMBERS and len(value) > _LONGEST_NUMBER:
            # YAML's numbers to the base of 60 take minutes where they are long, and Python refuses to print long ones.
            raise yaml.MarkedYAMLError(
                problem=f"holds a number of {len(value)} characters", problem_mark=node.start_mark
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _BOOLEAN:  # a recipe's keys `yes` and `no`, which are truths in YAML 1.1
                key_node.tag = _TEXT
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is not text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def find_config(given: Path) -> tuple[Path, Path]:
    """Find the config that a path or a name stands for.

    A path stays as it is. A name alone, such as `qwen3-8b`, is a config of this folder if there is one, so that a
    copy that was edited wins over the config that comes with the package.

    Args:
        given: A path, or a name: `NAME.yaml` here, `configs/NAME.yaml` here, or a shipped config.

    Returns:
        What to call it (the path, or the shipped config's name), and the file.

    Raises:
        ConfigError: No config has this name.
    """
    if not is_name(given):
        return given, given
    for here in (Path(f"{given}.yaml"), _CONFIGS / f"{given}.yaml"):
        if is_file(here):
            return here, here
    if str(given) in config_names():
        return given, shipped_config(str(given))
    raise ConfigError(f"{given}: no such {_CONFIG}; {_did_you_mean_file(given, _CONFIG)}")


def is_config(given: str) -> bool:
    """Tell whether an argument that may also name a run stands for a config: a YAML file, or a config's name."""
    if is_yaml_file(given):
        return True
    try:
        return not Path(given).exists() and is_name(Path(given)) and bool(find_config(Path(given)))
    except (ConfigError, OSError):
        return False


def is_name(given: Path) -> bool:
    """Tell whether what was given for a file is a name alone, and no file here."""
    return given.name == str(given) and not is_yaml_file(given.name) and not is_file(given)


def is_file(path: Path) -> bool:
    """Tell whether there is such a file."""
    try:
        return path.is_file()
    except OSError:  # longer than any name of a file
        return False


def read_yaml(path: Path, what: str = _CONFIG) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Returns:
        The mapping; an empty file gives an empty one.

    Raises:
        ConfigError: The file is missing, too large, not UTF-8, or not a YAML mapping.
    """
    try:
        # A device has no end and no size, and a pipe may never be written to.
        if path.exists() and not path.is_file() and not path.is_dir() and not str(path).startswith(_PIPES):
            raise ConfigError(f"{path}: cannot be read (a device or a pipe, not a {what})")
        with path.open("rb") as handle:
            content = handle.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than 1 MB; is this a {what}?")
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what}; {_did_you_mean_file(path, what)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_yaml_problem(error)}") from None
    except _BROKEN as error:
        raise ConfigError(f"{path}: not a usable YAML file ({type(error).__name__})") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the top level must be `key: value` lines, not a {type(value).__name__}")
    return value


def _did_you_mean_file(path: Path, what: str) -> str:
    """Suggest a file for one that is not there: beside it, or a config of this folder or a shipped one by its name."""
    folders = [path.parent, *([_CONFIGS] if what == _CONFIG and path.parent != _CONFIGS else [])]
    beside = [one for folder in folders for one in sorted(folder.glob("*.y*ml"))]
    files = {name: name for name in config_names()} if what == _CONFIG else {}
    files |= {one.stem: one.as_posix() for one in reversed(beside) if one.is_file() and not one.name.startswith(".")}
    best = nearest(path.stem if is_yaml_file(path.name) else path.name, files)
    return f"did you mean {files[best]!r}?" if best is not None else did_you_mean(path.as_posix(), files.values())


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}: {problem}" if mark is not None else f"not valid YAML: {problem}"


def parse_yaml(text: str) -> Any:
    """Read a value as `read_yaml` reads a file's.

    Raises:
        ValueError: It is not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, *_BROKEN) as error:
        raise ValueError(f"not valid YAML ({type(error).__name__})") from error
