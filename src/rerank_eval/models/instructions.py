"""Which instruction a pair is scored with, and a record of what was really used."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rerank_eval.names import digest

_SHOWN = 3


class InstructionPolicy:
    """Chooses the instruction of each query; never inherits one from another task.

    Args:
        setting: `none`, `default`, `task`, or the instruction's own text.
        default: The recipe's default instruction, or None when the model takes none.
        reads_task_prompt: Whether `task` may use mteb's `metadata.prompt`; the `mteb` recipe never does.
        joins_own: Whether a query's own instruction stands behind the query as well, as in the `mteb` recipe.
        place: Where the model reads it, in words, for the manifest.

    Attributes:
        used: How many queries were scored with which instruction; None means no instruction at all.
    """

    def __init__(
        self,
        setting: str,
        default: str | None,
        *,
        reads_task_prompt: bool = True,
        joins_own: bool = False,
        place: str = "in the prompt",
    ) -> None:
        self.setting = setting
        self.default = default
        self.reads_task_prompt = reads_task_prompt
        self.joins_own = joins_own
        self.place = place
        self.used: Counter[str | None] = Counter()

    def choose(self, own: str | None, task_metadata: Any) -> str | None:
        """Choose the instruction of one query.

        Args:
            own: The query's own instruction, as instruction-following tasks give it.
            task_metadata: mteb's `TaskMetadata` of the task at hand, or None.

        Returns:
            The instruction's text, or None for no instruction.
        """
        chosen = self._choose(own, task_metadata)
        self.used[chosen] += 1
        return chosen

    def query_text(self, query: str, own: str | None) -> str:
        """Return the query as the model reads it.

        Args:
            query: The query's text.
            own: The query's own instruction, or None.
        """
        return f"{query} {own}" if own and self.joins_own and self.setting == "task" else query

    def _choose(self, own: str | None, task_metadata: Any) -> str | None:
        if self.setting == "none":
            return None
        if self.setting == "default":
            return self.default
        if self.setting != "task":
            return self.setting
        if own:
            return own
        return (task_prompt(task_metadata) if self.reads_task_prompt else None) or self.default

    def summary(self) -> dict[str, Any]:
        """Describe what was used since the last call, for a manifest: distinct texts, examples, digest."""
        texts = sorted(self.used, key=lambda text: (text is None, text or ""))
        summary = {
            "setting": self.setting,
            "place": self.place if any(texts) else None,
            "distinct": len(texts),
            "examples": texts[:_SHOWN],
            "digest": digest([[text, self.used[text]] for text in texts]),
        }
        self.used.clear()
        return summary


def task_prompt(task_metadata: Any) -> str | None:
    """Return the instruction for queries that mteb's metadata of a task carries, if any.

    Args:
        task_metadata: mteb's `TaskMetadata`, or None.

    Returns:
        The text, or None where the metadata has none (6 of the 10 tasks of MTEB-R, for one).
    """
    prompt = getattr(task_metadata, "prompt", None)
    if isinstance(prompt, dict):
        prompt = prompt.get("query")
    return prompt if isinstance(prompt, str) and prompt else None
