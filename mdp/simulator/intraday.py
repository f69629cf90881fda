"""Second and minute bars of the present day, for the range endpoint: those a recording holds."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from .recording import Line, RecordingError, read_chunks

SECOND_MS, MINUTE_MS = 1_000, 60_000
LENGTH_MS = {"second": SECOND_MS, "minute": MINUTE_MS}
_TOPICS = {"A": SECOND_MS, "AM": MINUTE_MS}


class _Event(msgspec.Struct):
    """What of a recorded event is looked at."""

    ev: Any = None
    sym: Any = None
    v: Any = 0
    vw: Any = None
    o: Any = None
    c: Any = None
    h: Any = None
    l: Any = None  # noqa: E741 - the wire's name
    z: Any = None
    s: Any = None


_decode = msgspec.json.Decoder(list[_Event]).decode


class IntradayBar(msgspec.Struct):
    """One bar; prices in USD, start in ms."""

    t: int
    o: float
    h: float
    l: float  # noqa: E741 - the wire's name
    c: float
    v: float
    vw: float
    n: int

    def json(self) -> str:
        """As in the endpoint's answer."""
        return msgspec.json.encode(self).decode()

    def add(self, later: IntradayBar) -> None:
        """Make one bar of this one and the next."""
        total = self.v + later.v
        if total:
            self.vw = (self.vw * self.v + later.vw * later.v) / total
        self.h, self.l, self.c = max(self.h, later.h), min(self.l, later.l), later.c
        self.v, self.n = total, self.n + later.n


class RecordedBars:
    """The bars of a recording up to a moment, read no further than that and only when somebody asks.

    A bar sent again replaces the one before, as at the provider. Minutes that the recording has only as
    seconds are put together from these.

    Args:
        path: The recording.
        now_ns: The moment: arrival of the last frame that was sent, ns since the epoch.
    """

    def __init__(self, path: Path, now_ns: Callable[[], int]) -> None:
        self._path, self._now_ns = path, now_ns
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._chunks: Iterator[list[Line]] = read_chunks(self._path)
        self._ahead: deque[Line] = deque()  # read, and later than the moment
        self._read_ns = 0
        #: ticker and length of a bar in ms -> start in ms -> the bar
        self._bars: dict[tuple[str, int], dict[int, IntradayBar]] = {}

    def bars(self, ticker: str, length_ms: int, first_ms: int, last_ms: int) -> list[IntradayBar]:
        """Bars whose start lies in a stretch of time, both ends included, oldest first.

        Blocks for as long as reading on takes: call it in a thread.
        """
        with self._lock:
            self._read_on(self._now_ns())
            found = self._bars.get((ticker, length_ms), {})
            if not found and length_ms == MINUTE_MS:
                found = _minutes(self._bars.get((ticker, SECOND_MS), {}))
            return [found[start] for start in sorted(found) if first_ms <= start <= last_ms]

    def _read_on(self, until_ns: int) -> None:
        if until_ns < self._read_ns:  # the replay began again
            self._begin()
        self._read_ns = until_ns
        while True:
            while self._ahead:
                if self._ahead[0].arrival_ns > until_ns:
                    return
                self._take(self._ahead.popleft().payload)
            try:
                chunk = next(self._chunks, None)
            except RecordingError:  # the replay ends there, too
                return
            if chunk is None:
                return
            self._ahead.extend(chunk)

    def _take(self, payload: bytes) -> None:
        if b'"A"' not in payload and b'"AM"' not in payload:
            return
        try:
            events = _decode(payload)
        except msgspec.MsgspecError:
            return
        for event in events:
            length = _TOPICS.get(event.ev) if isinstance(event.ev, str) else None
            bar = _bar(event) if length else None
            if length and bar is not None:
                self._bars.setdefault((event.sym, length), {})[bar.t] = bar


def _bar(event: _Event) -> IntradayBar | None:
    prices = (event.h, event.l, event.c, event.v)
    if type(event.s) is not int or any(type(value) not in (int, float) for value in prices):
        return None
    opened = event.o if type(event.o) in (int, float) else event.c
    vwap = event.vw if type(event.vw) in (int, float) else event.c
    trades = round(event.v / event.z) if type(event.z) in (int, float) and event.z > 0 else 1
    return IntradayBar(event.s, opened, event.h, event.l, event.c, event.v, vwap, max(1, trades))


def _minutes(seconds: dict[int, IntradayBar]) -> dict[int, IntradayBar]:
    found: dict[int, IntradayBar] = {}
    for start in sorted(seconds):
        one = seconds[start]
        minute = start // MINUTE_MS * MINUTE_MS
        held = found.get(minute)
        if held is None:
            found[minute] = msgspec.structs.replace(one, t=minute)
        else:
            held.add(one)
    return found


class RecentBars:
    """The last bars of the simulated market, as they were sent: some minutes of them.

    Args:
        most: Bars of each length that are kept at most.
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._sent: dict[str, deque[tuple[str, str]]] = {topic: deque() for topic in _TOPICS}
        self._lost_ms: dict[str, int] = dict.fromkeys(_TOPICS, 0)  # start of the newest bar forgotten

    def note(self, events: list[tuple[str, str, str]]) -> None:
        """Keep the bars among events that are sent now."""
        for topic, symbol, text in events:
            sent = self._sent.get(topic)
            if sent is None:
                continue
            sent.append((symbol, text))
            if len(sent) > self._most:
                forgotten = _decode(f"[{sent.popleft()[1]}]")[0].s
                self._lost_ms[topic] = max(self._lost_ms[topic], int(forgotten))

    def bars(self, ticker: str, length_ms: int, first_ms: int, last_ms: int) -> list[IntradayBar] | None:
        """As of `RecordedBars.bars`; None where bars of that time are not kept any more."""
        topic = "A" if length_ms == SECOND_MS else "AM"
        if first_ms <= self._lost_ms[topic]:
            return None
        texts = [text for symbol, text in list(self._sent[topic]) if symbol == ticker]
        bars = [_bar(event) for event in _decode(f"[{','.join(texts)}]")]
        found = {bar.t: bar for bar in bars if bar is not None}
        return [found[start] for start in sorted(found) if first_ms <= start <= last_ms]
