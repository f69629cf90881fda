"""A partition's way out: what its engine publishes, as values, messages, events and parts in Redis."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from mdp.analyzers.halts import Halts
from mdp.analyzers.leaderboards import BOARDS, Leaderboards
from mdp.cache.keys import partition_name
from mdp.cache.redis_writer import RedisWriter
from mdp.feeds import AGG, HALTS_ACTIVE, MARKET_STATUS, TTA, Family
from mdp.processor.engine import Engine
from mdp.processor.parts import Packer
from mdp.processor.results import Results
from mdp.processor.value_walk import PER_SECOND, ValueWalk
from mdp.queues.entry import partition_of


class PartitionOutput:
    """See the module. Make it with each acquisition of the partition's lease, then the engine over `results`.

    Args:
        writer: Of the process.
        partition: Which one.
        partitions: How many there are in all.
        epoch: Of the acquisition.
        valid: Whether the lease is still ours (`Lease.valid`).
        on_refused: Called once where a newer owner has written: stop the partition.
        clock: Monotonic seconds.

    Attributes:
        output: Bus and cache of the partition.
        results: The analyzers' `Output`.
    """

    def __init__(
        self,
        writer: RedisWriter,
        partition: int,
        partitions: int,
        epoch: int,
        *,
        valid: Callable[[], bool],
        on_refused: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._partitions = partitions
        self._clock = clock
        self._packer = Packer(epoch)
        self.output = writer.open(
            partition_name(partition),
            epoch,
            owns=lambda symbol: partition_of(symbol, partitions) == partition,
            packers=self._packer.packers,
            foreign=(TTA.name,),
            valid=valid,
            on_refused=on_refused,
        )
        self.warming_up: Callable[[], bool] = lambda: False
        self.results = Results(self.output, self.output)
        self._before: tuple[float, int] = (clock(), 0)

    def attach(
        self,
        engine: Engine,
        *,
        gather: Callable[[], Awaitable[None]],
        events: Callable[[], int],
        warming_up: Callable[[], bool],
        told: Callable[[], bool] = lambda: True,
    ) -> None:
        """Let values of the engine's market be written.

        Args:
            engine: Made over `results`.
            gather: Lets its analyzers publish what they keep for the next turn (`Processor.gather`).
            events: That it has processed so far.
            warming_up: Whether reference values are still on their way.
            told: Whether the analyzers have said once what they contribute to feeds of the whole market. Only
                then the status is said: by it the publisher knows that a predecessor's parts are over.
        """
        market, output = engine.market, self.output
        analyzers = [guard.analyzer for guard in engine.guards]
        boards = [analyzer for analyzer in analyzers if isinstance(analyzer, Leaderboards)]
        halts = [analyzer for analyzer in analyzers if isinstance(analyzer, Halts)]
        self._before = (self._clock(), events())
        self._halts_told = True  # a predecessor's part may name some

        def limit(family: Family, rows: int) -> None:
            self._packer.limits[family.name] = rows
            for board in boards:
                board.limit(family, rows)

        def pulse() -> None:
            if not told():
                return
            now, processed = self._clock(), events()
            before, had = self._before
            self._before = (now, processed)
            day = market.clock.day
            status = {
                "day": None if day is None else day.day.isoformat(),
                "session": market.session,
                "now_ms": market.clock.now_ms,
                "rate": max(0, processed - had) / max(now - before, 1e-3),
                "symbols": len(market.symbols),
                "warming_up": warming_up(),
            }
            active = any(analyzer.active for analyzer in halts)
            if halts and (active or self._halts_told):  # prices and times of its rows move
                self._halts_told = active
                output.publish(HALTS_ACTIVE, "", output.providers[HALTS_ACTIVE.name](""))
            output.publish(MARKET_STATUS, "", status)

        # Who follows the last bars of all symbols is told what came while nobody published.
        output.naming[AGG.name] = lambda: list(market.symbols)
        output.limits = limit
        output.pulse = pulse
        output.gather = gather
        self._writer.walk(
            output, ValueWalk(market, output.providers, per_second=PER_SECOND / self._partitions)
        )
        self._writer.parts.limited = BOARDS

    async def resume(self, since_ms: int) -> int:
        """The end of a replay that began with `output.silent = True`; see `RedisWriter.resume`."""
        return await self._writer.resume(self.output, since_ms)

    @property
    def taken(self) -> bool:
        """Whether Redis took what was written last: it may tell clients what it does not keep."""
        return self._writer.health().ok

    async def written(self, events: int) -> bool:
        """Write until so many events of this output (`counters.events`) are in Redis.

        Returns:
            Whether they are; not where the lease is another's.

        Raises:
            REDIS_ERRORS: They wait.
        """
        output = self.output
        while output.counters.events - sum(len(batch.items) for batch in output.batches.values()) < events:
            if output.refused or not output.valid():
                return False
            await self._writer.flush()
        return True

    async def close(self, seconds: float = 1.0) -> None:
        """Write what waits, where the lease is still ours, and end. Never raises."""
        await self._writer.close(self.output, seconds)
