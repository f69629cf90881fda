"""What repairs of several partitions in one process share: turns with the provider, and one snapshot."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count

from mdp.cache.bulk import BodyError
from mdp.cache.rest import RestError
from mdp.sessions import TradingDay

KEEP_SECONDS = 60.0  # a snapshot, for repairs that begin soon after each other
STEP = 500  # symbols between two turns of the event loop

#: Asks the provider for the day's volumes of all symbols.
Ask = Callable[[TradingDay], Awaitable[Mapping[str, float]]]


class Turns:
    """So many may ask at once; of those that wait, the one with the lowest place is next.

    Args:
        at_once: How many.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._order = count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, place: float) -> AsyncIterator[None]:
        """Wait for one's turn, and have it."""
        if self._free:
            self._free -= 1
        else:
            mine = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (place, next(self._order), mine))
            try:
                await mine
            except asyncio.CancelledError:
                if mine.done() and not mine.cancelled():  # it was given to us in the same moment
                    self._next()
                raise
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        while self._waiting:
            _, _, waiting = heapq.heappop(self._waiting)
            if not waiting.done():
                waiting.set_result(None)
                return
        self._free += 1


class SharedSnapshot:
    """The day's volumes by partition: asked for once for all partitions whose data came again before.

    Args:
        ask: The provider.
        partition_of: Symbol -> its partition.
        clock: Monotonic seconds.

    Attributes:
        asked: How often the provider was.
    """

    def __init__(
        self, ask: Ask, partition_of: Callable[[str], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._partition_of = partition_of
        self._clock = clock
        self._lock = asyncio.Lock()
        self._began = -1e9
        self._day: TradingDay | None = None
        self._by_partition: dict[int, dict[str, float]] = {}
        self._error: RestError | BodyError | None = None
        self._forgetting: asyncio.TimerHandle | None = None
        self.asked = 0

    async def of(self, partition: int, day: TradingDay, since: float) -> dict[str, float]:
        """A partition's volumes, in shares.

        Args:
            partition: Which.
            day: Of this trading day.
            since: Monotonic time before which the provider was not to be asked: data was still missing.

        Raises:
            RestError, BodyError: The answer cannot be had, or cannot be read.
        """
        async with self._lock:
            if self._began < since or self._day != day:
                await self._fetch(day)
            if self._error is not None:
                raise self._error
            return self._by_partition.get(partition, {})

    async def _fetch(self, day: TradingDay) -> None:
        self._began, self._day, self._error = self._clock(), day, None
        self._by_partition = {}
        self.asked += 1
        try:
            known = await self._ask(day)
        except (RestError, BodyError) as error:
            self._error = error
            return
        except BaseException:
            self._day = None
            raise
        for number, (symbol, volume) in enumerate(known.items(), 1):
            self._by_partition.setdefault(self._partition_of(symbol), {})[symbol] = volume
            if number % STEP == 0:
                await asyncio.sleep(0)
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._forget)

    def _forget(self) -> None:
        self._day, self._by_partition = None, {}
