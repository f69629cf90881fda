"""Both ends of the streams, for tests: what is in Redis, events to send, waiting for what comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from mdp.cache.keys import Keys
from mdp.cache.redis_link import Link, connect
from mdp.config import CacheConfig, MdqConfig
from mdp.events import Aggregate, LimitUpLimitDown, Quote, Trade
from mdp.queues.base import Batch
from mdp.queues.entry import STREAMED, Header, unpack, unpack_header
from mdp.queues.stream_writer import StreamWriter
from tests.redis_server import RedisServer

NOW_MS = 1_763_740_800_000  # 2025-11-21, 11:00 in New York
PARTITIONS = 4
KEYS = Keys("t:")


class Stored(msgspec.Struct, frozen=True):
    """An entry as it lies in Redis."""

    id: str
    header: Header
    events: list[Any]


def stored(
    server: RedisServer, keys: Keys = KEYS, partitions: int = PARTITIONS
) -> dict[tuple[str, int], list[Stored]]:
    """All entries, by queue and partition; heartbeats too."""
    found = {}
    with server.client() as client:
        for queue in STREAMED:
            for partition in range(partitions):
                rows = client.xrange(keys.stream(queue, partition))
                found[queue, partition] = [
                    Stored(entry_id.decode(), unpack_header(fields[b"h"]), unpack(queue, fields[b"d"]))
                    for entry_id, fields in rows
                ]
    return found


def sizes(server: RedisServer) -> list[int]:
    """The `size` of every trade that lies in Redis: the number that `trades` gave it."""
    return [
        event.size
        for (queue, _), entries in stored(server).items()
        if queue == "trades"
        for entry in entries
        for event in entry.events
    ]


def trades(first: int, count: int, symbols: int = 7) -> Batch:
    """Trades numbered in their size, over some symbols."""
    return Batch(
        [Trade(f"S{n % symbols}", 10.5, n, NOW_MS + n) for n in range(first, first + count)],
        time.monotonic_ns(),
    )


def bars(count: int, at_ms: int = NOW_MS) -> Batch:
    """Second bars of different symbols."""
    return Batch([Aggregate(f"S{n}", 10.0, 11.0, 9.0, at_ms) for n in range(count)], time.monotonic_ns())


def quotes(count: int) -> Batch:
    """Quotes of different symbols."""
    return Batch([Quote(f"S{n}", NOW_MS) for n in range(count)], time.monotonic_ns())


def bands(count: int) -> Batch:
    """Limit up / limit down messages."""
    return Batch([LimitUpLimitDown(f"S{n}", NOW_MS) for n in range(count)], time.monotonic_ns())


async def until(reached: Callable[[], Any], seconds: float = 60.0) -> None:
    """Let the loop run until something is so; fails where it does not become so."""
    async with asyncio.timeout(seconds):
        while not reached():  # noqa: ASYNC110 - there is no event for what another process does
            await asyncio.sleep(0.005)


class Leadership:
    """An epoch that a test changes."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch

    def __call__(self) -> int:
        return self.epoch


def writer(
    server: RedisServer,
    leadership: Callable[[], int] | None = None,
    *,
    timeout_seconds: float = 3.0,
    url: str = "",
    **changes: Any,
) -> StreamWriter:
    """A writer that was not started."""
    config = CacheConfig(url=url or server.url, timeout_seconds=timeout_seconds)
    settings: dict[str, Any] = {"partitions": PARTITIONS, "ttl_seconds": 60.0, "flush_ms": 5.0, **changes}
    return StreamWriter(
        connect(config),
        KEYS,
        MdqConfig(**settings),
        Link("test", config),
        epoch=leadership or Leadership(),
    )


def balanced(made: StreamWriter) -> bool:
    """Whether every event that was received is accounted for, once."""
    accounting = made.accounting()
    received = accounting.pop("received")
    return received == sum(accounting.values())
