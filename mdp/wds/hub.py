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
import time
from collections.abc import Awaitable, Callable

import structlog

from mdp.cache.base import Bus, Cache, Message
from mdp.feeds import EVENT
from mdp.wds.client import Client, Due, Join, deflated_together
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import text_frame
from mdp.wds.groups import Demand, Group, Groups, targets_of
from mdp.wds.newcomers import Newcomer, Newcomers
from mdp.wds.views import Options

log = structlog.get_logger(__name__)

MAX_DUE = 200_000  # messages waiting for a tick; more only if the hub itself cannot keep up
STEP_SECONDS = 0.005  # the longest stretch of work before the loop is given back
_THREAD_BYTES = 64 * 1024
_CHECK_EVERY = 64  # messages or clients between two looks at the clock
# Reading and computing come first. Where a tick's work takes more than so much of the time, ticks are further
# apart: states are conflated then, and an event waits a little longer.
_SHARE = 0.1
_LONGEST_TICK_SECONDS = 0.1


async def nothing_to_gather() -> None:
    """For a bus whose publishers keep nothing."""


class Hub:
    """Between the bus and the clients. All methods are for the event loop's thread.

    Demand follows subscriptions: the bus knows of a pattern from the first client that subscribes it
    to the last that leaves it.
    """

    def __init__(
        self,
        bus: Bus,
        cache: Cache,
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
        self._demand = Demand(bus, counters, self._note)
        self._groups = Groups()
        self._newcomers = Newcomers(bus, cache)
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
        self._demand.close()

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
        self._demand.hold(pattern)
        client.patterns.add(pattern)
        self._moved[client] = None
        self._wake.set()
        return True

    def place(self, feed: str) -> tuple[int, int]:
        """(epoch, seq) of the last message on a feed."""
        return self._bus.place(feed)

    async def look(
        self, client: Client, pattern: str, options: Options, resume: tuple[int, int] | None = None
    ) -> bool:
        """Subscribe a client of version 2: what there is first, then what changes, nothing twice.

        Args:
            client: Of version 2.
            pattern: What it names.
            options: How the client wants to see it; a subscription to the same pattern is replaced.
            resume: Of an event feed: (epoch, seq) of the last message that the client has.

        Returns:
            False where it cannot be resumed from there: what there is follows instead.

        Raises:
            ValueError: The pattern names no feed of the contract.
        """
        self.look_away(client, pattern)
        self._demand.hold(pattern)
        newcomer = self._newcomers.enter(client, pattern, options)
        try:
            resumed = await self._newcomers.prepare(newcomer, resume)
        except BaseException:
            if newcomer.waits:
                self.look_away(client, pattern)
            raise
        self._wake.set()
        return resumed

    def look_away(self, client: Client, pattern: str) -> bool:
        """End a client's view of a pattern.

        Returns:
            False if there was none.
        """
        view = client.views.get(pattern)
        if view is None:
            return False
        self._newcomers.leave(client, view)
        self._demand.release(pattern)
        self._moved[client] = None
        self._forget_dirt(client)
        return True

    def _forget_dirt(self, client: Client) -> None:
        for feed in [item.feed for item in client.dirty.values() if not self._wants(client, item)]:
            del client.dirty[feed]

    def unsubscribe(self, client: Client, pattern: str) -> bool:
        """End a client's subscription; values it has still to catch up with go with it.

        Returns:
            False if it was not subscribed.
        """
        if pattern not in client.patterns:
            return False
        client.patterns.remove(pattern)
        self._demand.release(pattern)
        self._moved[client] = None
        self._forget_dirt(client)
        return True

    def remove(self, client: Client) -> None:
        """Forget a client that is gone."""
        for pattern in client.patterns:
            self._demand.release(pattern)
        client.patterns.clear()
        for view in list(client.views.values()):
            self._newcomers.leave(client, view)
            self._demand.release(view.pattern)
        self._moved.pop(client, None)
        self._slow.pop(client, None)
        self._groups.move(client)

    def _wants(self, client: Client, item: Due) -> bool:
        return any(
            family is item.family and (symbol is None or family.feed(symbol) == item.feed)
            for pattern in (*client.patterns, *client.views)
            for family, symbol in targets_of(pattern)
        )

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
            if not (self._due or self._slow or self._newcomers.waiting):
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
        if not self._demand:
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
        newcomers, self._newcomers.waiting = self._newcomers.waiting, []
        self._counters.ticks += bool(due or self._slow or newcomers)
        # Who joins a view is moved when this tick's messages are through: what they are told includes them.
        moved, self._moved = self._moved, {}
        pace = _Pace(self._clock)
        for client in moved:
            self._groups.move(client)
            await pace.maybe_yield()
        for client in list(self._slow):
            if client.drain():
                self._slow.pop(client, None)
            await pace.maybe_yield()
        touched: dict[Group, None] = {}
        for message in due.values():
            self._route(message, touched)
            if self._newcomers.views:
                self._route_to_views(message, touched)
            await pace.maybe_yield()
        for group in touched:
            items, group.due = group.due, []
            payload = await _joined(group.join, [item.frame for item in items])
            for client in list(group.clients):
                if client.joined:
                    self._deliver_rest(client, items)
                elif not client.deliver(payload, items):
                    self._slow[client] = None
                await pace.maybe_yield()
        for newcomer in newcomers:
            self._join(newcomer)
            await pace.maybe_yield()

    def _route(self, message: Message, touched: dict[Group, None]) -> None:
        groups = self._groups.of(message)
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

    def _route_to_views(self, message: Message, touched: dict[Group, None]) -> None:
        for view in self._newcomers.views.of(message):
            try:
                item = view.render(message)
            except Exception as error:
                self._counters.encode_errors += 1
                self._warn_encoding(message.feed, error)
                continue
            if item is None:
                continue
            self._counters.framed += 1
            for group in view.groups:
                # Who names a feed and also all of its kind gets it once, as they named it.
                if not view.wild or message.feed not in group.names:
                    group.due.append(item)
                    touched[group] = None

    def _join(self, newcomer: Newcomer) -> None:
        """Tell a newcomer what there is, and from the next tick on what changes: in one step."""
        client = newcomer.client
        if not newcomer.waits:
            return
        del client.waiting[newcomer.view.pattern]
        self._groups.move(client)
        self._moved.pop(client, None)
        due = self._newcomers.first(newcomer)
        if due and not client.deliver(client.join([item.frame for item in due]), due):
            self._slow[client] = None
        if client.dirty:
            self._slow[client] = None

    def _deliver_rest(self, client: Client, items: list[Due]) -> None:
        """The tick after joining: without the events that the newcomer was told already."""
        joined, client.joined = client.joined, {}
        rest = [item for item in items if item.state or item.seq > joined.get(item.feed, 0)]
        if rest and not client.deliver(client.join([item.frame for item in rest]), rest):
            self._slow[client] = None

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


async def _joined(join: Join, frames: list[bytes]) -> bytes:
    """What is due, put together; what is large is compressed in a thread, which leaves the loop to others."""
    if join is deflated_together and sum(map(len, frames)) > _THREAD_BYTES:
        return await asyncio.to_thread(join, frames)
    return join(frames)
