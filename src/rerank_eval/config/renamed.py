"""Keys and values of `reranker` under the names of the last release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED_KEYS = {"markers": "special_tokens"}
"""Keys of `reranker` as the last release named them -> their names."""

RENAMED_VALUES = {"head": {"faithful": "recipe_softmax"}, "special_tokens": {"neutralise": "escape"}}
"""Key of `reranker` -> its values as the last release named them -> their names."""


def renamed(section: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Give what the last release named otherwise its name.

    Args:
        section: Keys of `reranker`; a list of values is one of a grid.

    Returns:
        The section with its names of today, and what was replaced: the old name and the new one, such as
        `("head: faithful", "head: recipe_softmax")`.
    """
    result: dict[str, Any] = {}
    replaced: list[tuple[str, str]] = []
    for key, value in section.items():
        name = RENAMED_KEYS.get(key, key)
        if name != key and name in section:  # both are there: the old one stays and is refused as unknown
            result[key] = value
            continue
        values = RENAMED_VALUES.get(name, {})
        several = value if isinstance(value, list) else [value]
        new = [values.get(one, one) if isinstance(one, str) else one for one in several]
        result[name] = new if isinstance(value, list) else new[0]
        if name != key:
            replaced.append((key, name))
        replaced += [
            (f"{name}: {old}", f"{name}: {one}") for old, one in zip(several, new, strict=True) if old is not one
        ]
    return result, replaced


def spelled_before(value: str) -> str:
    """Return a value as the first release spelled it.

    Digests that name result folders and score caches hold that spelling, and so do manifests: were it changed there,
    no result of before would be found again.
    """
    old = {new: old for values in RENAMED_VALUES.values() for old, new in values.items()}
    return old.get(value, value)
