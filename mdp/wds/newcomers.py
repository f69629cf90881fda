"""How a client of version 2 joins a feed: what there is first, then what changes, nothing twice.

A subscription begins at once at the bus, while the client still waits: what comes meanwhile goes into the
view. At the end of a tick, in one step, the newcomer is told what the view shows (or what happened), and
belongs to the view's clients from the next tick on.

A wildcard may stand for thousands of feeds. Its newcomer belongs to the view's clients at once and walks
through what the view shows, so much at a time as its line takes. Meanwhile it is told whole values only: a
change would change what it may not have seen yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from mdp.cache.base import Bus, Cache, encode_json
from mdp.feeds import EVENT, QUOTE, QUOTES, Family, match
from mdp.wds.client import Client, Due
from mdp.wds.counters import WdsCounters
from mdp.wds.groups import targets_of
from mdp.wds.pace import Pace
from mdp.wds.values import lightened
from mdp.wds.views import Options, View, ViewIndex, envelope

SNAPSHOT_ITEMS = 100  # of an event feed's list, told to a newcomer who names no limit

#: State feeds whose wildcard begins with the next value of each symbol. The last raw quote of a symbol is
#: kept for 5 s and looked for in the frames of those seconds: for a whole market that is minutes of work.
WITHOUT_SNAPSHOTS = frozenset({QUOTES})

Place = tuple[int, int]  # (epoch, seq)


class Newcomer(msgspec.Struct, eq=False):
    """Somebody who subscribed a view and is to be told what there is."""

    client: Client
    view: View
    due: list[Due]  # what they are told first
    epoch: int = 0  # of an event feed: what they have of it
    place: int = 0

    @property
    def waits(self) -> bool:
        """Whether it still wants this: it may be gone, or have asked again since."""
        return self.client.waiting.get(self.view.pattern) is self


class Walk:
    """The snapshots of a wildcard that a client has still to be told, as fast as it takes them."""

    def __init__(self, newcomer: Newcomer, feeds: list[str]) -> None:
        self._client = newcomer.client
        self._view = newcomer.view
        self._feeds = iter(feeds)

    def take(self, most: int) -> list[Due]:
        """The next few; empty at the end.

        Left out are feeds that the client names besides, and those of which it sees nothing.
        """
        found: list[Due] = []
        named = self._client.views.keys() - self._client.waiting.keys()
        for feed in self._feeds:
            due = self._view.whole(feed)
            if due is not None and feed not in named:
                found.append(due)
                if len(found) == most:
                    break
        return found


class Newcomers:
    """See the module. All methods are for the event loop's thread."""

    def __init__(self, bus: Bus, cache: Cache, counters: WdsCounters, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._cache = cache
        self._counters = counters
        self._clock = clock
        self.views = ViewIndex()
        self.waiting: list[Newcomer] = []  # for the end of a tick
        self.walks: dict[Client, dict[str, Walk]] = {}  # by pattern, the one subscribed first first

    def enter(self, client: Client, pattern: str, options: Options) -> Newcomer:
        """A client has a view of a pattern from now on; one that it has must have been left."""
        view = self.views.get(pattern, options, match(pattern))
        view.clients += 1
        client.views[pattern] = view
        newcomer = client.waiting[pattern] = Newcomer(client, view, [])
        return newcomer

    def leave(self, client: Client, view: View) -> None:
        """The end of that."""
        del client.views[view.pattern]
        client.waiting.pop(view.pattern, None)
        walks = self.walks.get(client)
        if walks is not None and walks.pop(view.pattern, None) is not None and not walks:
            del self.walks[client]
        view.clients -= 1
        if not view.clients:
            self.views.forget(view)

    async def prepare(self, newcomer: Newcomer, resume: Place | None) -> bool:
        """Fetch what a newcomer is told first, and let it wait for the end of a tick.

        Returns:
            Whether it goes on from the place that it named, where it named one.
        """
        view = newcomer.view
        resumed = resume is None
        if view.wild:
            await self._look_at_all(newcomer)
        else:
            family, symbol = targets_of(view.pattern)[0]
            feed = family.feed(symbol or "")
            if family.kind == EVENT:
                resumed = await self._catch_up(newcomer, family, feed, resume)
            elif view.shown(feed) is None:
                # Before the cache is asked: what is published while it works out the value is news.
                place = self._bus.place(feed)
                entry = await self._cache.get(feed)
                if entry is not None:
                    entry = msgspec.structs.replace(entry, value=await lightened(entry.value))
                view.learn(feed, family, entry, place, _now_ms())
        self.waiting.append(newcomer)
        return resumed

    def place(self, feed: str) -> Place:
        """(epoch, seq) of the last message on a feed."""
        return self._bus.place(feed)

    async def _look_at_all(self, newcomer: Newcomer) -> None:
        """Let a wildcard's view learn what there is, in short steps.

        One that has clients already knows: what it does not know has a first message that is still to come.
        It must not learn of it here, or that message would be no news to anybody, and told to nobody.
        """
        view, pace = newcomer.view, Pace(self._clock, self._counters)
        if view.groups:
            return
        for family, symbol in targets_of(view.pattern):
            if family.kind == EVENT or (symbol is None and family in WITHOUT_SNAPSHOTS):
                continue
            for name in self._symbols(family) if symbol is None else [symbol]:
                feed = family.feed(name)
                if view.shown(feed) is None:
                    place = self._bus.place(feed)
                    entry = await self._cache.get(feed)
                    if entry is not None and not view.groups:
                        view.learn(feed, family, entry, place, _now_ms())
                await pace.check()
                if view.groups or not newcomer.waits:
                    return

    def _symbols(self, family: Family) -> list[str]:
        """Those that may have a value. An analyzer that does not name them may know any of the market's."""
        return self._cache.symbols(family) or (self._cache.symbols(QUOTE) if family.hole == "symbol" else [])

    async def _catch_up(self, newcomer: Newcomer, family: Family, feed: str, resume: Place | None) -> bool:
        """What a newcomer to an event feed is told: what they missed, or the list as it is."""
        if resume is not None and self._bus.since(feed, *resume) is not None:
            newcomer.epoch, newcomer.place = resume
            return True
        newcomer.epoch, newcomer.place = self._bus.place(feed)
        limit = newcomer.view.options.limit or SNAPSHOT_ITEMS
        entry = await self._cache.get(feed, limit) if family.max_items else None
        if entry is not None:
            # Where nobody followed the feed before, its place was not known above.
            newcomer.epoch, newcomer.place = entry.epoch, entry.seq
            options = newcomer.view.options
            chosen = options.fields or options.where
            items = newcomer.view.select(entry.value) if chosen else entry.value
            body = envelope(feed, entry.epoch, entry.seq, _now_ms(), "snapshot", encode_json(items))
            newcomer.due.append(Due(feed, family, body, seq=entry.seq))
        return resume is None

    def first(self, newcomer: Newcomer) -> list[Due]:
        """What a newcomer is told now, in this step. A wildcard's snapshots follow in a walk."""
        client, view, due = newcomer.client, newcomer.view, newcomer.due
        if view.wild:
            self.walks.setdefault(client, {})[view.pattern] = Walk(newcomer, view.feeds_shown())
            return []
        family, symbol = targets_of(view.pattern)[0]
        feed = family.feed(symbol or "")
        if family.kind == EVENT:
            _, client.joined[feed] = self._bus.place(feed)
            missed = self._bus.since(feed, newcomer.epoch, newcomer.place) or []
            return due + [item for item in map(view.render, missed) if item is not None]
        known = view.whole(feed)
        return due if known is None else [*due, known]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
