"""Topics of the instruction task: what a function is about, by rules that a reader can check.

A topic is a thing ("sockets"), or an action on a thing ("parse headers").

- A function is about a **thing** when one of the thing's words stands in the first sentence of its docstring or among
  the parts of its name (`get_socket`, `SocketServer`).
- It is about an **action** on a thing when that sentence begins with one of the action's verbs and the thing stands
  before the first preposition or comma ("Parse the message headers of a file"), or when its name begins with such a
  verb and holds the thing (`parse_headers`).
- It is **clearly not** about a thing when neither the thing's stem nor its words occur anywhere in its text, not even
  inside a longer word; clearly not about an action on a thing when that holds, or when none of the action's verbs is
  in sentence or name.
- Whatever is neither is left out of the candidates: nobody could say whether it is relevant.

The tables below are only a vocabulary; which topics there are follows from how many functions are about them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rerank_eval.tasks.embedded.stdlib import Function
from rerank_eval.tasks.embedded.texts import sha_order

ACTIONS: dict[str, tuple[str, ...]] = {
    # base form -> (third person, -ing form, further verbs that say the same)
    "add": ("adds", "adding", "append", "appends", "insert", "inserts"),
    "check": ("checks", "checking", "test", "tests", "verify", "verifies", "validate", "validates", "determine"),
    "close": ("closes", "closing", "shutdown", "shut"),
    "compare": ("compares", "comparing"),
    "compute": ("computes", "computing", "calculate", "calculates"),
    "convert": ("converts", "converting", "translate", "transform", "turn", "turns"),
    "copy": ("copies", "copying"),
    "create": ("creates", "creating", "construct", "constructs", "make", "makes", "build", "builds"),
    "decode": ("decodes", "decoding", "unquote"),
    "encode": ("encodes", "encoding", "quote"),
    "find": ("finds", "finding", "search", "searches", "locate", "lookup", "resolve"),
    "format": ("formats", "formatting"),
    "handle": ("handles", "handling", "process", "processes", "dispatch"),
    "open": ("opens", "opening"),
    "parse": ("parses", "parsing"),
    "print": ("prints", "printing", "display", "show"),
    "read": ("reads", "reading", "load", "loads"),
    "remove": ("removes", "removing", "delete", "deletes", "discard", "drop", "unlink", "clear"),
    "replace": ("replaces", "replacing", "rename"),
    "run": ("runs", "running", "execute", "executes", "invoke", "call", "calls"),
    "send": ("sends", "sending", "transmit"),
    "set": ("sets", "setting", "change", "changes", "update", "configure", "assign"),
    "split": ("splits", "splitting"),
    "wait": ("waits for", "waiting for", "await", "block"),
    "write": ("writes", "writing", "save", "dump", "store"),
}
THINGS: dict[str, tuple[str, ...]] = {
    # plural, as a query says it -> stem looked for in whole texts, then the words of sentences and names
    "archives": ("archive", "archive", "archives", "tarfile", "zipfile"),
    "arguments": ("arg", "argument", "arguments", "arg", "args"),
    "attributes": ("attr", "attribute", "attributes", "attr"),
    "breakpoints": ("breakpoint", "breakpoint", "breakpoints"),
    "buffers": ("buffer", "buffer", "buffers"),
    "bytes": ("byte", "byte", "bytes"),
    "callbacks": ("callback", "callback", "callbacks"),
    "character sets": ("charset", "charset", "charsets"),
    "characters": ("char", "character", "characters", "char", "chars"),
    "classes": ("class", "class", "classes", "subclass", "subclasses"),
    "commands": ("command", "command", "commands"),
    "connections": ("conn", "connection", "connections"),
    "cookies": ("cookie", "cookie", "cookies"),
    "coroutines": ("corout", "coroutine", "coroutines", "coro"),
    "dates": ("date", "date", "dates", "datetime", "datetimes"),
    "dictionaries": ("dict", "dictionary", "dictionaries", "dict", "dicts"),
    "digits": ("digit", "digit", "digits"),
    "directories": ("dir", "directory", "directories", "dirs"),
    "documentation": ("doc", "docs", "documentation", "docstring", "docstrings"),
    "event loops": ("loop", "loop", "loops"),
    "events": ("event", "event", "events"),
    "exceptions": ("except", "exception", "exceptions"),
    "files": ("file", "file", "files"),
    "futures": ("future", "future", "futures"),
    "handlers": ("handler", "handler", "handlers"),
    "headers": ("header", "header", "headers"),
    "hosts": ("host", "host", "hosts", "hostname"),
    "HTML": ("html", "html"),
    "integers": ("int", "integer", "integers", "int"),
    "iterators": ("iter", "iterator", "iterators", "iterable", "iterables"),
    "keys": ("key", "key", "keys"),
    "lines": ("line", "line", "lines"),
    "locks": ("lock", "lock", "locks"),
    "loggers": ("logger", "logger", "loggers"),
    "mailboxes": ("mailbox", "mailbox", "mailboxes"),
    "messages": ("message", "message", "messages"),
    "mocks": ("mock", "mock", "mocks"),
    "modules": ("module", "module", "modules"),
    "networks": ("network", "network", "networks"),
    "nodes": ("node", "node", "nodes"),
    "options": ("option", "option", "options"),
    "paths": ("path", "path", "paths", "pathname", "pathnames"),
    "patterns": ("pattern", "pattern", "patterns"),
    "pipes": ("pipe", "pipe", "pipes"),
    "processes": ("process", "subprocess", "subprocesses", "processes"),
    "queues": ("queue", "queue", "queues"),
    "records": ("record", "record", "record", "records"),
    "requests": ("request", "request", "requests"),
    "responses": ("response", "response", "responses"),
    "servers": ("server", "server", "servers"),
    "signatures": ("signature", "signature", "signatures"),
    "sockets": ("sock", "socket", "sockets", "sock"),
    "stack frames": ("frame", "frame", "frames"),
    "streams": ("stream", "stream", "streams"),
    "strings": ("str", "string", "strings", "str"),
    "tables": ("table", "table", "tables"),
    "tasks": ("task", "task", "tasks"),
    "temporary files": ("temp", "temporary", "tempfile", "tmp"),
    "threads": ("thread", "thread", "threads"),
    "timeouts": ("timeout", "timeout", "timeouts"),
    "transports": ("transport", "transport", "transports"),
    "trees": ("tree", "tree", "trees"),
    "tuples": ("tuple", "tuple", "tuples", "namedtuple"),
    "URLs": ("url", "url", "urls"),
    "variables": ("var", "variable", "variables", "var"),
    "warnings": ("warn", "warning", "warnings", "warn"),
    "XML": ("xml", "xml"),
}
THING_QUERIES = ("working with {things}", "code that deals with {things}", "anything to do with {things}")
ACTION_QUERIES = ("{base} {things}", "{ing} {things}", "code that {third} {things}", "how to {base} {things}")

_BOUNDARIES = frozenset(
    {"of", "in", "to", "for", "from", "with", "without", "is", "are", "was", "has", "as", "and", "or", "by", "on", "at"}
    | {"that", "which", "if", "into", "using", "when", "between"}
)
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_LETTERS = re.compile(r"[a-z]+")
_TOKENS = re.compile(r"[a-z]+|[^a-z\s'`\"*-]")


@dataclass(frozen=True)
class Profile:
    """What the rules look at in a function, cut up once.

    Attributes:
        function: The function.
        words: Words of the summary and parts of the name, in lower case.
        actions: Verb and objects, as the summary has them and as the name has them.
        text: Its whole source with the docstring, in lower case.
    """

    function: Function
    words: frozenset[str]
    actions: tuple[tuple[str, frozenset[str]], ...]
    text: str


def profile(function: Function) -> Profile:
    """Cut a function up for the rules.

    Returns:
        Its words, actions and text.
    """
    summary = function.summary.lower()
    name = [part.lower() for part in _PARTS.findall(function.short_name)]
    phrase: list[str] = []
    for token in _TOKENS.findall(summary):
        if token in _BOUNDARIES or not token.isalpha():
            break
        phrase.append(token)
    actions = tuple((part[0], frozenset(part[1:])) for part in (phrase, name) if part)
    return Profile(function, frozenset([*_LETTERS.findall(summary), *name]), actions, function.source.lower())


@dataclass(frozen=True)
class Topic:
    """A thing, or an action on a thing.

    Attributes:
        things: A key of `THINGS`.
        action: A key of `ACTIONS`, or "" for the thing as such.
    """

    things: str
    action: str = ""

    @property
    def id(self) -> str:
        """A short name without white space, such as `parse-headers`."""
        return "-".join([*([self.action] if self.action else []), *self.things.lower().split()])

    @property
    def query(self) -> str:
        """The query's text: one of several wordings, always the same for a topic."""
        wordings = ACTION_QUERIES if self.action else THING_QUERIES
        wording = wordings[int(sha_order(f"wording:{self.id}")[:8], 16) % len(wordings)]
        base = "wait for" if self.action == "wait" else self.action
        third, ing = ACTIONS[self.action][:2] if self.action else ("", "")
        return wording.format(things=self.things, base=base, third=third, ing=ing)

    @property
    def verbs(self) -> frozenset[str]:
        """The action's verbs; empty for a thing as such."""
        return frozenset([self.action, *ACTIONS[self.action]]) if self.action else frozenset()

    def matches(self, one: Profile) -> bool:
        """Tell whether a function is about the topic.

        Returns:
            True when the thing's words and, if there is one, the action's verbs stand where the rules want them.
        """
        words = THINGS[self.things][1:]
        if self.action:
            return any(verb in self.verbs and not objects.isdisjoint(words) for verb, objects in one.actions)
        return not one.words.isdisjoint(words)

    def misses(self, one: Profile) -> bool:
        """Tell whether a function is clearly not about the topic.

        Returns:
            True when no word or stem of the thing occurs in the whole text; or, for an action, when none of its verbs
            is among the words of summary and name.
        """
        if self.action and one.words.isdisjoint(self.verbs):
            return True
        return not any(word in one.text for word in THINGS[self.things])


def topics(profiles: Sequence[Profile], fewest: int, most: int) -> list[tuple[Topic, list[Profile]]]:
    """Find the topics that enough, and not too many, functions are about.

    Returns:
        Topics with their functions in the given order; the topics in an order that is fixed and means nothing.
    """
    found: list[tuple[Topic, list[Profile]]] = []
    for things in THINGS:
        about = [one for one in profiles if Topic(things).matches(one)]
        for topic in [Topic(things), *(Topic(things, action) for action in ACTIONS)]:
            matching = [one for one in about if topic.matches(one)]
            if fewest <= len(matching) <= most:
                found.append((topic, matching))
    return sorted(found, key=lambda pair: sha_order(f"topic:{pair[0].id}"))
