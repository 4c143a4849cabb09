"""Frames for restrictions: what stands around a phrase and says whether it is wanted.

Some are written out. Others are forms with slots, so that every verb stands on either side: "only methods count" and
"methods do not count", "skip methods" and "skip all but methods". What decides is how the words stand together, and no
list of sentences can be learned by heart instead.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Sequence

import numpy as np

OPEN = (
    "Any function or method on the subject counts, wherever it comes from.",
    "Find code about the topic. There are no further conditions.",
    "Everything that concerns the topic is welcome, whatever its kind.",
    "Given a topic, retrieve the Python code that deals with it",
    "All that deals with the topic is relevant.",
    "No restrictions: every function about the topic will do.",
    "Form and origin of the code play no role.",
    "Return what concerns the topic.",
    "It does not matter what kind of code it is or which package it is from.",
    "",
)
LIMITED = (
    "Find code about the topic that also meets a condition.",
    "Not all code on the subject counts.",
    "Code must be about the topic and fulfil this.",
    "Given a topic and a condition, retrieve the Python code that satisfies both.",
    "Mind the restriction.",
    "There is one more thing to mind.",
    "What is on the topic must also meet this.",
    "The search is limited as follows.",
    "A condition applies.",
    "The topic alone is not enough.",
    "Given a topic, retrieve the Python code that deals with it, under a condition.",
    "",
)
WANTED = (
    "Only {x} matter.",
    "Only {x} are of interest.",
    "Only {x} are what I want, that is all.",
    "Nothing counts but {x}.",
    "I need {x}, and only those.",
    "I am looking for {x}.",
    "Just {x}, please.",
    "Show {x} only.",
    "Show me only {x}.",
    "Return {x} alone.",
    "Give me {x} exclusively.",
    "Relevant are {x} and no others.",
    "What counts are {x}; the rest is not relevant.",
    "A document counts if it is among {x}.",
    "A document is relevant only if it belongs to {x}.",
    "Documents must be {x}.",
    "It must be one of the {x}.",
    "What I want must be found among {x}.",
    "Everything but {x} is to be left out.",
    "Leave out all but {x}.",
    "Leave out whatever does not belong to {x}.",
    "Drop what is not among {x}.",
    "I have to work with {x}.",
    "I work with {x} and with nothing else.",
    "My interest is in {x}.",
    "Prefer {x} to all others.",
    "The code has to be among {x}.",
    "{x} are relevant, others are not.",
    "{x} are what I want to see.",
    "{x} alone are relevant.",
    "{x} alone will help me.",
    "{x} it has to be.",
    "Only {x} count.",
    "I only want {x}.",
    "There have to be {x}.",
    "I am interested in {x}, so leave out the rest.",
    "Limit yourself to {x}.",
    "A document must be among {x}.",
    "Only {x} are wanted.",
    "Only {x} are relevant.",
    "Restrict yourself to {x}.",
    "Show me {x} and nothing else.",
    "{x} count, the rest does not.",
    "What I need are {x}.",
    "Keep {x}, drop everything else.",
    "The answer must consist of {x}.",
    "Relevant: {x}.",
    "It has to be about {x}.",
    "I am after {x}.",
    "Nothing but {x} will do.",
    "Confine the search to {x}.",
    "{x} are all that I want.",
    "Only {x} will help me.",
    "I would like to see {x} alone.",
    "A document has to be one of the {x}.",
)
UNWANTED = (
    "Leave {x} out.",
    "Leave out all {x}.",
    "Please leave out {x}.",
    "Drop {x}.",
    "Omit {x}.",
    "Hide {x}.",
    "Remove {x} from the answer.",
    "Do not show {x}.",
    "Do not return {x}.",
    "Do not give me {x}.",
    "Never mind {x}.",
    "Nothing of {x}, please.",
    "I am not looking for {x}.",
    "I am not interested in {x}.",
    "I do not need {x}.",
    "I know {x} already.",
    "I must not use {x}.",
    "I cannot work with {x}.",
    "I must do without {x}.",
    "It must not be one of the {x}.",
    "A document must not be among {x}.",
    "A document among {x} is not relevant.",
    "A document does not count if it belongs to {x}.",
    "{x} are not what I want.",
    "{x} are not of interest.",
    "{x} are of no use to me.",
    "{x} must be left out.",
    "{x} must not appear.",
    "{x} do not matter.",
    "{x} would not help.",
    "All but {x} are relevant.",
    "Everything is relevant except {x}.",
    "Leave out {x}.",
    "{x} do not help me.",
    "I do not want {x}.",
    "There is no need for {x}, so drop them.",
    "Without {x}.",
    "{x} are out of the question.",
    "I cannot use {x}.",
    "{x} are irrelevant.",
    "{x} are not relevant.",
    "Ignore {x}.",
    "No {x}, please.",
    "Leave {x} aside.",
    "Exclude {x}.",
    "{x} do not count.",
    "I have no use for {x}.",
    "Skip {x}.",
    "Not relevant: {x}.",
    "Anything except {x}.",
    "Spare me {x}.",
    "{x} should be filtered out.",
    "{x} are not needed.",
    "Do not include {x}.",
    "I have no interest in {x}.",
    "Please show nothing of {x}.",
)
HELD_OUT_FRAMES = 4
"""Frames of either polarity, the last ones written out, that are not trained on."""
WANTED_FORMS = (
    "Only {x} {good}.",
    "{x} alone {good}.",
    "None but {x} {good}.",
    "No other documents than {x} {good}.",
    "{x} {good}, {others} {bad}.",
    "{others} {bad}, only {x} {good}.",
    "Others than {x} {bad}.",
    "Documents that are not among {x} {bad}.",
    "If it is not one of the {x}, {drop} it.",
    "{keep} {only} {x}.",
    "{keep} {x}, not {others}.",
    "{keep} {x} and {drop} {others}.",
    "{drop} {all} {but} {x}.",
    "{drop} {others} and {keep} {x}.",
    "Do not {keep} {all} {but} {x}.",
    "Never {keep} anything {but} {x}.",
    "I {like} {only} {x}.",
    "I only {like} {x}.",
    "I {like} {x}, not {others}.",
    "I {hate} {all} {but} {x}.",
    "I do not {like} {all} {but} {x}.",
    "Documents have to be {x}.",
)
"""Forms around what is wanted."""
UNWANTED_FORMS = (
    "{x} {bad}.",
    "None of the {x} {good}.",
    "All {but} {x} {good}.",
    "Other documents than {x} {good}.",
    "{x} {bad}, {others} {good}.",
    "{others} {good}, {x} {bad}.",
    "Others than {x} {good}.",
    "Documents that are among {x} {bad}.",
    "If it is one of the {x}, {drop} it.",
    "{drop} {x}.",
    "{drop} {x}, not {others}.",
    "{drop} {x} and {keep} {others}.",
    "{keep} {all} {but} {x}.",
    "{keep} {others} and {drop} {x}.",
    "Do not {keep} {x}.",
    "Never {keep} {x}.",
    "I {hate} {x}.",
    "I do not {like} {x}.",
    "I {like} {others}, not {x}.",
    "I {like} {all} {but} {x}.",
    "I {like} no {x}.",
    "Documents must not be {x}.",
)
"""Forms around what is unwanted."""
SLOTS: dict[str, tuple[str, ...]] = {
    "good": (
        "count",
        "matter",
        "qualify",
        "help",
        "help me",
        "are relevant",
        "are of interest",
        "are of use",
        "are wanted",
        "are welcome",
        "are allowed",
        "are accepted",
        "are needed",
        "are useful",
        "are good",
        "are right",
        "will do",
        "may appear",
        "should be shown",
        "belong in the answer",
    ),
    "bad": (
        "do not count",
        "do not matter",
        "do not qualify",
        "do not help",
        "are no help",
        "are not relevant",
        "are irrelevant",
        "are of no interest",
        "are of no use",
        "are not wanted",
        "are unwanted",
        "are not welcome",
        "are not allowed",
        "are forbidden",
        "are rejected",
        "are not needed here",
        "are useless",
        "are bad",
        "are wrong",
        "will not do",
        "must not appear",
        "should not be shown",
        "do not belong in the answer",
        "have to go",
    ),
    "keep": (
        "keep",
        "show",
        "show me",
        "return",
        "list",
        "give me",
        "find",
        "retrieve",
        "choose",
        "select",
        "take",
        "accept",
        "look for",
        "bring",
    ),
    "drop": (
        "drop",
        "leave out",
        "omit",
        "hide",
        "skip",
        "exclude",
        "ignore",
        "remove",
        "reject",
        "avoid",
        "forget",
        "discard",
        "filter out",
        "throw away",
    ),
    "like": ("want", "need", "can use", "like", "accept", "ask for", "look for", "am looking for", "am interested in"),
    "hate": ("reject", "refuse", "avoid", "exclude", "must avoid", "cannot use", "dislike", "have no use for"),
    "only": ("only", "just", "nothing but", "exclusively", "no more than"),
    "but": ("but", "except", "other than", "apart from", "besides"),
    "all": ("all", "everything", "anything", "things", "whatever", "documents"),
    "others": ("others", "all others", "the others", "the rest", "all the rest", "other documents"),
}
"""What slots of forms are filled with."""
BEFORE = ("", "", "", "", "Here, ", "This time, ", "For my program: ", "One more thing. ", "In short: ")
"""What may stand in front of a sentence."""
BETWEEN = (". ", ". ", ". ", "; ", ": ", ", so ", ", that is, ", ", and ")
"""What may stand between two sentences that say the same; its first character ends the first."""
_WRITTEN = {True: WANTED, False: UNWANTED}
_FORMS = {True: WANTED_FORMS, False: UNWANTED_FORMS}


def draw(wanted: bool, held_out: bool, generator: np.random.Generator) -> str:
    """Draw a frame.

    Args:
        wanted: Its polarity.
        held_out: Draw one of those that are not trained on.
        generator: Decides.

    Returns:
        A text with the one slot `x`.
    """
    kept = _WRITTEN[wanted][-HELD_OUT_FRAMES:]
    if held_out:
        return pick(kept, generator)
    while True:
        form = pick(_WRITTEN[wanted][:-HELD_OUT_FRAMES] + _FORMS[wanted] * 2, generator)
        frame = _filled(form, [pick(SLOTS[slot], generator) for slot in _slots(form)])
        if frame not in kept:
            return frame


def every(wanted: bool) -> Iterator[str]:
    """List every frame of a polarity."""
    yield from _WRITTEN[wanted]
    for form in _FORMS[wanted]:
        for texts in itertools.product(*(SLOTS[slot] for slot in _slots(form))):
            yield _filled(form, texts)


def continued(whole: str, text: str, generator: np.random.Generator) -> str:
    """Put a sentence behind another that says the same; the first one keeps its length."""
    between = pick(BETWEEN, generator)
    if between != ". " and not text.startswith("I "):
        text = text[0].lower() + text[1:]
    return whole.removesuffix(".") + between + text


def pick(texts: Sequence[str], generator: np.random.Generator) -> str:
    """Draw one of several texts."""
    return texts[int(generator.integers(len(texts)))]


def capital(text: str) -> str:
    """Begin a sentence with a capital."""
    return text[0].upper() + text[1:]


def _filled(form: str, texts: Sequence[str]) -> str:
    """Fill a form's slots, all but `x`."""
    return capital(form.format(x="{x}", **dict(zip(_slots(form), texts, strict=True))))


def _slots(form: str) -> list[str]:
    named = (name for _, name, _, _ in string.Formatter().parse(form) if name)
    return [name for name in dict.fromkeys(named) if name != "x"]
