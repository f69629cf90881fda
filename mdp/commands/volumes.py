"""Recorded days of volumes by time of day, made from recordings of frames: what `mdp history` does.

A recording goes through the same market clock, rules for bars and recorder as the live feed, bars only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from mdp.analyzers.state import Market
from mdp.analyzers.volume_history import DayVolumes
from mdp.analyzers.volume_recorder import VolumeRecorder
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.events import AGGREGATES, Aggregate, FrameDecoder
from mdp.exchange_calendar import ExchangeCalendar
from mdp.processor.engine import Engine
from mdp.processor.results import Results
from mdp.queues.base import Batch
from mdp.simulator.recording import RecordingError, first_arrival_ns, read_chunks


def recorded_days(
    paths: list[Path],
    calendar: ExchangeCalendar,
    *,
    max_symbols: int = 100_000,
    include_otc: bool = False,
    on_error: Callable[[str], None] = lambda _text: None,
) -> Iterator[DayVolumes]:
    """The days of some recordings, in order of time; one at a time is in memory.

    Parts of a day in several files become one day.

    Args:
        paths: Files of frames, in any order.
        calendar: Which dates are sessions.
        max_symbols: Further symbols of a day are left out.
        include_otc: Whether securities traded over the counter are recorded.
        on_error: Told, in a line, of a file that ends too early; what it holds counts.

    Raises:
        RecordingError: A file cannot be read at all, or holds no frame.
    """
    market = Market(max_symbols=max_symbols, include_otc=include_otc)
    market.clock.use(calendar)
    bus = MemoryBus()
    results = Results(bus, MemoryCache(bus))
    recorder = VolumeRecorder(market, results)
    engine = Engine(market, results, [recorder], max_failures=1)
    decoder = FrameDecoder()
    ordered = sorted(paths, key=lambda path: (first_arrival_ns(path), str(path)))
    for path in ordered:
        try:
            for chunk in read_chunks(path):
                for line in chunk:
                    bars = _bars(decoder, line.payload)
                    if bars:
                        engine.process(AGGREGATES, Batch(bars, line.arrival_ns))
                _pack(recorder)
                yield from recorder.take_ended()
        except RecordingError as exc:
            on_error(str(exc))
    recorder.end_day()
    _pack(recorder)
    yield from recorder.take_ended()
    last = recorder.so_far()
    if last is not None:
        yield last


def _bars(decoder: FrameDecoder, payload: bytes) -> list[Aggregate]:
    if b'"A"' not in payload and b'"AM"' not in payload:
        return []  # trades and quotes, most of a recording, need no decoding
    try:
        events = decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError):
        events, _ = decoder.salvage(payload, 0)
    return [event for event in events if isinstance(event, Aggregate)]


def _pack(recorder: VolumeRecorder) -> None:
    for _ in recorder.flush():
        pass
