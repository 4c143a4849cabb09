"""Instruction sets: task -> instruction, under `evals/instructions` or in a user's YAML file."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerank_eval.config.schema import INSTRUCTION_NAMES, is_yaml_file
from rerank_eval.config.yaml_files import read_yaml
from rerank_eval.errors import ConfigError
from rerank_eval.files import at_home
from rerank_eval.models.recipes import explain
from rerank_eval.names import did_you_mean, digest
from rerank_eval.shipped import evals_root, instruction_set_names

_IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}@[0-9a-f]{8}")
_OTHERWISE = ("default", "task", "none", "error")
_SHORT = 24


class TaskInstructions(BaseModel):
    """What is said with one task."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    query: str | None = None
    """For a retriever's queries, and for a reranker unless `pair` is there."""
    document: str | None = None
    """For a retriever's documents, where they have an instruction too."""
    pair: str | None = None
    """For a reranker, where it reads another text than a retriever's queries."""

    @model_validator(mode="after")
    def _says_something(self) -> TaskInstructions:
        if self.query is None and self.pair is None:
            raise ValueError("say what stands before a query (`query`) or what a reranker reads (`pair`)")
        return self


class InstructionSet(BaseModel):
    """A named set of instructions, task by task.

    A task that is not in it gets what `otherwise` says, and never the instruction of another task.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")
    """What tables call it."""
    source: str = Field(min_length=1)
    """Where the texts come from."""
    extends: str | None = None
    """Another set, whose tasks these are put on top of."""
    otherwise: str = "default"
    """For a task that is not here: `default` (the recipe's or encoder's default), `task` (mteb's prompt, else the
    default), `none`, `error` (refuse), or the text itself, with a blank in it."""
    tasks: dict[str, str | TaskInstructions] = Field(min_length=1)
    """mteb's name of a task -> its instruction; one text, or texts for queries, documents and pairs apart."""

    @model_validator(mode="after")
    def _otherwise_is_known(self) -> InstructionSet:
        if self.otherwise not in _OTHERWISE and " " not in self.otherwise.strip():
            raise ValueError(f"otherwise: {did_you_mean(self.otherwise, _OTHERWISE)}")
        return self

    @property
    def identity(self) -> str:
        """Name and digest of everything that can change a prompt; the source cannot."""
        tasks = {name: self._of(name).model_dump() for name in self.tasks}
        return f"{self.name}@{digest([tasks, self.otherwise], 8)}"

    def _of(self, task: str) -> TaskInstructions:
        entry = self.tasks[task]
        return TaskInstructions(query=entry) if isinstance(entry, str) else entry

    def for_pair(self, task: str) -> str | None:
        """Return what a reranker reads with a task, or None where the set does not hold it."""
        if task not in self.tasks:
            return None
        entry = self._of(task)
        return entry.query if entry.pair is None else entry.pair

    def for_text(self, task: str, *, document: bool) -> str | None:
        """Return what a retriever's queries or documents are embedded with, or None where the set holds nothing.

        Args:
            task: mteb's name of the task.
            document: Documents rather than queries.
        """
        if task not in self.tasks:
            return None
        entry = self._of(task)
        return entry.document if document else entry.query

    def check(self, tasks: list[str], where: str) -> None:
        """Refuse tasks that the set leaves out, where it is told to.

        Args:
            tasks: Names of the tasks of a run.
            where: File and key that named the set.

        Raises:
            ConfigError: `otherwise` is `error` and a task is not in the set.
        """
        lacking = [task for task in tasks if task not in self.tasks]
        if lacking and self.otherwise == "error":
            raise ConfigError(
                f"{where}: instruction set {self.name} has nothing for {lacking[0]} and says `otherwise: error`; add "
                "the task, or say what the others get"
            )


def find_instruction_set(setting: str, where: str) -> InstructionSet | None:
    """Read the instruction set that a setting names.

    Args:
        setting: The value of `instruction` in a config.
        where: File and key that named it, for error messages.

    Returns:
        The set, or None where the setting is something else: `task`, `default`, `none`, or the text itself.

    Raises:
        ConfigError: The file is missing or malformed; names file and key.
    """
    if setting in INSTRUCTION_NAMES or not (is_yaml_file(setting) or setting in instruction_set_names()):
        return None
    return _read(setting, where, ())


def _read(setting: str, where: str, chain: tuple[str, ...]) -> InstructionSet:
    if setting in chain:
        raise ConfigError(f"{where}: the sets extend each other in a circle")
    if is_yaml_file(setting):
        path = at_home(setting)
    elif setting in instruction_set_names():
        path = evals_root() / "instructions" / f"{setting}.yaml"
    else:
        names = instruction_set_names()
        raise ConfigError(f"{where}: unknown instruction set {setting!r}; {did_you_mean(setting, names)}")
    try:
        own = InstructionSet.model_validate({"name": path.stem, "source": str(path), **read_yaml(path, "file")})
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, InstructionSet, TaskInstructions)}") from None
    if own.extends is None:
        return own
    base = _read(own.extends, f"{path}: extends", (*chain, setting))
    # Left out, `otherwise` is what the set below says.
    otherwise = own.otherwise if "otherwise" in own.model_fields_set else base.otherwise
    return own.model_copy(update={"tasks": {**base.tasks, **own.tasks}, "otherwise": otherwise, "extends": None})


def shown_instruction(setting: str) -> str:
    """Return an instruction as results are filed under it: names and short texts as they are, longer by their digest.

    Args:
        setting: The value of `instruction` in a config, or a set's identity.
    """
    if setting in INSTRUCTION_NAMES or len(setting) <= _SHORT or _IDENTITY.fullmatch(setting):
        return setting
    return f"text-{digest(setting, 8)}"
