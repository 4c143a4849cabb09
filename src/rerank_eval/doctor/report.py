"""Shows findings as they come, and sums them up."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from rerank_eval.doctor.case import Case
from rerank_eval.doctor.examination import examine
from rerank_eval.doctor.findings import Finding
from rerank_eval.errors import SetupError
from rerank_eval.files import write_json

_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}
_WIDTH = 10


def doctor(case: Case, console: Console, json_file: Path | None = None) -> list[Finding]:
    """Run all checks, print a line for each, and write them as JSON if asked.

    Args:
        case: What to look at.
        console: Where it is printed.
        weights: Whether to load models.
        json_file: File to write to, or None.

    Returns:
        The findings, when nothing failed.

    Raises:
        SetupError: A check failed.
        StorageError: The JSON file cannot be written.
    """
    started = time.monotonic()
    findings: list[Finding] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _hush_libraries()
        # On a terminal, what is being looked at stands below the lines; into a file or a pipe go the lines alone.
        with console.status("") as status:
            case.show = lambda name: status.update(escape(name))
            for finding in examine(case):
                findings.append(finding)
                _print(finding, console)
    seconds = time.monotonic() - started
    counts = {level: sum(finding.level == level for finding in findings) for level in _STYLES}
    total = f"{counts['ok']} ok, {counts['warning']} warning(s), {counts['failure']} failure(s)"
    console.print(f"{total}, {seconds:.0f} s", markup=False)
    if json_file is not None:
        write_json(json_file, _as_json(findings, counts, seconds))
        console.print(f"written: {json_file}", markup=False)
    if counts["failure"]:
        raise SetupError(f"{counts['failure']} of {len(findings)} checks failed; the lines above say what to do")
    return findings


def _hush_libraries() -> None:
    """Keep the libraries' own warnings from between the lines; what matters is found by a check."""
    root = logging.getLogger()
    if not root.handlers:  # else Python prints warnings of loggers without a handler
        root.addHandler(logging.NullHandler())
    try:
        from transformers.utils import logging as transformers_logging
    except Exception:  # the check of imports reports it
        return
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _print(finding: Finding, console: Console) -> None:
    style = _STYLES[finding.level]
    console.print(f"[{style}]{finding.level:<{_WIDTH}}[/]{escape(finding.name)}: {escape(finding.found)}")
    if finding.remedy:
        console.print(f"{'':<{_WIDTH}}{escape(f'-> {finding.remedy}')}")


def _as_json(findings: Sequence[Finding], counts: dict[str, int], seconds: float) -> dict[str, Any]:
    try:
        from rerank_eval.pipeline.provenance import environment

        surroundings = environment()
    except Exception:  # a broken torch is what the findings tell
        surroundings = {}
    return {
        "counts": counts,
        "environment": surroundings,
        "findings": [asdict(finding) for finding in findings],
        "seconds": round(seconds, 3),
    }
