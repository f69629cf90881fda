"""A client of version 2 that writes down what it is sent, and judges it: repeats, holes, steps back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

EVENT_FEEDS = ("daily_range_hod_alert", "daily_range_lod_alert", "halts")
_PATIENCE_SECONDS = 4.0  # market:status comes every second: who hears nothing for so long connects again
_RETRY_SECONDS = 0.25
_AGAIN_SECONDS = 0.5
_ALERT = ("symbol", "session", "direction", "price", "timestamp")
_SESSIONS = ("pre_market", "regular_session", "after_hours")
_HALT = ("symbol", "event", "halt_timestamp", "resume_timestamp")


class Seen(NamedTuple):
    """One message, without its data."""

    feed: str
    kind: str
    epoch: int
    seq: int
    ts: int  # of its publication
    arrival: float  # monotonic seconds
    fresh: bool  # whether the data is another than before


def identity(event: dict[str, Any]) -> tuple[Any, ...]:
    """What makes an alert or a halt the one that it is, whoever numbered it."""
    return tuple(event.get(name) for name in (_ALERT if "direction" in event else _HALT))


class Judge:
    """Takes one client's messages in their order, over all its connections.

    Attributes:
        seen: All of them.
        faults: What must not happen, counted: `repeated`, `hole`, `back` (epoch and seq), `value` (a volume
            or a range went back within one connection).
        notes: What may happen, counted: `resync`, `older` (a first value after a connection was changed that
            is older than what the former connection said last), `snapshot`, `unavailable` (asked again).
        events: Alerts and halts by identity, with the market's doubts about them.
        details: The first faults in words.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.faults: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.events: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.details: list[str] = []
        self.data: dict[str, Any] = {}
        self.places: dict[str, tuple[int, int]] = {}
        self._first: set[str] = set()  # feeds whose first message of this connection is to come
        self._marks: dict[tuple[str, str], tuple[float, ...]] = {}
        self._listed: dict[str, set[tuple[Any, ...]]] = {}

    def joined(self, feeds: Iterable[str]) -> None:
        """A new connection has subscribed to these."""
        self._first = set(feeds)

    def resync(self, feed: str) -> None:
        """The service said that it cannot give what was missed."""
        self.notes["resync"] += 1
        self.places.pop(feed, None)

    def take(self, message: dict[str, Any], arrival: float) -> None:
        """One message of the service, at monotonic seconds."""
        feed, kind, data = message["feed"], message["kind"], message["data"]
        place = (message["epoch"], message["seq"])
        first = feed in self._first
        self._first.discard(feed)
        if feed in EVENT_FEEDS:
            fresh = self._event(feed, kind, place, data)
        else:
            fresh = self._state(feed, place, data, first=first)
        self.seen.append(Seen(feed, kind, *place, message["ts"], arrival, fresh))

    def _fault(self, kind: str, feed: str, words: object) -> None:
        self.faults[kind] += 1
        if len(self.details) < 40:
            self.details.append(f"{kind} {feed}: {words}")

    def _event(self, feed: str, kind: str, place: tuple[int, int], data: Any) -> bool:
        before = self.places.get(feed)
        if kind == "snapshot":
            self.notes["snapshot"] += 1
            for event in data or ():
                key = identity(event)
                if key not in self.events:
                    self.events[key] = event
            self.places[feed] = place
            return True
        if before is not None:
            if place <= before:
                self._fault("repeated" if place == before else "back", feed, f"{place} after {before}")
            elif place[0] == before[0] and place[1] != before[1] + 1:
                self._fault("hole", feed, f"{place} after {before}")
        key = identity(data)
        if key in self.events:
            self._fault("repeated", feed, f"{key} at {place}")
        self.events[key] = data
        self.places[feed] = place
        return True

    def _state(self, feed: str, place: tuple[int, int], data: Any, *, first: bool) -> bool:
        before = self.places.get(feed)
        # A first value out of a key of Redis has no place: (0, 0), docs/redis.md.
        if before is not None and not (first and (place == (0, 0) or place == before)) and place <= before:
            words = f"{place} after {before}{', the first of a connection' if first else ''}"
            self._fault("repeated" if place == before else "back", feed, words)
        if before is None or place > before or not first:
            self.places[feed] = place
        for name, marks in _marks(feed, data):
            had = self._marks.get((feed, name))
            if had is not None and any(new < old for new, old in zip(marks, had, strict=False)):
                if first:
                    self.notes["older"] += 1
                    continue  # the mark stays: what follows must be past it
                self._fault("value", feed, f"{name} {marks} after {had} at {place} after {before}")
            self._marks[feed, name] = marks
        fresh: bool = self.data.get(feed) != data
        self.data[feed] = data
        return fresh


def _marks(feed: str, data: Any) -> Iterable[tuple[str, tuple[float, ...]]]:
    """Numbers of a payload that never go down within a day, by what they belong to."""
    if feed.startswith("scanners:"):
        for row in data or ():
            yield row["symbol"], (row["accumulated_volume"],)
    elif feed.startswith("quote:") and data:
        yield "quote", (data["accumulated_volume"], data["updated_ts"])
    elif feed.startswith("daily_range:") and data:
        for session in _SESSIONS:
            high, low = data[f"{session}_high"], data[f"{session}_low"]
            if high is not None:
                yield session, (high, -low)


def delay(seen: Sequence[Seen], bars: Sequence[float], begin: float, end: float) -> float:
    """For how long a client did not see that a symbol had been traded: a symbol may be halted, or quiet.

    Args:
        seen: Messages of its quote.
        bars: When the provider sent its bars, in order.
        begin, end: The moments between which this is asked.
    """
    times = [one.arrival for one in seen if one.fresh and begin <= one.arrival <= end]
    longest, at = 0.0, begin
    for news in [*times, end]:
        first = bisect_left(bars, at)
        if first < len(bars) and bars[first] < news:
            longest = max(longest, news - bars[first])
        at = news
    return longest


def silence(seen: Sequence[Seen], begin: float, end: float) -> float:
    """The longest time without news between two moments, both counted as news."""
    times = [begin, *(one.arrival for one in seen if one.fresh and begin <= one.arrival <= end), end]
    return max(later - earlier for earlier, later in pairwise(times))


class Recorder:
    """Connects to one of several services, to the next one when it hears nothing, and resumes.

    Args:
        name: Of the client, for reports.
        addresses: URLs of the services there are now, its own first; asked before each attempt.
        feeds: To subscribe to.
    """

    def __init__(self, name: str, addresses: Callable[[], Sequence[str]], feeds: Sequence[str]) -> None:
        self.name = name
        self.feeds = list(feeds)
        self.judge = Judge()
        self.connections = 0
        self.away: list[tuple[float, float]] = []  # from the last message before to the first one after
        self._addresses = addresses
        self._task: asyncio.Task[None] | None = None
        self._heard = 0.0

    async def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run(), name=f"recorder-{self.name}")

    async def stop(self) -> None:
        """End, after a defect of this class, too: then it is raised."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def longest(self, begin: float, end: float, feed: str) -> float:
        """The longest silence of a feed, in seconds."""
        return silence([one for one in self.judge.seen if one.feed == feed], begin, end)

    def latest(self, begin: float, end: float, bars: Mapping[str, Sequence[float]]) -> float:
        """The longest time for which the quote of a symbol did not show that there were bars (`delay`)."""
        by_feed: dict[str, list[Seen]] = {feed: [] for feed in self.feeds if feed.startswith("quote:")}
        for one in self.judge.seen:
            if one.feed in by_feed and one.arrival >= begin:
                by_feed[one.feed].append(one)
        return max(
            delay(seen, bars.get(feed.removeprefix("quote:"), ()), begin, end)
            for feed, seen in by_feed.items()
        )

    def defect(self) -> None:
        """Raise what ended it, if anything did."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def _run(self) -> None:
        turn = 0
        while True:
            addresses = self._addresses()
            if addresses:
                url = addresses[turn % len(addresses)]
                with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                    await self._converse(url)
            turn += 1
            await asyncio.sleep(_RETRY_SECONDS)

    async def _converse(self, url: str) -> None:
        connecting = connect(
            url, subprotocols=[Subprotocol("mdp.v2")], open_timeout=_PATIENCE_SECONDS, close_timeout=0.5,
            max_size=2**24, ping_interval=None,
        )  # fmt: skip
        async with connecting as socket:
            self.connections += 1
            self.judge.joined(self.feeds)
            for feed in self.feeds:
                await self._subscribe(socket, feed)
            again: list[asyncio.Task[None]] = []
            while True:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    raw = await socket.recv()
                arrival = time.monotonic()
                said = json.loads(raw)
                if isinstance(said, dict):
                    if said.get("status") == "resync":
                        self.judge.resync(said["feed"])
                    elif said.get("code") == "unavailable":
                        again.append(self._later(socket, self.feeds[said["id"]]))
                    elif said.get("status") == "error":
                        raise AssertionError(said)
                    continue
                if self._heard and self.connections > 1 and arrival - self._heard > 1.0:
                    self.away.append((self._heard, arrival))
                self._heard = arrival
                for message in said:
                    self.judge.take(message, arrival)

    def _later(self, socket: Any, feed: str) -> asyncio.Task[None]:
        """Redis does not answer the service: ask again, as it says."""
        self.judge.notes["unavailable"] += 1

        async def ask() -> None:
            await asyncio.sleep(_AGAIN_SECONDS)
            with contextlib.suppress(WebSocketException):
                await self._subscribe(socket, feed)

        return asyncio.create_task(ask())

    async def _subscribe(self, socket: Any, feed: str) -> None:
        request: dict[str, Any] = {"action": "subscribe", "feed": feed, "id": self.feeds.index(feed)}
        place = self.judge.places.get(feed)
        if feed not in EVENT_FEEDS:
            request["full"] = True
        elif place is not None:
            request["resume"] = {"epoch": place[0], "seq": place[1]}
        await socket.send(json.dumps(request))
