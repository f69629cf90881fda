"""Writes event feeds: appends to streams and lists, exactly once; lets a replay out where it is news."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from redis.exceptions import ResponseError

from mdp.cache import schemas
from mdp.cache.event_identity import identity
from mdp.cache.keys import Keys
from mdp.cache.leases import raise_fence
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.redis_output import RedisOutput
from mdp.cache.redis_scripts import EVENTS, text
from mdp.cache.redis_scripts import owners as script_owners

log = structlog.get_logger(__name__)

_MOST = 500  # items of one feed and output in one turn
_MIN_STREAM = 10_000  # items of an event feed's stream
_EXPIRE_SECONDS = 10.0  # between two renewals of a list's time to live
_HISTORY_STEP = 1_000
_HISTORY_MARGIN_MS = 60_000
_MAX_FEEDS = 100_000  # of which the last place is remembered


class EventWriter:
    """See the module.

    Args:
        client: Redis, where clients' data is.
        keys: Names.
        plain_keys: Keep lists under the names of their feeds.
        plain_channels: Publish bare items on channels of these names.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        client: Any,
        keys: Keys,
        *,
        plain_keys: bool,
        plain_channels: bool,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._keys = keys
        self._plain_keys = plain_keys
        self._plain_channels = plain_channels
        self._clock = clock
        self._version = schemas.FEEDS
        self._places: dict[str, tuple[str, str]] = {}  # feed -> (epoch, seq) that we know
        self._expired: dict[str, float] = {}  # feed -> when its time to live was renewed

    def jobs(self, outputs: list[RedisOutput]) -> list[Awaitable[None]]:
        """One script for each event feed with news."""
        feeds: dict[str, list[RedisOutput]] = {}
        for output in outputs:
            for feed in output.batches:
                feeds.setdefault(feed, []).append(output)
        return [self._append_to(feed, owners) for feed, owners in feeds.items()]

    async def _append_to(self, feed: str, owners: list[RedisOutput]) -> None:
        family = owners[0].families[feed]
        now = self._clock()
        seconds: Any = ""
        if now - self._expired.get(feed, -1e9) >= _EXPIRE_SECONDS:
            _bound(self._expired)
            self._expired[feed] = now
            seconds = int(family.ttl_seconds)
        args: list[Any] = script_owners(owners)
        for output in owners:
            batch = output.batches[feed]
            # One whose answer was lost is written as it was: Redis knows its number.
            batch.under_way = batch.under_way or min(len(batch.items), _MOST)
            args += (batch.number, batch.under_way)
        epoch, seq = self._places.get(feed, ("", "0"))
        channel = self._keys.value(feed) if self._plain_channels else ""
        keep_list = family.max_items if self._plain_keys else 0
        args += (keep_list, max(family.max_items, _MIN_STREAM), seconds, channel, epoch, seq, self._version)
        for output in owners:
            batch = output.batches[feed]
            for at in range(batch.under_way):
                args += batch.items[at]
        keys = [self._keys.counter(feed), self._keys.events(feed), self._keys.value(feed)]
        try:
            answers, errors, new_epoch, new_seq, done = await EVENTS.run(self._client, keys, args)
        except REDIS_ERRORS:
            self._expired.pop(feed, None)
            raise
        names = {text(name) for name in done}
        for output in owners:
            if output.name in names and feed in output.batches:
                output.written(feed)
        for answer, output in zip(answers, owners, strict=True):
            if answer == b"old":
                output.refuse()
        if errors:
            raise ResponseError(text(errors[0]))
        _bound(self._places)
        self._places[feed] = (text(new_epoch), text(new_seq))

    async def resume(self, output: RedisOutput, since_ms: int) -> int:
        """The end of a replay: let those of its events leave that the feeds' histories do not have.

        Args:
            output: One that is silent, with the events that the replay brought.
            since_ms: Redis time from which on they may have happened: of the first entry replayed.

        Returns:
            How many leave.

        Raises:
            REDIS_ERRORS: It may be tried again; the output stays silent.
        """
        feeds = dict.fromkeys((family.feed(symbol) for family, symbol, _, _ in output.replayed))
        since_ms = min((since_ms, *(ts for _, _, ts, _ in output.replayed)))  # inherited ones are older
        known: dict[str, Counter[Any]] = {}
        for feed in feeds:
            # First shut out the predecessor, who might append after we have looked.
            if not await raise_fence(self._client, self._keys.counter(feed), output.name, output.epoch):
                output.refuse()
                return 0
            known[feed] = await self._history(feed, max(0, since_ms - _HISTORY_MARGIN_MS))
        new = 0
        for family, symbol, ts, body in output.replayed:
            feed = family.feed(symbol)
            who = identity(feed, body)
            if known[feed][who] > 0:
                known[feed][who] -= 1
            else:
                output.note(family, symbol, ts, body)
                new += 1
        log.info("replay_over", lease=output.name, events=len(output.replayed), new=new)
        output.replayed.clear()
        output.loud()
        return new

    async def _history(self, feed: str, since_ms: int) -> Counter[Any]:
        """The identities of a feed's events since a time."""
        found: Counter[Any] = Counter()
        start = str(since_ms)
        while True:
            entries = await self._client.xrange(self._keys.events(feed), start, "+", count=_HISTORY_STEP)
            for _, fields in entries:
                found[identity(feed, fields[b"d"])] += 1
            if len(entries) < _HISTORY_STEP:
                return found
            start = f"({text(entries[-1][0])}"


def _bound(table: dict[str, Any]) -> None:
    if len(table) >= _MAX_FEEDS:
        table.clear()
