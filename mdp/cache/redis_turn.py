"""What one output says to Redis in one turn: values under plain keys, deletions, messages on the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol

from mdp.cache.keys import Keys
from mdp.cache.memory import stepped
from mdp.cache.redis_output import Key, RedisOutput
from mdp.feeds import Family

MOST = 500  # values and messages of one output in one turn; a walk bounds itself
_STEP_SECONDS = 0.004
_STEP = 32  # values made between two looks at the clock


class Walk(Protocol):
    """Knows which values changed since they were written last."""

    families: frozenset[str]

    def due(self, seconds: float) -> Iterable[tuple[Family, str, Any]]:
        """What to write now (value None: delete); `seconds` have passed since the last call."""

    def forget(self) -> None:
        """Nothing that was written is there any more."""


class Turn:
    """See the module. What it took of the output it keeps, to give it back where Redis did not take it.

    Args:
        output: Whose.
        keys: Names.
        wall_ms: The wall clock.
        pace: Of all outputs' turns together.
        plain_keys, plain_channels: See `RedisWriter`.
        mark: Of the version of messages (`mdp.cache.schemas.mark`).
    """

    def __init__(
        self,
        output: RedisOutput,
        keys: Keys,
        *,
        wall_ms: Callable[[], int],
        pace: Pace,
        plain_keys: bool,
        plain_channels: bool,
        mark: bytes = b"",
    ) -> None:
        self.output = output
        self.sets: list[Any] = []  # key, seconds, value
        self.deletions: list[Any] = []
        self.messages: list[Any] = []  # channel, message
        self._keys = keys
        self._wall_ms = wall_ms
        self._plain_keys = plain_keys
        self._plain_channels = plain_channels
        self._mark = mark
        self._pace = pace
        self._states: dict[Key, Any] = {}
        self._values: dict[Key, Any] = {}
        self._raw = 0
        self._over = False

    def __bool__(self) -> bool:
        return bool(self.sets or self.deletions or self.messages)

    async def fill(self, walk: Walk | None, seconds: float, *, keep: bool) -> None:
        """Take what the output has to say, giving the loop back every few milliseconds.

        Args:
            walk: Knows which plain keys to write; None: there is none.
            seconds: Since the last turn.
            keep: Whether values that were published are to be kept under their keys now.
        """
        await self._take_messages()
        output = self.output
        if not self._plain_keys:
            output.values.clear()
        elif keep:
            self._values, output.values = output.values, {}
            for key, value in self._values.items():
                self._set(*key, value)
                await self._pace.maybe_yield()
        if walk is not None:
            for family, symbol, value in walk.due(seconds):
                self._set(family, symbol, value)
                await self._pace.maybe_yield()

    def take_back(self, *, said: bool) -> None:
        """What was not written waits again, unless something newer does.

        Raw events are lost: who subscribed to them has lost Redis, too.

        Args:
            said: Messages left all the same.
        """
        output = self.output
        if self._over:
            return
        if not said:
            output.states = {**self._states, **output.states}
            output.counters.raw_sent -= self._raw
            output.counters.dropped += self._raw
        output.values = {**self._values, **output.values}

    def settle(self, *, refused: bool) -> None:
        """Redis has taken it, or refused it because the lease is another's: there is nothing to take back."""
        self._over = True
        if refused:
            self.output.counters.raw_sent -= self._raw
            self.output.counters.left += self._raw
            self.output.refuse()

    async def _take_messages(self) -> None:
        output = self.output
        while output.raw and self._raw < MOST:
            family, symbol, ts, body = output.raw.popleft()
            self._raw += 1
            output.counters.raw_sent += 1
            self._message(family, symbol, ts, body)
        left = MOST - self._raw
        ts = self._wall_ms()
        while output.states and left > 0:
            key = next(iter(output.states))
            value = self._states[key] = output.states.pop(key)
            output.first.pop(key, None)
            self._message(*key, ts, output.encoded(value))
            left -= 1
            await self._pace.maybe_yield()
        while output.first and left > 0:
            key = next(iter(output.first))
            del output.first[key]
            left -= 1
            value = await _present(output, *key)
            if value is not None and key not in output.states and output.wanted(*key):
                self._states[key] = value
                self._message(*key, ts, output.encoded(value))
            await self._pace.maybe_yield()

    def _message(self, family: Family, symbol: str, ts: int, body: bytes | None) -> None:
        if body is None:
            return
        feed, output = family.feed(symbol), self.output
        head = b"%d %d %d%b\n" % (output.epoch, output.seq(feed), ts, self._mark)
        self.messages += (self._keys.bus(feed), head + body)
        if self._plain_channels:
            self.messages += (self._keys.value(feed), body)
        output.counters.sent += 1

    def _set(self, family: Family, symbol: str, value: Any) -> None:
        key = self._keys.value(family.feed(symbol))
        if value is None:
            self.deletions.append(key)
        elif (body := self.output.encoded(value)) is not None:
            self.sets += (key, int(family.ttl_seconds), body)
            self.output.counters.kept += 1


async def _present(output: RedisOutput, family: Family, symbol: str) -> Any:
    """The present value of a feed, from whoever provides it."""
    provider = output.providers.get(family.name)
    value = provider(symbol) if provider is not None else None
    return await stepped(value) if isinstance(value, Generator) else value


class Pace:
    """Gives the loop back when a step got long.

    Args:
        clock: Monotonic seconds.
    """

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
