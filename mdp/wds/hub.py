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
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec
import structlog

from mdp.cache.base import Bus, Cache, Message, Subscription, encode_json
from mdp.feeds import EVENT, Family, Target, match
from mdp.wds.client import Client, Due, Join, deflated_together
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import text_frame
from mdp.wds.views import Options, View, envelope

log = structlog.get_logger(__name__)

MAX_DUE = 200_000  # messages waiting for a tick; more only if the hub itself cannot keep up
SNAPSHOT_ITEMS = 100  # of an event feed's list, told to a newcomer who names no limit
STEP_SECONDS = 0.005  # the longest stretch of work before the loop is given back
_THREAD_BYTES = 64 * 1024
_CHECK_EVERY = 64  # messages or clients between two looks at the clock
# Reading and computing come first. Where a tick's work takes more than so much of the time, ticks are further
# apart: states are conflated then, and an event waits a little longer.
_SHARE = 0.1
_LONGEST_TICK_SECONDS = 0.1


async def nothing_to_gather() -> None:
    """For a bus whose publishers keep nothing."""


class Group:
    """All clients with the same subscriptions, who are written the same bytes."""

    __slots__ = ("clients", "due", "join", "names", "patterns", "views")

    def __init__(self, patterns: frozenset[str], views: frozenset[View], join: Join) -> None:
        self.patterns = patterns  # of version 1
        self.views = views  # of version 2
        self.names = {view.pattern for view in views}
        self.join = join
        self.clients: dict[Client, None] = {}
        self.due: list[Due] = []  # of the tick in progress


_GroupKey = tuple[frozenset[str], frozenset[View], Join]


class _Joining(msgspec.Struct):
    """Somebody who subscribed a view and is to be told what there is, when the tick in progress ends."""

    client: Client
    view: View
    due: list[Due]  # what they are told first
    place: int = 0  # of an event feed: what they have of it


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
        cache: Cache,
        counters: WdsCounters,
        *,
        tick_seconds: float,
        gather: Callable[[], Awaitable[None]] = nothing_to_gather,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._cache = cache
        self._gather = gather
        self._counters = counters
        self._tick_seconds = tick_seconds
        self._clock = clock
        self._patterns: dict[str, _Pattern] = {}
        self._groups: dict[_GroupKey, Group] = {}
        self._views: dict[tuple[str, Options], View] = {}
        self._exact_views: dict[str, dict[View, None]] = {}  # feed -> views that name it
        self._wild_views: dict[str, dict[View, None]] = {}  # family name -> views of all of it
        self._joining: list[_Joining] = []
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
        self._hold(pattern)
        client.patterns.add(pattern)
        self._moved[client] = None
        self._wake.set()
        return True

    def _hold(self, pattern: str) -> None:
        known = self._patterns.get(pattern)
        if known is None:
            subscription = self._bus.subscribe(pattern, self._note)
            self._patterns[pattern] = _Pattern(match(pattern), subscription)
        else:
            known.clients += 1
        self._counters.subscriptions += 1

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
        targets = match(pattern)
        if not targets:
            raise ValueError(f"no feed matches {pattern[:80]!r}")
        self.look_away(client, pattern)
        view = self._views.get((pattern, options))
        if view is None:
            view = self._views[pattern, options] = View(pattern, options, targets)
            for table, key in _view_routes(view, self._exact_views, self._wild_views):
                table.setdefault(key, {})[view] = None
        view.clients += 1
        client.views[pattern] = view
        client.waiting.add(pattern)
        self._hold(pattern)
        joining = _Joining(client, view, [])
        try:
            resumed = await self._learn(joining, resume)
        except BaseException:
            if client.views.get(pattern) is view:
                self.look_away(client, pattern)
            raise
        self._joining.append(joining)
        self._wake.set()
        return resumed

    async def _learn(self, joining: _Joining, resume: tuple[int, int] | None) -> bool:
        """Get ready what a newcomer is told; whether it goes on from where they were."""
        view = joining.view
        if not view.wild:
            family, symbol = _targets(view.pattern)[0]
            feed = family.feed(symbol or "")
            if family.kind == EVENT:
                return await self._catch_up(joining, family, feed, resume)
            if view.shown(feed) is None:
                entry = await self._cache.get(feed)
                view.learn(feed, family, entry, self._bus.place(feed), time.time_ns() // 1_000_000)
        return resume is None

    async def _catch_up(
        self, joining: _Joining, family: Family, feed: str, resume: tuple[int, int] | None
    ) -> bool:
        """What a newcomer to an event feed is told: what they missed, or the list as it is."""
        epoch, place = resume or self._bus.place(feed)
        if resume is not None:
            if self._bus.since(feed, epoch, place) is not None:
                joining.place = place
                return True
            epoch, place = self._bus.place(feed)
        limit = joining.view.options.limit or SNAPSHOT_ITEMS
        entry = await self._cache.get(feed, limit) if family.max_items else None
        if entry is not None:
            place = entry.seq
            body = envelope(
                feed, epoch, place, time.time_ns() // 1_000_000, "snapshot", encode_json(entry.value)
            )
            joining.due.append(Due(feed, family, body, seq=place))
        joining.place = place
        return resume is None

    def look_away(self, client: Client, pattern: str) -> bool:
        """End a client's view of a pattern.

        Returns:
            False if there was none.
        """
        view = client.views.pop(pattern, None)
        if view is None:
            return False
        client.waiting.discard(pattern)
        self._let_go(view)
        self._moved[client] = None
        self._forget_dirt(client)
        return True

    def _forget_dirt(self, client: Client) -> None:
        for feed in [item.feed for item in client.dirty.values() if not self._wants(client, item)]:
            del client.dirty[feed]

    def _let_go(self, view: View) -> None:
        self._release(view.pattern)
        view.clients -= 1
        if not view.clients:
            del self._views[view.key]
            for table, key in _view_routes(view, self._exact_views, self._wild_views):
                views = table.get(key)
                if views is not None:
                    views.pop(view, None)
                    if not views:
                        del table[key]

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
        self._forget_dirt(client)
        return True

    def remove(self, client: Client) -> None:
        """Forget a client that is gone."""
        for pattern in client.patterns:
            self._release(pattern)
        client.patterns.clear()
        for view in client.views.values():
            self._let_go(view)
        client.views.clear()
        client.waiting.clear()
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
            for pattern in (*client.patterns, *client.views)
            for family, symbol in _targets(pattern)
        )

    def _regroup(self, client: Client) -> None:
        """Move a client to the group that its subscriptions ask for."""
        old = client.group
        if old is not None:
            del old.clients[client]
            if not old.clients:
                del self._groups[old.patterns, old.views, old.join]
                for view in old.views:
                    view.groups.pop(old, None)
                for table, key in self._routes(old):
                    groups = table.get(key)
                    if groups is not None:
                        groups.pop(old, None)
                        if not groups:
                            del table[key]
        client.group = None
        if client.patterns or len(client.views) > len(client.waiting):
            views = frozenset(view for name, view in client.views.items() if name not in client.waiting)
            members = frozenset(client.patterns), views, client.join
            group = self._groups.get(members)
            if group is None:
                group = self._groups[members] = Group(*members)
                for view in group.views:
                    view.groups[group] = None
                for table, route in self._routes(group):
                    table.setdefault(route, {})[group] = None
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
            if not (self._due or self._slow or self._joining):
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
        self._counters.ticks += bool(due or self._slow or self._joining)
        joining, self._joining = self._joining, []
        # Who joins a view is moved when this tick's messages are through: what they are told includes them.
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
            if self._exact_views or self._wild_views:
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
        for newcomer in joining:
            self._join(newcomer)
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

    def _route_to_views(self, message: Message, touched: dict[Group, None]) -> None:
        exact = self._exact_views.get(message.feed, {})
        wild = self._wild_views.get(message.family.name, {})
        for view in (*exact, *wild) if wild else tuple(exact):
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

    def _join(self, newcomer: _Joining) -> None:
        """Tell a newcomer what there is, and from the next tick on what changes: in one step."""
        client, view, due = newcomer.client, newcomer.view, newcomer.due
        if client.views.get(view.pattern) is not view:
            return  # gone, or wants it otherwise by now
        client.waiting.discard(view.pattern)
        self._regroup(client)
        self._moved.pop(client, None)
        for family, symbol in _targets(view.pattern):
            if family.kind == EVENT:
                if symbol is not None:
                    due += self._missed(newcomer, family.feed(symbol))
            elif view.wild:
                client.owe(self._owed(client, view, family, symbol))
            else:
                feed = family.feed(symbol or "")
                known = view.shown(feed)
                if known is not None:
                    due.append(Due(feed, family, known.full(), seq=known.seq, full=view.catch_up(feed)))
        if due and not client.deliver(client.join([item.frame for item in due]), due):
            self._slow[client] = None
        if client.dirty:
            self._slow[client] = None

    def _owed(self, client: Client, view: View, family: Family, symbol: str | None) -> Iterator[Due]:
        """A wildcard's snapshots of one family, but for the feeds that the client names besides."""
        if symbol is None:
            symbols = dict.fromkeys((*self._cache.symbols(family), *view.symbols_shown(family)))
        else:
            symbols = {symbol: None}
        for name in symbols:
            feed = family.feed(name)
            if feed not in client.views:
                yield view.owed(family, name, self._cache, self._bus.place(feed))

    def _missed(self, newcomer: _Joining, feed: str) -> list[Due]:
        """The events between what a newcomer was told first and now."""
        client, view = newcomer.client, newcomer.view
        epoch, client.joined[feed] = self._bus.place(feed)
        missed = (self._bus.since(feed, epoch, newcomer.place) or []) if not view.wild else []
        return [item for item in map(view.render, missed) if item is not None]

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


def _view_routes(
    view: View, exact: dict[str, dict[View, None]], wild: dict[str, dict[View, None]]
) -> Iterator[tuple[dict[str, dict[View, None]], str]]:
    """The tables and keys by which messages find a view."""
    for family, symbol in _targets(view.pattern):
        if symbol is None:
            yield wild, family.name
        else:
            yield exact, family.feed(symbol)


@functools.lru_cache(maxsize=4096)
def _targets(pattern: str) -> tuple[tuple[Family, str | None], ...]:
    return tuple((target.family, target.symbol) for target in match(pattern))
