"""Scanners in processes of their own: all of them compute, the one with the lease `scanner` speaks.

A standby hears what the active one hears, so that it has the same state when it takes over. Who starts
works through the event feeds' histories first, silently. What a scanner would have said between the end of
one and the beginning of the other (4 s at most) is not said; what it knows of that time is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, ClassVar

import structlog

from mdp import plugins
from mdp.analyzers.daily_range import Alert
from mdp.analyzers.leaderboards import BOARDS
from mdp.analyzers.rows import BoardRow
from mdp.cache.base import Bus, Sink, Subscription
from mdp.cache.keys import SCANNER
from mdp.cache.leases import Lease
from mdp.cache.redis_link import Link
from mdp.cache.redis_output import RedisOutput
from mdp.cache.relay import Relay
from mdp.cache.tasks import begin, end
from mdp.feeds import HOD_ALERT, LOD_ALERT, MARKET_STATUS, match
from mdp.observability.relay import show_relay
from mdp.observability.writer import show_writer
from mdp.processor.parts import Packer
from mdp.processor.results import Results
from mdp.roles.base import StartError
from mdp.roles.parts import Named, Role, Shared
from mdp.roles.writing import writer_of
from mdp.scanner.base import Scanner
from mdp.scanner.gate import Gate
from mdp.scanner.stage import ScannerStage
from mdp.stage import Health, Stage

log = structlog.get_logger(__name__)

#: What scanners see of these feeds, as in one process; of others they see dicts and lists.
TYPES: dict[str, Any] = {
    HOD_ALERT.name: Alert,
    LOD_ALERT.name: Alert,
    **{board.name: list[BoardRow] for board in BOARDS},
}
_LOOK_SECONDS = 0.05


class ScannerRole(Role):
    """See the module.

    Attributes:
        relay: What scanners hear.
        lease: Who speaks.
        scanners: What computes.
    """

    name: ClassVar[str] = "scanner"

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        config, keys = shared.config, shared.keys
        redis, widget = shared.redis.client, shared.widget_redis.client

        link = Link("scanner_relay", config.cache)
        self.relay = Relay(widget, keys, f"{shared.id}-scanner", link, types=TYPES)
        self.relay.name = "scanner_relay"
        self._interest, self._writer = writer_of(shared, "scanner")
        self.lease = Lease(redis, keys, SCANNER, shared.id)
        self.lease.on_gained.append(self._gained)
        self.lease.on_lost.append(self._lost)
        self.gate = Gate()
        results = Results(self.gate, self.gate)
        most = config.processor.max_failures
        scanners = self._load(results)
        self.scanners = ScannerStage(_FromTheStart(self.relay), results, scanners, max_failures=most)
        self._stage = _Scanners(self.scanners, self.relay, self.gate)
        self._output: RedisOutput | None = None
        self._packer: Packer | None = None
        self._fields: dict[str, Any] | None = None
        self._register()

    def stages(self) -> Iterable[Stage]:
        # Stopped in the reverse order: what scanners said last is written before the lease is given back.
        yield self.relay
        yield Named("scanner_lease", self.lease)
        yield self._interest
        yield self._writer
        yield self._stage

    def status(self) -> dict[str, Any]:
        return {
            "active": self.gate.open,
            "epoch": self.lease.epoch,
            "scanners": {
                name: {"received": c.received, "processed": c.processed, "failures": c.failures}
                for name, c in self.scanners.counters.items()
            },
        }

    def look(self) -> None:
        """Contribute to `market:status` what changed."""
        output, packer = self._output, self._packer
        if output is None or packer is None or not self.gate.open:
            return
        fields = self.scanners.status_fields()
        if fields != self._fields:
            self._fields = fields
            part = packer.packers[MARKET_STATUS.name](fields)
            output.parts[MARKET_STATUS.name] = output.last_parts[MARKET_STATUS.name] = part

    def _gained(self, epoch: int) -> None:
        output = self._writer.open(self.lease.name, epoch, valid=self.lease.valid, on_refused=self._refused)
        self._output, self._packer, self._fields = output, Packer(epoch), None
        self.gate.lead_to(output)

    def _refused(self) -> None:
        self._lost("refused")
        self.lease.refused()

    def _lost(self, _reason: str) -> None:
        self.gate.lead_to(None)
        output, self._output = self._output, None
        if output is not None:
            output.clear()
            if self._writer.outputs.get(output.name) is output:
                del self._writer.outputs[output.name]

    def _load(self, results: Results) -> list[Scanner]:
        found = []
        for name in dict.fromkeys(self.shared.config.processor.scanners):
            try:
                made = plugins.load("mdp.scanners", name, Scanner, key="processor.scanners")
            except plugins.PluginError as exc:
                raise StartError(str(exc), exit_code=2) from None
            found.append(made(results))
        return found

    def _register(self) -> None:
        metrics = self.shared.metrics
        metrics.gauges(
            "mdp_scanner_active",
            "1 in the process whose scanners speak.",
            (),
            lambda: {(): float(self.gate.open)},
        )
        metrics.counters(
            "mdp_scanner_messages_total",
            "Messages for scanners by fate; received = processed + dropped + waiting.",
            ("scanner", "fate"),
            lambda: {
                (name, fate): float(getattr(counters, fate))
                for name, counters in self.scanners.counters.items()
                for fate in ("received", "processed", "dropped")
            },
        )
        metrics.counters(
            "mdp_scanner_failures_total",
            "Calls of a scanner that raised.",
            ("scanner",),
            lambda: {(name,): float(c.failures) for name, c in self.scanners.counters.items()},
        )
        show_relay(self.relay, metrics, "mdp_scanner_relay")
        show_writer(self._writer, metrics, "mdp_scanner_writer")


class _FromTheStart:
    """A relay's bus that hands a subscriber the event feeds' histories first."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        bus: Bus = relay.bus
        self.publish, self.place, self.since, self.interest = bus.publish, bus.place, bus.since, bus.interest

    def subscribe(self, pattern: str, sink: Sink) -> Subscription:
        subscription = self._relay.bus.subscribe(pattern, sink)
        for target in match(pattern):
            if target.family.max_items and target.symbol is not None:
                for message in self._relay.events.history(target.family.feed(target.symbol)):
                    sink(message)
        return subscription


class _Scanners:
    """The stage of the scanners: begun when what happened before is known, silent until that is through."""

    def __init__(self, stage: ScannerStage, relay: Relay, gate: Gate) -> None:
        self.name = stage.name
        self._stage = stage
        self._relay = relay
        self._gate = gate
        self._task: asyncio.Task[None] | None = None
        self._begun = False

    async def start(self) -> None:
        if self._task is None:
            self._gate.silent = True
            self._task = begin(self._begin(), "scanners-begin")

    async def stop(self) -> None:
        task, self._task = self._task, None
        await end(task)
        if self._begun:
            await self._stage.stop()

    def health(self) -> Health:
        if not self._begun:
            died = self._task is not None and self._task.done()
            return Health(False, "did not begin" if died else "waits for the event feeds' histories in Redis")
        if self._gate.silent:
            return Health(False, "works through the event feeds' histories")
        return self._stage.health()

    async def _begin(self) -> None:
        while not self._relay.health().ok:  # noqa: ASYNC110 - a state of many tasks, without an event
            await asyncio.sleep(_LOOK_SECONDS)
        await self._stage.start()
        self._begun = True
        counters = self._stage.counters.values()
        behind = [one.received for one in counters]
        until = list(zip(counters, behind, strict=True))
        while any(one.processed + one.dropped < n for one, n in until):  # noqa: ASYNC110 - as above
            await asyncio.sleep(_LOOK_SECONDS)
        self._gate.silent = False
        log.info("scanners_ready", messages=sum(behind))
