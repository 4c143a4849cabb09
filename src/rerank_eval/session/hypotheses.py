"""Why two sides differ, tried on a few pairs with the weights of the side that runs in this process.

Each hypothesis writes the prompts otherwise; every link of `analysis.links` is tried on top of it. A few pairs screen
what cannot be, the rest confirm.
"""

from __future__ import annotations

import dataclasses
import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rerank_eval.analysis import links
from rerank_eval.analysis.links import Fit, Floats
from rerank_eval.analysis.symptoms import Finding
from rerank_eval.engine.base import PromptEngine
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.head import Head
from rerank_eval.engine.interface import Engine, QueryGroup
from rerank_eval.engine.loading import answer_head
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import RerankEvalError
from rerank_eval.models.checkpoint import load_tokenizer
from rerank_eval.pipeline.plan import RunSpec
from rerank_eval.rerankers.family import Prepared
from rerank_eval.rerankers.loading import load_reranking_engine
from rerank_eval.session.prompts_tried import LENGTHS, Hypothesis, ProbePair, Writer

PROBES = 24
"""Pairs on which hypotheses are confirmed."""
_SCREEN = 4
"""Pairs on which most of them are refuted."""
_LENIENT = 3.0
"""Times the noise by which a link may be off on the screening pairs."""
_AS_GOOD = 3
_DTYPES = ("bfloat16", "float16", "float32")
_OWN_NOISE = 0.25
"""Share of what a dtype changes that two packings of it may differ by."""
_SIZES = 4.0
"""How many times larger or smaller a difference may be that is of the size of a number format's rounding."""
_SIDE = re.compile(r"\b[AB]\b")


@dataclass(frozen=True)
class Asked:
    """What is to be explained, on the probe pairs; arrays are (probes,).

    Attributes:
        pairs: Their texts.
        y: The other side's scores.
        base: What the side whose weights are here makes of its own prompts.
        rounding: What their number format rounds off.
        tolerance: Noise of a margin.
        lengths: Limits in tokens that the numbers point to.
        swapped: Whether the weights are B's, so that A is what is explained.
    """

    pairs: Sequence[ProbePair]
    y: Floats
    base: Floats
    rounding: Floats
    tolerance: float
    lengths: Sequence[int] = ()
    swapped: bool = False


@dataclass(frozen=True)
class Supported:
    """A hypothesis that explains the differences, with its link, and the largest difference without it."""

    kind: str
    words: str
    fit: Fit
    unexplained: float
    x: Floats


class Prober:
    """Tries hypotheses with one side's weights.

    Args:
        row: The side, whose model runs in this process.
        task_metadata: mteb's.
        engine: Its engine, where it is in memory.
    """

    def __init__(self, row: RunSpec, task_metadata: Any, engine: Engine | None) -> None:
        assert row.prepared is not None  # noqa: S101 - a reranker's row has it
        self.row, self.prepared, self._metadata = row, row.prepared, task_metadata
        self._engine: Engine | None = engine or self._load(self.prepared)
        self._heads: dict[tuple[Any, ...], Head] = {}
        self._known: dict[tuple[Any, ...], float] = {}
        self.tried = 0
        self.nearest: tuple[float, str] | None = None

    def _load(self, prepared: Prepared) -> Engine:
        return load_reranking_engine(prepared.config, prepared.ref, self.row.config.device, prepared.prompting)

    def explain(self, asked: Asked) -> list[Finding]:
        """Find what explains the differences, the best explanation first; empty where nothing does."""
        if not isinstance(self._engine, PromptEngine):
            return self._by_settings(asked)
        tokenizer = load_tokenizer(self.prepared.ref, trust_remote_code=self.prepared.config.trust_remote_code)
        writer = Writer(self.prepared, tokenizer, self._metadata)
        for tier in (*self._likely(asked, writer), writer.further(asked.pairs, asked.lengths)):
            found = self._try(tier, asked, writer, asked.tolerance)
            if found:
                return self._findings(found, asked)
        return self._by_dtype(asked, writer)

    def _likely(self, asked: Asked, writer: Writer) -> list[Iterator[Hypothesis]]:
        """Return what changes one thing: first what the numbers point to."""
        tiers = [writer.likely(asked.lengths), writer.cuts(asked.pairs, asked.lengths)]
        return tiers[::-1] if asked.lengths else tiers

    def _margins(self, hypothesis: Hypothesis, pairs: Sequence[ProbePair], writer: Writer) -> Floats:
        """Score prompts; the same ids are scored once.

        Raises:
            EngineError: The tokenizer has no such answers, or the model answers with NaN.
        """
        engine, recipe = self._engine, hypothesis.recipe
        assert isinstance(engine, PromptEngine)  # noqa: S101 - see `explain`
        answers = (recipe.yes, recipe.no)
        prompts = [tuple(hypothesis.write(pair)) for pair in pairs]
        if not all(prompts):
            raise EngineError("an empty prompt")
        fresh = [ids for ids in dict.fromkeys(prompts) if (answers, ids) not in self._known]
        if fresh:
            _, margins = engine.answers(fresh, self._head(recipe, writer))
            self._known |= {(answers, ids): value for ids, value in zip(fresh, margins.tolist(), strict=True)}
        return np.array([self._known[answers, ids] for ids in prompts])

    def _head(self, recipe: Recipe, writer: Writer) -> Head:
        engine, key = self._engine, (recipe.yes, recipe.no)
        assert isinstance(engine, PromptEngine)  # noqa: S101 - see `explain`
        if key not in self._heads:
            name = self.prepared.ref.name
            self._heads[key] = answer_head(name, writer.tokenizer, engine.parts.model, recipe, "float32")
        return self._heads[key]

    def _try(self, hypotheses: Iterable[Hypothesis], asked: Asked, writer: Writer, tolerance: float) -> list[Supported]:
        """Hold hypotheses against the pairs."""
        base = asked.base
        screen = _spread(base, asked.y)
        without = {one.link.name: one.largest for one in links.fits(base, asked.y, tolerance, asked.rounding)}
        found: list[Supported] = []
        for one in hypotheses:
            try:
                few = self._margins(one, [asked.pairs[i] for i in screen], writer)
                first = links.fits(few, asked.y[screen], tolerance, asked.rounding[screen])
                self.tried += 1
                self._note(one, first)
                if not any(fit.ratio <= _LENIENT for fit in first):
                    continue
                x = self._margins(one, asked.pairs, writer)
            except EngineError:
                continue
            for fit in links.fits(x, asked.y, tolerance, asked.rounding):
                if fit.holds(without.get(fit.link.name, np.inf)):
                    found.append(Supported(one.kind, one.words, fit, without.get(fit.link.name, np.inf), x))
                    break
        order = {link.name: number for number, link in enumerate(links.LINKS)}
        return sorted(found, key=lambda one: order[one.fit.link.name])

    def _note(self, hypothesis: Hypothesis, found: Sequence[Fit]) -> None:
        """Remember what comes nearest, in case that nothing holds."""
        for fit in found:
            if not fit.link.free and (self.nearest is None or fit.share < self.nearest[0]):
                self.nearest = (fit.share, f"{hypothesis.words}, {fit.name}")

    def _findings(self, found: Sequence[Supported], asked: Asked, noise: str = "") -> list[Finding]:
        first = found[0]
        same = [
            one.words
            for one in found[1:]
            if one.fit.link == first.fit.link and np.abs(one.x - first.x).max() <= asked.tolerance
        ]
        text = _turned(first.words, swapped=asked.swapped)
        if first.fit.link.name != "B = A":
            text += f", and {_turned(first.fit.name, swapped=asked.swapped)}"
        text += (
            f"; on {len(asked.y)} pairs that leaves {first.fit.largest:.2g} at most, of {first.unexplained:.2g}{noise}"
        )
        if same:
            more = "; ".join(_turned(one, swapped=asked.swapped) for one in same[:_AS_GOOD])
            text += f" (the very same scores: {more})"
        evidence = {
            "link": first.fit.name,
            "leaves": first.fit.largest,
            "of": first.unexplained,
            "pairs": len(asked.y),
            "same": same,
        }
        return [Finding(first.kind, text, evidence, explains=True)]

    def _by_dtype(self, asked: Asked, writer: Writer) -> list[Finding]:
        """Try other number formats; what such a format changes is then the noise of everything else."""
        base = asked.base
        unexplained = float(np.abs(asked.y - base).max())
        noise = 0.0
        own = self.prepared.config.dtype
        for dtype in _DTYPES:
            if dtype == own:
                continue
            other = self._of_settings({"dtype": dtype}, asked)
            if other is None:
                continue
            self.tried += 1
            change = float(np.abs(other - base).max())
            noise = max(noise, change if dtype != "float16" else 0.0)
            tolerance = max(asked.tolerance, _OWN_NOISE * change)
            # Another packing rounds elsewhere: a quarter of the difference may stay.
            fit = links.best(other, asked.y, tolerance, unexplained / (links.CLEARLY * _SIZES), asked.rounding)
            if fit is not None:
                also = "" if fit.link.name == "B = A" else f", and {_turned(fit.name, swapped=asked.swapped)}"
                who, whose = ("A", "B") if asked.swapped else ("B", "A")
                text = (
                    f"{who} computes in {dtype}{also}: {whose}'s model in {dtype} leaves {fit.largest:.2g} at most, of "
                    f"{unexplained:.2g} in {own}"
                )
                evidence = {"dtype": dtype, "link": fit.name, "leaves": fit.largest, "of": unexplained}
                return [Finding("dtype", text, evidence, explains=True)]
        return self._within(noise, asked, writer) if noise > asked.tolerance else []

    def _within(self, noise: float, asked: Asked, writer: Writer) -> list[Finding]:
        """Look for what leaves no more than bfloat16 changes: servers use it, and each kernel rounds elsewhere."""
        unexplained = float(np.abs(asked.y - asked.base).max())
        whose, own = "B" if asked.swapped else "A", self.prepared.config.dtype
        if noise / _SIZES <= unexplained <= noise * _SIZES:
            text = (
                f"the differences are of the size of bfloat16's rounding: up to {unexplained:.2g}, where {whose}'s own "
                f"model in bfloat16 differs from {own} by up to {noise:.2g}; another kernel or number format"
            )
            return [Finding("dtype", text, {"largest": unexplained, "noise": noise}, explains=True)]
        within = f", within the noise of bfloat16 ({noise:.2g})"
        fit = links.best(asked.base, asked.y, 2 * noise, unexplained, asked.rounding)
        if fit is not None:
            words = "both read the same prompt"
            return self._findings([Supported("link", words, fit, unexplained, asked.base)], asked, within)
        self._engine = self._engine or self._load(self.prepared)
        for tier in self._likely(asked, writer):
            if found := self._try(tier, asked, writer, 2 * noise):
                return self._findings(found, asked, within)
        return []

    def _of_settings(self, update: dict[str, Any], asked: Asked) -> Floats | None:
        """Load the model with other settings and score the pairs; None where it cannot be loaded so."""
        self._engine = None  # two large models in memory are one too many
        gc.collect()
        prepared = self.prepared
        try:
            config = prepared.config.model_copy(update=update)
            engine = self._load(dataclasses.replace(prepared, config=config))
            return np.array([self._one(engine, pair) for pair in asked.pairs])
        except (RerankEvalError, EngineError, RuntimeError):
            return None

    def _one(self, engine: Engine, pair: ProbePair) -> float:
        return float(engine.score(group_of(self.prepared, pair, self._metadata)).margins[0])

    def _by_settings(self, asked: Asked) -> list[Finding]:
        """Try other settings of a model whose prompts are not written here, such as a sequence classifier."""
        base = asked.base
        unexplained = float(np.abs(asked.y - base).max())
        without = {one.link.name: one.largest for one in links.fits(base, asked.y, asked.tolerance, asked.rounding)}
        limit = self.prepared.max_length
        tried: list[tuple[str, str, dict[str, Any]]] = [
            ("cut", f"B cuts at {length} tokens", {"max_length": length})
            for length in sorted({*LENGTHS, *asked.lengths})
            if limit is None or length < limit
        ]
        tried += [
            ("dtype", f"B computes in {one}", {"dtype": one}) for one in _DTYPES if one != self.prepared.config.dtype
        ]
        for kind, words, update in tried:
            x = self._of_settings(update, asked)
            if x is None:
                continue
            self.tried += 1
            for fit in links.fits(x, asked.y, asked.tolerance, asked.rounding):
                if fit.holds(without.get(fit.link.name, unexplained)):
                    return self._findings([Supported(kind, words, fit, unexplained, x)], asked)
        return []


def group_of(prepared: Prepared, pair: ProbePair, task_metadata: Any) -> QueryGroup:
    """Return one pair as a group, with the instruction that a run gives it."""
    policy = prepared.policy
    query = policy.query_text(pair.query, pair.own_instruction)
    return QueryGroup(query, policy.choose(pair.own_instruction, task_metadata)[1], [pair.document])


def _spread(x: Floats, y: Floats) -> list[int]:
    """Choose pairs for screening: those that differ most and least, and some between."""
    order = np.argsort(np.abs(x - y), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(_SCREEN, len(order))).round().astype(int))
    return sorted(int(order[i]) for i in places)


def _turned(text: str, *, swapped: bool) -> str:
    """Exchange A and B where the weights are B's."""
    if not swapped:
        return text
    return _SIDE.sub(lambda found: "B" if found[0] == "A" else "A", text)
