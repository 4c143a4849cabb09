"""Texts from outside on their way to a terminal, a log or a spreadsheet: what would act is shown instead.

Ids, texts and names come from data. A terminal obeys escape sequences in what is printed (they can move the cursor,
change the title, write to the clipboard), bidirectional controls show a line in another order than it is in, and a
spreadsheet computes a cell that begins with `=`.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult, RichCast
from rich.segment import Segment

# C0 but tab and line feed, DEL and C1; bidirectional controls; line and paragraph separators; characters of no width
# other than the joiners that scripts and emoji need; tags; lone surrogates.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    """Write out characters that a terminal or an editor obeys instead of showing, but for line feeds and tabs."""
    return _ACTING.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    if code <= 0xFF:  # noqa: PLR2004 - what two hexadecimal digits hold
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


def one_line(text: str) -> str:
    """Make one printable line of a text from outside: no line breaks, no terminal codes, no lone surrogates."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


class _Shown:
    """A renderable whose text is made visible where it is laid out already, so that rich's own codes stay."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self._inner, options):
            yield Segment(text if control else visible(text), style, control)


class _Hook:
    """Puts what is printed behind `_Shown`; rich calls it for every `print`."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(one) if isinstance(one, ConsoleRenderable | RichCast | str) else one for one in renderables]


def make_console(**options: Any) -> Console:
    """Make a rich console that shows control characters instead of obeying them."""
    console = Console(highlight=False, emoji=False, **options)
    console.push_render_hook(_Hook())  # type: ignore[arg-type]
    return console


class VisibleFormatter(logging.Formatter):
    """Formats a log line with control characters written out: a log is read in terminals too."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return visible(super().format(record))


def no_formula(text: str) -> str:
    """Put an apostrophe before a cell that a spreadsheet would compute, as OWASP advises ("CSV Injection")."""
    return f"'{text}" if text.startswith(_FORMULA) else text
