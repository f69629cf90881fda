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
from collections.abc import Awaitable, Callable, Iterable

import structlog

from mdp.cache.base import Bus, Cache, Message
from mdp.feeds import EVENT, Family
from mdp.wds.client import LARGE_BYTES, Client, Due, Join, deflated_together
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import text_frame
from mdp.wds.groups import Demand, Group, Groups, targets_of
from mdp.wds.missed import Missed
from mdp.wds.newcomers import Newcomer, Newcomers
from mdp.wds.pace import LATEST, Load, Pace, own_time
from mdp.wds.values import light_message
from mdp.wds.views import Options, View

log = structlog.get_logger(__name__)

MAX_DUE = 200_000  # messages waiting for a tick; more only if the hub itself cannot keep up
_WALK_STEP = 100  # snapshots of a wildcard written at once: about 1 ms with compression
# Reading and computing come first. Where the work of ticks takes more than a share of the time, ticks are
# further apart: states are conflated then, and an event waits a little longer. A tick's own steps count, not
# those of reading between them. The last tick has one part in eight: that one of them had whole boards in it,
# for hundreds of clients, delays no quote of the next.
_SHARE = 0.1
_BUSY_SHARE = 0.05  # where the thread has hardly any time left: its reading falls behind otherwise
_BUSY = 0.75
_LONGEST_PAUSE_SECONDS = 0.1


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
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._bus = bus
        self._gather = gather
        self._counters = counters
        self._tick_seconds = tick_seconds
        self._clock, self._cpu_clock = clock, cpu_clock
        self._demand = Demand(bus, counters, self._note)
        self._groups = Groups()
        self._newcomers = Newcomers(bus, cache, counters, clock)
        self._moved: dict[Client, None] = {}  # whose group does not fit their subscriptions any more
        self._missed = Missed(self._newcomers, self._has_moved)
        self._joined: list[Client] = []  # at the end of the last tick
        self._views: dict[Due, View] = {}  # of the tick in progress: whose it is
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

    def missed(self, feed: str, family: Family) -> None:
        """Something of an event feed was lost before its next message: clients are told."""
        self._missed.note(feed, family)
        self._wake.set()

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
        if not view.wild:
            self._fall_back(client, pattern)
        return True

    def _has_moved(self, client: Client) -> None:
        self._moved[client] = None

    def _fall_back(self, client: Client, feed: str) -> None:
        """A feed is from now on what a wildcard of the client's shows of it: all of that first."""
        family, _ = targets_of(feed)[0]
        for name, wild in client.views.items():
            if family.kind != EVENT and wild.wild and name not in client.waiting and wild.names(family, feed):
                client.owe([wild.in_the_end(feed, family, self._bus.place(feed))])
                self._slow[client] = None
                self._wake.set()

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
        client.dirty.clear()
        self._groups.move(client)

    def _wants(self, client: Client, item: Due) -> bool:
        return any(
            family is item.family and (symbol is None or family.feed(symbol) == item.feed)
            for pattern in (*client.patterns, *(client.views.keys() - client.waiting.keys()))
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
        pause = 0.0
        load = Load(self._clock, self._cpu_clock)
        while True:
            newcomers = self._newcomers
            if not (self._due or self._slow or self._missed or newcomers.waiting or newcomers.walks):
                await self._idle_tick()
            self._wake.clear()
            ticks = self._counters.ticks
            busy = await own_time(self.flush(), self._clock)
            if self._counters.ticks != ticks:
                # The first change after an idle tick went out at once, what follows waits for the next tick.
                share = _BUSY_SHARE if load.now() > _BUSY else _SHARE
                pause += (min(busy / share - busy, _LONGEST_PAUSE_SECONDS) - pause) * LATEST
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
        if self._missed:
            await self._missed.tell()
        due, self._due = self._due, {}
        newcomers, self._newcomers.waiting = self._newcomers.waiting, []
        walks = self._newcomers.walks
        self._counters.ticks += bool(due or self._slow or newcomers or walks)
        # Who joins a view is moved when this tick's messages are through: what they are told includes them.
        moved, self._moved = self._moved, {}
        pace = Pace(self._clock, self._counters)
        for client in moved:
            self._groups.move(client)
            await pace.maybe_yield()
        for client in list(self._slow):
            if await self._drain(client):
                self._slow.pop(client, None)
            await pace.maybe_yield()
        touched: dict[Group, None] = {}
        for message in due.values():
            if not message.family.hole:  # those of one symbol are small
                try:
                    message = await light_message(message)
                except Exception as error:
                    self._cannot_encode(message, error)
                    continue
            self._route(message, touched)
            for view in self._newcomers.views.of(message) if self._newcomers.views else ():
                self._show(view, message, touched)
                await pace.check()
            await pace.maybe_yield()
        for group in touched:
            items, group.due = group.due, []
            payload = await _joined(group.join, [item.frame for item in items])
            for client in list(group.clients):
                if client.joined or client in walks or client in self._moved:
                    self._deliver_one_by_one(client, group, items, due)
                elif not client.deliver(payload, items):
                    self._slow[client] = None
                await pace.maybe_yield()
        for client in list(self._moved):  # what they left may have been theirs alone, and rendered no more
            if client.group is not None and client.group not in touched:
                self._deliver_one_by_one(client, client.group, [], due)
                await pace.maybe_yield()
        self._views.clear()
        joined, self._joined = self._joined, []
        for client in joined:
            client.joined = {}
        for newcomer in newcomers:
            await self._join(newcomer)
            await pace.check()
        for client in list(walks):
            await self._walk(client, pace)

    def _route(self, message: Message, touched: dict[Group, None]) -> None:
        groups = self._groups.of(message)
        if not groups:
            return
        try:
            item = Due(message.feed, message.family, text_frame(message.json()))
        except Exception as error:  # a payload of whatever analyzer must not end the service
            self._cannot_encode(message, error)
            return
        self._counters.framed += 1
        for group in groups:
            group.due.append(item)
        touched.update(groups)

    def _show(self, view: View, message: Message, touched: dict[Group, None]) -> None:
        try:
            item = view.render(message)
        except Exception as error:
            self._cannot_encode(message, error)
            return
        if item is None:
            return
        self._counters.framed += 1
        self._views[item] = view
        for group in view.groups:
            # Who names a feed and also all of its kind gets it once, as they named it.
            if not view.wild or message.feed not in group.names:
                group.due.append(item)
                touched[group] = None

    async def _join(self, newcomer: Newcomer) -> None:
        """Tell a newcomer what there is, and from the next tick on what changes."""
        if not newcomer.waits:
            return
        client, view = newcomer.client, newcomer.view
        # In one step, so that nothing falls between the two.
        del client.waiting[view.pattern]
        self._groups.move(client)
        due = self._newcomers.first(newcomer)
        self._joined.append(client)
        # Nobody else writes messages meanwhile. It may leave, and be told nothing then.
        payload = await _joined(client.join, [item.frame for item in due]) if due else b""
        if client.views.get(view.pattern) is not view or view.pattern in client.waiting:
            return
        if due and not client.deliver(payload, due):
            self._slow[client] = None

    async def _walk(self, client: Client, pace: Pace) -> None:
        """Tell a client of wildcards as much of what there is as it takes now."""
        walks = self._newcomers.walks
        while (own := walks.get(client)) and not (client.closing or client.gone or client.busy):
            pattern, walk = next(iter(own.items()))
            client.owe(walk.take(_WALK_STEP))
            if not client.dirty:
                del own[pattern]
                if not own:
                    del walks[client]
            elif not await self._drain(client):
                self._slow[client] = None
                return
            await pace.check()

    async def _drain(self, client: Client) -> bool:
        """Write what a client has been skipped, as far as there is room; whether nothing is left over."""
        items = client.take()
        if items:
            payload = await _joined(client.join, [item.frame for item in items])
            if client in self._moved and not all(self._wants(client, item) for item in items):
                # It has left some of the feeds meanwhile, and been told so.
                client.owe(item for item in items if self._wants(client, item))
            else:
                client.hand_over(payload, len(items))
        return not client.dirty

    def _deliver_one_by_one(
        self, client: Client, group: Group, items: list[Due], due: dict[str | Message, Message]
    ) -> None:
        """A tick for a client who must not get all that its group gets, or not in the same way."""
        rest = [item for item in items if self._is_news(client, item)]
        if client in self._moved:
            rest += self._events_instead(client, group, due)
        if client in self._newcomers.walks:
            client.owe(item for item in rest if item.state)  # whole: it may not have come to them yet
            rest = [item for item in rest if not item.state]
        if not rest and not client.dirty:
            return
        if not client.deliver(client.join([item.frame for item in rest]) if rest else b"", rest):
            self._slow[client] = None

    def _is_news(self, client: Client, item: Due) -> bool:
        """Whether the client still wants this, and was not told it when it joined."""
        view = self._views.get(item)
        if view is None:
            return client not in self._moved or self._wants(client, item)
        if client.views.get(view.pattern) is not view or view.pattern in client.waiting:
            return False
        return item.state or item.seq > client.joined.get(item.feed, 0)

    def _events_instead(
        self, client: Client, group: Group, due: dict[str | Message, Message]
    ) -> Iterable[Due]:
        """Events of feeds that the client has left in this very moment, as a wildcard that covers them shows
        them."""
        here = {name: view for name, view in client.views.items() if name not in client.waiting}
        wild = [view for view in here.values() if view.wild and view in group.views]
        left = group.names - here.keys()
        for message in due.values() if wild and left else ():
            if message.feed in left and message.family.kind == EVENT:
                for view in wild:
                    if message.seq > client.joined.get(message.feed, 0) and view.names(
                        message.family, message.feed
                    ):
                        item = view.render(message)
                        if item is not None:
                            yield item

    def _cannot_encode(self, message: Message, error: Exception) -> None:
        self._counters.encode_errors += 1
        now = self._clock()
        if now - self._warned_at >= 60.0:
            self._warned_at = now
            log.warning(
                "wds_encode_failed", feed=message.feed, error=str(error), total=self._counters.encode_errors
            )


async def _joined(join: Join, frames: list[bytes]) -> bytes:
    """What is due, put together; what is large is compressed in a thread, which leaves the loop to others."""
    if join is deflated_together and sum(map(len, frames)) > LARGE_BYTES:
        return await asyncio.to_thread(join, frames)
    return join(frames)
