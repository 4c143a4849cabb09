"""Which documents go through the model together: packs of whole groups, within a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rerank_eval.engine.layout import GroupLayout, PackLayout
from rerank_eval.engine.prompts import TokenizedGroup


@dataclass(frozen=True)
class Part:
    """Some of a group's documents, by their indices in the order of the row; `number` is the group's in the stream."""

    number: int
    prompts: TokenizedGroup
    documents: tuple[int, ...]

    @property
    def root(self) -> tuple[int, ...]:
        """Ids of the root."""
        return tuple(self.prompts.shared[: self.prompts.root])

    @property
    def lengths(self) -> tuple[int, ...]:
        """Own tokens of each document, in the order of the row."""
        return tuple(len(self.prompts.own[i]) for i in self.documents)

    @property
    def tokens(self) -> int:
        """Tokens in a row."""
        return len(self.prompts.shared) + sum(self.lengths)


@dataclass(frozen=True)
class Pack:
    """What goes through the model at once.

    Attributes:
        parts: Parts of groups; those with the same root stand together.
        share_roots: Compute a root once for all parts that begin with it; else each part's root is part of its prefix.
    """

    parts: tuple[Part, ...]
    share_roots: bool = True

    @cached_property
    def roots(self) -> list[tuple[int, ...]]:
        """Ids of each distinct root, in the order of the row."""
        return list(dict.fromkeys(part.root for part in self.parts if part.root)) if self.share_roots else []

    @cached_property
    def tokens(self) -> int:
        """Tokens in the row."""
        shared = sum(len(root) for root in self.roots)
        return shared + sum(part.tokens - (len(part.root) if self.share_roots else 0) for part in self.parts)

    def layout(self, multiple: int = 1) -> PackLayout:
        """Lay the row out, its length filled up to a multiple of `multiple`."""
        place = {root: index for index, root in enumerate(self.roots)}
        groups = []
        for part in self.parts:
            index = place.get(part.root)
            root_tokens = 0 if index is None else len(part.root)
            groups.append(GroupLayout(len(part.prompts.shared) - root_tokens, part.lengths, index))
        return PackLayout(tuple(groups), tuple(len(root) for root in self.roots), filler=-self.tokens % multiple)

    def token_ids(self, filler: int = 0) -> list[int]:
        """Return the row's token ids, `filler` zeros at its end."""
        row = [token for root in self.roots for token in root]
        for part in self.parts:
            row.extend(part.prompts.shared[len(part.root) if self.share_roots else 0 :])
        for part in self.parts:
            for index in part.documents:
                row.extend(part.prompts.own[index])
        return row + [0] * filler

    def without_shared_roots(self) -> Pack:
        """Return the same parts, each with its root in its prefix."""
        return Pack(self.parts, share_roots=False)

    def halves(self) -> list[Pack]:
        """Split into two packs of about half the tokens: between groups, or inside the only one.

        A pack of a single document is returned alone.
        """
        if len(self.parts) > 1:
            middle = len(self.parts) // 2
            return [Pack(self.parts[:middle], self.share_roots), Pack(self.parts[middle:], self.share_roots)]
        part = self.parts[0]
        if len(part.documents) == 1:
            return [self]
        budget = len(part.prompts.shared) + (self.tokens - len(part.prompts.shared) + 1) // 2
        return [Pack((piece,), self.share_roots) for piece in _split(part, budget)]


def plan_packs(prefix: int, lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Distribute one group's documents over packs, longest first: each pack's indices, in the order of the row.

    Every pack holds the shared prefix of `prefix` tokens once; `lengths` are the documents' own. A document that
    exceeds the budget even alone gets a pack of its own.
    """
    packs: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not packs or filled + lengths[index] > token_budget:
            packs.append([])
            filled = prefix
        packs[-1].append(index)
        filled += lengths[index]
    return packs


def _split(part: Part, token_budget: int) -> list[Part]:
    packs = plan_packs(len(part.prompts.shared), part.lengths, token_budget)
    return [Part(part.number, part.prompts, tuple(part.documents[i] for i in pack)) for pack in packs]


class Packer:
    """Fills packs with whole groups as they come; only a group larger than the budget is split."""

    def __init__(self, token_budget: int) -> None:
        self.token_budget = token_budget
        self._open: list[Part] = []
        self._roots: set[tuple[int, ...]] = set()
        self._filled = 0

    def add(self, number: int, prompts: TokenizedGroup) -> list[Pack]:
        """Take a group of at least one prompt in; return the packs that are full now."""
        whole = Part(number, prompts, tuple(range(len(prompts.own))))
        *full, last = _split(whole, max(self.token_budget, 1))
        ready = []
        # Groups without a shared prefix do not share a row with others that have one.
        fits = self._filled + self._added(last) <= self.token_budget
        if self._open and (full or not fits or bool(self._open[0].prompts.shared) != bool(prompts.shared)):
            ready.append(self.flush())
        ready += [Pack((piece,)) for piece in full]
        self._filled += self._added(last)
        self._roots.add(last.root)
        self._open.append(last)
        return ready

    def _added(self, part: Part) -> int:
        """Tokens that a part adds to the open row."""
        return part.tokens - (len(part.root) if part.root in self._roots else 0)

    def flush(self) -> Pack:
        """Return what is open as a pack, perhaps without parts."""
        # By root, in the order in which roots came up; sorting is stable, so groups keep their order otherwise.
        first = {root: place for place, root in reversed(list(enumerate(part.root for part in self._open)))}
        pack = Pack(tuple(sorted(self._open, key=lambda part: first[part.root])))
        self._open, self._roots, self._filled = [], set(), 0
        return pack
