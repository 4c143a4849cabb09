"""Which groups a training step sees: a function of seed and step alone, so that a run can be taken up anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_demo.data import TrainingData
from rerank_demo.instructions import InstructedGroups
from rerank_demo.mining import HELD_OUT, Candidates
from rerank_demo.network import GroupTokens
from rerank_demo.probes import sentences
from rerank_demo.wordings import Clause
from rerank_eval.engine.prompts import token_ids
from rerank_eval.engine.recipes.card import RECIPE as CARD

INSTRUCTIONS = (
    "Given a function's description, retrieve the Python function that it describes",
    "Given a function's description, retrieve the Python function that it describes",
    "Given a web search query, retrieve relevant passages that answer the query",
    "Given the user query, retrieval the relevant passages",
    "Find the Python code that the sentence is about",
    "Given the first sentence of a docstring, find the function that it belongs to",
    "Given a description, find the source code that fits it",
    "Given a sentence, retrieve the document that it sums up",
    "Find the file that the text is about",
    "Given a question, retrieve the documents that answer it",
    "Retrieve documents for the query",
    "Given a title, retrieve the text that belongs to it",
    "Search for code by what it does",
    "Given a short summary, find the module, class or function that it was written for",
    "Judge whether the document is what the query describes",
    "Given a claim, retrieve documents that support it",
    "Which of the documents does the query speak of?",
)
"""The task's own prompt, the recipes' default texts, and more that restrict nothing.

A network that reads instructions has to see that most of them ask for what the query says, and for no more.
"""


KEPT_ROOTS = 5_000
CHARACTERS_A_TOKEN = 5
"""Of source with its indentation, of which the tokenizer makes little."""


@dataclass(frozen=True)
class BatchPlan:
    """How groups are made.

    Attributes:
        groups: Groups in a step.
        negatives: Negatives in a group.
        tokens: Where documents are cut.
        hard_start: Share of negatives out of the retrievers' candidates at step 0.
        hard_end: The same from `hard_steps` on.
        hard_steps: Steps over which the share grows.
        instructed: Share of groups whose relevance follows an instruction.
        alone: Instructions of a step that come without documents, for the probes; they cost little.
    """

    groups: int = 8
    negatives: int = 11
    tokens: int = 128
    hard_start: float = 0.4
    hard_end: float = 0.9
    hard_steps: int = 4000
    instructed: float = 0.15
    alone: int = 32


@dataclass(frozen=True)
class Group:
    """One query with documents.

    Attributes:
        tokens: Its prompts.
        relevant: (documents,) 1.0 where relevant.
        teacher: (documents,) MiniLM's cosines; None where there are none.
        restrictions: (RESTRICTIONS,) what the instruction wants, for the probes; None where it is not known.
        properties: (documents, PROPERTIES) what the documents are; None where it is not known.
        clauses: (clauses, RESTRICTIONS) what the instruction's sentences want; None where it is not known.
        parted: The next group holds the same documents under another instruction.
    """

    tokens: GroupTokens
    relevant: NDArray[np.float32]
    teacher: NDArray[np.float32] | None = None
    restrictions: NDArray[np.float32] | None = None
    properties: NDArray[np.float32] | None = None
    clauses: NDArray[np.float32] | None = None
    parted: bool = False


class Prompts:
    """Puts prompts together from parts that are tokenised once.

    The recipes' markers are tokens of the vocabulary, at which every text is cut before anything else happens, so
    parts between markers are tokenised alike alone and together.

    Args:
        data: The training data.
        tokens: Where documents are cut.
    """

    def __init__(self, data: TrainingData, tokens: int) -> None:
        self._data = data
        self._tokens = tokens
        self._roots: dict[str, list[int]] = {}
        self._suffix = token_ids(data.tokenizer, [CARD.suffix])[0]
        self._query_marker = token_ids(data.tokenizer, [CARD.query_template.format(query="")])[0][0]

    def root(self, instruction: str) -> list[int]:
        """Return the ids of system turn and instruction."""
        if instruction not in self._roots:
            if len(self._roots) >= KEPT_ROOTS:
                self._roots.clear()
            self._roots[instruction] = token_ids(self._data.tokenizer, [_opening(instruction)])[0]
        return self._roots[instruction]

    def closed(self, document: Sequence[int]) -> list[int]:
        """Cut a document and add the recipe's suffix."""
        return [*document[: self._tokens], *self._suffix]

    def group(self, query: int, documents: Sequence[int], instruction: str) -> GroupTokens:
        """Make the prompts of a function's summary with some functions' codes."""
        root = self.root(instruction)
        closed = [self.closed(self._data.documents[i]) for i in documents]
        return GroupTokens(root + self._data.queries[query], closed, len(root))

    def ends(self, instruction: str, clauses: Sequence[Clause]) -> tuple[int, ...]:
        """Return the places of the tokens that end an instruction's sentences."""
        text = _opening(instruction)
        start = text.rindex(instruction)
        parts = [text[: start + one.end] for one in clauses]
        return tuple(len(ids) - 1 for ids in token_ids(self._data.tokenizer, parts)) if parts else ()

    def alone(self, instruction: str, clauses: Sequence[Clause] = ()) -> GroupTokens:
        """Make the beginning of a prompt, as far as the query's marker."""
        root = self.root(instruction)
        return GroupTokens([*root, self._query_marker], [], len(root), self.ends(instruction, clauses))

    def text_group(
        self, query: str, documents: Sequence[str], instruction: str, clauses: Sequence[Clause] = ()
    ) -> GroupTokens:
        """Make the prompts of any texts."""
        texts = [CARD.query_template.format(query=query)]
        texts += [CARD.document_template.format(document=text) for text in documents]
        asked, *ids = token_ids(self._data.tokenizer, texts)
        root = self.root(instruction)
        ends = self.ends(instruction, clauses)
        return GroupTokens(root + asked, [self.closed(one) for one in ids], len(root), ends)


def _opening(instruction: str) -> str:
    return CARD.prefix + CARD.instruct_template.format(instruction=instruction)


def _instructed_groups(data: TrainingData, tokens: int) -> list[InstructedGroups]:
    """Make one source of instructed groups of each shard that has topics, of documents that are hardly ever cut."""
    shards = sorted(set(data.shard.tolist()) - {HELD_OUT})
    longest = CHARACTERS_A_TOKEN * tokens
    made = (InstructedGroups([data.functions[i] for i in data.members(number)], longest) for number in shards)
    return [one for one in made if len(one)]


class Batches:
    """Makes steps.

    Args:
        data: The training data.
        plan: How groups are made.
        seed: Another seed gives another order and other negatives.
    """

    def __init__(self, data: TrainingData, plan: BatchPlan, seed: int) -> None:
        self._data = data
        self._plan = plan
        self._seed = seed
        self._prompts = Prompts(data, plan.tokens)
        self._instructed = _instructed_groups(data, plan.tokens) if plan.instructed else []
        self._members = {int(number): data.members(int(number)) for number in np.unique(data.shard)}

    @property
    def epoch_steps(self) -> int:
        """Steps that use every query once."""
        return len(self._data.bm25.queries) // self._plan.groups

    def step(self, number: int) -> list[Group]:
        """Make a step's groups.

        Args:
            number: From 0.
        """
        generator = np.random.default_rng([self._seed, number])
        epoch, place = divmod(number, self.epoch_steps)
        order = self._order(epoch)
        rows = order[place * self._plan.groups : (place + 1) * self._plan.groups]
        done = min(1.0, number / max(1, self._plan.hard_steps))
        share = self._plan.hard_start + (self._plan.hard_end - self._plan.hard_start) * done
        groups = [self._group(int(row), share, generator) for row in rows]
        # Instructed groups come in pairs: the same documents under two instructions.
        wanted = self._plan.instructed * len(groups) / 2 if self._instructed else 0.0
        pairs = int(wanted) + bool(self._instructed and generator.random() < wanted % 1)
        for place in range(len(groups) - 2, len(groups) - 2 - 2 * pairs, -2):
            groups[place : place + 2] = self._pair(generator)
        return groups

    def alone(self, number: int) -> list[Group]:
        """Make a step's instructions without documents.

        Args:
            number: From 0.
        """
        generator = np.random.default_rng([self._seed, number, 1])
        found = []
        for _ in range(self._plan.alone if self._instructed else 0):
            source = self._instructed[int(generator.integers(len(self._instructed)))]
            instruction, wanted, clauses = source.instruction(generator)
            tokens, nothing = self._prompts.alone(instruction, clauses), np.zeros(0, dtype=np.float32)
            found.append(Group(tokens, nothing, restrictions=wanted, clauses=sentences(clauses)))
        return found

    def _pair(self, generator: np.random.Generator) -> list[Group]:
        source = self._instructed[int(generator.integers(len(self._instructed)))]
        drawn = source.draw(self._plan.negatives + 1, generator)
        found: list[Group] = []
        told = zip(drawn.instructions, drawn.relevant, drawn.restrictions, drawn.clauses, strict=True)
        for instruction, relevant, wanted, clauses in told:
            tokens = self._prompts.text_group(drawn.query, drawn.documents, instruction, clauses)
            said = sentences(clauses)
            found.append(Group(tokens, relevant, None, wanted, drawn.properties, said, parted=not found))
        return found

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            generator = np.random.default_rng([self._seed, 1_000_000_007, epoch])
            self._shuffled = generator.permutation(len(self._data.bm25.queries))
        return self._shuffled

    def _group(self, row: int, share: float, generator: np.random.Generator) -> Group:
        query = int(self._data.bm25.queries[row])
        sources = [one for one in (self._data.bm25, self._data.minilm) if one is not None]
        chosen: list[int] = []
        for _ in range(self._plan.negatives):
            hard = bool(generator.random() < share)
            chosen.append(self._negative(row, query, chosen, sources, generator, hard=hard))
        instruction = INSTRUCTIONS[int(generator.integers(len(INSTRUCTIONS)))]
        relevant = np.zeros(1 + len(chosen), dtype=np.float32)
        relevant[0] = 1.0
        documents, teacher = [query, *chosen], self._data.teacher
        opinion = None if teacher is None else teacher.cosines(row, documents)
        return Group(self._prompts.group(query, documents, instruction), relevant, opinion)

    def _negative(
        self,
        row: int,
        query: int,
        chosen: Sequence[int],
        sources: Sequence[Candidates],
        generator: np.random.Generator,
        *,
        hard: bool,
    ) -> int:
        members = self._members[int(self._data.shard[query])]
        while True:
            if hard:
                listed = sources[int(generator.integers(len(sources)))].documents[row]
                # The square of a uniform draw: the first candidates come up more often than the last.
                found = int(listed[int(len(listed) * generator.random() ** 2)])
            else:
                found = int(members[int(generator.integers(len(members)))])
            if found not in (query, -1) and found not in chosen:
                return found
            hard = hard and generator.random() < 0.9  # noqa: PLR2004 - a query with few candidates ends somewhere


def answer_ids(data: TrainingData) -> tuple[int, int]:
    """Return the ids of `yes` and `no`."""
    yes, no = token_ids(data.tokenizer, ["yes", "no"])
    return yes[0], no[0]


def relevance(groups: Sequence[Group]) -> torch.Tensor:
    """Stack the groups' relevance, (groups, documents)."""
    return torch.from_numpy(np.stack([group.relevant for group in groups]))
