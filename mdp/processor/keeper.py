"""Keeps the processor's state over a restart: restores it at the start, snapshots it every so often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import structlog

from mdp.cache.memory import MemoryCache
from mdp.cache.persistence import Restored, Store
from mdp.processor import engine_state
from mdp.processor.engine import Engine
from mdp.stage import Health

log = structlog.get_logger(__name__)

_encode = msgspec.msgpack.Encoder().encode
_FIRST_SECONDS = 2.0
_LIST_STEP = 200  # items of a list in one record: about 1 ms


class Keeper:
    """A stage: restores before it returns from `start`, snapshots periodically and in `stop`.

    Stop it after the processor (so the last snapshot holds everything) and start it before.

    Args:
        store: The files.
        engine: Whose analyzers, market clock and journal it keeps.
        cache: Whose lists it keeps.
        period_seconds: Between snapshots; the first ones come sooner.
        extra_dump: Further records to keep (reference values), `extra_load` gets them back.
        wall_ms: The wall clock, for ages over the restart.
    """

    name = "keeper"

    def __init__(
        self,
        store: Store,
        engine: Engine,
        cache: MemoryCache,
        *,
        period_seconds: float,
        extra_dump: Callable[[], Iterator[Any]] = lambda: iter(()),
        extra_load: Callable[[list[Any], str], object] = lambda _records, _day: None,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self.store = store
        self._engine = engine
        self._cache = cache
        self._period_seconds = period_seconds
        self._extra_dump = extra_dump
        self._extra_load = extra_load
        self._wall_ms = wall_ms
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self.restored_symbols = 0

    async def start(self) -> None:
        """Restore what fits, begin a journal, begin to snapshot."""
        restored = await asyncio.to_thread(self.store.load)
        if restored is not None:
            self._restore(restored)
        self.store.open()
        self._engine.results.journal_writer = self.store
        self._started = True
        if restored is not None:
            # What came from a journal is only in an old generation: make it a snapshot before that goes.
            await self.save()
        self._task = asyncio.create_task(self._run(), name="keeper")

    async def stop(self) -> None:
        """Write the last snapshot."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._started:
            self._started = False
            await self.save()
            self._engine.results.journal_writer = None
            self.store.close()

    def health(self) -> Health:
        if self.store.errors:
            return Health(True, "snapshots fail: a restart would lose state")
        return Health(True, f"{self.store.snapshots} snapshots written")

    async def save(self) -> None:
        """Write a snapshot now."""
        market = self._engine.market
        # Without a market clock yet (a start at night, on a weekend) there are reference values to keep.
        head = {
            "day": "" if market.clock.day is None else market.clock.day.day.isoformat(),
            "now_ms": market.clock.now_ms,
            "saved_ms": self._wall_ms(),
        }
        await self.store.save(head, self._records())

    async def _run(self) -> None:
        # Early at first: what is no extreme is in no journal; a kill soon after the start would lose it.
        pause = min(_FIRST_SECONDS, self._period_seconds)
        while True:
            await asyncio.sleep(pause)
            await self.save()
            pause = min(4 * pause, self._period_seconds)

    def _records(self) -> Iterator[Any]:
        for record in self._extra_dump():
            yield ["x", record]
        for name, record in engine_state.dump(self._engine):
            yield ["a", name, record]
        for key, items in self._cache.lists().items():
            for at in range(0, len(items), _LIST_STEP):
                yield ["l", key, items[at : at + _LIST_STEP]]

    def _restore(self, restored: Restored) -> None:
        market = self._engine.market
        head, records, journal = restored.head, restored.records, restored.journal
        day: str = head.get("day", "")
        now_ms: float = head.get("now_ms", 0)
        extra = [record[1] for record in records if record[0] == "x"]
        for at in range(len(journal) - 1, -1, -1):
            if journal[at][0] == "d":
                # The last new day, or the same begun again: what is older is of no use but in lists.
                records = [record for record in records if record[0] != "a"]
                journal = [r for i, r in enumerate(journal) if i > at or r[0] == "e"]
                day, now_ms = restored.journal[at][1], restored.journal[at][2]
                break
        if extra:
            self._extra_load(extra, day)
        if not now_ms:
            return
        engine_state.hydrate(self._engine, now_ms, (record[1:] for record in records if record[0] == "a"))
        assert market.clock.day is not None
        by_name = {guard.name: guard for guard in self._engine.guards}
        elapsed_ms = self._wall_ms() - head.get("saved_ms", self._wall_ms())
        held: dict[str, set[bytes]] = {}  # list -> its items: one may be in the snapshot and the journal
        for record in records:
            if record[0] == "l":
                self._cache.restore(record[1], record[2], elapsed_ms)
                held.setdefault(record[1], set()).update(_encode(item) for _, item in record[2])
        for record in journal:
            if record[0] == "e":
                if _encode(record[2]) not in held.get(record[1], ()):
                    self._cache.restore_item(record[1], record[2])
            elif record[0] == "s" and record[1] in by_name:
                guard = by_name[record[1]]
                guard.call("replay", lambda g=guard, r=record[2]: g.analyzer.replay(r))  # type: ignore[misc]
        market.revision += 1
        self.restored_symbols = len(market.symbols)
        log.info(
            "state_restored",
            day=market.clock.day.day.isoformat(),
            symbols=self.restored_symbols,
            journal_records=len(journal),
        )
