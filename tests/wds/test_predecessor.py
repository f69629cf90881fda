"""Version 1 against the predecessor's recording (`predecessor/record.py`): the same events, the same talk.

Our pipeline takes the recorded events step by step, with reference values loaded from the same answers;
clients on real sockets subscribe to the same feeds, ask for the same keys and say the same things. What
we say may hold more fields, never fewer, and the same values with the same JSON types and number forms,
except for what the tables below list with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, cast

import aiohttp
import msgspec
import pytest

from mdp.cache.rest import RestClient
from mdp.cache.single import daily_bars, floats
from mdp.cache.table import ReferenceRow
from mdp.cache.validate import Rejected
from mdp.config import WdsConfig
from mdp.events import QUEUE_OF
from mdp.feeds import EVENT, MARKET_STATUS, NEWS_LATEST, NEWS_TICKER, resolve
from mdp.queues.base import Batch
from mdp.wds.server import WidgetDataService
from tests.analyzers.rig import Rig

RECORDING: dict[str, Any] = json.loads(
    (Path(__file__).parent / "predecessor" / "conversation.json").read_text(encoding="utf-8")
)
STEPS: list[dict[str, Any]] = RECORDING["steps"]
SUBSCRIBED = sorted({feed for step in STEPS for feed in step["streams"]} | {"tta:all_symbols:widget"})
RELATIVE = 1e-12  # of numbers worked out in another order

# Kinds of differences
GONE = "gone"  # a field, or a whole answer
TYPE = "type"  # of JSON
FORM = "form"  # 12 or 12.0, where the value is the same
VALUE = "value"
ROWS = "rows"  # other symbols, another order, another number of them


class Difference(NamedTuple):
    """One difference: where, of which kind, what they and what we say."""

    step: str
    feed: str
    field: str
    kind: str
    theirs: Any
    ours: Any


class Deliberate(NamedTuple):
    """A difference that is meant."""

    feeds: tuple[str, ...]  # families of the contract; empty: all
    fields: tuple[str, ...]
    kinds: tuple[str, ...]
    symbols: tuple[str, ...]  # empty: all
    reason: str  # with the line of `docs/feeds.md` or the design it follows from

    def covers(self, difference: Difference) -> bool:
        """Whether it is this one."""
        found = resolve(difference.feed)
        name, _, symbol = difference.field.rpartition("@")
        return (
            (not self.feeds or (found is not None and found[0].name in self.feeds))
            and name in self.fields
            and difference.kind in self.kinds
            and (not self.symbols or symbol in self.symbols)
        )


_ROWS = (
    "quote:{S}", "daily_range:{S}", "daily_range_hod_alert", "daily_range_lod_alert", "scanners:top_gainers",
    "scanners:top_gappers", "scanners:top_volume",
)  # fmt: skip
#: Symbols of which the provider has no bar of an earlier day.
UNREFERENCED = tuple(
    sorted(
        {event["sym"] for step in STEPS for event in step["wire"] if event["ev"] in ("A", "AM")}
        - {symbol for symbol, bars in RECORDING["reference"]["bars"].items() if bars}
    )
)

#: Section numbers are those of the design; `docs/feeds.md` says the same.
DELIBERATE: tuple[Deliberate, ...] = (
    Deliberate(
        _ROWS,
        ("prev_day_close", "prev_day_volume", "prev_day_vwap"),
        (VALUE,),
        UNREFERENCED,
        "5: 'A missing reference value is 0 in these rows'. The predecessor shows the bar's own close, "
        "volume and VWAP as those of a previous day that never was.",
    ),
    Deliberate(
        _ROWS,
        ("change", "pct_change"),
        (FORM,),
        UNREFERENCED,
        "5: follows from it. Without a previous close there is no change: the whole number 0, as the "
        "predecessor has it where the previous close is 0, and not the close less itself.",
    ),
    Deliberate(
        _ROWS,
        ("open",),
        (FORM,),
        (),
        "5: 'a number keeps the form it had on the wire'. The predecessor does so in a symbol's first quote "
        "only; from then on it reads the open back from a text, always with a point.",
    ),
    Deliberate(
        ("stocks:luld:{S}",),
        ("timestamp",),
        (VALUE,),
        (),
        "5: 'On the wire its `t` is in nanoseconds, every other `t` in milliseconds; ours is in "
        "milliseconds.'",
    ),
    Deliberate(
        ("unknown",),
        ("ev", "sym", "p"),
        (GONE,),
        (),
        "5: 'what could not be recognized, with the reason': `event_type`, `reason`, `raw` and `timestamp`. "
        "The predecessor passes on whatever came, which has no fields of its own.",
    ),
    Deliberate(
        ("tta:all_symbols:widget", "tta:{S}:widget"),
        ("timestamp",),
        (VALUE,),
        (),
        "5: time comes from the events: the market's clock in the same ISO form, not the machine's.",
    ),
)
#: What follows from rules of order, applied to the predecessor's rows before they are compared: ties by
#: symbol (its own are the other way round), "a row without a previous close is not ranked as a gapper",
#: and `limit`, which it applies to lists only.
SCORES = {
    "scanners:top_gainers": "pct_change_since_open",
    "scanners:top_gappers": "pct_change",
    "scanners:top_volume": "accumulated_volume",
}

#: Conversations that go another way: what we answer to each message, and why. A lost connection at the
#: predecessor is an exception in its handler.
OTHER_ANSWERS: dict[str, tuple[list[Any], str]] = {
    "a wrong key": (
        [{"status": "invalid key"}, {"closed": 4001}],
        "6: the same answer; the close code says that a reconnect does not help",
    ),
    "no auth first": (
        [
            {
                "status": "error",
                "code": "unauthorized",
                "message": "the first message must be an auth with a valid key",
            },
            {"closed": 4001},
        ],
        "6: 'anything else': an error with a code; the predecessor says `unauthorized` as the status",
    ),
    "auth where none is needed": (
        [{"status": "authorized"}],
        "6: 'With it off, `auth` is answered `authorized` all the same'",
    ),
    "subscribe and unsubscribe": (
        [
            {"status": "subscribed", "feed": "quote:ACME"},
            {"status": "subscribed", "feed": "quote:ACME"},
            {"status": "unsubscribed", "feed": "quote:ACME"},
            {"status": "unsubscribed", "feed": "quote:ACME"},
        ],
        "6: each unsubscribe is answered; the predecessor is silent on one of what is not subscribed",
    ),
    "get of a list without items": (
        [{"cache": "news:ticker:NOBODY", "data": []}],
        "6: 'a list for lists', also an empty one",
    ),
    "subscribe without a feed": (
        [
            {
                "status": "error",
                "code": "bad_feed",
                "message": "'feed' must be a string, e.g. \"quote:AAPL\"",
            }
        ],
        "6: 'anything else' is answered; the predecessor is silent",
    ),
    "get without a key": (
        [
            {
                "status": "error",
                "code": "bad_feed",
                "message": "'cache' must be a string, e.g. \"scanners:top_gainers\"",
            }
        ],
        "6: 'anything else' is answered; the predecessor is silent",
    ),
    "a limit in words": (
        [
            {
                "status": "error",
                "code": "bad_limit",
                "message": "limit must be a whole number, 0 (all) or more",
            }
        ],
        "6: 'the connection stays'; the predecessor's is lost",
    ),
    "no JSON": (
        [{"status": "error", "code": "not_json", "message": "the message is not JSON"}],
        "6: 'the connection stays'; the predecessor's is lost",
    ),
    "no object": (
        [{"status": "error", "code": "not_object", "message": "the message must be a JSON object"}],
        "6: 'the connection stays'; the predecessor's is lost",
    ),
}


def differences(
    step: str, feed: str, theirs: Any, ours: Any, field: str = "", symbol: str = ""
) -> Iterator[Difference]:
    """All differences of two payloads. Fields that only we have are none."""
    here = f"{field}@{symbol}"
    if isinstance(theirs, dict) and isinstance(ours, dict):
        symbol = theirs.get("symbol", symbol)
        for name, value in theirs.items():
            if name not in ours:
                yield Difference(step, feed, f"{name}@{symbol}", GONE, value, None)
            else:
                inner = name if field != "symbols" else ""
                yield from differences(step, feed, value, ours[name], inner, symbol if inner else name)
    elif isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            yield Difference(step, feed, here, ROWS, theirs, ours)
        else:
            for mine, yours in zip(theirs, ours, strict=True):
                yield from differences(step, feed, mine, yours, field, symbol)
    elif _json_type(theirs) != _json_type(ours):
        yield Difference(step, feed, here, TYPE, theirs, ours)
    elif theirs != ours and (
        not isinstance(theirs, float | int) or theirs != pytest.approx(ours, rel=RELATIVE, abs=RELATIVE)
    ):
        yield Difference(step, feed, here, VALUE, theirs, ours)
    elif type(theirs) is not type(ours):
        yield Difference(step, feed, here, FORM, theirs, ours)


def ranked(feed: str, rows: list[Any], limit: int = 0) -> list[Any]:
    """The predecessor's rows of a board in the order that the contract asks for."""
    score = SCORES[feed]
    if feed == "scanners:top_gappers":
        rows = [row for row in rows if row["symbol"] not in UNREFERENCED]
    rows = sorted(rows, key=lambda row: (-row[score], row["symbol"]))
    return [row | {"rank": rank} for rank, row in enumerate(rows[: limit or None], 1)]


def _json_type(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(type(value))
    return "number" if isinstance(value, int | float) else str(type(value))


# Our side


class Provider:
    """The provider's REST answers of the recording."""

    async def get(self, path: str, query: dict[str, str]) -> bytes:
        """The answer to one request."""
        reference = RECORDING["reference"]
        if path.startswith("/v2/aggs/ticker/"):
            return json.dumps({"results": reference["bars"].get(path.split("/")[4], [])}).encode()
        return json.dumps(
            {"results": [{"ticker": s, "free_float": value} for s, value in reference["floats"].items()]}
        ).encode()


async def reference() -> dict[str, ReferenceRow]:
    """Reference values as our own loader reads them."""
    rest = cast(RestClient, Provider())
    checks = Rejected().at("test")
    sessions = (date(2024, 3, 4), date(2024, 3, 1))
    rows = {}
    for symbol in RECORDING["reference"]["bars"]:
        row = await daily_bars(rest, symbol, sessions, None, checks)
        if row is not None:
            rows[symbol] = row
    for symbol, value in (await floats(rest, list(rows), sessions[0], None, checks)).items():
        rows[symbol].free_float = value
    return rows


class Said(NamedTuple):
    """What we say: payloads and answers by step."""

    streams: list[dict[str, list[Any]]]
    gets: list[list[Any]]


def feed_in(rig: Rig, now_ms: int, wire: list[Any]) -> None:
    """One frame of the provider through the pipeline; analyzers with a timer flush as if it were due."""
    rig.clock.advance(6)
    rig.tick(now_ms)
    good, bad = rig.decoder.salvage(json.dumps(wire), now_ms)
    groups: dict[str, list[Any]] = {}
    for event in [*good, *bad]:
        groups.setdefault(QUEUE_OF[type(event)], []).append(event)
    for queue, events in groups.items():
        rig.engine.process(queue, Batch(events, rig.clock(), [(rig.clock(), json.dumps(wire))]))
    for guard in rig.engine.guards:
        if guard.analyzer.flush_on_tick:
            rig.flush(guard.analyzer)
    for _ in range(7):  # boards, one a turn
        rig.flush(rig.boards)
    rig.flush(rig.trades)


async def replay() -> Said:
    """The recorded events through our pipeline, read by clients on real sockets."""
    rig = Rig()
    rig.market.refer(await reference())
    service = WidgetDataService(WdsConfig(port=0), rig.bus, rig.cache)
    await service.start()
    said = Said([], [])
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{service.port}/ws"
            clients = {}
            for feed in SUBSCRIBED:
                client = clients[feed] = await session.ws_connect(url)
                for name in (feed, MARKET_STATUS.name):
                    answer = await ask(client, json.dumps({"action": "subscribe", "feed": name}))
                    assert answer == {"status": "subscribed", "feed": name}
            asker = await session.ws_connect(url)
            for number, step in enumerate(STEPS):
                feed_in(rig, step["now_ms"], step["wire"])
                rig.bus.publish(MARKET_STATUS, "", {"end of step": number})
                streams: dict[str, list[Any]] = {}
                for feed, client in clients.items():
                    while (payload := await receive(client)) != {"end of step": number}:
                        streams.setdefault(feed, []).append(payload)
                said.streams.append(streams)
                said.gets.append([await ask(asker, json.dumps(get["ask"])) for get in step["gets"]])
    finally:
        await service.stop()
    return said


async def converse() -> dict[str, list[Any]]:
    """The recorded conversations with our service: the answer to each message, and how it ended.

    We answer every message with one of ours. Whether a connection stays is found out by asking on.
    """
    rig = Rig()
    said: dict[str, list[Any]] = {}
    async with aiohttp.ClientSession() as session:
        for conversation in RECORDING["conversations"]:
            config = WdsConfig(port=0, auth_enabled=conversation["auth"], api_keys=[RECORDING["key"]])
            service = WidgetDataService(config, rig.bus, rig.cache)
            await service.start()
            try:
                client = await session.ws_connect(f"http://127.0.0.1:{service.port}/ws")
                frames = conversation["frames"]
                heard = [await ask(client, frame["send"]) for frame in frames if "send" in frame]
                last = await ask(client, '{"action":"get","cache":"alerts"}')
                heard += [last] if "closed" in last else []
                said[conversation["name"]] = heard
                await client.close()  # or the service waits for it at its end
            finally:
                await service.stop()
    return said


async def ask(client: aiohttp.ClientWebSocketResponse, text: str) -> Any:
    """Send one text, if the connection still takes it; the next message."""
    with contextlib.suppress(ConnectionError):
        await client.send_str(text)
    return await receive(client)


async def receive(client: aiohttp.ClientWebSocketResponse) -> Any:
    """The next message, decoded; `{"closed": code}` where the connection ended."""
    message = await client.receive(timeout=20)
    if message.type is aiohttp.WSMsgType.TEXT:
        return msgspec.json.decode(message.data)
    return {"closed": message.data}


@pytest.fixture(scope="module")
def ours() -> Said:
    """The replay, once for all tests."""
    return asyncio.run(replay())


def streamed(ours: Said) -> Iterator[Difference]:
    """Differences of what subscribers got: all of an event feed, the newest of a state feed per step."""
    for step, got in zip(STEPS, ours.streams, strict=True):
        for feed, theirs in step["streams"].items():
            mine = got.get(feed, [])
            found = resolve(feed)
            assert found is not None, feed
            if not mine:
                yield Difference(step["name"], feed, "@", GONE, theirs[-1], None)
            elif found[0].kind == EVENT:
                yield from differences(step["name"], feed, theirs, mine)
            else:
                newest = ranked(feed, theirs[-1]) if feed in SCORES else theirs[-1]
                yield from differences(step["name"], feed, newest, mine[-1])


def asked(ours: Said) -> Iterator[Difference]:
    """Differences of answers to `get`."""
    for step, answers in zip(STEPS, ours.gets, strict=True):
        for get, answer in zip(step["gets"], answers, strict=True):
            assert list(answer) == list(get["answer"]) == ["cache", "data"]
            feed, data = get["ask"]["cache"], get["answer"]["data"]
            assert answer["cache"] == feed
            if feed in SCORES:
                data = ranked(feed, data, get["ask"].get("limit", 0))
            yield from differences(step["name"], feed, data, answer["data"])


def unexplained(found: Iterator[Difference]) -> list[Difference]:
    """Those that no table lists."""
    return [one for one in found if not any(entry.covers(one) for entry in DELIBERATE)]


def test_subscribers_get_what_the_predecessors_got(ours: Said) -> None:
    """Every payload on every feed has the predecessor's fields, types, number forms and values."""
    assert unexplained(streamed(ours)) == []


def test_get_answers_what_the_predecessor_answered(ours: Said) -> None:
    """So has every answer to `get`."""
    assert unexplained(asked(ours)) == []


def test_every_excuse_is_needed(ours: Said) -> None:
    """A difference that is gone, or that never was, must leave the table."""
    found = [*streamed(ours), *asked(ours)]
    assert [entry for entry in DELIBERATE if not any(entry.covers(one) for one in found)] == []


def test_conversations_go_as_the_predecessors() -> None:
    """Word for word, but for those listed: there, what the contract asks for."""
    said = asyncio.run(converse())
    for conversation in RECORDING["conversations"]:
        name = conversation["name"]
        theirs = [frame.get("receive", frame) for frame in conversation["frames"] if "send" not in frame]
        listed = OTHER_ANSWERS.get(name)
        if listed is not None:
            assert theirs != listed[0], f"{name}: the same by now; take it off the list"
            theirs = listed[0]
        assert said[name] == theirs, name


def test_articles_pass_as_they_are() -> None:
    """On `news:*` an article reaches subscribers and `get` with the fields of its source, lists newest first.

    No source of news is built yet; the predecessor's stands in for one.
    """
    recorded = RECORDING["news"]
    article = recorded["article"]

    async def scenario() -> tuple[dict[str, list[Any]], list[Any]]:
        rig = Rig()
        service = WidgetDataService(WdsConfig(port=0), rig.bus, rig.cache)
        await service.start()
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{service.port}/ws"
                clients = {feed: await session.ws_connect(url) for feed in recorded["streams"]}
                for feed, client in clients.items():
                    await ask(client, json.dumps({"action": "subscribe", "feed": feed}))
                for family, symbol in ((NEWS_LATEST, ""), (NEWS_TICKER, "ACME")):
                    rig.results.emit(family, symbol, article)
                rig.results.commit()
                got = {feed: [await receive(client)] for feed, client in clients.items()}
                asker = await session.ws_connect(url)
                return got, [await ask(asker, json.dumps(get["ask"])) for get in recorded["gets"]]
        finally:
            await service.stop()

    streams, gets = asyncio.run(scenario())
    assert streams == recorded["streams"]
    assert gets == [get["answer"] for get in recorded["gets"]]


def test_the_recording_covers_what_the_predecessor_serves() -> None:
    """Each family of feeds that the predecessor has was recorded: streamed, asked for, or both."""
    feeds = {feed for step in STEPS for feed in step["streams"]}
    feeds |= {get["ask"]["cache"] for step in STEPS for get in step["gets"]}
    feeds |= set(RECORDING["news"]["streams"])
    families = {found[0].name if (found := resolve(feed)) else feed for feed in feeds}
    assert families == {
        "stocks:agg:{S}", "stocks:trades:{S}", "stocks:quotes:{S}", "stocks:luld:{S}", "unknown", "quote:{S}",
        "scanners:top_gainers", "scanners:top_gappers", "scanners:top_volume", "tta:{S}:widget",
        "tta:all_symbols:widget", "daily_range:{S}", "daily_range_hod_alert", "daily_range_lod_alert",
        "news:feed:latest", "news:ticker:{S}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("theirs", "ours", "kind"),
    [
        ({"a": 1}, {"b": 1}, GONE),
        ({"a": 1}, {"a": "1"}, TYPE),
        ({"a": 1}, {"a": None}, TYPE),
        ({"a": False}, {"a": 0}, TYPE),
        ({"a": 1}, {"a": 1.0}, FORM),
        ({"a": 1.5}, {"a": 1.25}, VALUE),
        ([{"a": 1}], [], ROWS),
        ({"symbols": {"ACME": {"a": 1}}}, {"symbols": {"ACME": {"a": 2}}}, VALUE),
    ],
)
def test_each_kind_of_difference_is_seen(theirs: Any, ours: Any, kind: str) -> None:
    """The comparison itself; what only we have is no difference."""
    assert [one.kind for one in differences("", "unknown", theirs, ours)] == [kind]
    assert list(differences("", "unknown", {"a": 1}, {"a": 1, "more": 2})) == []
