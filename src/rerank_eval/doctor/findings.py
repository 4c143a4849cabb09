"""What a check has found, and how a check is run so that nothing it meets ends the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from rerank_eval.errors import ConfigError, DataError, DeviceError, ModelError, OfflineError, RerankEvalError
from rerank_eval.typed import command

Level = Literal["ok", "warning", "failure"]

LONGEST = 600
"""Characters of a library's message that are shown."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: `ok`; `warning` where a run works, but slower or otherwise than one may think; `failure` where it does
            not, or its numbers would be wrong.
        name: What was looked at.
        found: What was found, in one line.
        remedy: What to do about it; empty where there is nothing to do.
    """

    level: Level
    name: str
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Finding:
    """Make a finding that is as it should be."""
    return Finding("ok", name, one_line(found))


def warning(name: str, found: str, remedy: str) -> Finding:
    """Make a finding that a run survives."""
    return Finding("warning", name, one_line(found), one_line(remedy))


def failure(name: str, found: str, remedy: str) -> Finding:
    """Make a finding that a run does not survive, or that makes its numbers wrong."""
    return Finding("failure", name, one_line(found), one_line(remedy))


def one_line(text: str) -> str:
    """Fold line breaks, and cut what a library tells at length."""
    folded = " ".join(text.split())
    return folded if len(folded) <= LONGEST else f"{folded[:LONGEST].rstrip()}..."


def said(error: BaseException) -> str:
    """Return what an exception says, in one line."""
    return one_line(f"{type(error).__name__}: {error}")


def guarded(name: str, check: Callable[[], Iterable[Finding]], fetch: str, again: str = "") -> Iterator[Finding]:
    """Run a check; whatever it raises becomes a finding.

    Args:
        name: What the check looks at.
        check: Yields findings.
        fetch: The command that fetches what a run needs, for remedies.
        again: How to get a checkpoint's files anew, where the check looks at one.
    """
    try:
        yield from check()
    except RerankEvalError as error:
        yield failure(name, str(error), _remedy(error, fetch, again))
    except Exception as error:  # a check may meet anything: that is what it is for
        yield failure(name, f"the check broke off: {said(error)}", "run it again; if it stays, report this line")


def _remedy(error: RerankEvalError, fetch: str, again: str) -> str:
    """Say what to do about an error of ours, whose message names place and cause."""
    if isinstance(error, ConfigError):
        return f"correct the value named; `{command('schema')}` prints every key with its meaning"
    if isinstance(error, OfflineError | DataError):
        return f"run `{fetch}` where there is a network, or set data_root and model_root to a mirror"
    if isinstance(error, ModelError):
        return f"correct the key named, or {again or f'run `{fetch}` to fetch the checkpoint again'}"
    if isinstance(error, DeviceError):
        return "choose another with --set device=..., or free its memory"
    return "do what the line says"
