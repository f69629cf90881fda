"""Fan-out by the tick: encode once, frame once, one write per client and tick.

What the bus publishes is only noted in the publisher's step. The hub's task then, once per tick,
encodes and frames each message once, and routes it to *groups*: all clients with the same set of
subscriptions share one group, one list of what is due and one joined payload. A state feed keeps
the newest message of a tick, an event feed all of them in order.

Some publishers keep their state feeds until a tick: `gather` is where the hub tells them that one begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from mdp.cache.base import Bus, Message, Subscription
from mdp.feeds import EVENT, Family, Target, match
from mdp.wds.client import Client, Due
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import text_frame

log = structlog.get_logger(__name__)

MAX_DUE = 200_000  # messages waiting for a tick; more only if the hub itself cannot keep up
STEP_SECONDS = 0.005  # the longest stretch of work before the loop is given back
_CHECK_EVERY = 64  # messages or clients between two looks at the clock
# Reading and computing come first. Where a tick's work takes more than so much of the time, ticks are further
# apart: states are conflated then, and an event waits a little longer.
_SHARE = 0.1
_LONGEST_TICK_SECONDS = 0.1


async def nothing_to_gather() -> None:
    """For a bus whose publishers keep nothing."""


class Group:
    """All clients with the same subscriptions."""

    __slots__ = ("clients", "due", "patterns")

    def __init__(self, patterns: frozenset[str]) -> None:
        self.patterns = patterns
        self.clients: dict[Client, None] = {}
        self.due: list[Due] = []  # of the tick in progress


class _Pattern:
    """A pattern that at least one client subscribes to, with its one subscription at the bus."""

    __slots__ = ("clients", "subscription", "targets")

    def __init__(self, targets: tuple[Target, ...], subscription: Subscription) -> None:
        self.targets = targets
        self.subscription = subscription
        self.clients = 1


class Hub:
    """Between the bus and the clients. All methods are for the event loop's thread.

    Demand follows subscriptions: the bus knows of a pattern from the first client that subscribes it
    to the last that leaves it.
    """

    def __init__(
        self,
        bus: Bus,
        counters: WdsCounters,
        *,
        tick_seconds: float,
        gather: Callable[[], Awaitable[None]] = nothing_to_gather,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._gather = gather
        self._counters = counters
        self._tick_seconds = tick_seconds
        self._clock = clock
        self._patterns: dict[str, _Pattern] = {}
        self._groups: dict[frozenset[str], Group] = {}
        self._exact: dict[str, dict[Group, None]] = {}  # feed -> groups that name it
        self._wild: dict[str, dict[Group, None]] = {}  # family name -> groups that want all of it
        self._moved: dict[Client, None] = {}  # whose group does not fit their subscriptions any more
        self._slow: dict[Client, None] = {}  # who has skipped values to catch up with
        self._due: dict[str | Message, Message] = {}  # feed, or an event itself -> message, as they came
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()  # no flush is in progress
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._warned_at = float("-inf")

    def start(self) -> None:
        """Begin to tick."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="wds-hub")

    async def stop(self, timeout_seconds: float = 1.0) -> None:
        """Hand over what is due, within a bound of time, then tick no more."""
        task, self._task = self._task, None
        if task is not None:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._idle.wait()  # a flush in progress may finish
                    task.cancel()
                    await self.flush()
            except TimeoutError:
                log.warning("wds_flush_timeout", left=len(self._due))
            task.cancel()
            await asyncio.wait({task})
        for pattern in self._patterns.values():
            pattern.subscription.close()

    @property
    def running(self) -> bool:
        """Whether the ticking task is alive."""
        return self._task is not None and not self._task.done()

    # Subscriptions

    def subscribe(self, client: Client, pattern: str) -> bool:
        """Subscribe a client; from now on it gets what the pattern names, each message once.

        Returns:
            False if it was subscribed already.

        Raises:
            ValueError: The pattern names no feed of the contract.
        """
        if pattern in client.patterns:
            return False
        known = self._patterns.get(pattern)
        if known is None:
            subscription = self._bus.subscribe(pattern, self._note)
            self._patterns[pattern] = _Pattern(match(pattern), subscription)
        else:
            known.clients += 1
        client.patterns.add(pattern)
        self._counters.subscriptions += 1
        self._moved[client] = None
        self._wake.set()
        return True

    def unsubscribe(self, client: Client, pattern: str) -> bool:
        """End a client's subscription; values it has still to catch up with go with it.

        Returns:
            False if it was not subscribed.
        """
        if pattern not in client.patterns:
            return False
        client.patterns.remove(pattern)
        self._release(pattern)
        self._moved[client] = None
        for feed in [item.feed for item in client.dirty.values() if not self._wants(client, item)]:
            del client.dirty[feed]
        return True

    def remove(self, client: Client) -> None:
        """Forget a client that is gone."""
        for pattern in client.patterns:
            self._release(pattern)
        client.patterns.clear()
        self._moved.pop(client, None)
        self._slow.pop(client, None)
        self._regroup(client)

    def _release(self, pattern: str) -> None:
        self._counters.subscriptions -= 1
        known = self._patterns[pattern]
        known.clients -= 1
        if not known.clients:
            del self._patterns[pattern]
            known.subscription.close()

    def _wants(self, client: Client, item: Due) -> bool:
        return any(
            family is item.family and (symbol is None or family.feed(symbol) == item.feed)
            for pattern in client.patterns
            for family, symbol in _targets(pattern)
        )

    def _regroup(self, client: Client) -> None:
        """Move a client to the group that its subscriptions ask for."""
        old = client.group
        if old is not None:
            del old.clients[client]
            if not old.clients:
                del self._groups[old.patterns]
                for table, key in self._routes(old):
                    groups = table.get(key)
                    if groups is not None:
                        groups.pop(old, None)
                        if not groups:
                            del table[key]
        client.group = None
        if client.patterns:
            patterns = frozenset(client.patterns)
            group = self._groups.get(patterns)
            if group is None:
                group = self._groups[patterns] = Group(patterns)
                for table, key in self._routes(group):
                    table.setdefault(key, {})[group] = None
            group.clients[client] = None
            client.group = group

    def _routes(self, group: Group) -> Iterable[tuple[dict[str, dict[Group, None]], str]]:
        for pattern in group.patterns:
            for family, symbol in _targets(pattern):
                if symbol is None:
                    yield self._wild, family.name
                else:
                    yield self._exact, family.feed(symbol)

    # Ticks

    def _note(self, message: Message) -> None:
        """The sink of every subscription: remembers a message for the tick, in the publisher's step."""
        self._counters.published += 1
        due = self._due
        if message.family.kind == EVENT:
            if len(due) >= MAX_DUE:
                self._counters.overrun += 1
                return
            due[message] = message
        else:
            if message.feed in due:
                self._counters.conflated += 1
            due[message.feed] = message
        self._wake.set()

    async def _run(self) -> None:
        while True:
            if not (self._due or self._slow):
                await self._idle_tick()
            self._wake.clear()
            ticks, began = self._counters.ticks, self._clock()
            await self.flush()
            if self._counters.ticks != ticks:
                # The first change after an idle tick went out at once, what follows waits for the next tick.
                busy = self._clock() - began
                pause = min(busy * (1 / _SHARE - 1), _LONGEST_TICK_SECONDS)
                await asyncio.sleep(max(self._tick_seconds - busy, pause))

    async def _idle_tick(self) -> None:
        """Wait for something to send; while somebody subscribes, publishers are asked once a tick."""
        if not self._patterns:
            await self._wake.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._tick_seconds):
                await self._wake.wait()

    async def flush(self) -> None:
        """Hand over what is due to all clients, giving the loop back every few milliseconds."""
        self._idle.clear()
        try:
            await self._flush()
        finally:
            self._idle.set()

    async def _flush(self) -> None:
        await self._gather()
        due, self._due = self._due, {}
        self._counters.ticks += bool(due or self._slow)
        moved, self._moved = self._moved, {}
        pace = _Pace(self._clock)
        for client in moved:
            self._regroup(client)
            await pace.maybe_yield()
        for client in list(self._slow):
            if client.drain():
                self._slow.pop(client, None)
            await pace.maybe_yield()
        touched: dict[Group, None] = {}
        for message in due.values():
            self._route(message, touched)
            await pace.maybe_yield()
        for group in touched:
            items, group.due = group.due, []
            payload = items[0].frame if len(items) == 1 else b"".join([item.frame for item in items])
            for client in list(group.clients):
                if not client.deliver(payload, items):
                    self._slow[client] = None
                await pace.maybe_yield()

    def _route(self, message: Message, touched: dict[Group, None]) -> None:
        exact = self._exact.get(message.feed)
        wild = self._wild.get(message.family.name)
        groups = exact | wild if exact and wild else exact or wild
        if not groups:
            return
        try:
            item = Due(message.feed, message.family, text_frame(message.json()))
        except Exception as error:  # a payload of whatever analyzer must not end the service
            self._counters.encode_errors += 1
            self._warn_encoding(message.feed, error)
            return
        self._counters.framed += 1
        for group in groups:
            group.due.append(item)
        touched.update(groups)

    def _warn_encoding(self, feed: str, error: Exception) -> None:
        now = self._clock()
        if now - self._warned_at >= 60.0:
            self._warned_at = now
            log.warning("wds_encode_failed", feed=feed, error=str(error), total=self._counters.encode_errors)


class _Pace:
    """Gives the loop back when a step got long."""

    __slots__ = ("_clock", "_left", "_since")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = _CHECK_EVERY
        self._since = clock()

    async def maybe_yield(self) -> None:
        """Yield if the step has lasted; looks at the clock at every 64th call only."""
        self._left -= 1
        if self._left:
            return
        self._left = _CHECK_EVERY
        if self._clock() - self._since >= STEP_SECONDS:
            await asyncio.sleep(0)
            self._since = self._clock()


@functools.lru_cache(maxsize=4096)
def _targets(pattern: str) -> tuple[tuple[Family, str | None], ...]:
    return tuple((target.family, target.symbol) for target in match(pattern))
