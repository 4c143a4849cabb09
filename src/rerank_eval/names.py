"""Names and digests: nearest valid name, safe file names, canonical digests."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_SLUG = 120
_MAX_LISTED = 12


def nearest(name: str, choices: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the valid name closest to a misspelt one by difflib's ratio, ignoring case; None when nothing is near."""
    by_lower: dict[str, str] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), choice)
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Render the remedy for an unknown name, to end an error message: the nearest valid one, else the whole list."""
    valid = list(choices)
    best = nearest(name, valid)
    if best is not None:
        return f"did you mean {best!r}?"
    if not valid:
        return "there are no valid names here"
    shown = sorted(valid)[:_MAX_LISTED]
    more = f" and {len(valid) - len(shown)} more" if len(valid) > len(shown) else ""
    return f"valid: {', '.join(shown)}{more}"


def some(names: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """List the first few of many names, and count the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def slug(text: str) -> str:
    """Turn any text into a file name that stays inside its folder.

    Returns:
        ASCII letters, digits, `.`, `_` and `-` only, at most 120 characters, never empty and never starting with
        a dot. `/` becomes `__`, as in mteb's own result layout. Distinct texts that would collide after cutting
        keep apart by a digest suffix.
    """
    safe = _UNSAFE.sub("_", text.replace("/", "__")).lstrip(".") or "_"
    if len(safe) > _MAX_SLUG:
        safe = f"{safe[: _MAX_SLUG - 13]}-{digest(text, 12)}"
    return safe


SPLIT_MARK = "@"
"""Between a task's name and a split that is not its usual one; no name of mteb's holds it."""


def without_split(task: str) -> str:
    """Return a task's name without the split behind it: `SciFact` of `SciFact@train`."""
    return task.partition(SPLIT_MARK)[0]


def task_folder(task: str) -> str:
    """Return the name of a task's folder: two splits of a task, and a task named like the two, keep apart."""
    return SPLIT_MARK.join(slug(part) for part in task.split(SPLIT_MARK, 1))


def canonical_json(value: Any) -> str:
    """Serialise to JSON with sorted keys and no blanks, so that equal values give equal bytes; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """Return the first `length` hexadecimal characters of the SHA-256 of a value's canonical JSON."""
    # surrogatepass: a text read from disk may hold lone surrogates, and must still have a digest.
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()[:length]
