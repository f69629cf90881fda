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
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import structlog
from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from mdp.cache import schemas
from mdp.cache.asking import Answerer
from mdp.cache.keys import Keys
from mdp.cache.redis_events import EventWriter
from mdp.cache.redis_interest import InterestWatch
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.redis_output import OutputCounters, RedisOutput
from mdp.cache.redis_parts import PartsWriter
from mdp.cache.redis_scripts import ADMIT, VALUES, WHOLE, owners, text
from mdp.cache.redis_turn import Pace, Turn, Walk
from mdp.cache.tasks import begin, end
from mdp.feeds import Family, Target
from mdp.stage import Health

log = structlog.get_logger(__name__)

FENCE = "values"  # the fence of all plain keys of symbols, where they share a server

_FLUSH_SECONDS = 0.02
_KEEP_SECONDS = 1.0  # between two writes of a plain key that follows what is published
_REFUSED_SECONDS = 0.1  # between two turns while Redis takes messages alone
_SCHEMA_SECONDS = 10  # that a word about newer payloads lives; it is renewed every second
_IDLE_SECONDS = 1.0  # the fence is looked at so often at least: Redis may have been restarted


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
        self._version = schemas.FEEDS
        self._flush_seconds = flush_seconds
        self._wall_ms = wall_ms
        self._clock = clock
        self.outputs: dict[str, RedisOutput] = {}
        self.events = EventWriter(
            widget, keys, plain_keys=plain_keys, plain_channels=plain_channels, clock=clock
        )
        self.parts = PartsWriter(cache, keys, self.outputs, link=parts_link, clock=clock)
        self._walks: dict[str, Walk] = {}
        self._gathered: set[str] = set()  # outputs whose analyzers were asked last time
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._last = clock()
        self._kept_at = self._spoke_at = -1e9
        self._kept = False  # the last turn wrote something that Redis has to keep
        self._refusing = False  # it refused to, the last time
        self._incomplete = False  # something was not written: all values are, once Redis works
        self._opened: dict[int, RedisOutput] = {}  # by identity: those whose counters are not in `_gone` yet
        self._gone = OutputCounters()
        self.turns = 0
        self.failures = 0
        interest.on_change.append(self._changed)
        interest.on_begin.append(self._begun)
        self.answerer = Answerer(widget, keys, self.outputs)
        interest.on_ask.append(self.answerer.heard)

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
        before = self.outputs.get(name)
        if before is not None:
            before.clear()
        self.totals()  # counts of those that are gone
        self._opened[id(output)] = output
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

        See `EventWriter.resume`.
        """
        return await self.events.resume(output, since_ms)

    async def close(self, output: RedisOutput, seconds: float = 1.0) -> None:
        """Write what waits, for a bounded time, and forget the output. Never raises."""
        until = self._clock() + seconds
        with contextlib.suppress(TimeoutError, *REDIS_ERRORS):
            async with asyncio.timeout(seconds):
                while self._clock() < until and output.valid() and not output.refused:
                    values = output.whole or output.states or output.values or output.parts
                    if not (output.waiting or values):
                        break
                    self._kept_at = -1e9
                    await self.flush()
                    await self.parts.flush()
        output.clear()
        if self.outputs.get(output.name) is output:
            del self.outputs[output.name]
            self._walks.pop(output.name, None)

    def totals(self) -> OutputCounters:
        """Counters of all outputs there ever were."""
        names = OutputCounters.__struct_fields__
        live = {id(output) for output in self.outputs.values()}
        for gone in self._opened.keys() - live:
            counters = self._opened.pop(gone).counters
            for name in names:
                setattr(self._gone, name, getattr(self._gone, name) + getattr(counters, name))
        known = [self._gone, *(output.counters for output in self._opened.values())]
        return OutputCounters(*[sum(getattr(counters, name) for counters in known) for name in names])

    @property
    def waiting(self) -> int:
        """Events that wait for Redis."""
        return sum(output.waiting for output in self.outputs.values())

    # As a stage.

    async def start(self) -> None:
        """Begin to write; returns at once."""
        if self._task is None:
            self._task = begin(self._run(), self.name)
            await self.parts.start()

    async def stop(self) -> None:
        """Write what waits, for a bounded time, then end. Safe to call twice, or before `start`."""
        task, self._task = self._task, None
        if task is None:
            return
        await end(task)
        await self.answerer.stop()
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
            except ResponseError:  # it answers, and refuses to keep things: messages still leave
                await asyncio.sleep(_REFUSED_SECONDS)
                continue
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
                self._refusing = isinstance(error, ResponseError)
                self._link.bad(error)
                raise
            if self._refusing and not self._kept:
                return more  # messages alone do not tell whether it keeps things again
            self._refusing = False
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
        pace = Pace(self._clock)
        for output in list(self.outputs.values()):
            if output.refused or output.silent or not output.valid():
                continue
            if keep:
                output.pulse()
            await self._gather(output)
            turn = Turn(
                output,
                self._keys,
                wall_ms=self._wall_ms,
                pace=pace,
                plain_keys=self._plain_keys,
                plain_channels=self._plain_channels,
                mark=schemas.mark(self._version),
            )
            await turn.fill(self._walks.get(output.name), passed, keep=keep)
            turns.append(turn)
        self.turns += 1
        jobs: list[Awaitable[None]] = []
        if keep and turns and self._version > 1:  # plain keys do not say it themselves
            jobs.append(self._widget.set(self._keys.schema, self._version, ex=_SCHEMA_SECONDS))
        if any(turns) or (turns and now - self._spoke_at >= _IDLE_SECONDS):
            self._spoke_at = now
            jobs.append(self._say(turns))
        said = len(jobs)
        jobs += self.events.jobs([turn.output for turn in turns])
        for turn in turns:
            whole, turn.output.whole = turn.output.whole, {}
            for (family, symbol), value in whole.items():
                body = turn.output.encoded(value)
                if body is not None:
                    jobs.append(self._place(turn.output, family, symbol, value, body))
                await asyncio.sleep(0)
        self._kept = len(jobs) > said or any(turn.sets for turn in turns)
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

    async def _say(self, turns: list[Turn]) -> None:
        """Write values and messages of symbols."""
        said = False
        try:
            if self._cluster:
                for turn in turns:
                    await self._say_to_cluster(turn)
                return
            args: list[Any] = owners([turn.output for turn in turns])
            for turn in turns:
                args += (len(turn.sets) // 3, len(turn.deletions), len(turn.messages) // 2)
                args += turn.sets
                args += turn.deletions
                args += turn.messages
            answers, errors = await VALUES.run(self._widget, [self._keys.fence(FENCE)], args)
            said = True
            self._heed(answers, turns)
            if errors:
                raise ResponseError(text(errors[0]))
        except REDIS_ERRORS:
            for turn in turns:
                turn.take_back(said=said)
            raise

    async def _say_to_cluster(self, turn: Turn) -> None:
        """The same where keys lie on several servers: the epoch is compared first, then all is written."""
        output = turn.output
        answers, errors = await ADMIT.run(
            self._widget, [self._keys.fence(f"{FENCE}:{output.name}")], owners([output])
        )
        self._heed(answers, [turn])
        if errors:
            raise ResponseError(text(errors[0]))
        if output.refused or not turn:
            return
        # To each node what is its, all at once. A channel belongs to a node, too: messages keep their order.
        pipe = self._widget.pipeline(transaction=False)
        for at in range(0, len(turn.sets), 3):
            key, seconds, value = turn.sets[at : at + 3]
            pipe.execute_command("SET", key, value, "EX", seconds)
        for key in turn.deletions:
            pipe.execute_command("DEL", key)
        for at in range(0, len(turn.messages), 2):
            pipe.execute_command("PUBLISH", turn.messages[at], turn.messages[at + 1])
        await pipe.execute()
        turn.settle(refused=False)

    async def _place(self, output: RedisOutput, family: Family, symbol: str, value: Any, body: bytes) -> None:
        """Write a value of the whole market with its place."""
        feed = family.feed(symbol)
        keys = [self._keys.place(feed), self._keys.value(feed)]
        channel = self._keys.value(feed) if self._plain_channels else ""
        ttl = int(family.ttl_seconds)
        place = [output.epoch, output.seq(feed), self._wall_ms()]
        args = [*place, ttl, body, self._keys.bus(feed), channel, self._version]
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
            raise ResponseError(text(errors[0]))

    def _heed(self, answers: list[Any], turns: list[Turn]) -> None:
        """Take what the fence said of each output."""
        for answer, turn in zip(answers, turns, strict=True):
            word, output = text(answer), turn.output
            if word == "old":
                turn.settle(refused=True)
            else:
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
