"""YAML files of a user's: read within bounds, refused in one line that names the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from rerank_eval.config.schema import is_yaml_file
from rerank_eval.errors import ConfigError
from rerank_eval.names import did_you_mean, nearest
from rerank_eval.shipped import config_names

CONFIG = "config file"
CONFIGS = Path("configs")
_MAX_BYTES = 1_000_000
_PIPES = ("/dev/fd/", "/proc/self/fd/")  # what a shell makes of <(command)
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_BOOLEAN, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
_LONGEST_NUMBER = 100
_BROKEN = (ValueError, RecursionError, AttributeError, LookupError, TypeError, OverflowError)
"""What PyYAML raises besides its own errors: for `!!timestamp x`, `!!bool x`, `!!int ''`."""
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


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


def parse_yaml(text: str) -> Any:
    """Parse YAML safely; raise a ValueError that says what is wrong."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(_yaml_problem(error)) from None
    except _BROKEN as error:
        raise ValueError(f"not a usable YAML file ({type(error).__name__})") from None


def read_yaml(path: Path, what: str = CONFIG) -> dict[str, Any]:
    """Read a YAML file of at most 1 MB whose top level is a mapping; an empty file gives an empty one.

    Raises:
        ConfigError: The file is no readable YAML mapping; the message calls it `what`.
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
        raise ConfigError(f"{path}: no such {what}; {did_you_mean_file(path, what)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the top level must be `key: value` lines, not a {type(value).__name__}")
    return value


def did_you_mean_file(path: Path, what: str) -> str:
    """Suggest a file for one that is not there: beside it, or a config of this folder or a shipped one by its name."""
    folders = [path.parent, *([CONFIGS] if what == CONFIG and path.parent != CONFIGS else [])]
    beside = [one for folder in folders for one in sorted(folder.glob("*.y*ml"))]
    files = {name: name for name in config_names()} if what == CONFIG else {}
    files |= {one.stem: one.as_posix() for one in reversed(beside) if one.is_file() and not one.name.startswith(".")}
    best = nearest(path.stem if is_yaml_file(path.name) else path.name, files)
    return f"did you mean {files[best]!r}?" if best is not None else did_you_mean(path.as_posix(), files.values())


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}: {problem}" if mark is not None else f"not valid YAML: {problem}"
