"""Everything that a client can know of a platform: each feed of each symbol, and each event in its order."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from typing import Any, NamedTuple

import aiohttp

from mdp.feeds import (
    EVENT,
    FAMILIES,
    HALT,
    HALTS,
    HALTS_ACTIVE,
    HOD_ALERT,
    LOD_ALERT,
    QUOTES,
    STATE,
    TRADES,
    Family,
    match,
    resolve,
)
from mdp.sessions import NEW_YORK

RELATIVE = 1e-9  # sums of floats depend on where a checkpoint cuts them in two
PATIENCE_SECONDS = 60.0  # a limit for something broken, not a measure

#: Fields of states that go by the process or by the time of day, not by the market: feed, field, reason.
WALL_CLOCK: Mapping[str, Mapping[str, str]] = {
    "market:status": {
        "lag_ms": "the provider's time of day less the market clock",
        "provider_session": "by the provider's time of day, which goes on",
        "events_per_second": "of the last second",
        "feed_since": "when the connection was made",
        "feed_detail": "names the provider's port, which is another one each time",
        "stale_partitions": "one process has none",
    },
}
#: Fields of what was *sent* that are as of its publication (docs/feeds.md), and so depend on how many events
#: were taken at once: two runs of one process differ in them, too. What is read afterwards is compared in
#: full.
AS_OF_PUBLICATION: Mapping[str, str] = {
    **dict.fromkeys(
        ("pct_change_1m", "pct_change_5m", "pct_change_15m", "pct_change_30m"),
        "rests on the market clock, which has come as far as the newest event of any symbol",
    ),
    "trade_count": "trades reach the analyzers another way than bars",
}
_HALT_MOMENT = "the row of the moment at which it was made: halts are looked at once a second"
#: The same of rows of halts.
OF_HALTS: Mapping[str, str] = dict.fromkeys(
    ("timestamp", "halted_ms", "last_price", "distance_to_high_pct", "distance_to_low_pct"), _HALT_MOMENT
)
#: The same of alerts.
OF_THE_MOMENT: Mapping[str, str] = {
    **AS_OF_PUBLICATION,
    "pending": "a symbol that bulk answers do not name is asked for over REST meanwhile",
}
#: And of an alert of the minute before the open, which may be taken together with bars from 09:30 on.
AT_THE_OPEN = ("open", "change_since_open", "pct_change_since_open", "official_open_price")
#: Not kept long enough to be asked for afterwards: what was sent last counts.
_BRIEF = (TRADES, QUOTES)
_RAW = "stocks:"
_ALERTS = (HOD_ALERT.name, LOD_ALERT.name)


class Everything(NamedTuple):
    """What one platform said of a recording."""

    values: dict[str, Any]  # state feed -> what is read of it in the end
    sent: dict[str, Any]  # state feed -> what a subscriber was sent last
    events: dict[tuple[str, str], list[Any]]  # event feed and symbol -> in the order of arrival

    @property
    def symbols(self) -> set[str]:
        """All that anything is known of."""
        found = [resolve(feed) for feed in self.values]
        return {one[1] for one in found if one is not None and one[0].hole == "symbol"}

    def told(self, *, raw: bool) -> int:
        """Events of the raw feeds, or all others: alerts, halts."""
        return sum(len(told) for (feed, _), told in self.events.items() if feed.startswith(_RAW) == raw)


class Client:
    """Subscribes to everything before the first event, and reads everything after the last one.

    Args:
        url: Of the data service, http.
    """

    def __init__(self, url: str) -> None:
        self.sent: dict[str, Any] = {}
        self.events: dict[tuple[str, str], list[Any]] = {}
        self._told: dict[str, deque[Any]] = {}  # event feed that keeps a list -> what it should hold
        self.faults: list[str] = []
        self._url = url
        self._places: dict[str, tuple[int, int]] = {}
        self._task: asyncio.Task[None] | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._left = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession()
        self._socket = socket = await self._connect()
        await socket.send_json({"action": "subscribe", "feeds": patterns(), "full": True})
        said = await socket.receive_json(timeout=PATIENCE_SECONDS)
        assert said["status"] == "subscribed", said
        self._task = asyncio.create_task(self._read(socket), name="everything")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def get(self, feed: str) -> Any:
        """One feed's value, as `get` gives it."""
        return (await self._get([feed]))[feed]

    def heard(self) -> Everything:
        """What was sent so far; nothing is read."""
        if self._task is not None and self._task.done():
            self._task.result()
        assert not self.faults, self.faults[:5]
        events = {key: list(told) for key, told in self.events.items()}
        return Everything({}, dict(self.sent), events)

    async def leave(self) -> None:
        """Subscribe to nothing any more: from now on a value is what is kept, and not what was sent last."""
        assert self._socket is not None
        await self._socket.send_json({"action": "unsubscribe", "feeds": patterns()})
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._left.wait()

    async def everything(self) -> Everything:
        """What was sent, and what is there now. Lists of events must be what was sent, newest first: soon,
        as an event is in its list a moment before it is sent."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            heard, got, unlike = await self._everything()
            if not unlike:
                return heard._replace(
                    values={feed: value for feed, value in got.items() if value is not None}
                )
            assert time.monotonic() < until, f"{unlike}: the list is not what was sent"
            await asyncio.sleep(0.2)

    async def _everything(self) -> tuple[Everything, dict[str, Any], list[str]]:
        heard = self.heard()
        kept = [feed for feed in self.sent if _family(feed) not in _BRIEF]
        lists = [one for one in FAMILIES if one.kind == EVENT and one.max_items and not one.hole]
        got = await self._get(sorted({*kept, *_single(), *(one.name for one in lists)}))
        unlike = []
        for one in lists:
            listed, told = got.pop(one.name) or [], list(self._told.get(one.name, ()))[::-1]
            if listed != told:
                unlike.append(one.name)
        return heard, got, unlike

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        assert self._session is not None
        return await self._session.ws_connect(f"{self._url}/ws", protocols=["mdp.v2"], max_msg_size=0)

    async def _get(self, feeds: Sequence[str]) -> dict[str, Any]:
        # A connection of its own each time: who only asks now and then does not answer pings.
        async with await self._connect() as socket:
            for feed in feeds:
                await socket.send_json({"action": "get", "feed": feed})
            found: dict[str, Any] = {}
            while len(found) < len(feeds):
                said = await socket.receive_json(timeout=PATIENCE_SECONDS)
                assert said.get("kind") == "get", said
                found[said["feed"]] = said["data"]
        return found

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in socket:
            said = json.loads(frame.data)
            if isinstance(said, dict):
                if said.get("status") == "unsubscribed":
                    self._left.set()
                else:
                    self.faults.append(str(said))
                continue
            for message in said:
                self._take(message)
        self.faults.append(f"closed: {socket.close_code}")

    def _take(self, message: dict[str, Any]) -> None:
        feed, data = message["feed"], message["data"]
        place = (message["epoch"], message["seq"])
        found = resolve(feed)
        assert found is not None, feed
        family, filling = found
        if family.kind == STATE:
            # What is read out of a key has no place (docs/redis.md).
            if place < self._places.get(feed, (0, 0)) and place != (0, 0):
                self.faults.append(f"{feed}: {place} after {self._places[feed]}")
            self._places[feed] = place
            self.sent[feed] = data
        elif message["kind"] == "snapshot":
            if data:
                self.faults.append(f"{feed} had something before the first event")
        else:
            symbol = filling or data.get("symbol") or ""
            self.events.setdefault((family.name, symbol), []).append(data)
            if family.max_items:
                self._told.setdefault(family.name, deque(maxlen=family.max_items)).append(data)


def patterns() -> list[str]:
    """A subscription to each family; a wildcard where it has a hole. None covers what another one does."""
    found = []
    for family in FAMILIES:
        covered = family.hole == "" and any(
            other.hole and _covers(other, family.name) for other in FAMILIES if other is not family
        )
        if not covered:
            found.append(family.feed("*" if family.hole else ""))
    return found


def differences(expected: Everything, found: Everything, *, raw: bool = True) -> list[str]:
    """Where two platforms say different things, in words; empty: nowhere.

    Args:
        expected: Of one process.
        found: Of the other one.
        raw: Whether to compare each trade, and the last quotes, as sent. What comes between two owners of a
            partition is not sent to subscribers afterwards; it is in all that follows from it.
    """
    words = []
    for what, moving in (("values", set[str]()), ("sent", set(AS_OF_PUBLICATION))):
        ours, theirs = getattr(expected, what), getattr(found, what)
        words += [f"{what} {feed}: only one has it" for feed in sorted(ours.keys() ^ theirs.keys())]
        for feed in sorted(ours.keys() & theirs.keys()):
            if _family(feed) is QUOTES and not raw:
                continue
            halts = OF_HALTS if what == "sent" and _family(feed) in (HALT, HALTS_ACTIVE) else ()
            where = f"{what} {feed}"
            words += _unlike(ours[feed], theirs[feed], where, moving.union(_ignored(feed), halts))
    for feed, symbol in sorted(expected.events.keys() | found.events.keys()):
        if feed.startswith(_RAW) and not raw:
            continue
        told, said = expected.events.get((feed, symbol), []), found.events.get((feed, symbol), [])
        if len(told) != len(said):
            words.append(f"events {feed} {symbol}: {len(told)} and {len(said)}")
        for number, (one, other) in enumerate(zip(told, said, strict=False)):
            moving = {*OF_THE_MOMENT, *(OF_HALTS if feed == HALTS.name else ())}
            moving.update(AT_THE_OPEN if feed in _ALERTS and _before_open(one) else ())
            words += _unlike(one, other, f"events {feed} {symbol} {number}", moving)
    return words


def _unlike(one: Any, other: Any, where: str, ignored: Set[str]) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            if name in ignored:
                continue
            if name not in one or name not in other:
                yield f"{where}.{name}: only one has it"
            else:
                yield from _unlike(one[name], other[name], f"{where}.{name}", ignored)
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{where}: {len(one)} and {len(other)} items"
        for number, (mine, theirs) in enumerate(zip(one, other, strict=False)):
            yield from _unlike(mine, theirs, f"{where}[{number}]", ignored)
    elif not _same(one, other):
        yield f"{where}: {one!r} and {other!r}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=1e-12)
    return bool(one == other)


def _before_open(event: dict[str, Any]) -> bool:
    """Whether an alert is of a bar from 09:29 on, New York, before 09:30."""
    local = datetime.fromtimestamp(event["timestamp"], NEW_YORK)
    return (local.hour, local.minute) == (9, 29)


def _ignored(feed: str) -> Mapping[str, str]:
    family = _family(feed)
    return WALL_CLOCK.get(family.name, {}) if family else {}


def _family(feed: str) -> Family | None:
    found = resolve(feed)
    return found[0] if found else None


def _single() -> list[str]:
    return [family.name for family in FAMILIES if family.kind == STATE and not family.hole]


def _covers(family: Family, name: str) -> bool:
    return any(target.family.name == name for target in match(family.feed("*")))
