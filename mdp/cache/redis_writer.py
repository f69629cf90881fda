"""Writes what all outputs of a process have to say into Redis, several times a second (`docs/redis.md`).

One turn, every 20 ms, is one script for values and messages of symbols however many partitions there are,
one for each event feed with news and one for each value of the whole market. A turn begins when the one
before is answered: where Redis is slow, states are conflated meanwhile. What it refuses or loses is
written again: everything, once it works, because it may have come back empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping
from typing import Any, Protocol

import structlog
from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from mdp.cache.event_identity import identity
from mdp.cache.keys import Keys
from mdp.cache.leases import raise_fence
from mdp.cache.redis_interest import InterestWatch
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.redis_output import Key, RedisOutput
from mdp.cache.redis_parts import PartsWriter
from mdp.cache.redis_scripts import ADMIT, EVENTS, VALUES, WHOLE
from mdp.cache.tasks import end
from mdp.feeds import Family, Target
from mdp.stage import Health

log = structlog.get_logger(__name__)

FENCE = "values"  # the fence of all plain keys of symbols, where they share a server

_FLUSH_SECONDS = 0.02
_KEEP_SECONDS = 1.0  # between two writes of a plain key that follows what is published
_IDLE_SECONDS = 1.0  # the fence is looked at so often at least: Redis may have been restarted
_EXPIRE_SECONDS = 10.0  # between two renewals of a list's time to live
_STEP_SECONDS = 0.004
_STEP = 32  # values made between two looks at the clock
_TURN = 500  # values and messages of one output in one turn
_TURN_ITEMS = 500  # of one event feed
_MIN_STREAM = 10_000  # items of an event feed's stream
_HISTORY_STEP = 1_000
_HISTORY_MARGIN_MS = 60_000
_MAX_FEEDS = 100_000  # of which the last place is remembered


class Walk(Protocol):
    """Knows which values changed since they were written last."""

    families: frozenset[str]

    def due(self, seconds: float) -> Iterable[tuple[Family, str, Any]]:
        """What to write now (value None: delete); `seconds` have passed since the last call."""

    def forget(self) -> None:
        """Nothing that was written is there any more."""


class _Turn:
    """What one output says in one turn."""

    def __init__(self, output: RedisOutput) -> None:
        self.output = output
        self.sets: list[Any] = []  # key, seconds, value
        self.deletions: list[Any] = []
        self.messages: list[Any] = []  # channel, message
        self.states: dict[Key, Any] = {}
        self.values: dict[Key, Any] = {}
        self.raw = 0

    def __bool__(self) -> bool:
        return bool(self.sets or self.deletions or self.messages)


class RedisWriter:
    """A stage. See the module.

    Args:
        cache: Redis where parts and limits are.
        widget: Redis where clients' data is; may be the same.
        keys: Names.
        interest: What subscribers want.
        link, parts_link: Told how commands went.
        plain_keys: Write values and lists under the names of their feeds.
        plain_channels: Publish bare payloads on channels of these names, too.
        flush_seconds: Between two turns.
        wall_ms: The wall clock.
        clock: Monotonic seconds.
    """

    name = "redis_writer"

    def __init__(
        self,
        cache: Any,
        widget: Any,
        keys: Keys,
        interest: InterestWatch,
        *,
        link: Link,
        parts_link: Link,
        plain_keys: bool = True,
        plain_channels: bool = False,
        flush_seconds: float = _FLUSH_SECONDS,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._widget = widget
        self._cluster = isinstance(widget, RedisCluster)
        self._keys = keys
        self._interest = interest
        self._link = link
        self._plain_keys = plain_keys
        self._plain_channels = plain_channels
        self._flush_seconds = flush_seconds
        self._wall_ms = wall_ms
        self._clock = clock
        self.outputs: dict[str, RedisOutput] = {}
        self.parts = PartsWriter(cache, keys, self.outputs, link=parts_link, clock=clock)
        self._walks: dict[str, Walk] = {}
        self._gathered: set[str] = set()  # outputs whose analyzers were asked last time
        self._places: dict[str, tuple[str, str]] = {}  # event feed -> (epoch, seq) that we know
        self._expired: dict[str, float] = {}  # event feed -> when its time to live was renewed
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._last = clock()
        self._kept_at = self._spoke_at = -1e9
        self._incomplete = False  # something was not written: all values are, once Redis works
        self.turns = 0
        self.failures = 0
        interest.on_change.append(self._changed)
        interest.on_begin.append(self._begun)

    # Outputs.

    def open(
        self,
        name: str,
        epoch: int,
        *,
        owns: Callable[[str], bool] = lambda _symbol: True,
        packers: Mapping[str, Callable[[Any], bytes]] | None = None,
        foreign: Collection[str] = (),
        valid: Callable[[], bool] = lambda: True,
        on_refused: Callable[[], None] = lambda: None,
    ) -> RedisOutput:
        """An output under the lease `name`; see `RedisOutput`. One that was open under it is dropped."""
        output = RedisOutput(
            name,
            epoch,
            wall_ms=self._wall_ms,
            owns=owns,
            packers=packers,
            foreign=foreign,
            valid=valid,
            on_refused=on_refused,
        )
        self._walks.pop(name, None)
        self.outputs[name] = output
        for target in self._interest.targets():
            output.want(target, True)
        return output

    def walk(self, output: RedisOutput, walk: Walk) -> None:
        """Let the plain keys of some families be written by a walk over an output's symbols."""
        if self._plain_keys:
            self._walks[output.name] = walk
        output.walked = walk.families

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
        known: dict[str, Counter[Any]] = {}
        for feed in feeds:
            # First shut out the predecessor, who might append after we have looked.
            if not await raise_fence(self._widget, self._keys.counter(feed), output.name, output.epoch):
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

    async def close(self, output: RedisOutput, seconds: float = 1.0) -> None:
        """Write what waits, for a bounded time, and forget the output. Never raises."""
        until = self._clock() + seconds
        with contextlib.suppress(TimeoutError, *REDIS_ERRORS):
            async with asyncio.timeout(seconds):
                while self._clock() < until and output.valid() and not output.refused:
                    if not (output.batches or output.whole or output.states or output.values or output.parts):
                        break
                    self._kept_at = -1e9
                    await self.flush()
                    await self.parts.flush()
        output.clear()
        if self.outputs.get(output.name) is output:
            del self.outputs[output.name]
            self._walks.pop(output.name, None)

    # As a stage.

    async def start(self) -> None:
        """Begin to write; returns at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self.name)
            await self.parts.start()

    async def stop(self) -> None:
        """Write what waits, for a bounded time, then end. Safe to call twice, or before `start`."""
        task, self._task = self._task, None
        if task is None:
            return
        await end(task)
        for output in list(self.outputs.values()):
            await self.close(output, 0.3)
        await self.parts.stop()

    def health(self) -> Health:
        """Good while Redis takes everything."""
        return self._link.health()

    async def _run(self) -> None:
        while True:
            began = self._clock()
            try:
                more = await self.flush()
            except REDIS_ERRORS:
                await self._link.pause()
                continue
            except Exception as error:  # a payload of whatever analyzer must not end the writer
                self.failures += 1
                if self.failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                    log.error("redis_flush_failed", failures=self.failures, exc_info=error)
                more = False
            await asyncio.sleep(0 if more else max(0.0, self._flush_seconds - (self._clock() - began)))

    # A turn.

    async def flush(self) -> bool:
        """One turn; returns whether more waits.

        Raises:
            REDIS_ERRORS: What was not written waits, as far as the bounds allow.
        """
        async with self._lock:
            try:
                more = await self._flush()
            except REDIS_ERRORS as error:
                self._incomplete = True
                self._link.bad(error)
                raise
            self._link.good()
            if self._incomplete:
                self._incomplete = False
                self._write_all()
            return more

    async def _flush(self) -> bool:
        now = self._clock()
        passed, self._last = now - self._last, now
        keep = now - self._kept_at >= _KEEP_SECONDS
        if keep:
            self._kept_at = now
        turns = []
        for output in list(self.outputs.values()):
            if output.refused or output.silent or not output.valid():
                continue
            if keep:
                output.pulse()
            await self._gather(output)
            turns.append(await self._collect(output, passed, keep=keep))
        self.turns += 1
        jobs: list[Awaitable[None]] = []
        if any(turns) or (turns and now - self._spoke_at >= _IDLE_SECONDS):
            self._spoke_at = now
            jobs.append(self._say(turns))
        jobs += self._append([turn.output for turn in turns])
        for turn in turns:
            whole, turn.output.whole = turn.output.whole, {}
            for (family, symbol), value in whole.items():
                body = turn.output.encoded(value)
                if body is not None:
                    jobs.append(self._place(turn.output, family, symbol, value, body))
                await asyncio.sleep(0)
        results = await asyncio.gather(*jobs, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise errors[0]
        return any(turn.output.states or turn.output.raw or turn.output.first for turn in turns)

    async def _gather(self, output: RedisOutput) -> None:
        """Ask analyzers for the newest; once more after the last subscriber went, so that they notice."""
        name = output.name
        if output.gather is None:
            return
        if output.wants:
            self._gathered.add(name)
        elif name in self._gathered:
            self._gathered.discard(name)
        else:
            return
        await output.gather()

    async def _collect(self, output: RedisOutput, passed: float, *, keep: bool) -> _Turn:
        """Take what one output has to say in this turn."""
        turn = _Turn(output)
        pace = _Pace(self._clock)
        while output.raw and turn.raw < _TURN:
            family, symbol, ts, body = output.raw.popleft()
            turn.raw += 1
            self._message(turn, family, symbol, ts, body)
        left = _TURN - turn.raw
        ts = self._wall_ms()
        while output.states and left > 0:
            key = next(iter(output.states))
            value = turn.states[key] = output.states.pop(key)
            output.first.pop(key, None)
            self._message(turn, *key, ts, output.encoded(value))
            left -= 1
            await pace.maybe_yield()
        while output.first and left > 0:
            key = next(iter(output.first))
            del output.first[key]
            left -= 1
            value = await self._present(output, *key)
            if value is not None and key not in output.states and output.wanted(*key):
                turn.states[key] = value
                self._message(turn, *key, ts, output.encoded(value))
            await pace.maybe_yield()
        if keep and self._plain_keys:
            values, output.values = output.values, {}
            turn.values = values
            for key, value in values.items():
                self._set(turn, *key, value)
                await pace.maybe_yield()
        elif not self._plain_keys:
            output.values.clear()
        walk = self._walks.get(output.name)
        if walk is not None:
            for family, symbol, value in walk.due(passed):
                self._set(turn, family, symbol, value)
                await pace.maybe_yield()
        return turn

    async def _present(self, output: RedisOutput, family: Family, symbol: str) -> Any:
        provider = output.providers.get(family.name)
        value = provider(symbol) if provider is not None else None
        if isinstance(value, Generator):
            while True:
                try:
                    next(value)
                except StopIteration as end:
                    return end.value
                await asyncio.sleep(0)
        return value

    def _message(self, turn: _Turn, family: Family, symbol: str, ts: int, body: bytes | None) -> None:
        if body is None:
            return
        feed = family.feed(symbol)
        output = turn.output
        head = b"%d %d %d\n" % (output.epoch, output.seq(feed), ts)
        turn.messages += (self._keys.bus(feed), head + body)
        if self._plain_channels:
            turn.messages += (self._keys.value(feed), body)
        output.counters.sent += 1

    def _set(self, turn: _Turn, family: Family, symbol: str, value: Any) -> None:
        key = self._keys.value(family.feed(symbol))
        if value is None:
            turn.deletions.append(key)
        elif (body := turn.output.encoded(value)) is not None:
            turn.sets += (key, int(family.ttl_seconds), body)
            turn.output.counters.kept += 1

    async def _say(self, turns: list[_Turn]) -> None:
        """Write values and messages of symbols."""
        try:
            if self._cluster:
                for turn in turns:
                    await self._say_to_cluster(turn)
                return
            args: list[Any] = _owners([turn.output for turn in turns])
            for turn in turns:
                args += (len(turn.sets) // 3, len(turn.deletions), len(turn.messages) // 2)
                args += turn.sets
                args += turn.deletions
                args += turn.messages
            answers, errors = await VALUES.run(self._widget, [self._keys.fence(FENCE)], args)
            self._heed(answers, [turn.output for turn in turns])
            if errors:
                raise ResponseError(_text(errors[0]))
        except REDIS_ERRORS as error:
            self._take_back(turns, said=isinstance(error, ResponseError))
            raise

    async def _say_to_cluster(self, turn: _Turn) -> None:
        """The same where keys lie on several servers: the epoch is compared first, then all is written."""
        output = turn.output
        answers, errors = await ADMIT.run(
            self._widget, [self._keys.fence(f"{FENCE}:{output.name}")], _owners([output])
        )
        self._heed(answers, [output])
        if errors:
            raise ResponseError(_text(errors[0]))
        if output.refused or not turn:
            return
        pipe = self._widget.pipeline(transaction=False)
        for at in range(0, len(turn.sets), 3):
            key, seconds, value = turn.sets[at : at + 3]
            pipe.set(key, value, ex=seconds)
        for key in turn.deletions:
            pipe.delete(key)
        if turn.sets or turn.deletions:
            await pipe.execute()
        for at in range(0, len(turn.messages), 2):
            await self._widget.publish(turn.messages[at], turn.messages[at + 1])

    def _take_back(self, turns: list[_Turn], *, said: bool) -> None:
        """What was not written waits again, unless something newer does. Raw events are lost: who
        subscribed to them has lost Redis, too. `said`: messages left all the same."""
        for turn in turns:
            output = turn.output
            if not said:
                output.states = {**turn.states, **output.states}
                output.counters.dropped += turn.raw
            output.values = {**turn.values, **output.values}

    def _append(self, outputs: list[RedisOutput]) -> list[Awaitable[None]]:
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
        args: list[Any] = _owners(owners)
        for output in owners:
            batch = output.batches[feed]
            # One whose answer was lost is written as it was: Redis knows its number.
            batch.under_way = batch.under_way or min(len(batch.items), _TURN_ITEMS)
            args += (batch.number, batch.under_way)
        epoch, seq = self._places.get(feed, ("", "0"))
        channel = self._keys.value(feed) if self._plain_channels else ""
        keep_list = family.max_items if self._plain_keys else 0
        args += (keep_list, max(family.max_items, _MIN_STREAM), seconds, channel, epoch, seq)
        for output in owners:
            batch = output.batches[feed]
            for at in range(batch.under_way):
                args += batch.items[at]
        keys = [self._keys.counter(feed), self._keys.events(feed), self._keys.value(feed)]
        try:
            answers, errors, new_epoch, new_seq, done = await EVENTS.run(self._widget, keys, args)
        except REDIS_ERRORS:
            self._expired.pop(feed, None)
            raise
        names = {_text(name) for name in done}
        for output in owners:
            if output.name in names and feed in output.batches:
                output.written(feed)
        self._heed(answers, owners, notice=False)
        if errors:
            raise ResponseError(_text(errors[0]))
        _bound(self._places)
        self._places[feed] = (_text(new_epoch), _text(new_seq))

    async def _place(self, output: RedisOutput, family: Family, symbol: str, value: Any, body: bytes) -> None:
        """Write a value of the whole market with its place."""
        feed = family.feed(symbol)
        keys = [self._keys.place(feed), self._keys.value(feed)]
        channel = self._keys.value(feed) if self._plain_channels else ""
        ttl = int(family.ttl_seconds)
        args = [output.epoch, output.seq(feed), self._wall_ms(), ttl, body, self._keys.bus(feed), channel]
        try:
            answers, errors = await WHOLE.run(self._widget, keys, args)
        except REDIS_ERRORS:
            output.whole.setdefault((family, symbol), value)
            raise
        output.counters.sent += 1
        if answers[0] == b"old":
            output.refuse()
        if errors:
            output.whole.setdefault((family, symbol), value)
            raise ResponseError(_text(errors[0]))

    def _heed(self, answers: list[Any], outputs: list[RedisOutput], *, notice: bool = True) -> None:
        """Take what the fence said of each output."""
        for answer, output in zip(answers, outputs, strict=True):
            word = _text(answer)
            if word == "old":
                output.refuse()
            elif notice:
                if word == "new" and output.known:
                    self._incomplete = True  # Redis was restarted empty
                output.known = True

    def _write_all(self) -> None:
        """Everything is to be written again."""
        for walk in self._walks.values():
            walk.forget()
        for output in self.outputs.values():
            output.forgotten()

    def _changed(self, target: Target, wanted: bool) -> None:
        for output in self.outputs.values():
            output.want(target, wanted)

    def _begun(self, target: Target) -> None:
        for output in self.outputs.values():
            output.begin(target)

    async def _history(self, feed: str, since_ms: int) -> Counter[Any]:
        """The identities of a feed's events since a time."""
        found: Counter[Any] = Counter()
        start = str(since_ms)
        while True:
            entries = await self._widget.xrange(self._keys.events(feed), start, "+", count=_HISTORY_STEP)
            for _, fields in entries:
                found[identity(feed, fields[b"d"])] += 1
            if len(entries) < _HISTORY_STEP:
                return found
            start = f"({_text(entries[-1][0])}"


class _Pace:
    """Gives the loop back when a step got long."""

    __slots__ = ("_clock", "_left", "_since")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = _STEP
        self._since = clock()

    async def maybe_yield(self) -> None:
        """Yield if the step has lasted; looks at the clock at every 32nd call only."""
        self._left -= 1
        if self._left:
            return
        self._left = _STEP
        if self._clock() - self._since >= _STEP_SECONDS:
            await asyncio.sleep(0)
            self._since = self._clock()


def _owners(outputs: list[RedisOutput]) -> list[Any]:
    """As the scripts' `admit` reads them."""
    args: list[Any] = [len(outputs)]
    for output in outputs:
        args += (output.name, output.epoch)
    return args


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _bound(table: dict[str, Any]) -> None:
    if len(table) >= _MAX_FEEDS:
        table.clear()
