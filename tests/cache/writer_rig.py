"""A writer of results over a real Redis, worked by hand: clocks move and turns happen when told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from mdp.cache.keys import Keys
from mdp.cache.redis_interest import InterestWatch
from mdp.cache.redis_link import Link, connect
from mdp.cache.redis_output import RedisOutput
from mdp.cache.redis_writer import RedisWriter
from mdp.config import CacheConfig
from mdp.feeds import QUOTE, Family
from tests.redis_server import RedisServer

WALL_MS = 1_700_000_000_000


class Rig:
    """One process that writes. `time` is its monotonic clock, in seconds."""

    def __init__(self, server: RedisServer, **options: Any) -> None:
        seconds = options.pop("timeout_seconds", 10.0)
        config = server.config(timeout_seconds=seconds)
        if options.pop("cluster", False):
            config = CacheConfig(url=f"redis+cluster://127.0.0.1:{server.port}", timeout_seconds=seconds)
        self.time = 1_000.0
        self.keys = Keys(options.pop("prefix", ""))
        self.client: Any = connect(config)
        self.link = Link("values", config, clock=self.clock)
        self.parts_link = Link("parts", config, clock=self.clock)
        self.interest = InterestWatch(self.client, self.keys, self.link, clock=self.clock)
        self.writer = RedisWriter(
            self.client,
            self.client,
            self.keys,
            self.interest,
            link=self.link,
            parts_link=self.parts_link,
            wall_ms=self.wall_ms,
            clock=self.clock,
            **options,
        )

    def clock(self) -> float:
        return self.time

    def wall_ms(self) -> int:
        return WALL_MS + int(self.time * 1_000)

    def partition(
        self,
        number: int = 0,
        epoch: int = 1,
        *,
        packers: Mapping[str, Callable[[Any], bytes]] | None = None,
        **options: Any,
    ) -> RedisOutput:
        """An output as a partition has it."""
        return self.writer.open(f"partition:{number}", epoch, packers=packers or {}, **options)

    async def turn(self, seconds: float = 1.0) -> None:
        """Some time passes, then everything that waits is written."""
        self.time += seconds
        while await self.writer.flush():
            pass
        await self.writer.parts.flush()

    async def close(self) -> None:
        await self.writer.stop()
        await self.client.aclose()


def unaccounted(*outputs: RedisOutput) -> int:
    """Events that are in none of the terms of `OutputCounters`, or in two (negative)."""
    missing = 0
    for output in outputs:
        counts = output.counters
        known = counts.written + counts.raw_sent + counts.dropped + counts.left + output.waiting
        missing += counts.events + counts.raw - known
    return missing


class Hearer:
    """What is heard on channels."""

    def __init__(self, server: RedisServer, *patterns: str) -> None:
        self._client = cast(Any, server.client())
        self._pubsub = self._client.pubsub()
        self._pubsub.psubscribe(*patterns)
        for _ in patterns:
            self._pubsub.get_message(timeout=30)

    def heard(self) -> list[tuple[str, bytes]]:
        """(channel, message) since the last call."""
        found = []
        self._pubsub.ping("all")  # its answer comes after everything that was published before
        while (message := self._pubsub.get_message(timeout=30))["type"] != "pong":
            if message["type"] == "pmessage":
                found.append((message["channel"].decode(), message["data"]))
        return found

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


class Values:
    """Values of one family by symbol, as an analyzer provides them."""

    def __init__(self, output: RedisOutput, family: Family) -> None:
        self.held: dict[str, Any] = {}
        output.provide(family, self.held.get, lambda: list(self.held))


class Walk:
    """Hands out what it was told to."""

    families = frozenset({QUOTE.name})

    def __init__(self) -> None:
        self.todo: list[tuple[Family, str, Any]] = []
        self.seconds: list[float] = []
        self.forgotten = 0

    def due(self, seconds: float) -> list[tuple[Family, str, Any]]:
        self.seconds.append(seconds)
        todo, self.todo = self.todo, []
        return todo

    def forget(self) -> None:
        self.forgotten += 1


def messages(hearer: Hearer) -> list[tuple[str, int, int, Any]]:
    """(feed, epoch, seq, payload) of what was heard on the bus."""
    found = []
    for channel, data in hearer.heard():
        head, _, body = data.partition(b"\n")
        epoch, seq, _ = head.split()
        found.append((channel.removeprefix("mdp:bus:"), int(epoch), int(seq), json.loads(body)))
    return found


def listed(server: RedisServer, key: str) -> list[Any]:
    """A list as an existing client reads it."""
    with server.client() as client:
        items: Any = client.lrange(key, 0, -1)
    return [json.loads(item) for item in items]


def streamed(server: RedisServer, feed: str) -> list[tuple[int, Any]]:
    """(seq, payload) of an event feed's stream; its epoch is one."""
    with server.client() as client:
        entries: Any = client.xrange(f"mdp:events:{{{feed}}}")
    assert len({fields[b"e"] for _, fields in entries}) <= 1
    return [(int(fields[b"s"]), json.loads(fields[b"d"])) for _, fields in entries]
