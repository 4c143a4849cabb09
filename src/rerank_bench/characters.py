"""`python -m rerank_bench.characters FILE`: measures how many characters a token of Qwen's vocabulary holds.

Per script, on text that machines carry: the GNU gettext catalogs of the installed programs for natural languages (their
messages are real sentences, though of one domain), the Python standard library for code. mteb's descriptive statistics
count characters; with these figures `plan` turns them into tokens.
"""

from __future__ import annotations

import gettext
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCALES = Path("/usr/share/locale")
CODE = "code"
_ENOUGH = 150_000  # characters of a language
_LONG = 40  # characters: shorter messages are menu entries
_SCRIPTS = {
    "Latn": ("fr", "de", "es", "it", "pt", "nl", "pl", "tr", "vi", "id", "fi", "hu", "cs", "ro", "sv"),
    "Cyrl": ("ru", "uk", "bg", "sr"),
    "Arab": ("ar", "fa", "ur"),
    "Hans": ("zh_CN",),
    "Hant": ("zh_TW",),
    "Jpan": ("ja",),
    "Hang": ("ko",),
    "Deva": ("hi", "mr", "ne"),
    "Beng": ("bn", "bn_IN", "as"),
    "Thai": ("th",),
    "Hebr": ("he",),
    "Grek": ("el",),
    "Taml": ("ta",),
    "Telu": ("te",),
    "Gujr": ("gu",),
    "Guru": ("pa",),
    "Knda": ("kn",),
    "Mlym": ("ml",),
    "Sinh": ("si",),
    "Khmr": ("km",),
    "Geor": ("ka",),
    "Armn": ("hy",),
    "Ethi": ("am",),
}
"""ISO 15924 script -> locales whose catalogs stand for it; English has an entry of its own."""


def messages(locale: str) -> Iterator[tuple[str, str]]:
    """Yield original and translation of a locale's longer messages.

    Args:
        locale: Such as `de`.
    """
    for path in sorted((LOCALES / locale / "LC_MESSAGES").glob("*.mo")):
        try:
            with path.open("rb") as handle:
                catalog: Any = gettext.GNUTranslations(handle)
        except (OSError, ValueError, UnicodeDecodeError):
            continue
        for key, text in catalog._catalog.items():
            original = key if isinstance(key, str) else key[0]
            if len(original) >= _LONG and text and text != original:
                yield original, text


def _ratio(tokenizer: Any, texts: Iterator[str]) -> tuple[float, int] | None:
    characters = tokens = 0
    for text in texts:
        characters += len(text)
        tokens += len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if characters >= _ENOUGH:
            break
    return (characters / tokens, characters) if tokens else None


def measure() -> dict[str, dict[str, float]]:
    """Measure every script that this machine has text of.

    Returns:
        `eng`, `code` or an ISO 15924 script -> characters_a_token and characters measured.
    """
    from rerank_eval.models.qwen_vocabulary import build_qwen_tokenizer
    from rerank_eval.tasks.embedded.stdlib import library

    tokenizer = build_qwen_tokenizer()
    found = {
        CODE: _ratio(tokenizer, (one.source for one in library().functions)),
        "eng": _ratio(tokenizer, (original for original, _ in messages("de"))),
    }
    for script, locales in _SCRIPTS.items():
        parts = [own for locale in locales if (own := _ratio(tokenizer, (text for _, text in messages(locale))))]
        if parts:
            total = sum(characters for _, characters in parts)
            found[script] = (total / sum(characters / ratio for ratio, characters in parts), total)
    return {name: {"characters_a_token": round(own[0], 3), "characters": own[1]} for name, own in found.items() if own}


def main(path: Path) -> None:
    """Measure and write."""
    source = inspect.cleandoc(__doc__ or "").split("\n\n", 1)[1].replace("\n", " ")
    path.write_text(json.dumps({"source": source, "scripts": measure()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
