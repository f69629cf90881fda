"""What a successor learns from the streams behind its checkpoint: trades that came already, last quotes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from mdp.analyzers.raw_feeds import RawFeeds
from mdp.analyzers.seen import REMEMBERED
from mdp.analyzers.trade_ledger import TradeLedger
from mdp.cache.keys import Keys
from mdp.events import QUOTES, TRADES, milliseconds
from mdp.feeds import QUOTES as QUOTES_FEED
from mdp.processor.engine import Engine
from mdp.queues.entry import EntryError, PackedEvents, unpack
from mdp.queues.look_back import Past, look_back
from mdp.queues.stream_reader import Cursor

_STEP_SECONDS = 0.005


class Recall:
    """See the module.

    Args:
        client: Redis, where streams are.
        keys: Names.
        redis_ms: Redis's time; 0: not known yet.
    """

    def __init__(self, client: Any, keys: Keys, redis_ms: Callable[[], int]) -> None:
        self._client = client
        self._keys = keys
        self._redis_ms = redis_ms

    async def __call__(self, partition: int, engine: Engine, cursors: Mapping[str, Cursor]) -> int:
        """Let an engine remember what came before these cursors; returns how many trades it met.

        Raises:
            REDIS_ERRORS: It may be tried again.
        """
        trades = await self._past(partition, TRADES, cursors, 0, REMEMBERED)
        count = await self._remember(TradeLedger.of(engine.market), trades)
        now_ms = self._redis_ms() or max((past.ms for past in trades), default=0)
        since_ms = now_ms - int(QUOTES_FEED.ttl_seconds * 1_000)
        quotes = await self._past(partition, QUOTES, cursors, since_ms, 1 << 30) if now_ms else []
        now_ns = time.monotonic_ns()
        for queue, entries in ((TRADES, trades), (QUOTES, quotes)):
            sources = [
                (now_ns - (now_ms - past.ms) * 1_000_000, PackedEvents(queue, past.data))
                for past in entries
                if past.ms >= since_ms
            ]
            for guard in engine.guards:
                if isinstance(guard.analyzer, RawFeeds):
                    for source in sources:  # one by one, as they would have come: they go one by one, too
                        guard.analyzer.remember(queue, [source])
        return count

    async def _past(
        self, partition: int, queue: str, cursors: Mapping[str, Cursor], since_ms: int, events: int
    ) -> list[Past]:
        cursor = cursors.get(queue) or Cursor()
        key = self._keys.stream(queue, partition)
        return await look_back(self._client, key, cursor, since_ms=since_ms, events=events)

    async def _remember(self, ledger: TradeLedger, entries: list[Past]) -> int:
        count, began = 0, time.perf_counter()
        for past in entries:
            try:
                trades = unpack(TRADES, past.data)
            except EntryError:
                continue
            for trade in trades:
                trade.timestamp = milliseconds(trade.timestamp)
            ledger.recall(trades)
            count += len(trades)
            if time.perf_counter() - began > _STEP_SECONDS:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return count
