"""The engine's one exception; it knows no other package of ours, so the callers translate it."""

from __future__ import annotations


class EngineError(ValueError):
    """The engine cannot do what was asked: a model, a setting or a text does not fit.

    Args:
        message: One clear line: what is wrong and how to mend it. Line breaks inside are folded into blanks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
