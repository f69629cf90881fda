"""All roles in one process, without Redis: what the stages are and how they hang together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import structlog

from mdp import plugins
from mdp.analyzers.base import Analyzer
from mdp.analyzers.leaderboards import BOARDS
from mdp.analyzers.state import Market
from mdp.analyzers.trade_ledger import TradeLedger
from mdp.analyzers.volume_recorder import VolumeRecorder
from mdp.cache.conditions import Conditions
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.cache.persistence import Store
from mdp.cache.reference import Reference
from mdp.cache.rest import RestClient
from mdp.config import Config
from mdp.controls import AppControls
from mdp.demo import DemoOptions
from mdp.events import HALT_NOTICES, HALTS, QUEUES, UNKNOWN, HaltNotice
from mdp.exchange_calendar import ALWAYS_OPEN, ExchangeCalendar
from mdp.feeds import AGG, DAILY_RANGE, QUOTE
from mdp.listener.market_status import MarketStatusSource
from mdp.listener.massive import MassiveListener
from mdp.listener.ring import RawRing
from mdp.listener.trade_halts import HaltSource
from mdp.market_status import MarketStatusFeed
from mdp.observability.wiring import show
from mdp.processor.backfill import Backfill
from mdp.processor.decode import DecodeStage
from mdp.processor.engine import Engine
from mdp.processor.keeper import Keeper
from mdp.processor.losses import Losses, TrustKeeper
from mdp.processor.pace import Pace
from mdp.processor.reference_swap import ReferenceSwap
from mdp.processor.results import Results
from mdp.processor.rewind import RewindWatch
from mdp.processor.volume_files import VolumeFiles
from mdp.processor.volume_stage import VolumeStage
from mdp.processor.worker import Processor
from mdp.queues.base import Batch, Queue
from mdp.queues.memory import MemoryQueue
from mdp.roles import running
from mdp.roles.base import Process, StartError
from mdp.scanner.base import Scanner
from mdp.scanner.stage import ScannerStage
from mdp.scp.server import ControlPlane
from mdp.stage import Stage
from mdp.wds.server import WidgetDataService

__all__ = ["App", "DemoOptions", "StartError", "run"]

log = structlog.get_logger(__name__)

_NOTICES = 1_000  # in one batch: a halt of the whole market has ten thousand
_LOOKED_AT = (QUOTE, DAILY_RANGE, AGG)
_NOTE_NS = 2_000_000  # the lag is looked at that often


class App(Process):
    """All of the platform in one process. Build it inside the running event loop, then `start`, `stop`.

    Attributes are the stages; tests and the bench reach into them, nothing else does.
    """

    def __init__(self, config: Config, roles: list[str]) -> None:
        if roles != ["all"]:
            raise StartError(f"--role: found {','.join(roles)!r}; allowed: all", exit_code=2)
        self.controls = AppControls(self)
        super().__init__(config, roles, self.controls)
        massive = config.massive
        self.bus = MemoryBus()
        self.cache = MemoryCache(self.bus)
        self.results = Results(self.bus, self.cache)
        self.market = Market(
            max_symbols=config.processor.max_symbols, include_otc=config.processor.include_otc
        )
        self.calendar = ExchangeCalendar(every_day=massive.market in ALWAYS_OPEN)
        self.market.clock.use(self.calendar)
        swap = ReferenceSwap(self.market, self.results, lambda day: self.reference.enter(day))
        analyzers = [swap, TrustKeeper(self.market, self.results), *self._analyzers()]
        recorder: VolumeRecorder | None = None
        if config.cache.history_path:
            recorder = VolumeRecorder(self.market, self.results)
            recorder.missed = lambda ms: self.listener.gaps.missing(ms)
            analyzers.append(recorder)
        self.engine = Engine(self.market, self.results, analyzers, max_failures=config.processor.max_failures)
        self.queues: dict[str, Queue] = {
            name: MemoryQueue(
                name,
                max_events=config.mdq.max_events,
                # A lost resumption would leave a symbol halted all day.
                ttl_ns=0 if name == HALTS else int(config.mdq.ttl_seconds * 1e9),
            )
            for name in QUEUES
        }
        self.halt_source = self._halt_source()
        self.ring = RawRing(max_bytes=massive.ring_bytes, max_age_ns=int(massive.ring_max_age_seconds * 1e9))
        self.pace = Pace(self.ring)
        self.market_status = MarketStatusSource(massive.rest_url, massive.api_key, calendar=self.calendar)
        self.listener = MassiveListener(massive, self.ring, market_status=self.market_status)
        self.decode = DecodeStage(
            self.ring,
            self.queues,
            self.pace,
            on_status=self.listener.on_status,
            observe=self.steps.get("decode").record,
        )
        self.processor = Processor(
            self.engine,
            list(self.queues.values()),
            observe=lambda name, seconds: self.steps.get(name).record(seconds),
            processed=self._processed,
            may_work=self.pace.may_work,
        )
        self.rest = RestClient(
            massive.rest_url,
            massive.api_key,
            concurrency=massive.rest_concurrency,
            rate=massive.rest_requests_per_minute / 60,
        )
        self.trades = TradeLedger.of(self.market)
        self.trades.on_unknown = lambda number: log.warning(
            "unknown_trade_condition", number=number, taken_for="eligible"
        )
        self.conditions = Conditions(self.rest, lambda: self.trades.rules, self.trades.use)
        self.reference = Reference(
            self.rest,
            server_ms=self.market_status.server_now_ms,
            market_ms=lambda: self.market.clock.now_ms,
            market_day=lambda: self.market.clock.day.day if self.market.clock.day else None,
            seen=lambda: self.market.symbols,
            calendar=self.calendar,
            include_otc=config.processor.include_otc,
            max_symbols=config.processor.max_symbols,
            step=self.steps.get("reference"),
        )
        self.reference.on_rows.append(self.market.refer)
        self.reference.on_swap.append(swap.swap)
        self.reference.on_unknown.append(swap.unknown)
        self.backfill = Backfill(
            self.rest,
            self.engine,
            # Elsewhere a symbol's name on the stream is not that of the REST endpoints.
            enabled=config.processor.backfill and massive.market == "stocks",
            max_symbols=config.processor.backfill_max_symbols,
            include_otc=config.processor.include_otc,
            wanted=lambda: chain.from_iterable(self.bus.interest(family).symbols for family in _LOOKED_AT),
            boards=self._on_boards,
            step=self.steps.get("backfill"),
        )
        self.losses = Losses(
            self.market,
            self.ring,
            self.listener.gaps,
            self.backfill,
            server_ms=self.market_status.server_now_ms,
        )
        for name, queue in self.queues.items():
            if name != UNKNOWN and isinstance(queue, MemoryQueue):
                queue.on_loss = partial(self.losses.queue_lost, name)
        self.rewind = RewindWatch(self.engine)
        self.keeper: Keeper | None = None
        if config.cache.snapshot_path:
            self.keeper = Keeper(
                Store(config.cache.snapshot_path, massive.feed, massive.market),
                self.engine,
                self.cache,
                period_seconds=config.cache.snapshot_seconds,
                extra_dump=self.reference.dump,
                extra_load=self.reference.load,
            )
        self.volumes: VolumeStage | None = None
        if recorder is not None:
            self.volumes = VolumeStage(
                recorder,
                VolumeFiles(
                    config.cache.history_path, massive.feed, massive.market, keep=config.cache.history_days
                ),
                days=config.cache.history_days,
                server_ms=self.market_status.server_now_ms,
            )
        self.scanner = ScannerStage(
            self.bus, self.results, self._scanners(), max_failures=config.processor.max_failures
        )
        self.wds = WidgetDataService(
            config.wds,
            self.bus,
            self.cache,
            own_origins=lambda: self.scp.origins(),
            gather=self.processor.gather,
        )
        self.scp = ControlPlane(
            config.scp, wds_port=lambda: self.wds.port, auth_required=config.wds.auth_enabled
        )
        self.status_feed = MarketStatusFeed(
            self.market,
            self.bus,
            self.cache,
            events=self.processed_events,
            feed=self._feed_fields,
            extra=self.scanner.status_fields,
            lag_ms=self.lag_ms,
            warming_up=lambda: not self.reference.ready,
        )
        self.feed_lag = show(self, self.metrics)
        self._noted_ns = 0  # arrival of the batch that the pace and the lag were last told of

    def parts(self) -> Iterator[Stage]:
        """Against the flow, so that whoever produces finds its consumers."""
        yield self.wds
        yield self.scp
        yield self.market_status
        if self.keeper is not None:
            yield self.keeper
        if self.volumes is not None:
            yield self.volumes
        yield self.losses
        yield self.scanner
        yield self.status_feed
        yield self.processor
        yield self.decode
        yield self.reference
        yield self.conditions
        yield self.backfill
        if self.halt_source is not None:
            yield self.halt_source
        yield self.listener

    def vital(self) -> Iterator[Stage]:
        yield from super().vital()
        yield self.decode
        yield self.processor

    def started(self) -> None:
        if self.market.clock.now_ms:
            self.rewind.restored()

    def session(self) -> str:
        return self.market.session

    def look(self) -> None:
        self.rewind.look(self.market_status.current)

    async def finish(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.controls.close(), seconds)
        except TimeoutError:
            log.warning("stop_timeout", stage="recording")
        await self.rest.close()

    # What the rest of the process asks.

    def processed_events(self) -> int:
        """Events that went through the workers."""
        return sum(counters.processed for counters in self.processor.counters.values())

    def lag_ms(self) -> float | None:
        """How far the market clock is behind the provider's server time; None while either is unknown."""
        server = self.market_status.server_now_ms()
        if server is None or not self.market.clock.now_ms:
            return None
        return server - self.market.clock.now_ms

    def accounting(self) -> dict[str, Any]:
        """What came in and what became of it, each number as its stage counted it."""
        return {
            **self.decode.accounting(),
            "queues": {
                name: {
                    "received": queue.counters.received,
                    "processed": self.processor.counters[name].processed,
                    "expired": queue.counters.expired,
                    "dropped": queue.counters.dropped,
                    "waiting": queue.waiting,
                }
                for name, queue in self.queues.items()
            },
        }

    def ports(self) -> Mapping[str, int]:
        return {"wds": self.wds.port, "scp": self.scp.port, **super().ports()}

    def _processed(self, arrival_ns: int) -> None:
        if 0 <= arrival_ns - self._noted_ns < _NOTE_NS:
            return
        self._noted_ns = arrival_ns
        now_ms = self.market.clock.now_ms
        self.pace.note(arrival_ns, now_ms)
        server = self.market_status.server_now_ms()
        if server is not None and now_ms:
            self.feed_lag.observe(max(0.0, (server - now_ms) / 1000))

    def _feed_fields(self) -> dict[str, Any]:
        listener = self.listener
        return {
            "feed_state": listener.state.value,
            "feed_detail": listener.detail,
            "feed_since": listener.state_since,
            "gaps": listener.gaps.total,
        }

    def _analyzers(self) -> list[Analyzer]:
        names = self.config.processor.analyzers
        return [
            self._load("analyzers", name, Analyzer)(self.market, self.results)
            for name in dict.fromkeys(names)
        ]

    async def _on_boards(self) -> list[str]:
        """Symbols that somebody may see on a board now."""
        found: list[str] = []
        for board in BOARDS:
            entry = await self.cache.get(board.name)
            found += [row.symbol for row in entry.value] if entry is not None else []
        return found

    def _scanners(self) -> list[Scanner]:
        return [
            self._load("scanners", name, Scanner)(self.results)
            for name in dict.fromkeys(self.config.processor.scanners)
        ]

    def _halt_source(self) -> HaltSource | None:
        """The second source of halts, with a queue of its own; None where none is configured."""
        config = self.config.halts
        if not config.rss_url:
            return None
        queue = MemoryQueue(HALT_NOTICES, max_events=self.config.mdq.max_events)
        self.queues[HALT_NOTICES] = queue

        def put(notices: list[HaltNotice]) -> None:
            for at in range(0, len(notices), _NOTICES):
                queue.put(Batch(notices[at : at + _NOTICES], time.monotonic_ns()))

        source = self._load("halt_sources", config.source, HaltSource, key="halts.source")
        made: HaltSource = source(config, put, lambda: self.market.clock.now_ms)
        return made

    @staticmethod
    def _load(kind: str, name: str, base: type, *, key: str = "") -> Any:
        try:
            return plugins.load(f"mdp.{kind}", name, base, key=key or f"processor.{kind}")
        except plugins.PluginError as exc:
            raise StartError(str(exc), exit_code=2) from None


def preload(config: Config) -> None:
    """Import what the configuration names, before there is an event loop that it would hold for 20 ms.

    What cannot be loaded is left to `App` to report.
    """
    for kind, names, base in (
        ("analyzers", config.processor.analyzers, Analyzer),
        ("scanners", config.processor.scanners, Scanner),
    ):
        for name in names:
            with contextlib.suppress(Exception):
                plugins.load(f"mdp.{kind}", name, base, key=f"processor.{kind}")


def run(config: Config, roles: list[str], demo: DemoOptions | None) -> int:
    """Run until a signal. The second one ends at once.

    Returns:
        The exit code: 0 after a signal, 1 or 2 where the start failed.
    """
    preload(config)
    return running.run(lambda settings: App(settings, roles), config, demo)
