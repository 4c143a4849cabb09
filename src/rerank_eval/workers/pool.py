"""The driver's view of its workers: started, fed, watched, replaced."""

from __future__ import annotations

import logging
import re
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rerank_eval import errors
from rerank_eval.errors import DeviceError
from rerank_eval.workers.blocks import Block
from rerank_eval.workers.messages import BlockDone, Broken, Loaded, Refused, Spec

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Blocks sent to a worker: one that it works on, and one so that it never waits for the driver."""

PATIENCE = 10.0
"""Times the expected time after which a block is taken for hanging, if that is longer than `hang_seconds`."""

DEATHS = 3
"""Workers lost with one block, or while they load for each worker there shall be, before it is called an error; and
workers of one number lost while they load, before it is done without."""

_TICK = 1.0
_REMEMBERED = 64
_REMIND_EVERY = 60.0
_SHOWN = 300
_RAISED = re.compile(r"[\w.]+(Error|Exception|Interrupt|Exit): ")

StartActor = Callable[[int], Any]
"""Starts the worker of that number; what it returns has the methods of `actor.Worker` as Ray's actors have them."""


@dataclass(frozen=True)
class PoolSettings:
    """How a pool treats its workers.

    Attributes:
        block_tokens: Tokens of a block, estimated.
        hang_seconds: The least time after which a block is taken for hanging.
        start_seconds: Time without any worker ready after which the run ends.
    """

    workers: int
    block_tokens: float = 250_000
    hang_seconds: float = 300.0
    start_seconds: float = 1800.0


@dataclass
class Member:
    """A worker, as the driver knows it.

    Attributes:
        number: Which one of the pool it is; its successor keeps the number.
        actor: Ray's handle.
        loading: What its loading will answer, until it has.
        loaded: What it answered.
        sent: Blocks under way, the one being worked on first, with what they will answer.
        since: When it began with the first of them.
        tries: Workers of this number that were lost while they loaded, one after the other.
    """

    number: int
    actor: Any
    loading: Any
    loaded: Loaded | None = None
    sent: deque[tuple[Block, Any]] = field(default_factory=deque)
    since: float = 0.0
    tries: int = 0

    @property
    def where(self) -> str:
        """Host and process, for people."""
        return "not loaded yet" if self.loaded is None else f"{self.loaded.host}, process {self.loaded.pid}"


@dataclass
class Tally:
    """What the workers of one number have done, `busy` for so many seconds; `host` is where the present one is."""

    host: str = ""
    blocks: int = 0
    items: int = 0
    tokens: float = 0.0
    busy: float = 0.0
    lost: int = 0

    @property
    def rate(self) -> float:
        """Estimated tokens a second while busy."""
        return self.tokens / self.busy if self.busy else 0.0


@dataclass(frozen=True)
class BlockResult:
    """A block has its answer."""

    block: Block
    answer: Any


@dataclass(frozen=True)
class Lost:
    """A worker is gone. The first block is the one that it was at; the others only waited behind it."""

    blocks: tuple[Block, ...]
    why: str


class Pool:
    """Workers that hold one model.

    Args:
        spec: How they get it.
        settings: How they are treated.
        start: Starts one.
        needs: What one needs of the cluster, for a message.

    Attributes:
        work: Sum of what the answered blocks took; None before the first.
        tallies: What each has done in the present stream.
    """

    def __init__(self, spec: Spec, settings: PoolSettings, start: StartActor, needs: str = "") -> None:
        import ray

        self._ray = ray
        self.spec = spec
        self.settings = settings
        self._start = start
        self._needs = needs
        self.work: Any = None
        self.tallies = [Tally() for _ in range(settings.workers)]
        self._spec_reference = ray.put(spec)
        self._rates: deque[float] = deque(maxlen=_REMEMBERED)
        self._places: dict[tuple[str, str], set[int]] = {}
        self._deaths_while_loading = 0
        self._ever_loaded = False
        self._without_since = self._reminded = time.monotonic()
        self.members: list[Member] = [self._new(number) for number in range(settings.workers)]

    def _new(self, number: int, tries: int = 0) -> Member:
        actor = self._start(number)
        return Member(number, actor, actor.load.remote(self._spec_reference), tries=tries)

    @property
    def devices(self) -> list[dict[str, Any]]:
        """Hosts and devices that have held the model, those of lost workers among them, and how many workers each."""
        return [
            {"host": host, "device": device, "workers": len(numbers)}
            for (host, device), numbers in sorted(self._places.items())
        ]

    def count_anew(self) -> None:
        """Begin the tallies again, for another stream."""
        self.tallies = [Tally() for _ in range(self.settings.workers)]
        for member in self.members:
            self.tallies[member.number].host = member.loaded.host if member.loaded else ""
        self._without_since = time.monotonic()  # nobody looked after them between two streams

    def close(self) -> None:
        """End all workers."""
        for member in self.members:
            self._kill(member)
        self.members = []

    def _kill(self, member: Member) -> None:
        try:
            self._ray.kill(member.actor, no_restart=True)
        except Exception as error:  # it is gone already, or Ray itself is
            logger.debug("worker %d could not be ended: %s", member.number, error)

    def free(self) -> Member | None:
        """Return the ready worker with the fewest blocks under way, or None where all have enough.

        A worker that is at a block which others were lost with gets no second one: who dies next is then to blame.
        """
        ready = [
            member
            for member in self.members
            if member.loaded is not None
            and len(member.sent) < IN_FLIGHT
            and not any(block.failures for block, _ in member.sent)
        ]
        return min(ready, key=lambda member: len(member.sent), default=None)

    def send(self, member: Member, block: Block) -> None:
        """Give a block to a worker; its items go to the object store once, however often they are sent."""
        if block.reference is None:
            block.reference = self._ray.put(list(block.items))
        if not member.sent:
            member.since = time.monotonic()
        member.sent.append((block, member.actor.run.remote(block.reference)))

    def wait(self) -> list[BlockResult | Lost]:
        """Wait until something happens, or a second; workers that became ready are not told.

        Raises:
            RerankEvalError: A worker met an error that a user can mend, workers keep dying while they load, or none can
                be started.
        """
        waited = {}
        for member in self.members:
            if member.loaded is None:
                waited[member.loading] = member
            elif member.sent:
                waited[member.sent[0][1]] = member
        if not waited:
            return []
        ready, _ = self._ray.wait(list(waited), num_returns=1, timeout=_TICK)
        if ready and len(waited) > 1:
            ready, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
        events = [event for reference in ready if (event := self._receive(waited[reference], reference)) is not None]
        events += self._hanging()
        self._check_alive()
        return events

    def _receive(self, member: Member, reference: Any) -> BlockResult | Lost | None:
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._lose(member, _in_short(error))
        for warning in getattr(answer, "warnings", ()):
            logger.warning("worker %d: %s", member.number, warning)
        if isinstance(answer, Refused):
            if member.loaded is None and self._ever_loaded:  # others have this model: it is the host or its device
                return self._lose(member, f"{answer.message} (host {answer.host})")
            raise _as_here(answer)
        if isinstance(answer, Broken):
            logger.info("worker %d (%s): %s", member.number, member.where, answer.trace)
            return self._lose(member, answer.message)
        if isinstance(answer, Loaded):
            self._welcome(member, answer)
            return None
        return self._take(member, answer)

    def _welcome(self, member: Member, loaded: Loaded) -> None:
        member.loaded, member.loading = loaded, None
        self._deaths_while_loading, self._ever_loaded = 0, True
        member.tries = 0
        self.tallies[member.number].host = loaded.host
        self._places.setdefault((loaded.host, loaded.device), set()).add(member.number)
        logger.info("worker %d ready in %.1f s: %s, %s", member.number, loaded.seconds, member.where, loaded.device)

    def _take(self, member: Member, answer: BlockDone) -> BlockResult:
        block, _ = member.sent.popleft()
        member.since = time.monotonic()
        block.reference = None
        if answer.work is not None:
            self.work = answer.work if self.work is None else self.work + answer.work
        tally = self.tallies[member.number]
        tally.blocks += 1
        tally.items += len(block.items)
        tally.tokens += block.weight
        tally.busy += answer.seconds
        self._rates.append(block.weight / max(answer.seconds, 1e-6))
        return BlockResult(block, answer.answer)

    def _lose(self, member: Member, why: str) -> Lost:
        """End a worker and start its successor, unless several of its number could not even load while others work."""
        self._kill(member)
        self.tallies[member.number].lost += 1
        place = self.members.index(member)
        tries = 0
        if member.loaded is None:
            tries = member.tries + 1
            if tries >= DEATHS and any(one.loaded is not None for one in self.members):
                logger.warning("worker %d is given up, the others go on: %s", member.number, why)
                del self.members[place]
                return Lost((), why)
            self._deaths_while_loading += 1
            if self._deaths_while_loading >= DEATHS * self.settings.workers:
                raise DeviceError(
                    f"workers: {self._deaths_while_loading} in a row died while they loaded the model, the last one "
                    f"with: {why}; is rerank-eval installed there, and the memory of host and device large enough?"
                )
        logger.warning("worker %d is lost (%s): %s", member.number, member.where, why)
        if member.loaded is not None and not any(one.loaded for one in self.members if one is not member):
            self._without_since = time.monotonic()
        self.members[place] = self._new(member.number, tries)
        return Lost(tuple(block for block, _ in member.sent), why)

    def abandon(self) -> None:
        """Replace the workers that are at something whose answer nobody wants any more."""
        for place, member in enumerate(self.members):
            if member.sent:
                self._kill(member)
                self.members[place] = self._new(member.number)

    def _hanging(self) -> list[Lost]:
        now = time.monotonic()
        return [
            self._lose(member, f"no answer within {now - member.since:,.0f} s")
            for member in list(self.members)
            if member.sent and now - member.since > self.patience(member.sent[0][0])
        ]

    def patience(self, block: Block) -> float:
        """Return the seconds after which a block is taken for hanging."""
        least = self.settings.hang_seconds
        if not self._rates:
            return PATIENCE * least  # nobody knows yet how fast they are
        return max(least, PATIENCE * block.weight / statistics.median(self._rates))

    def _check_alive(self) -> None:
        now = time.monotonic()
        if any(member.loaded is not None for member in self.members):
            self._without_since = self._reminded = now
            return
        waited = now - self._without_since
        if waited > self.settings.start_seconds:
            raise DeviceError(f"workers: none was ready within {waited:,.0f} s; each needs {self._needs}")
        if now - self._reminded > _REMIND_EVERY:
            self._reminded = now
            logger.warning("no worker is ready after %.0f s; each needs %s", waited, self._needs)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of some worker's handler, and wait for it.

        Raises:
            RerankEvalError: See `wait`; or so many workers were lost that it is called an error.
        """
        for last in reversed(range(DEATHS * self.settings.workers)):
            while (member := self.free()) is None:
                self.wait()
            try:
                answer = self._ray.get(
                    member.actor.ask.remote(method, *arguments), timeout=PATIENCE * self.settings.hang_seconds
                )
                break
            except self._ray.exceptions.RayError as error:  # one that was lost between two streams shows it here
                why = _in_short(error)
                self._lose(member, why)
                if not last:
                    raise DeviceError(f"workers: all that were asked were lost, the last one with: {why}") from error
        if isinstance(answer, Refused):
            raise _as_here(answer)
        if isinstance(answer, Broken):
            raise DeviceError(f"workers: {answer.message}")
        return answer


def _as_here(refused: Refused) -> errors.RerankEvalError:
    """Make an error of a worker the same error in this process."""
    kind = getattr(errors, refused.kind, DeviceError)
    error: errors.RerankEvalError = kind(refused.message)
    return error


def _in_short(error: Exception) -> str:
    """Return the one line of an error of Ray's that says why: the last of a remote traceback, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    remote = _RAISED.match(lines[-1])
    return lines[-1][:_SHOWN] if remote else f"{type(error).__name__}: {lines[0][:_SHOWN]}"


def describe(tallies: list[Tally], seconds: float) -> str:
    """Say what each worker did, or of many the slowest, the middle and the fastest, in so much wall time."""
    some = 8
    order = sorted((tally.rate, number) for number, tally in enumerate(tallies) if tally.blocks)
    if not order:
        return "no worker has answered a block yet"
    shown = [number for _, number in order]
    if len(shown) > some:
        shown = [shown[0], shown[len(shown) // 2], shown[-1]]
    lines = [
        f"worker {number} ({tallies[number].host}): {tallies[number].items:,} items, {tallies[number].rate:,.0f} "
        f"tokens/s, busy {tallies[number].busy / max(seconds, 1e-9):.0%}"
        for number in sorted(shown)
    ]
    lost = sum(tally.lost for tally in tallies)
    summary = f"{len(order)} of {len(tallies)} workers: " + "; ".join(lines)
    return summary + (f"; {lost} lost and replaced" if lost else "")
