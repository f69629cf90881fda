"""Makes the engine of a partition: a market of its own with all analyzers, over its way out to Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

from mdp.analyzers.base import Analyzer
from mdp.analyzers.state import Market
from mdp.cache.leases import Lease
from mdp.cache.redis_writer import RedisWriter
from mdp.exchange_calendar import ExchangeCalendar
from mdp.processor.engine import Engine
from mdp.processor.led_clock import LedClock
from mdp.processor.losses import TrustKeeper
from mdp.processor.partition_gaps import PartitionGaps
from mdp.processor.partition_output import PartitionOutput
from mdp.processor.reference_swap import ReferenceSwap


class PartitionBuilder:
    """See the module; `Partitions` calls it at each take-over.

    Args:
        writer: Of the process.
        partitions: How many there are in all.
        analyzers: Classes, in the order in which they see a batch.
        calendar: Shared by all partitions.
        max_symbols, include_otc: Of `Market`.
        max_failures: Of one analyzer before it is disabled.
        on_refused: Called with a partition where Redis knows a newer owner.

    Attributes:
        on_day: Called with (partition's swap, trading day) at a partition's reset, before its first bar.
        warming_up: Whether reference values are still on their way, for `market:status`.
    """

    def __init__(
        self,
        writer: RedisWriter,
        partitions: int,
        analyzers: Sequence[type[Analyzer]],
        *,
        calendar: ExchangeCalendar,
        max_symbols: int,
        include_otc: bool,
        max_failures: int,
        on_refused: Callable[[int], None],
    ) -> None:
        self.on_day: Callable[[ReferenceSwap, date], None] = lambda _swap, _day: None
        self.warming_up: Callable[[], bool] = lambda: False
        self._writer = writer
        self._partitions = partitions
        self._analyzers = analyzers
        self._calendar = calendar
        self._max_symbols, self._include_otc = max_symbols, include_otc
        self._max_failures = max_failures
        self._on_refused = on_refused

    def __call__(self, partition: int, lease: Lease) -> tuple[PartitionOutput, Engine]:
        """The way out under a lease, and a new engine over it."""
        out = PartitionOutput(
            self._writer,
            partition,
            self._partitions,
            lease.epoch,
            valid=lease.valid,
            on_refused=lambda: self._on_refused(partition),
        )
        out.warming_up = lambda: self.warming_up()
        market = Market(max_symbols=self._max_symbols, include_otc=self._include_otc)
        market.clock = LedClock()
        market.clock.use(self._calendar)
        results = out.results
        swap = ReferenceSwap(market, results, lambda day: self.on_day(swap, day))
        # In this order: what the ledger has, the trust dumped behind it knows.
        analyzers: list[Analyzer] = [swap, PartitionGaps(market, results), TrustKeeper(market, results)]
        analyzers += [kind(market, results) for kind in self._analyzers]
        if market.trades is not None:  # a checkpoint a second would compress the same ones again and again
            market.trades.loose_trades = 0
        return out, Engine(market, results, analyzers, max_failures=self._max_failures)
