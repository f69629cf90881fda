"""The cache of a process that does not compute: values as they are in Redis, in step with the bus.

What `get` answers fits the messages of the bus: it waits until the feed's subscription is acknowledged,
prefers the last message to the key in Redis, and where there was none reads the key and then lets everything
arrive that was published before. Values of symbols have no place of their own in Redis: they are given
`(0, 0)`, which is before every message; the publisher sends the present value when the interest begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mdp.cache.asking import ASKED, Unheard
from mdp.cache.base import Entry
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.relay_versions import NewerFeeds
from mdp.cache.relayed import RelayedMessage, decode
from mdp.feeds import Family, resolve

if TYPE_CHECKING:
    from mdp.cache.relay import Relay

_WAIT_SECONDS = 3.0  # of a `get`, for an acknowledgement and for Redis


class Unanswered(Exception):
    """Redis did not answer in time, or with what is not read here: what is asked for is not known."""


class RelayCache:
    """See `mdp.cache.base.Cache`. Made by `Relay`."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._loads: dict[str, _Load] = {}  # family name -> values of its symbols, while all is subscribed

    async def get(self, key: str, limit: int = 0) -> Entry | None:
        """See `Cache`.

        Raises:
            Unanswered: Redis did not say, and nothing is known here.
        """
        found = resolve(key)
        if found is None:
            return None
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                return await self._get(key, *found, limit)
        except REDIS_ERRORS as error:
            raise Unanswered(f"{key}: {type(error).__name__}") from None
        except NewerFeeds as error:
            raise Unanswered(f"{key}: {error}") from None

    async def _get(self, key: str, family: Family, symbol: str, limit: int) -> Entry | None:
        relay = self._relay
        if family.max_items:
            return await relay.events.get(key, family, limit)
        known = relay.current(key)
        if known is not None:
            return _entry(known)
        subscribed = relay.bus.covers(family, symbol)
        if subscribed:
            await relay.channels.join(relay.demand.channels_of(family, symbol)[:1])
            if (known := relay.current(key)) is not None:
                return _entry(known)
        if subscribed and family.hole == "symbol" and relay.bus.covers_all(family):
            body = (await self._load(family)).values.get(symbol)
            entry = None if body is None else relay.entry(body, 0, 0, family)
        else:
            entry = await self._read(key, family)
            if subscribed:
                await relay.channels.barrier()
        known = relay.current(key) or relay.newer(key, entry)
        return entry if known is None else _entry(known)

    async def _read(self, key: str, family: Family) -> Entry | None:
        """A value that no message has brought: from its key, or from its owner where it may have no key."""
        relay = self._relay
        if family.name in ASKED:
            try:
                body = await relay.asker.ask(key)
            except Unheard:
                pass  # the key has the last one, if somebody subscribed to it
            else:
                return None if body is None else relay.entry(body, 0, 0, family)
        return await relay.read(key, family)

    def set(self, family: Family, symbol: str, value: Any) -> None:
        """Raises RuntimeError: others write."""
        raise RuntimeError("a relay reads")

    def push(self, family: Family, symbol: str, value: Any) -> None:
        """Raises RuntimeError: others write."""
        raise RuntimeError("a relay reads")

    def provide(
        self,
        family: Family,
        provider: Callable[[str], Any],
        symbols: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Raises RuntimeError: others know."""
        raise RuntimeError("a relay reads")

    def symbols(self, family: Family) -> list[str]:
        """See `Cache`: those that messages named while somebody subscribed, and those with a key in Redis."""
        relay = self._relay
        return list(dict.fromkeys((*relay.heard(family), *relay.index.symbols(family))))

    def peek(self, family: Family, symbol: str) -> Any:
        """See `Cache`."""
        known = self._relay.current(family.feed(symbol))
        if known is not None:
            return known.value
        load = self._loads.get(family.name)
        body = None if load is None else load.values.get(symbol)
        return None if body is None else decode(body)

    def drop(self, family: Family) -> None:
        """All of a family is subscribed no more."""
        self._loads.pop(family.name, None)

    async def _load(self, family: Family) -> _Load:
        """The values of all of a family's symbols, read once for all who join it on one connection."""
        line = self._relay.channels.line
        load = self._loads.get(family.name)
        if load is None or load.line != line or (load.task.done() and load.task.exception()):
            load = self._loads[family.name] = _Load(line)
            load.task = asyncio.create_task(self._relay.read_all(family, load.values), name="relay-load")
        await asyncio.shield(load.task)
        return load


class _Load:
    """Values of a family's symbols in Redis, as they were when all of it was subscribed."""

    task: asyncio.Task[None]

    def __init__(self, line: int) -> None:
        self.line = line
        self.values: dict[str, bytes] = {}


def _entry(message: RelayedMessage) -> Entry:
    return Entry(message.value, message.epoch, message.seq)
