"""The scanner stage (MDS): hands what the bus carries to scanners, a batch at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec
import structlog

from mdp.cache.base import Bus, Message, Subscription
from mdp.processor.results import Results
from mdp.scanner.base import Scanner
from mdp.stage import Health

log = structlog.get_logger(__name__)

_PERIOD_SECONDS = 0.25
_MAX_WAITING = 50_000  # messages for one scanner; the oldest are dropped
_STEP = 1_000


class ScannerCounters(msgspec.Struct):
    """Of one scanner, in messages: `received = processed + dropped + waiting`."""

    received: int = 0
    processed: int = 0
    dropped: int = 0
    failures: int = 0


class _Slot:
    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self.counters = ScannerCounters()
        self.waiting: deque[Message] = deque()
        self.subscriptions: list[Subscription] = []
        self.disabled = False

    def take(self, message: Message) -> None:
        """The bus's sink: note it and return."""
        self.counters.received += 1
        if len(self.waiting) >= _MAX_WAITING:
            self.waiting.popleft()
            self.counters.dropped += 1
        self.waiting.append(message)


class ScannerStage:
    """Runs scanners four times a second. One that raises is isolated, and disabled after a limit."""

    name = "scanner"

    def __init__(self, bus: Bus, results: Results, scanners: list[Scanner], *, max_failures: int) -> None:
        self._bus = bus
        self._results = results
        self._slots = [_Slot(scanner) for scanner in scanners]
        self._max_failures = max_failures
        self._task: asyncio.Task[None] | None = None

    @property
    def counters(self) -> dict[str, ScannerCounters]:
        """By scanner."""
        return {slot.scanner.name: slot.counters for slot in self._slots}

    def status_fields(self) -> dict[str, Any]:
        """What scanners add to `market:status`."""
        fields: dict[str, Any] = {}
        for slot in self._slots:
            if slot.disabled:
                continue
            try:
                fields.update(slot.scanner.status_fields())
            except Exception as exc:  # as in `step`: the others' fields still count
                self._failed(slot, exc)
        return fields

    async def start(self) -> None:
        """Subscribe and begin."""
        for slot in self._slots:
            slot.subscriptions = [
                self._bus.subscribe(pattern, slot.take) for pattern in slot.scanner.patterns
            ]
        self._task = asyncio.create_task(self._run(), name="scanner")

    async def stop(self) -> None:
        """Process what waits, unsubscribe, end."""
        for slot in self._slots:
            for subscription in slot.subscriptions:
                subscription.close()
            slot.subscriptions = []
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            for slot in self._slots:
                await self._work_off(slot)

    def health(self) -> Health:
        if self._task is None or self._task.done():
            return Health(False, "scanners do not run")
        disabled = [slot.scanner.name for slot in self._slots if slot.disabled]
        if disabled:
            return Health(True, f"disabled after failures: {', '.join(disabled)}")
        return Health(True, f"{len(self._slots)} scanners run")

    def step(self, slot: _Slot) -> bool:
        """Hand a scanner at most 1,000 messages. Returns whether more wait."""
        if not slot.waiting:
            return False
        messages = [slot.waiting.popleft() for _ in range(min(_STEP, len(slot.waiting)))]
        slot.counters.processed += len(messages)
        if not slot.disabled:
            try:
                slot.scanner.process(messages)
            except Exception as exc:
                self._failed(slot, exc)
            self._results.commit()
        return bool(slot.waiting)

    def _failed(self, slot: _Slot, exc: Exception) -> None:
        slot.counters.failures += 1
        slot.disabled = slot.counters.failures >= self._max_failures
        if slot.counters.failures == 1 or slot.disabled:
            log.error("scanner_failed", scanner=slot.scanner.name, disabled=slot.disabled, exc_info=exc)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            for slot in self._slots:
                await self._work_off(slot)

    async def _work_off(self, slot: _Slot) -> None:
        while self.step(slot):  # noqa: ASYNC110 - a turn for the others, nothing is awaited
            await asyncio.sleep(0)
