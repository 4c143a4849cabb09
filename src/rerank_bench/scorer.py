"""A scorer in a process of its own, asked line by line: what the benchmarks of engine and families share."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Self


class Scorer:
    """Starts a process that answers each line with a line of JSON, the first one unasked.

    Args:
        command: What to start.
        env: Its environment; None for ours.

    Attributes:
        facts: The first answer.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would fill up and stop it
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, or the caller's
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, env=env
        )
        self.facts = self._answer()

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and wait for its answer."""
        assert self._process.stdin is not None  # noqa: S101 - it was asked for above
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def ended(self, said: str) -> BaseException:
        """Return what is raised when the process has ended; `said` is what it wrote to its standard error."""
        return RuntimeError("\n".join(said.strip().splitlines()[-3:]) or "it ended without a word")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for above
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            raise self.ended(self._said.read())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:  # noqa: D105
        return self

    def __exit__(self, *_: object) -> None:  # noqa: D105
        self._process.kill()
        self._process.communicate()
        self._said.close()
