"""Writes into Redis as publishers do (`docs/redis.md`), for tests of who reads."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from mdp.cache.keys import Keys
from mdp.feeds import resolve


class Publisher:
    """One owner of feeds, with an epoch of its own.

    Args:
        client: Redis.
        keys: Names.
        epoch: What its messages carry.
    """

    def __init__(self, client: Redis, keys: Keys | None = None, epoch: int = 1_000) -> None:
        self.client = client
        self.keys = keys or Keys()
        self.epoch = epoch
        self.seqs: dict[str, int] = {}

    async def publish(self, feed: str, value: Any, *, keep: bool = True, seq: int = 0) -> int:
        """A value of a state feed: kept (with its place, where it has one) and told; returns its seq."""
        number = self.seqs[feed] = seq or self.seqs.get(feed, 0) + 1
        ts, body = now_ms(), json.dumps(value)
        found = resolve(feed)
        assert found is not None
        pipeline = self.client.pipeline(transaction=True)
        if keep:
            pipeline.set(self.keys.value(feed), body, ex=int(found[0].ttl_seconds))
            if found[0].hole != "symbol":
                place = {"epoch": self.epoch, "seq": number, "ts": ts}
                pipeline.hset(self.keys.place(feed), mapping=place)  # type: ignore[arg-type]
        pipeline.publish(self.keys.bus(feed), f"{self.epoch} {number} {ts}\n{body}")
        await pipeline.execute()
        return number

    async def keep(self, feed: str, value: Any) -> None:
        """A value of a symbol's feed that is only kept: nobody was known to want it."""
        await self.client.set(self.keys.value(feed), json.dumps(value), ex=3_600)

    async def emit(self, feed: str, value: Any, *, ts: int = 0, keep: int = 10_000) -> int:
        """An item of an event feed; returns its seq."""
        number = self.seqs[feed] = self.seqs.get(feed, 0) + 1
        fields = {"e": self.epoch, "s": number, "t": ts or now_ms(), "d": json.dumps(value)}
        await self.client.xadd(
            self.keys.events(feed),
            fields,  # type: ignore[arg-type]
            maxlen=keep,
            approximate=False,
        )
        return number


@asynccontextmanager
async def publishing(publisher: Publisher, feed: str, value: Callable[[int], Any]) -> AsyncIterator[None]:
    """`value(1)`, `value(2)` ... on a state feed, one after another without a pause, meanwhile."""
    stop = asyncio.Event()

    async def publish() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            await publisher.publish(feed, value(n))

    busy = asyncio.create_task(publish())
    try:
        yield
    finally:
        stop.set()
        await busy


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000
