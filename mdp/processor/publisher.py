"""The publisher: one process in turn, which makes boards and other feeds of the whole market out of the parts
that partitions contribute (`docs/redis.md`, "Feeds of the whole market")."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec
import structlog

from mdp.analyzers.leaderboards import BOARDS
from mdp.cache.keys import Keys, partition_name
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.redis_output import RedisOutput
from mdp.cache.redis_writer import RedisWriter
from mdp.cache.tasks import Background
from mdp.feeds import HALTS_ACTIVE, MARKET_STATUS, TTA, TTA_ALL, Family
from mdp.market_status import NO_CALENDAR_FIELDS, calendar_fields
from mdp.processor.parts import Part, SchemaError, merge_board, merge_halts, merge_trades, read
from mdp.sessions import CLOSED, MarketClock
from mdp.stage import Health

log = structlog.get_logger(__name__)

STALE_SECONDS = 10.0  # without a new part of any kind, until a partition is said to be stale
_PERIOD_SECONDS = 1.0
_LISTENER_SILENT_SECONDS = 15.0
_TRADES_ROUNDS = 5  # top trades are published every 5 s; their parts are 2 MB
_OTHERS = (MARKET_STATUS, TTA_ALL, HALTS_ACTIVE)  # the first says who lives
_PARTITION = "partition:"

#: The hash `mdp:listener` -> feed's fields of `market:status`, and the lag in ms where it is known.
ListenerFields = Callable[[dict[bytes, bytes]], tuple[dict[str, Any], float | None]]


class LeaseLike(Protocol):
    """What is needed of `mdp.cache.leases.Lease`."""

    name: str
    epoch: int
    on_gained: list[Callable[[int], None]]
    on_lost: list[Callable[[str], None]]

    def valid(self) -> bool: ...

    def refused(self) -> None: ...


class Contributors:
    """Who contributes, and who has fallen silent; judged by our own clock alone.

    Args:
        clock: Monotonic seconds.
        expected: Those that are to contribute.
    """

    def __init__(self, clock: Callable[[], float], expected: Iterable[str] = ()) -> None:
        self._clock = clock
        self._epochs: dict[tuple[str, str], int] = {}  # (feed, name) -> the highest
        #: name -> (epoch, number), when it was new
        self._seen: dict[str, tuple[tuple[int, int], float]] = dict.fromkeys(expected, ((0, 0), clock()))

    def admit(self, feed: str, name: str, part: Part) -> bool:
        """Whether a part is of the highest epoch known of its feed, and of the partition's status or later.

        A new owner says its status after everything else; up to then what its predecessor said of a feed
        counts, unless the new one has said something of that feed itself.
        """
        epochs = self._epochs
        if part.epoch < max(epochs.get((feed, name), 0), epochs.get((MARKET_STATUS.name, name), 0)):
            return False
        epochs[feed, name] = part.epoch
        return True

    def note(self, name: str, part: Part) -> None:
        """Take note of a sign of life."""
        place = (part.epoch, part.number)
        if name not in self._seen or self._seen[name][0] != place:
            self._seen[name] = (place, self._clock())

    def stale(self) -> list[str]:
        """Those that said nothing for 10 s."""
        now = self._clock()
        return sorted(name for name, (_, at) in self._seen.items() if now - at > STALE_SECONDS)


class Publisher(Background):
    """A stage: publishes while its process holds the lease.

    Args:
        writer: Of the process.
        client: Redis, where parts, limits and the listener's hash are.
        keys: Names.
        lease: `publisher`.
        listener_fields: Reads the listener's hash.
        link: Told how commands went.
        partitions: How many there are; 0: as many as contribute.
        calendar: Of the market clock; None: the exchange's without what the provider says.
        clock: Monotonic seconds.
        observe: Called with (feed, seconds) after each step.

    Attributes:
        output: What it writes through; None while another process publishes.
        refused: Parts that were of a lower epoch, or of a newer schema.
    """

    name = "publisher"

    def __init__(
        self,
        writer: RedisWriter,
        client: Any,
        keys: Keys,
        lease: LeaseLike,
        *,
        listener_fields: ListenerFields,
        link: Link,
        partitions: int = 0,
        calendar: Any = None,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[str, float], None] = lambda _feed, _seconds: None,
    ) -> None:
        self.output: RedisOutput | None = None
        self.refused = {"epoch": 0, "schema": 0, "broken": 0}
        self._writer = writer
        self._client = client
        self._keys = keys
        self._lease = lease
        self._listener_fields = listener_fields
        self._link = link
        # Others are of a time when the market was split otherwise.
        self._names = frozenset(partition_name(partition) for partition in range(partitions))
        self._calendar = calendar
        self._clock = clock
        self._observe = observe
        self._contributors = Contributors(clock)  # anew with each acquisition
        self._had: dict[str, Any] = {}  # feed -> what its value was made of
        self._limits: dict[str, dict[str, int]] = {}  # feed -> partition -> rows asked for
        self._top: dict[str, msgspec.Raw] = {}
        self._rounds = 0
        self._listener: tuple[dict[bytes, bytes], float] = ({}, clock())
        self._days: dict[str, Any] = {}  # partition -> its trading day
        self._newer: dict[tuple[str, str], bytes] = {}  # feed, partition -> a part of a newer version
        self._newer_told = False
        self.failures = 0
        lease.on_gained.append(self._gained)
        lease.on_lost.append(self._lost)

    async def stop(self) -> None:
        """Publish what waits and end; give the lease back afterwards. Safe to call twice."""
        await super().stop()
        output, self.output = self.output, None
        if output is not None:
            await self._writer.close(output, 0.3)

    def health(self) -> Health:
        """Whether it publishes, or stands by."""
        if self.output is None:
            return Health(True, "stands by")
        stale = self._contributors.stale()
        return Health(True, f"silent partitions: {', '.join(stale)}" if stale else "publishes")

    # The lease.

    def _gained(self, epoch: int) -> None:
        self._contributors = Contributors(self._clock, self._names)
        self._had.clear()
        self._limits.clear()
        self._newer.clear()
        self._top = {}
        output = self._writer.open(self._lease.name, epoch, valid=self._lease.valid, on_refused=self._refused)
        output.provide(TTA, lambda symbol: self._top.get(symbol), lambda: list(self._top))
        self.output = output

    def _lost(self, _reason: str) -> None:
        output, self.output = self.output, None
        if output is not None:
            output.clear()
            if self._writer.outputs.get(output.name) is output:
                del self._writer.outputs[output.name]

    def _refused(self) -> None:
        log.warning("publisher_refused", epoch=self.output.epoch if self.output else 0)
        self._lease.refused()

    # Once a second.

    async def _run(self) -> None:
        while True:
            began = self._clock()
            if self.output is not None:
                try:
                    await self.round(_PERIOD_SECONDS)
                    self._link.good()
                except REDIS_ERRORS as error:
                    self._had.clear()
                    self._link.bad(error)
                    await self._link.pause()
                    continue
                except Exception as error:  # a defect: the next second may be well
                    self._failed("", error)
            await asyncio.sleep(max(0.05, _PERIOD_SECONDS - (self._clock() - began)))

    async def round(self, seconds: float = 0.0) -> None:
        """Publish everything that changed once, one feed a step, the steps spread over so many seconds.

        Raises:
            REDIS_ERRORS: Parts cannot be read.
        """
        pause = seconds / (len(BOARDS) + len(_OTHERS) + 1)
        for family in (*_OTHERS, *BOARDS):
            output = self.output
            if output is None:
                return
            if family is TTA_ALL and self._top and self._rounds % _TRADES_ROUNDS:
                continue
            parts = await self._client.hgetall(self._keys.parts(family.name))
            if family is MARKET_STATUS:
                await self._read_listener()
            began = self._clock()
            limits: dict[str, int] = {}
            try:
                limits = self._publish(output, family, parts)
            except Exception as error:  # of one part, most likely: the other feeds need not wait for its end
                self._had.pop(family.name, None)
                self._failed(family.name, error)
            self._observe(family.name, self._clock() - began)
            if limits:
                await self._client.hset(self._keys.limits(family.name), mapping=limits)
            await asyncio.sleep(pause)
        self._rounds += 1

    def _failed(self, feed: str, error: Exception) -> None:
        self.failures += 1
        if self.failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
            log.error("publisher_failed", feed=feed, failures=self.failures, exc_info=error)

    async def _read_listener(self) -> None:
        had, at = self._listener
        fields = await self._client.hgetall(self._keys.listener)
        self._listener = (fields, at if fields == had else self._clock())

    def _publish(self, output: RedisOutput, family: Family, raw: dict[bytes, bytes]) -> dict[str, int]:
        """Publish one feed where it changed; returns the limits to tell the partitions."""
        stale = self._contributors.stale()
        made_of = (raw, stale, output.generation)
        if family is not MARKET_STATUS and self._had.get(family.name) == made_of:
            return {}
        parts = self._read(family.name, raw)
        if family is MARKET_STATUS:
            output.publish(family, "", self._status(parts))
            return {}
        self._had[family.name] = made_of
        parts = self._of_today(parts)
        if not parts:
            return {}
        if family is HALTS_ACTIVE:
            output.publish(family, "", merge_halts(parts.values()))
        elif family is TTA_ALL:
            self._publish_trades(output, [part for name, part in parts.items() if name not in stale])
        else:
            board, limits = merge_board(family, parts, stale)
            output.publish(family, "", board)
            return self._changed_limits(family, limits)
        return {}

    def _publish_trades(self, output: RedisOutput, parts: list[Part]) -> None:
        everything, top = merge_trades(parts)
        if everything is None:
            return
        output.publish(TTA_ALL, "", everything)
        for symbol in self._top.keys() - top.keys():
            output.set(TTA, symbol, None)
        self._top = top
        for symbol, row in top.items():
            output.publish(TTA, symbol, row)

    def _read(self, feed: str, raw: dict[bytes, bytes]) -> dict[str, Part]:
        parts = {}
        for field, data in sorted(raw.items()):
            name = field.decode("utf-8", "replace")
            if self._names and name.startswith(_PARTITION) and name not in self._names:
                continue
            try:
                part = read(data)
            except SchemaError as error:
                self._refuse("schema", partition=name, error=str(error))
                if self._newer.setdefault((feed, name), data) != data:
                    self._newer[feed, name] = data
                    self._step_aside(name)  # its writer lives, and can make boards of all parts
                continue
            except ValueError as error:
                self._refuse("broken", partition=name, error=str(error))
                continue
            if not self._contributors.admit(feed, name, part):
                self._refuse("epoch", partition=name, epoch=part.epoch)
                continue
            parts[name] = part
        return parts

    def _step_aside(self, partition: str) -> None:
        """Give the lease to whoever waits for it: a processor of a newer version is there."""
        if self.output is not None and not self._newer_told:
            self._newer_told = True
            log.warning("publisher_too_old", partition=partition, hint="upgrade this process")
        self._lease.refused()

    def _refuse(self, reason: str, **details: Any) -> None:
        self.refused[reason] += 1
        if self.refused[reason].bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
            log.warning("part_refused", reason=reason, total=self.refused[reason], **details)

    def _of_today(self, parts: dict[str, Part]) -> dict[str, Part]:
        """Those of partitions that are in the newest trading day: yesterday's rows are no news."""
        days = [day for day in self._days.values() if day is not None]
        newest = max(days, default=None)
        return {name: part for name, part in parts.items() if self._days.get(name, newest) == newest}

    def _changed_limits(self, family: Family, limits: dict[str, int]) -> dict[str, int]:
        """What is to be told: more at once; less where it is much less, lest it go back and forth."""
        told = self._limits.setdefault(family.name, {})
        changed = {
            name: rows
            for name, rows in limits.items()
            if (had := told.get(name)) is None or rows > had or rows < had // 2
        }
        told.update(changed)
        return changed

    # The market's status.

    def _status(self, parts: dict[str, Part]) -> dict[str, Any]:
        partitions = {name: part for name, part in parts.items() if name.startswith(_PARTITION)}
        extra: dict[str, Any] = {}
        for name, part in parts.items():
            if name not in partitions:  # a scanner's fields
                extra.update(part.content)
        for name, part in partitions.items():
            self._contributors.note(name, part)
            self._days[name] = part.content["day"]
        stale = self._contributors.stale()
        live = [part.content for name, part in partitions.items() if name not in stale]
        newest = max((part.content for part in partitions.values()), key=_now_ms, default=None)
        fields, at = self._listener
        feed, lag = self._listener_fields(fields)
        if self._clock() - at > _LISTENER_SILENT_SECONDS:
            feed["feed_state"], feed["feed_detail"] = "down", "no listener says anything"
        return {
            "session": CLOSED if newest is None else newest["session"],
            "trading_day": None if newest is None else newest["day"],
            "market_time": 0 if newest is None else newest["now_ms"],
            **self._calendar_fields(newest, lag),
            **feed,
            "lag_ms": None if lag is None else round(lag),
            "events_per_second": round(_total(live, "rate")),
            "symbols": int(_total((part.content for part in partitions.values()), "symbols")),
            "warming_up": any(content["warming_up"] for content in live),
            "stale_partitions": [int(name.removeprefix(_PARTITION)) for name in stale],
            **extra,
        }

    def _calendar_fields(self, newest: dict[str, Any] | None, lag: float | None) -> dict[str, Any]:
        if newest is None or newest["day"] is None:
            return NO_CALENDAR_FIELDS
        clock = MarketClock()
        if self._calendar is not None:
            clock.use(self._calendar)
        clock.set(newest["now_ms"])
        assert clock.day is not None
        return calendar_fields(clock, clock.day, lag)


def _now_ms(content: dict[str, Any]) -> float:
    return float(content["now_ms"])


def _total(contents: Iterable[dict[str, Any]], name: str) -> float:
    return sum(float(content[name]) for content in contents)
