"""Chooses which of a model's experiments is compared: results with different settings are never mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank_eval.reproduce.mteb_results import Experiment

_OPTIONAL = {"recipe", "engine", "head"}
"""Settings that a sequence classifier's results of ours do not have."""


@dataclass(frozen=True)
class Filter:
    """One condition on which experiments count.

    Attributes:
        alternatives: Settings it must have, one of these; empty for any. A value of None: the setting must not be
            there. A plain run has no settings, so that it is never refused for one. `revision` is the model's.
        revision: The model's revision, or None for any.
        identities: Digests of our own rows, or None for any. A plain run has none and is refused.
        decisive: Refuse what does not match, rather than only prefer what does.
    """

    alternatives: tuple[Mapping[str, Any], ...] = ()
    revision: str | None = None
    identities: frozenset[str] | None = None
    decisive: bool = False

    def matches(self, one: Experiment) -> bool:
        """Tell whether an experiment meets it."""
        if self.revision is not None and one.revision != self.revision:
            return False
        if self.identities is not None and str(one.settings.get("id")) not in self.identities:
            return False
        return not self.alternatives or any(_fits(one, settings) for settings in self.alternatives)

    @property
    def first_stage(self) -> str | None:
        """The retriever that is asked for, if one is."""
        return next((str(one["retriever"]) for one in self.alternatives if one.get("retriever")), None)


def _fits(one: Experiment, settings: Mapping[str, Any]) -> bool:
    ours = "id" in one.settings
    return all(
        one.revision == value
        if key == "revision"
        else (key not in one.settings and (not ours or key in _OPTIONAL)) or one.settings.get(key) == value
        for key, value in settings.items()
    )


@dataclass(frozen=True)
class Choice:
    """Which experiment is compared.

    Attributes:
        experiment: The one, or None.
        rivals: Where several are left that nothing tells apart: all of these.
        set_aside: Those with other settings than asked for.
        first_stage: The retriever that was asked for, where one was.
    """

    experiment: Experiment | None
    rivals: tuple[Experiment, ...]
    set_aside: tuple[Experiment, ...]
    first_stage: str | None = None


def choose(experiments: Sequence[Experiment], tasks: Sequence[str], filters: Sequence[Filter]) -> Choice:
    """Choose among a model's experiments.

    Args:
        experiments: All of the model's.
        tasks: The tasks at stake; an experiment without any of them is no candidate.
        filters: Conditions, the first first. A decisive one that nothing meets leaves nothing;
            another is then ignored.

    Returns:
        The choice; neither experiment nor rivals when nothing is there or nothing matches.
    """
    present = [one for one in experiments if any(task in one.files for task in tasks)]
    left = present
    first_stage = None
    for one in filters:
        matching = [experiment for experiment in left if one.matches(experiment)]
        if matching or one.decisive:
            left = matching
        first_stage = first_stage or one.first_stage
    aside = tuple(one for one in present if one not in left)
    if len(left) == 1:
        return Choice(left[0], (), aside, first_stage)
    return Choice(None, tuple(left), aside, first_stage)
