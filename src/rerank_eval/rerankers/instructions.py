"""Which instruction a pair is scored with, and a record of what was really used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rerank_eval.config.schema import INSTRUCTION_NAMES
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.names import digest

_SHOWN = 3


class InstructionPolicy:
    """Chooses the instruction of each query; never inherits one from another task.

    Args:
        setting: `none`, `default`, `task`, or the instruction's own text. With `instructions` its name.
        default: The recipe's default instruction, or None when the model takes none.
        reads_task_prompt: Whether `task` may use mteb's `metadata.prompt`; the `mteb` recipe never does.
        joins_own: Whether a query's own instruction stands behind the query as well, as in the `mteb` recipe.
        instructions: The instruction set that the setting names, or None.
        place: Where the model reads it, in words, for the manifest.
    """

    def __init__(
        self,
        setting: str,
        default: str | None,
        *,
        reads_task_prompt: bool = True,
        joins_own: bool = False,
        instructions: InstructionSet | None = None,
        place: str = "in the prompt",
    ) -> None:
        self.setting = setting
        self.default = default
        self.reads_task_prompt = reads_task_prompt
        self.joins_own = joins_own
        self.instructions = instructions
        self.place = place

    def choose(self, query_instruction: str | None, task_metadata: Any) -> tuple[str, str | None]:
        """Choose the instruction of one query.

        Args:
            query_instruction: The query's own, as instruction-following tasks give it.
            task_metadata: mteb's `TaskMetadata` of the task at hand, or None.

        Returns:
            Where it comes from (`config`, `none`, `default`, `query`, `task` or `set`), and its text or None for no
            instruction.

        Raises:
            ConfigError: The set has nothing for the task, and says that this is an error.
        """
        if self.instructions is None and self.setting not in INSTRUCTION_NAMES:
            return "config", self.setting
        if self.setting == "none":
            return "none", None
        if self.setting == "default":
            return "default", self.default
        if query_instruction:
            return "query", query_instruction
        if self.instructions is None:
            return self._of_task(task_metadata) if self.reads_task_prompt else ("default", self.default)
        return self._of_set(self.instructions, task_metadata)

    def query_text(self, query: str, query_instruction: str | None) -> str:
        """Return the query as the model reads it.

        Args:
            query: The query's text.
            query_instruction: The query's own instruction, or None.
        """
        reads_own = self.setting == "task" or self.instructions is not None
        return f"{query} {query_instruction}" if query_instruction and self.joins_own and reads_own else query

    def _of_task(self, task_metadata: Any) -> tuple[str, str | None]:
        prompt = task_prompt(task_metadata)
        return ("task", prompt) if prompt else ("default", self.default)

    def _of_set(self, instructions: InstructionSet, task_metadata: Any) -> tuple[str, str | None]:
        name = getattr(task_metadata, "name", "")
        text = instructions.for_pair(name)
        if text is not None:
            return "set", text
        instructions.check([name], "instruction")
        if instructions.otherwise == "task":
            return self._of_task(task_metadata)
        if instructions.otherwise == "default":
            return "default", self.default
        return ("none", None) if instructions.otherwise == "none" else ("set", instructions.otherwise)

    def summary(self, used: Mapping[tuple[str, str | None], int]) -> dict[str, Any]:
        """Describe what was used, for a manifest: origins, distinct texts, examples, digest.

        Args:
            used: How many queries were scored with which instruction, by its origin and text as `choose` gave them.
        """
        texts: Counter[str | None] = Counter()
        origins: Counter[str] = Counter()
        for (origin, text), count in used.items():
            texts[text] += count
            origins[origin] += count
        ordered = sorted(texts, key=lambda text: (text is None, text or ""))
        summary: dict[str, Any] = {
            "setting": self.setting,
            "place": self.place if any(ordered) else None,
            "origins": dict(sorted(origins.items())),
            "distinct": len(ordered),
            "examples": ordered[:_SHOWN],
            "digest": digest([[text, texts[text]] for text in ordered]),
        }
        if self.instructions is not None:
            summary["set"] = {"name": self.instructions.identity, "source": self.instructions.source}
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
