"""The role `processor`: owns partitions of the market, and publishes for all of them where it is its turn.

Any number of replicas. Each takes its share of the partitions under leases (`mdp.processor.spread`); one of
them, by the lease `publisher`, makes feeds of the whole market out of what all contribute, and one, by the
lease `reference`, fetches the reference values for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import structlog

from mdp import plugins
from mdp.analyzers.base import Analyzer
from mdp.analyzers.trade_ledger import TradeLedger
from mdp.cache.conditions import Conditions
from mdp.cache.control import Control
from mdp.cache.keys import PUBLISHER, REFERENCE
from mdp.cache.leases import Lease
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.reference import Reference
from mdp.cache.rest import MAX_BURST, RestClient
from mdp.cache.shared_rate import SharedRate
from mdp.cache.tasks import end
from mdp.exchange_calendar import ALWAYS_OPEN, ExchangeCalendar
from mdp.feeds import AGG, DAILY_RANGE, QUOTE
from mdp.listener.announcement import feed_fields
from mdp.listener.market_status import MarketStatusSource
from mdp.observability.writer import show_publisher, show_writer
from mdp.processor.board_symbols import BoardSymbols
from mdp.processor.checkpoint import CheckpointStore
from mdp.processor.engine import Engine
from mdp.processor.gap_report import GapReport
from mdp.processor.partition_build import PartitionBuilder
from mdp.processor.partitions import Partitions
from mdp.processor.publisher import Publisher
from mdp.processor.repairs import Repairs
from mdp.processor.shared_reference import SharedReference
from mdp.processor.spread import Spread
from mdp.queues.stream_reader import StreamReader
from mdp.queues.streams import PartitionsDiffer, settle_partitions
from mdp.roles.base import StartError
from mdp.roles.listener_watch import ListenerWatch
from mdp.roles.parts import Named, Role, Shared
from mdp.roles.processor_controls import ProcessorControls
from mdp.roles.processor_explain import PartitionExplainer
from mdp.roles.writing import writer_of
from mdp.stage import Health, Stage
from mdp.trade_rules import SHIPPED_TABLE, RuleTable

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_LOOKED_AT = (QUOTE, DAILY_RANGE, AGG)  # whoever wants one of these looks at the symbol


class ProcessorRole(Role):
    """See the module.

    Attributes:
        partitions: What it works on.
        spread: Which partitions are its own.
        publisher: Of the whole market, where it is its turn.
        reference: Values of the trading day, for all its partitions.
    """

    name: ClassVar[str] = "processor"

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        config, keys = shared.config, shared.keys
        redis, widget = shared.redis.client, shared.widget_redis.client
        settings, massive, count = config.processor, config.massive, config.mdq.partitions

        def link(name: str) -> Link:
            return Link(name, config.cache)

        self._control = Control(redis, keys.control)
        self._control.name = "processor_control"
        self._interest, self.writer = writer_of(shared, "processor")
        calendar = ExchangeCalendar(every_day=massive.market in ALWAYS_OPEN)
        self.market_status = MarketStatusSource(massive.rest_url, massive.api_key, calendar=calendar)
        self.market_status.name = "processor_market_status"
        self.builder = PartitionBuilder(
            self.writer,
            count,
            self._analyzers(),
            calendar=calendar,
            max_symbols=settings.max_symbols,
            include_otc=settings.include_otc,
            max_failures=settings.max_failures,
            on_refused=lambda partition: self.spread.refused(partition),
        )
        reader = StreamReader(redis, keys, link("processor_reader"), ttl_seconds=config.mdq.ttl_seconds)
        self.partitions = Partitions(
            reader,
            CheckpointStore(redis, keys),
            self.builder,
            observe=lambda name, seconds: shared.steps.get(name).record(seconds),
        )
        self.partitions.on_unable = self._unable
        rate = massive.rest_requests_per_minute / 60
        self.rest = rest = RestClient(
            massive.rest_url,
            massive.api_key,
            concurrency=massive.rest_concurrency,
            turn=SharedRate(redis, keys, rate, min(rate, MAX_BURST)).take,
        )
        reference = Reference(
            rest,
            server_ms=self.market_status.server_now_ms,
            market_ms=lambda: max((engine.market.clock.now_ms for engine in self._engines()), default=0),
            market_day=lambda: max(
                (engine.market.clock.day.day for engine in self._engines() if engine.market.clock.day),
                default=None,
            ),
            seen=lambda: [symbol for engine in self._engines() for symbol in engine.market.symbols],
            calendar=calendar,
            include_otc=settings.include_otc,
            max_symbols=settings.max_symbols,
            step=shared.steps.get("reference"),
        )
        self.reference = SharedReference(
            redis,
            keys,
            Lease(redis, keys, REFERENCE, shared.id, control=self._control),
            reference,
            self._engines,
            calendar=calendar,
        )
        self.builder.on_day = self.reference.on_day
        self.builder.warming_up = lambda: self.reference.warming_up
        self.partitions.on_ready.append(self._ready)
        self._rules: RuleTable = SHIPPED_TABLE
        self.conditions = Conditions(rest, lambda: self._rules, self._use_rules)
        self.conditions.name = "processor_conditions"
        self.spread = Spread(
            redis,
            keys,
            self._control,
            self.partitions,
            member=shared.id,
            partitions=count,
            only=self._only(settings.partitions, count),
        )
        self._publisher_lease = Lease(redis, keys, PUBLISHER, shared.id, control=self._control)
        self.publisher = Publisher(
            self.writer,
            redis,
            keys,
            self._publisher_lease,
            listener_fields=feed_fields,
            link=link("publisher"),
            partitions=count,
            calendar=calendar,
            observe=lambda name, seconds: shared.steps.get(f"publish_{name}").record(seconds),
        )
        self.repairs = Repairs(
            rest,
            count,
            lambda: self.partitions.working,
            # Elsewhere a symbol's name on the stream is not that of the REST endpoints.
            enabled=settings.backfill and massive.market == "stocks",
            max_symbols=settings.backfill_max_symbols,
            include_otc=settings.include_otc,
            wanted=self._looked_at,
            boards=BoardSymbols(widget, keys),
            server_ms=self.market_status.server_now_ms,
            step=shared.steps.get("backfill"),
        )
        self.partitions.on_ready.append(self.repairs.ready)
        self.partitions.on_gone.append(self.repairs.gone)
        self.watch = ListenerWatch(
            redis, keys, self._control, lambda said, silent: self.repairs.hear(said, silent=silent)
        )
        self.report = GapReport("processor_gaps", redis, keys)
        explainer = PartitionExplainer(
            redis,
            keys,
            shared.id,
            count,
            self.partitions,
            reference,
            calendar=calendar,
            feed_state=lambda: self.watch.feed_state,
            gaps=self._gaps,
        )
        self.controls = ProcessorControls(self.partitions, reader, self.writer, self._gaps, explainer)
        self._stopping: asyncio.Task[None] | None = None
        self._stages: list[Stage] = [
            # Stopped in the reverse order: partitions are handed over first, through what is below them.
            self._control,
            self._interest,
            self.writer,
            self.market_status,
            self.reference,
            self.conditions,
            self.partitions,
            Named("publisher_lease", self._publisher_lease),  # given back once the last boards are written
            self.publisher,
            self.report,
            self.repairs,
            _Agreed(self),
            self.watch,
        ]
        self._register()

    def stages(self) -> Iterable[Stage]:
        return self._stages

    def vital(self) -> Iterable[Stage]:
        yield self.partitions

    def status(self) -> dict[str, Any]:
        partitions = self.partitions
        return {
            "id": self.shared.id,
            "partitions": {
                str(number): {"epoch": one.epoch, "live": one.live, "processed": one.total}
                for number, one in sorted(partitions.working.items())
            },
            "processors": len(self.spread.members),
            "publishes": self._publisher_lease.valid(),
            "fetches_reference": self.reference.lease.valid(),
            "checkpoints": partitions.checkpoints,
            "checkpoint_ms": round(partitions.checkpoint_seconds * 1000, 1),
            "takeover_ms": round(partitions.replayed_seconds * 1000, 1),
            "uncertain": self.repairs.uncertain(),
            "lost": {f"{queue} {why}": count for (queue, why), count in partitions.losses.events.items()},
        }

    def session(self) -> str | None:
        return next((engine.market.session for engine in self._engines()), None)

    def look(self) -> None:
        held = self.spread.leases
        self.partitions.forget_parked(lambda p: p in held and held[p].free_in_seconds > 0)

    async def finish(self) -> None:
        await end(self._stopping)
        await self.rest.close()

    # What the parts need of each other.

    def _engines(self) -> Iterator[Engine]:
        return (one.engine for one in self.partitions.working.values())

    def _ready(self, _partition: int, engine: Engine) -> None:
        if self._rules is not SHIPPED_TABLE:
            TradeLedger.of(engine.market).use(self._rules)
        self.reference.ready(engine)

    def _looked_at(self) -> Iterator[str]:
        for family in _LOOKED_AT:
            yield from self._interest.of(family).symbols

    def _gaps(self) -> list[dict[str, Any]]:
        return self.report.entries(own=self.repairs.entries())

    def _use_rules(self, rules: RuleTable) -> None:
        self._rules = rules
        for engine in self._engines():
            TradeLedger.of(engine.market).use(rules)

    def _unable(self, _reason: str) -> None:
        """Newer entries than we can read: let others work on the partitions."""
        self._stopping = asyncio.create_task(self.spread.stop(), name="too-old")

    def _analyzers(self) -> list[type[Analyzer]]:
        try:
            return [
                plugins.load("mdp.analyzers", name, Analyzer, key="processor.analyzers")
                for name in dict.fromkeys(self.shared.config.processor.analyzers)
            ]
        except plugins.PluginError as exc:
            raise StartError(str(exc), exit_code=2) from None

    @staticmethod
    def _only(text: str, count: int) -> list[int] | None:
        if not text:
            return None
        try:
            only = parse_partitions(text)
        except ValueError:
            only = [count]
        if max(only) >= count:
            raise StartError(
                f"processor.partitions: found {text!r}; allowed: numbers from 0 to {count - 1}", exit_code=2
            )
        return only

    def _register(self) -> None:
        metrics, partitions = self.shared.metrics, self.partitions
        metrics.gauges(
            "mdp_partitions_owned",
            "Partitions that this process works on, and those of them that are past their replay.",
            ("state",),
            lambda: {
                ("owned",): float(len(partitions.working)),
                ("live",): float(sum(one.live for one in partitions.working.values())),
            },
        )
        metrics.counters(
            "mdp_partition_events_total",
            "Events processed by the partitions that this process works on now.",
            ("queue",),
            self._processed,
        )
        metrics.counters(
            "mdp_partition_lost_events_total",
            "Events of the streams that were not processed.",
            ("queue", "reason"),
            lambda: {key: float(count) for key, count in partitions.losses.events.items()},
        )
        metrics.counters(
            "mdp_checkpoints_total",
            "Checkpoints by how they went.",
            ("result",),
            lambda: {
                ("written",): float(partitions.checkpoints),
                ("failed",): float(partitions.checkpoint_failures),
            },
        )
        self.reference.reference.register(metrics)
        self.repairs.register(metrics)
        show_writer(self.writer, metrics)
        show_publisher(self.publisher, metrics)

    def _processed(self) -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for one in self.partitions.working.values():
            for queue, count in one.processed.items():
                found[queue,] = found.get((queue,), 0.0) + count
        return found


def parse_partitions(text: str) -> list[int]:
    """Numbers and ranges such as "0-7,12", each once.

    Raises:
        ValueError: It is something else.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 12:
            raise ValueError(f"not a list of partitions: {text!r}")
        end_ = int(last) if dash else int(first)
        if end_ < int(first) or end_ >= 1_024:
            raise ValueError(f"not a list of partitions: {text!r}")
        found.update(range(int(first), end_ + 1))
    return sorted(found)


class _Agreed:
    """Takes partitions once it is sure that everybody in this Redis has the same number of them."""

    name = "partitions"

    def __init__(self, role: ProcessorRole) -> None:
        self._role = role
        self._task: asyncio.Task[None] | None = None
        self._reason = "the number of partitions is not agreed on yet"

    async def start(self) -> None:
        """Ask; where Redis does not answer, again and again in the background.

        Raises:
            StartError: It has another number.
        """
        try:
            await self._agree()
        except PartitionsDiffer as exc:
            raise StartError(str(exc), exit_code=2) from None
        except REDIS_ERRORS:
            self._task = asyncio.create_task(self._insist(), name="agree-on-partitions")

    async def _agree(self) -> None:
        shared = self._role.shared
        await settle_partitions(shared.redis.client, shared.keys, shared.config.mdq.partitions)
        self._reason = ""
        await self._role.spread.start()

    async def _insist(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._agree()
                return
            except PartitionsDiffer as exc:
                self._reason = str(exc)
                log.error("partitions_differ", reason=str(exc))
            except REDIS_ERRORS:
                continue

    async def stop(self) -> None:
        """Hand everything over."""
        await end(self._task)
        await self._role.spread.stop()

    def health(self) -> Health:
        """That of the spreading."""
        return Health(False, self._reason) if self._reason else self._role.spread.health()
