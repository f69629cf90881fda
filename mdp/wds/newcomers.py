"""How a client of version 2 joins a feed: what there is first, then what changes, nothing twice.

A subscription begins at once at the bus, while the client still waits: what comes meanwhile goes into the
view. At the end of a tick, in one step, the newcomer is told what the view shows (or what happened), and
belongs to the view's clients from the next tick on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from mdp.cache.base import Bus, Cache, encode_json
from mdp.feeds import EVENT, Family, match
from mdp.wds.client import Client, Due
from mdp.wds.groups import targets_of
from mdp.wds.views import Options, View, ViewIndex, envelope

SNAPSHOT_ITEMS = 100  # of an event feed's list, told to a newcomer who names no limit

Place = tuple[int, int]  # (epoch, seq)


class Newcomer(msgspec.Struct, eq=False):
    """Somebody who subscribed a view and is to be told what there is."""

    client: Client
    view: View
    due: list[Due]  # what they are told first
    place: int = 0  # of an event feed: what they have of it

    @property
    def waits(self) -> bool:
        """Whether it still wants this: it may be gone, or have asked again since."""
        return self.client.waiting.get(self.view.pattern) is self


class Newcomers:
    """See the module. All methods are for the event loop's thread."""

    def __init__(self, bus: Bus, cache: Cache) -> None:
        self._bus = bus
        self._cache = cache
        self.views = ViewIndex()
        self.waiting: list[Newcomer] = []  # for the end of a tick

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
        if not view.wild:
            family, symbol = targets_of(view.pattern)[0]
            feed = family.feed(symbol or "")
            if family.kind == EVENT:
                resumed = await self._catch_up(newcomer, family, feed, resume)
            elif view.shown(feed) is None:
                entry = await self._cache.get(feed)
                view.learn(feed, family, entry, self._bus.place(feed), _now_ms())
        self.waiting.append(newcomer)
        return resumed

    async def _catch_up(self, newcomer: Newcomer, family: Family, feed: str, resume: Place | None) -> bool:
        """What a newcomer to an event feed is told: what they missed, or the list as it is."""
        if resume is not None and self._bus.since(feed, *resume) is not None:
            newcomer.place = resume[1]
            return True
        epoch, newcomer.place = self._bus.place(feed)
        limit = newcomer.view.options.limit or SNAPSHOT_ITEMS
        entry = await self._cache.get(feed, limit) if family.max_items else None
        if entry is not None:
            newcomer.place = entry.seq
            options = newcomer.view.options
            chosen = options.fields or options.where
            items = newcomer.view.select(entry.value) if chosen else entry.value
            body = envelope(feed, epoch, entry.seq, _now_ms(), "snapshot", encode_json(items))
            newcomer.due.append(Due(feed, family, body, seq=entry.seq))
        return resume is None

    def first(self, newcomer: Newcomer) -> list[Due]:
        """What a newcomer is told now. Snapshots of a wildcard are owed to the client (`Client.dirty`)."""
        client, view, due = newcomer.client, newcomer.view, newcomer.due
        for family, symbol in targets_of(view.pattern):
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
        return due

    def _missed(self, newcomer: Newcomer, feed: str) -> list[Due]:
        """The events between what a newcomer was told first and now."""
        client, view = newcomer.client, newcomer.view
        epoch, client.joined[feed] = self._bus.place(feed)
        missed = (self._bus.since(feed, epoch, newcomer.place) or []) if not view.wild else []
        return [item for item in map(view.render, missed) if item is not None]

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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
