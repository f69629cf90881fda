"""The decode stage: frames from the raw ring, events into the queues, one batch per queue and step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from mdp.events import (
    HALTS,
    QUEUE_OF,
    QUEUES,
    UNKNOWN,
    FrameDecoder,
    LimitUpLimitDown,
    Status,
    milliseconds,
)
from mdp.listener.ring import Frame, RawRing
from mdp.processor.pace import Pace
from mdp.queues.base import Batch, Queue, Source
from mdp.stage import Health

log = structlog.get_logger(__name__)

_STEP_NS = 3_000_000
_STEP_EVENTS = 1_000  # more of them do not fit into the processor's cache together with the states
MAX_BATCH = 4_000  # events; a frame may hold more, and a worker's step should not


class DecodeCounters(msgspec.Struct):
    """Counted where it happens: `decoded + rejected` is what frames held, statuses apart."""

    frames: int = 0
    statuses: int = 0  # words about the connection, no market events
    decoded: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(QUEUES, 0))
    rejected: dict[str, int] = msgspec.field(default_factory=dict)  # by reason
    salvaged_frames: int = 0  # that did not decode whole


class DecodeStage:
    """See the module.

    Args:
        ring: Where frames wait.
        queues: By name, one for each of `mdp.events.QUEUES`.
        pace: When to read, when to work.
        on_status: Called with (status, message) for each word of the provider.
        observe: Called with each step's duration in seconds.
        clock: Ns, for how long a step takes.
    """

    name = "decode"

    def __init__(
        self,
        ring: RawRing,
        queues: Mapping[str, Queue],
        pace: Pace,
        *,
        on_status: Callable[[str, str], None],
        observe: Callable[[float], None] = lambda _seconds: None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.counters = DecodeCounters()
        self._ring = ring
        self._queues = queues
        self._pace = pace
        self._on_status = on_status
        self._observe = observe
        self._clock = clock
        self._decoder = FrameDecoder()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Begin to decode what comes."""
        self._task = asyncio.create_task(self._run(), name="decode")

    async def stop(self) -> None:
        """Decode what waits, then end. What waits is bounded, so this is."""
        self._stopping = True
        self._ring.release()
        self._ring.wake()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def health(self) -> Health:
        if self._task is None or self._task.done():
            return Health(False, "decoding does not run")
        return Health(True, f"{len(self._ring)} frames wait")

    def accounting(self) -> dict[str, Any]:
        """What came in and what became of it up to the queues, each number as it was counted."""
        ring, counters = self._ring.counters, self.counters
        return {
            "ring": {
                "frames": ring.frames,
                "taken_frames": ring.taken_frames,
                "shed_frames": ring.shed_frames,
                "waiting_frames": len(self._ring),
                "shed_events": ring.shed_events,
                "bytes": ring.bytes,
            },
            "decoded": dict(counters.decoded),
            "rejected": dict(counters.rejected),
            "statuses": counters.statuses,
        }

    async def _run(self) -> None:
        ring = self._ring
        while True:
            if not len(ring):
                if self._stopping:
                    return
                # A step may empty a ring whose reader is paused: nobody else would let it go on.
                ring.release()
                await ring.wait()
            await self._pace.turn()
            began = self._clock()
            self.step()
            self._observe((self._clock() - began) / 1e9)

    def step(self) -> int:
        """Decode frames for about 3 ms or 1,000 events and queue them. Returns the number of frames."""
        groups: dict[str, list[Any]] = {queue: [] for queue in QUEUES}
        statuses: list[Status] = []
        append: dict[type, Callable[[Any], None]] = {
            cls: groups[queue].append for cls, queue in QUEUE_OF.items()
        }
        append[Status] = statuses.append
        decode = self._decoder.decode
        take = self._ring.take
        clock = self._clock
        until = clock() + _STEP_NS
        sources: list[Source] = []
        frames = count = first_arrival = 0
        while (item := take()) is not None:
            arrival, frame = item
            if not frames:
                first_arrival = arrival
            frames += 1
            try:
                events = decode(frame)
            except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
                events = self._salvage(frame)
            for event in events:
                append[event.__class__](event)
            sources.append(item)
            count += len(events)
            if count >= _STEP_EVENTS or clock() > until:
                break
        self.counters.frames += frames
        for event in groups[HALTS]:
            _luld_in_ms(event)
        for name, events in groups.items():
            if events:
                self._put(name, Batch(events, first_arrival, sources))
        for status in statuses:
            self.counters.statuses += 1
            try:
                self._on_status(status.status, status.message)
            except Exception as exc:  # a defect there must not end the decoding of the market
                log.error("status_failed", exc_info=exc)
        return frames

    def _salvage(self, frame: Frame) -> list[Any]:
        good, bad = self._decoder.salvage(frame, int(time.time() * 1000))
        self.counters.salvaged_frames += 1
        rejected = self.counters.rejected
        for unknown in bad:
            reason = _label(unknown.reason)
            rejected[reason] = rejected.get(reason, 0) + 1
        return good + bad

    def _put(self, name: str, batch: Batch) -> None:
        queue = self._queues[name]
        if name != UNKNOWN:
            self.counters.decoded[name] += len(batch)
        if len(batch) <= MAX_BATCH:
            queue.put(batch)
            return
        for at in range(0, len(batch), MAX_BATCH):
            queue.put(batch.part(at, min(at + MAX_BATCH, len(batch))))


def _label(reason: str) -> str:
    """A reason as a metric label: few distinct values, whatever the wire holds."""
    if reason.startswith("unknown event type"):
        return "unknown_type"
    if reason in ("not JSON", "not an object", "no event type", "event type is not a string"):
        return reason.lower().replace(" ", "_")
    return "missing_field" if "missing required field" in reason else "wrong_value"


def _luld_in_ms(event: LimitUpLimitDown) -> None:
    event.timestamp = milliseconds(event.timestamp)
