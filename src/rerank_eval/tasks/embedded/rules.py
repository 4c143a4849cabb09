"""Instructions of the instruction task: what a document has to be, besides being about the topic.

Each rule is a predicate that a reader can check on the document alone, and several wordings of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rerank_eval.tasks.embedded.stdlib import Function
from rerank_eval.tasks.embedded.texts import sha_order

OPEN = (
    "Whatever does this is relevant, be it a function or a method, in any package of the standard library.",
    "A document is relevant if the code is about this topic, no matter how it is written or where it belongs.",
    "I want to see all code that has to do with this; its form and its package do not matter.",
    "Relevant documents are functions and methods on this subject, public or internal, from any module.",
)
"""Instructions without a restriction."""
LIMITED = (
    "Code about this topic is relevant, but not all of it.",
    "A document is relevant if the code is about this topic and what follows holds.",
    "I am looking for code that has to do with this, within limits.",
    "Relevant documents are functions and methods on this subject that meet the following requirements.",
)
"""What comes before one restriction or two."""


def pick(wordings: Sequence[str], purpose: str) -> str:
    """Choose one of several wordings.

    Returns:
        One of them, the same in every process.
    """
    return wordings[int(sha_order(purpose)[:8], 16) % len(wordings)]


@dataclass(frozen=True)
class Rule:
    """A restriction.

    Attributes:
        key: Its name; two rules with one `aspect` are never combined.
        aspect: What it looks at.
        holds: Tells whether a function satisfies it.
        wordings: Ways to say it, each a full sentence or two.
    """

    key: str
    aspect: str
    holds: Callable[[Function], bool]
    wordings: tuple[str, ...]

    def sentence(self, purpose: str) -> str:
        """Choose a wording.

        Returns:
            One of the wordings, always the same one for a purpose.
        """
        return pick(self.wordings, f"instruction:{self.key}:{purpose}")


def is_private(function: Function) -> bool:
    """Tell whether a name begins with an underscore; special methods such as `__init__` count.

    Returns:
        True for `_helper` and `__len__`.
    """
    return function.short_name.startswith("_")


def is_asyncio(function: Function) -> bool:
    """Tell whether a function is for asynchronous code: in the `asyncio` package, or an `async def`.

    Returns:
        True when either holds.
    """
    return function.is_async or function.package == "asyncio"


RULES: tuple[Rule, ...] = (
    Rule(
        "methods",
        "kind",
        lambda one: one.is_method,
        (
            "Only methods count, that is, functions defined inside a class; module-level functions are not relevant.",
            "I am looking for methods of a class. A free-standing function is not what I want.",
            "Leave out functions that belong to no class.",
        ),
    ),
    Rule(
        "functions",
        "kind",
        lambda one: not one.is_method,
        (
            "Only module-level functions count; methods of a class are not relevant.",
            "I need something that can be called without a class, so leave methods out.",
            "A method does not help me here: show free-standing functions only.",
        ),
    ),
    Rule(
        "raises",
        "errors",
        lambda one: one.raises,
        (
            "Only code that raises an exception itself is relevant: there has to be a raise statement in it.",
            "The code must contain a raise statement; what never raises by itself is not relevant.",
            "I am interested in how errors are signalled, so leave out code without a raise statement.",
        ),
    ),
    Rule(
        "raises-not",
        "errors",
        lambda one: not one.raises,
        (
            "Code that contains a raise statement is not relevant.",
            "Leave out everything that raises an exception by itself.",
            "I only want code without a raise statement in it.",
        ),
    ),
    Rule(
        "asyncio",
        "asyncio",
        is_asyncio,
        (
            "Only code for asynchronous programs is relevant: from the asyncio package, or defined with async def.",
            "My program runs on asyncio, so a document must belong to the asyncio package or be a coroutine.",
            "Leave out code that is neither part of asyncio nor an async def.",
        ),
    ),
    Rule(
        "asyncio-not",
        "asyncio",
        lambda one: not is_asyncio(one),
        (
            "Code from the asyncio package and coroutines (async def) are not relevant.",
            "There is no event loop in my program: leave out asyncio and everything defined with async def.",
            "Only ordinary synchronous code counts, nothing from asyncio and no coroutines.",
        ),
    ),
    Rule(
        "public",
        "name",
        lambda one: not is_private(one),
        (
            "Only public code is relevant: leave out functions and methods whose names begin with an underscore.",
            "Names with a leading underscore, special methods included, are not relevant.",
            "I must not rely on internals, so nothing whose name starts with an underscore.",
        ),
    ),
    Rule(
        "private",
        "name",
        is_private,
        (
            "Only internals are relevant: functions and methods whose names begin with an underscore.",
            "I want to know how it works inside. A document counts only if the name starts with an underscore.",
            "Public names are not relevant; the name of the function or method must have a leading underscore.",
        ),
    ),
    Rule(
        "returns",
        "result",
        lambda one: one.returns,
        (
            "Only code that returns a value is relevant; a bare return, or return None, does not count.",
            "There must be a result to work with: leave out what returns nothing.",
            "The function or method has to hand a value back with a return statement.",
        ),
    ),
    Rule(
        "returns-not",
        "result",
        lambda one: not one.returns,
        (
            "Only code that is called for its effect is relevant: it must not return a value.",
            "Leave out everything that returns a value other than None.",
            "A function or method that hands a value back with a return statement is not relevant.",
        ),
    ),
    Rule(
        "decorated",
        "decorators",
        lambda one: bool(one.decorators),
        (
            "Only decorated functions and methods are relevant, such as properties and class methods.",
            "There must be at least one decorator (an @ line) above the definition.",
        ),
    ),
    Rule(
        "decorated-not",
        "decorators",
        lambda one: not one.decorators,
        (
            "Decorated functions and methods, such as properties and class methods, are not relevant.",
            "Leave out everything with a decorator (an @ line) above the definition.",
        ),
    ),
)


def package_rules(package: str) -> tuple[Rule, Rule]:
    """Make the rules that speak of one package.

    Returns:
        "only from it" and "from anywhere else".
    """
    return (
        Rule(
            "package",
            "package",
            lambda one: one.package == package,
            (
                f"Only code from {package} is relevant; the rest of the standard library is not.",
                f"I am working with {package}: leave out what belongs to any other module or package.",
                f"The code has to come from {package}.",
            ),
        ),
        Rule(
            "package-not",
            "package",
            lambda one: one.package != package,
            (
                f"Code from {package} is not relevant; I know that one already.",
                f"Leave out everything that belongs to {package}.",
                f"I cannot use {package}, so only code from elsewhere in the standard library counts.",
            ),
        ),
    )
