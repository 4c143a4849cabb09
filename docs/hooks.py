"""What the site takes from the code: commands, config keys, configs, suites; and links that mkdocs does not check.

`<!-- commands -->`, `<!-- config-keys -->`, `<!-- configs -->`, `<!-- suites -->` and `<!-- exit-codes -->` in a page
become tables made from the package, so that no page repeats an option or a key by hand.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

from rerank_eval import errors
from rerank_eval.cli import app
from rerank_eval.config import json_schema

ROOT = Path(__file__).parents[1]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Markdown files beside the site whose links are checked too."""

_PATH = re.compile(r"`((?:src|tests|configs|evals|deploy|docs|results/(?:bench|plan|fuzz|crash))/[\w./-]*\w)`")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
_CODE = re.compile(r"`[^`\n]+`")
_COMMAND = re.compile(r"\brerank-eval ([a-z][a-z-]+)")
_LABELS = {errors.INTERRUPTED: "interrupted by Ctrl-C", errors.TERMINATED: "ended by SIGTERM"}

log = logging.getLogger("mkdocs.hooks.rerank_eval")
"""mkdocs counts warnings of loggers below its own, and `--strict` fails on them."""


def on_pre_build(config: Any) -> None:
    """Check the links of the Markdown files that are no pages."""
    for name in OUTSIDE:
        text = (ROOT / name).read_text(encoding="utf-8")
        _check(name, text)
        for link in _LINK.findall(text):
            if not (ROOT / link).exists():
                log.warning("%s links to %s, which is not there", name, link)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in what the code says, and check the paths and commands that the page names."""
    _check(page.file.src_uri, markdown)
    made = {
        "commands": commands,
        "config-keys": config_keys,
        "configs": configs,
        "suites": suites,
        "exit-codes": exit_codes,
    }
    for name, make in made.items():
        mark = f"<!-- {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    # GitHub wants pipes in a table's code escaped, mkdocs shows the backslash.
    return _CODE.sub(lambda code: code[0].replace("\\|", "|"), markdown)


def _check(name: str, text: str) -> None:
    if name.lower() == "changelog.md":  # old names belong there
        return
    for path in _PATH.findall(text):
        if not (ROOT / path).exists():
            log.warning("%s names %s, which is not there", name, path)
    for code in re.findall(r"```(?:sh|bash)\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
        for command in _COMMAND.findall("".join(code)):
            if command not in _group().commands:
                log.warning("%s names the command %s, which is not there", name, command)


def _group() -> Any:
    return typer.main.get_command(app)


def commands() -> str:
    """Return every command with its help, arguments and options."""
    return "\n".join(_commands(_group(), "", "##"))


def _commands(group: Any, parent: str, mark: str) -> Iterator[str]:
    for name, command in group.commands.items():
        what, _, more = inspect.cleandoc(command.help or "").partition("\n")
        yield f"{mark} {parent}{name}\n\n{what}\n"
        yield _examples(more)
        if hasattr(command, "commands"):
            yield from _commands(command, f"{parent}{name} ", f"{mark}#")
        else:
            yield _options(command)


def _examples(text: str) -> str:
    """Return the rest of a help text, its indented lines as one block of code."""
    parts, code = [], [line.strip() for line in text.splitlines() if line.startswith("    ")]
    for paragraph in re.split(r"\n\s*\n", text):
        plain = [line for line in paragraph.splitlines() if line and not line.startswith("    ")]
        if "".join(plain).startswith("Example") and code:
            parts.append("```sh\n" + "\n".join(code) + "\n```")
        elif plain:
            parts.append("\n".join(plain))
    return "\n\n".join(parts) + "\n"


def _options(command: Any) -> str:
    rows = []
    for one in command.params:
        help_ = getattr(one, "help", None)
        if help_ is None or one.name == "help":
            continue
        names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
        kind = "" if one.name not in one.opts else " (argument)"
        given = "required" if one.required else "" if one.default in {None, "", False} else f"`{one.default}`"
        rows.append(f"| {names}{kind} | {_cell(help_)} | {given} |")
    return "\n".join(["| option | meaning | default |", "|---|---|---|", *rows]) + "\n" if rows else ""


def config_keys() -> str:
    """Return every config key with its values, default and meaning, section by section."""
    schema = json_schema()
    return "\n".join(_keys(schema, schema, ""))


def _keys(section: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    below = []
    yield f"### {prefix.rstrip('.') or 'Top level'}\n"
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    for name, key in section["properties"].items():
        target = next(_sections(key), None)
        default = "its own section" if target is not None and key.get("default") is not None else _value(key)
        yield f"| `{prefix}{name}` | {default} | {_cell(_meaning(key))} |"
        if target is not None:
            below.append((name, schema["$defs"][target]))
    yield ""
    for name, found in below:
        yield from _keys(found, schema, f"{prefix}{name}.")


def _meaning(key: Mapping[str, Any]) -> str:
    """Return a key's description, with the values that it may have where the description does not name them."""
    text = str(key.get("description", ""))
    values = [value for one in (key, *key.get("anyOf", [])) for value in one.get("enum", [])]
    return text if all(f"`{value}`" in text for value in values) else f"{text} One of `{'`, `'.join(values)}`."


def _sections(key: Mapping[str, Any]) -> Iterator[str]:
    for one in (key, *key.get("anyOf", [])):
        if "$ref" in one:
            yield one["$ref"].rpartition("/")[2]


def _value(key: Mapping[str, Any]) -> str:
    default = key.get("default")
    return "`null`" if default is None else f"`{yaml.safe_dump(default, default_flow_style=True).split(chr(10))[0]}`"


def configs() -> str:
    """Return the configs that come with the project, each with its description."""
    rows = []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows.append(f"| `{path.stem}` | {_cell(read.get('description', ''))} |")
    return "\n".join(["| config | what it is for |", "|---|---|", *rows]) + "\n"


def suites() -> str:
    """Return every suite with its number of tasks, queries and pairs."""
    rows = []
    for path in sorted((ROOT / "evals" / "suites").glob("*.yaml")):
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        sizes = [f"{sum(task.get(of) or 0 for task in read['tasks']):,}" for of in ("queries", "pairs")]
        told = sizes if sizes != ["0", "0"] else ["by `embedded.size`", ""]
        rows.append(f"| {read['name']} | {len(read['tasks'])} | {' | '.join(told)} | {_cell(read['source'])} |")
    heads = ["| suite | tasks | queries | pairs at 100 candidates | source |", "|---|--:|--:|--:|---|"]
    return "\n".join([*heads, *rows]) + "\n"


def exit_codes() -> str:
    """Return the exit codes of the command line."""
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.RerankEvalError)]
    found = {one.exit_code: (inspect.getdoc(one) or "").split("\n")[0] for one in kinds}
    rows = {0: "success", **found, 1: "a bug of ours; the only case with a traceback", **_LABELS}
    lines = [f"| {code} | {_cell(meaning)} |" for code, meaning in sorted(rows.items())]
    return "\n".join(["| code | meaning |", "|--:|---|", *lines]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
