"""What this service itself missed of an event feed: clients of version 2 are told, and what there is instead.

So it is where a relay finds items of a stream trimmed before it read them, or another life of Redis. Who
names the feed begins anew: `resync`, a snapshot, then what happens. Who has it by a wildcard is told `resync`
alone, because wildcards of event feeds have no snapshots.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from mdp.feeds import Family
from mdp.wds import protocol2
from mdp.wds.client import Client
from mdp.wds.newcomers import Newcomer, Newcomers
from mdp.wds.views import View

log = structlog.get_logger(__name__)


class Missed:
    """See the module. For the event loop's thread.

    Args:
        newcomers: Who has views, and who waits for what there is.
        moved: Told of clients whose views changed.
    """

    def __init__(self, newcomers: Newcomers, moved: Callable[[Client], None]) -> None:
        self._newcomers = newcomers
        self._moved = moved
        self._feeds: dict[str, Family] = {}

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def note(self, feed: str, family: Family) -> None:
        """Something is missing before the next event of a feed; `tell` comes before that is sent."""
        self._feeds[feed] = family

    async def tell(self) -> None:
        """Tell who is concerned."""
        feeds, self._feeds = self._feeds, {}
        for feed, family in feeds.items():
            for view in self._newcomers.views.showing(feed, family):
                if view.wild:
                    self._say(feed, [client for group in view.groups for client in group.clients])
                else:
                    await self._begin_again(feed, view)

    def _say(self, feed: str, clients: list[Client]) -> None:
        notice = protocol2.resync(feed)
        for client in clients:
            client.answer(client.wire.notice("resync", notice))

    async def _begin_again(self, feed: str, view: View) -> None:
        """All clients of a view are newcomers once more; what they are told is worked out once."""
        newcomers = self._newcomers
        clients = [client for group in view.groups for client in group.clients]
        again: list[Newcomer] = []
        for client in clients:
            if client.views.get(view.pattern) is view and view.pattern not in client.waiting:
                newcomers.leave(client, view)
                again.append(newcomers.enter(client, view.pattern, view.options))
                self._moved(client)
        for early in newcomers.waiting:  # prepared before, with a place that is not to be gone on from
            if early.view is view and early.waits:
                early.due.clear()
                again.append(early)
        if not again:
            return
        self._say(feed, [newcomer.client for newcomer in again])
        beginning = set(map(id, again))
        newcomers.waiting = [one for one in newcomers.waiting if id(one) not in beginning]
        first = again[0]
        try:
            await newcomers.prepare(first, None)
        except Exception as error:  # without a list then: what happens from now on comes
            log.warning("wds_resync_failed", feed=feed, error=type(error).__name__)
            first.due.clear()
            first.epoch, first.place = newcomers.place(feed)
            newcomers.waiting.append(first)
        for other in again[1:]:
            other.due = list(first.due)
            other.epoch, other.place = first.epoch, first.place
            newcomers.waiting.append(other)
