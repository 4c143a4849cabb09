from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank_eval.config import json_schema, load_config

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_committed_schema_is_current() -> None:
    committed = json.loads((CONFIGS / "schema.json").read_text(encoding="utf-8"))
    assert committed == json_schema(), "run `make schema`"


def test_every_field_has_a_description() -> None:
    schema = json_schema()

    def fields(section: dict[str, Any], path: str) -> list[str]:
        return [f"{path}{name}" for name, field in section["properties"].items() if not field.get("description")]

    missing = fields(schema, "")
    for name, section in schema["$defs"].items():
        missing += fields(section, f"{name}.")
    assert missing == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_loads_and_names_its_schema(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=schema.json\n")
    loaded = load_config(path)
    assert loaded.base.description
    assert loaded.runs
