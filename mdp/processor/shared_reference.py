"""Reference values for all partitions of all processors: one process fetches, the others load.

Who holds the lease `reference` runs the fetching stage and writes what it has, as it comes, by trading day.
All others load that, so that whoever gets the lease next goes on where the first one was.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any

import msgspec
import structlog

from mdp.cache import schemas
from mdp.cache.keys import Keys
from mdp.cache.leases import Lease
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.reference import Reference
from mdp.cache.table import ReferenceRow
from mdp.cache.tasks import begin, end
from mdp.exchange_calendar import ExchangeCalendar
from mdp.processor.engine import Engine
from mdp.processor.reference_swap import ReferenceSwap
from mdp.stage import Health

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_WRITE_SECONDS = 2.0  # between two writes while values come
_KEEP_SECONDS = 5 * 86_400
_MARK_BYTES = 24  # of a value, from its beginning: they differ where it was written anew
_LEVEL = 1  # of zlib
_NOW = "now"  # in the place of a day: which one it is, and what a symbol without values waits for
_START_SECONDS = 2.0  # a start waits so long for the first values
_PATIENCE_SECONDS = 30.0  # for another process's values; what an endpoint never gives is not waited for

_encode = msgspec.msgpack.Encoder().encode
_decode_now = msgspec.msgpack.Decoder(tuple[str, tuple[str, ...]]).decode
_decode = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class SharedReference:
    """A stage. See the module.

    Args:
        client: Redis.
        keys: Names.
        lease: `reference`; started and stopped with us.
        reference: Not started; it is when the lease is gained, and stopped with us.
        engines: Those of the partitions at work.
        calendar: Knows which day follows.
        wall_ms: Marks what is written.
        clock: Monotonic seconds.
    """

    name = "shared_reference"

    def __init__(
        self,
        client: Any,
        keys: Keys,
        lease: Lease,
        reference: Reference,
        engines: Callable[[], Iterable[Engine]],
        *,
        calendar: ExchangeCalendar,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reference = reference
        self.lease = lease
        self.written = self.loaded = 0
        self._client, self._keys = client, keys
        self._engines = engines
        self._calendar = calendar
        self._wall_ms, self._clock = wall_ms, clock
        self.refused = schemas.Refused("reference values", schemas.REFERENCE)
        self._fetching = False  # goes on where the lease was only lost with Redis
        self._signature: object = None  # of what was written last
        self._wrote_at = -1e9
        self._began = clock()
        self._loaded_all = False
        self._marks: dict[str, bytes] = {}  # day -> beginning of the value that was loaded
        self._pending: tuple[str, ...] | None = None  # what a symbol without values waits for; None: unknown
        self._said: tuple[str, tuple[str, ...]] | None = None  # the day and these, as they were written
        self._task: asyncio.Task[None] | None = None
        lease.on_gained.append(lambda _epoch: self._write_again())
        reference.on_rows.append(self._rows)
        reference.on_swap.append(self._swapped)
        reference.on_unknown.append(self._unknown)

    # -- as a stage ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to look. Returns once what others wrote was loaded, after 2 s at most: a partition that is
        taken over has its values from its first event on."""
        if self._task is None:
            with contextlib.suppress(TimeoutError, *REDIS_ERRORS):
                async with asyncio.timeout(_START_SECONDS):
                    await self._load()
            await self.lease.start()
            self._task = begin(self._run(), self.name)

    async def stop(self) -> None:
        """Stop fetching, give the lease back. Safe to call twice, or before `start`."""
        task, self._task = self._task, None
        await end(task)
        await self.lease.stop()
        await self.reference.stop()

    def health(self) -> Health:
        """As the fetching stage says; elsewhere, what was loaded."""
        if self._fetching:
            return self.reference.health()
        day = self.reference.day
        if day is None:
            return Health(True, "another process fetches; the trading day is not known yet")
        return Health(True, f"another process fetches; {len(self.reference.rows)} symbols for {day}")

    @property
    def warming_up(self) -> bool:
        """Whether values are still on their way: by the one that fetches when its first round is over,
        elsewhere until all were loaded, or for half a minute."""
        if self._fetching:
            return not self.reference.ready
        if self._loaded_all or self._pending == ():  # all are there, or the provider has none
            return False
        return self._clock() - self._began < _PATIENCE_SECONDS

    @property
    def shared(self) -> bool:
        """Whether all that is known was written: who joins now has it with its partitions."""
        return self._said is not None and self._signature == self._known()

    def _known(self) -> object:
        reference = self.reference
        return (reference.day, reference.progress.done, len(reference.rows), reference.health().detail)

    # -- for the partitions -------------------------------------------------------------------------

    def on_day(self, swap: ReferenceSwap, day: date) -> None:
        """A partition's market begins a trading day: its values count from now on."""
        known = self.reference.day
        if known is None or day > known:
            self.reference.enter(day)
        # A partition that replays the end of the day before has none of today's.
        swap.swap(self.reference.rows if self.reference.day == day else {})

    def ready(self, engine: Engine) -> None:
        """A partition's state was taken back: give it the day's values."""
        if self._pending is not None:
            _swap_of(engine).unknown(self._pending)
        day = engine.market.clock.day
        if day is not None:
            self.on_day(_swap_of(engine), day.day)

    def _of_day(self) -> list[Engine]:
        day = self.reference.day
        return [
            engine
            for engine in self._engines()
            if engine.market.clock.day is not None and engine.market.clock.day.day == day
        ]

    def _rows(self, rows: Mapping[str, ReferenceRow]) -> None:
        for engine in self._of_day():
            engine.market.refer(rows)

    def _swapped(self, rows: Mapping[str, ReferenceRow]) -> None:
        for engine in self._of_day():
            _swap_of(engine).swap(rows)

    def _unknown(self, pending: tuple[str, ...]) -> None:
        if self._fetching:  # nobody else knows what the provider does not have at all
            self._know(pending)

    def _know(self, pending: tuple[str, ...]) -> None:
        self._pending = pending
        for engine in self._engines():
            _swap_of(engine).unknown(pending)

    # -- with Redis ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except REDIS_ERRORS as exc:
                log.debug("reference_not_shared", error=type(exc).__name__)
            except Exception as exc:  # values of an old version, a defect: the next second may be well
                log.error("shared_reference_failed", exc_info=exc)
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Load what is new, or fetch and write, as it is our turn. Called once a second.

        Raises:
            REDIS_ERRORS: It is tried again.
        """
        if self._fetching and not self.lease.valid() and self.lease.free_in_seconds:
            self._fetching = False  # another has it: two would ask for everything twice, day after day
            await self.reference.pause()
        if not self._fetching:
            await self._load()
            if self.lease.valid():
                self._fetching = True
                await self.reference.start()
            elif self.reference.day is not None:
                self.reference.latecomers.look()  # of our partitions; nobody else sees those symbols
        if self.lease.valid():
            await self._write()

    def _write_again(self) -> None:
        """Redis may have lost what was written."""
        self._signature = self._said = None

    async def _write(self) -> None:
        reference = self.reference
        if self._pending is not None:
            now = (reference.day.isoformat() if reference.day else "", self._pending)
            if now != self._said:
                await self._client.set(self._keys.reference(_NOW), _encode(now))
                self._said = now
        signature = self._known()
        if signature == self._signature or self._clock() - self._wrote_at < _WRITE_SECONDS:
            return
        self._wrote_at = self._clock()
        days: dict[str, list[bytes]] = {}
        day = ""
        for record in reference.dump():
            if record[0] == "head":
                day = record[2]
            days.setdefault(day, []).append(_encode(record))
            await asyncio.sleep(0)
        for day, records in days.items():
            packed = await asyncio.to_thread(_pack, self.refused.reads, self._wall_ms(), records)
            if not self.lease.valid():
                return
            await self._client.set(self._keys.reference(day), packed, ex=_KEEP_SECONDS)
            self.written += 1
        self._signature = signature

    async def _load(self) -> None:
        data = await self._client.get(self._keys.reference(_NOW))
        name, pending = ("", self._pending) if data is None else _decode_now(data)
        if pending is not None and pending != self._pending:
            self._know(pending)
        days = {engine.market.clock.day.day for engine in self._engines() if engine.market.clock.day}
        if self.reference.day is not None:
            days.add(self.reference.day)
        if not days:
            # No event yet. The values should be there with the first one, as where they are fetched; the day
            # may prove to be another one.
            if name:
                await self._load_day(date.fromisoformat(name), "")
            return
        newest = max(days)
        for day in (newest, self._calendar.next_session(newest)):
            await self._load_day(day, newest.isoformat())

    async def _load_day(self, day: date, today: str) -> None:
        """Load a day's values where they are new; `today` is the market's day, empty while it has none."""
        name = day.isoformat()
        key = self._keys.reference(name)
        mark = await self._client.getrange(key, 0, _MARK_BYTES - 1)
        if not mark or mark == self._marks.get(name):
            return
        data = await self._client.get(key)
        if data is None:
            return
        self._marks = {known: was for known, was in self._marks.items() if known >= today}
        self._marks[name] = data[:_MARK_BYTES]
        version, *_, packed = _decode(data)
        written = msgspec.msgpack.decode(version, type=int)
        if written > self.refused.reads:
            self.refused.note(written)  # whoever has the lease fetches: we, too, when it is our turn
            return
        records = await asyncio.to_thread(_unpack, packed)
        complete = self.reference.load(records, today)
        self._loaded_all = self._loaded_all or complete
        self.loaded += 1


def _pack(version: int, mark: int, records: list[bytes]) -> bytes:
    array = b"\xdd" + len(records).to_bytes(4, "big") + b"".join(records)
    return _encode((version, mark, zlib.compress(array, _LEVEL)))


def _unpack(packed: msgspec.Raw) -> list[Any]:
    found: list[Any] = msgspec.msgpack.decode(zlib.decompress(msgspec.msgpack.decode(packed, type=bytes)))
    return found


def _swap_of(engine: Engine) -> ReferenceSwap:
    return next(guard.analyzer for guard in engine.guards if isinstance(guard.analyzer, ReferenceSwap))
