"""Records what the predecessor says: its payloads on every feed, and its WebSocket conversation.

Not run by the tests: they compare us with `conversation.json`, which this script writes. To record anew
(Linux, Python 3.12, `redis-server` of the distribution on the PATH):

    python3.12 -m venv /tmp/predecessor
    /tmp/predecessor/bin/pip install kuhl-haus-mdp==0.4.17
    /tmp/predecessor/bin/pip install --no-deps --ignore-requires-python kuhl-haus-mdp-servers==0.3.0
    /tmp/predecessor/bin/python tests/wds/predecessor/record.py

The second package holds the WebSocket endpoint (`wds_server`). It asks for Python 3.14, but its endpoint
runs on 3.12.

What runs is the predecessor's own: the provider's client's models, its message codec, processors,
analyzers, its cache in a real Redis, and its endpoint under uvicorn. Ours are the events below (made up), a
loopback server in place of the provider's REST API, and direct calls in place of RabbitMQ. Its analyzers
take the time from the wall clock, so that clock is set to the time of the events.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, tzinfo
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

HERE = Path(__file__).parent
NEW_YORK = ZoneInfo("America/New_York")
KEY = "a-key-of-this-recording"
QUIET_SECONDS = 0.4  # nothing came for so long: everything came
BOARD_SECONDS = 1.05  # boards are published once a second at most
TOP_TRADES_SECONDS = 5.1  # and top trades every five


def at(hour: int, minute: int, second: int, ms: int = 0) -> int:
    """A New York time of Tuesday, 2024-03-05, in ms since the epoch."""
    return int(datetime(2024, 3, 5, hour, minute, second, tzinfo=NEW_YORK).timestamp()) * 1_000 + ms


# Reference values: daily bars, the newest last; the newest is the previous day. BARE has none at all.

_SESSIONS = [
    int(datetime(2024, 3, day, tzinfo=NEW_YORK).timestamp() * 1_000) for day in (1, 4)
]  # Friday, Monday
BARS: dict[str, list[dict[str, Any]]] = {
    "ACME": [
        {"t": _SESSIONS[0], "o": 9, "h": 9.5, "l": 8.75, "c": 9.25, "v": 1_000_000, "vw": 9.125},
        {"t": _SESSIONS[1], "o": 9.25, "h": 10.5, "l": 9, "c": 10, "v": 2_000_000, "vw": 9.875},
    ],
    "BETA": [
        {"t": _SESSIONS[0], "o": 51.5, "h": 52, "l": 50, "c": 51, "v": 400_000.5, "vw": 51.1},
        {"t": _SESSIONS[1], "o": 51, "h": 51.2, "l": 49.9, "c": 50.5, "v": 300_000.25, "vw": 50.4},
    ],
    "BARE": [],
}
FLOATS: dict[str, int] = {"ACME": 5_000_000, "BETA": 12_345_678}


def _bar(symbol: str, start: int, prices: tuple[float, ...], volume: float, av: float, **more: Any) -> Any:
    """A bar on the wire; `prices` are open, high, low, close."""
    o, h, low, c = prices
    bar = {"ev": "A", "sym": symbol, "v": volume, "av": av, "o": o, "h": h, "l": low, "c": c, "s": start}
    return bar | {"e": start + 1_000, "vw": (o + c) / 2, "a": (h + low) / 2, "z": 50} | more


#: Name, New York time, session, events on the wire, keys that are asked for afterwards (key, limit).
STEPS: list[tuple[str, int, str, list[Any], list[tuple[str, int | None]]]] = [
    (
        "first prints before the open",
        at(8, 0, 0),
        "pre_market",
        [
            _bar("BETA", at(8, 0, 0), (50.5, 50.75, 50.25, 50.5), 1_500.5, 1_500.5, z=12.0),
            _bar("BARE", at(8, 0, 0), (3.5, 3.75, 3.25, 3.5), 700, 700),
            _bar("ACME", at(8, 0, 0), (11, 12, 11, 12), 100, 1_000),
        ],
        [("quote:ACME", None), ("quote:BARE", None), ("stocks:agg:ACME", None), ("daily_range:ACME", None),
         ("scanners:top_gappers", None)],
    ),
    (
        "new high and low before the open",
        at(8, 0, 5),
        "pre_market",
        [
            _bar("BETA", at(8, 0, 5), (50.25, 50.5, 49.75, 50), 200, 1_700.5),
            _bar("ACME", at(8, 0, 5), (11.5, 12.5, 11.5, 12.25), 300, 1_300),
        ],
        [("daily_range_hod_alert", None), ("daily_range_lod_alert", None), ("daily_range_hod_alert", 1)],
    ),
    (
        "the opening",
        at(9, 30, 5),
        "regular",
        [
            _bar("BETA", at(9, 30, 5), (49.5, 49.5, 49.25, 49.25), 5_000, 6_700.5, op=49.5),
            _bar("BARE", at(9, 30, 5), (3.25, 3.5, 3.25, 3.25), 900, 1_600, op=3.25),
            _bar("ACME", at(9, 30, 5), (12.25, 12.375, 12.125, 12.25), 20_000, 21_300, op=12.25, otc=False),
        ],
        [("scanners:top_gainers", None), ("quote:BETA", None)],
    ),
    (
        "through the high of before the open",
        at(9, 30, 7),
        "regular",
        [
            _bar("BETA", at(9, 30, 7), (49.25, 49.5, 49.25, 49.5), 100, 6_800.5, op=49.5),
            _bar("ACME", at(9, 30, 7), (12.25, 13.75, 12.25, 13.5), 40_000, 61_300, op=12.25),
        ],
        [("daily_range_hod_alert", None), ("scanners:top_gainers", None), ("scanners:top_gappers", None),
         ("scanners:top_volume", None), ("scanners:top_volume", 1)],
    ),
    (
        "a minute's bar",
        at(9, 32, 0),
        "regular",
        [_bar("SLOW", at(9, 31, 0), (7.5, 7.75, 7.25, 7.5), 60, 60, ev="AM", e=at(9, 32, 0), op=7.5)],
        [("stocks:agg:SLOW", None)],
    ),
    (
        "trades",
        at(9, 32, 1),
        "regular",
        [
            {"ev": "T", "sym": "ACME", "x": 4, "i": "1", "z": 3, "p": 13.5, "s": 100, "c": [14],
             "t": at(9, 32, 1), "q": 101, "trfi": 201, "trft": at(9, 32, 0, 990), "ds": "100.0"},
            {"ev": "T", "sym": "BETA", "x": 11, "i": "7", "z": 1, "p": 49.5, "s": 40, "t": at(9, 32, 1, 20),
             "q": 102},
            {"ev": "T", "sym": "ACME", "x": 12, "i": "2", "z": 3, "p": 14, "s": 250, "c": [],
             "t": at(9, 32, 1, 500), "q": 103},
        ],
        [("stocks:trades:ACME", None), ("stocks:trades:BETA", None), ("tta:all_symbols:widget", None),
         ("tta:ACME:widget", None)],
    ),
    (
        "quotes",
        at(9, 32, 2),
        "regular",
        [
            {"ev": "Q", "sym": "ACME", "bx": 4, "bp": 13.5, "bs": 2, "ax": 7, "ap": 14, "as": 160, "c": 0,
             "i": [604], "t": at(9, 32, 2), "q": 201, "z": 3},
            {"ev": "Q", "sym": "BETA", "bx": 11, "bp": 49.25, "bs": 1, "t": at(9, 32, 2, 10), "q": 202},
        ],
        [("stocks:quotes:ACME", None), ("stocks:quotes:BETA", None)],
    ),
    (
        "limits and a halt",
        at(9, 32, 3),
        "regular",
        [
            {"ev": "LULD", "T": "ACME", "h": 14.75, "l": 12, "i": [17], "z": 3,
             "t": at(9, 32, 3) * 1_000_000 + 642_800, "q": 301},
        ],
        [("stocks:luld:ACME", None)],
    ),
    (
        "something that nobody knows",
        at(9, 32, 4),
        "regular",
        [{"ev": "XYZ", "sym": "ACME", "p": 1}],
        [],
    ),
    (
        "first print after the close",
        at(16, 0, 10),
        "after_hours",
        [_bar("ACME", at(16, 0, 10), (13.5, 13.5, 13.25, 13.25), 500, 61_800, op=12.25)],
        [],
    ),
    (
        "through the high of the regular session",
        at(16, 0, 12),
        "after_hours",
        [_bar("ACME", at(16, 0, 12), (13.25, 15, 12.5, 14.5), 500, 62_300, op=12.25)],
        [("daily_range_hod_alert", None), ("daily_range_lod_alert", None), ("daily_range:ACME", None),
         ("quote:ACME", None)],
    ),
]  # fmt: skip

FEEDS = [
    "stocks:agg:ACME", "stocks:agg:SLOW", "stocks:trades:ACME", "stocks:trades:BETA", "stocks:quotes:ACME",
    "stocks:quotes:BETA", "stocks:luld:ACME", "unknown", "quote:ACME", "quote:BETA", "quote:BARE",
    "scanners:top_gainers", "scanners:top_gappers", "scanners:top_volume", "daily_range:ACME",
    "daily_range:BETA", "daily_range_hod_alert", "daily_range_lod_alert", "tta:all_symbols:widget",
    "news:feed:latest", "news:ticker:ACME",
]  # fmt: skip

#: An article as its news source sends one, made up.
ARTICLE = {
    "link": "https://news.example/acme",
    "title": "Acme doubles its output (Nasdaq: ACME)",
    "publishDate": "2024-03-05T13:00:00.000Z",
    "source": "news.example",
    "language": "en",
    "summary": "An article that nobody wrote.",
    "images": [],
}
NEWS_KEYS = ["news:feed:latest", "news:ticker:ACME"]

#: What is said after all events, a connection each: whether authentication is on, and the texts sent.
CONVERSATIONS: list[tuple[str, bool, list[str]]] = [
    (
        "a valid key",
        True,
        [f'{{"action":"auth","api_key":"{KEY}"}}', '{"action":"subscribe","feed":"quote:ACME"}'],
    ),
    ("a wrong key", True, ['{"action":"auth","api_key":"wrong"}']),
    ("no auth first", True, ['{"action":"subscribe","feed":"quote:ACME"}']),
    ("auth where none is needed", False, [f'{{"action":"auth","api_key":"{KEY}"}}']),
    (
        "subscribe and unsubscribe",
        False,
        [
            '{"action":"subscribe","feed":"quote:ACME"}',
            '{"action":"subscribe","feed":"quote:ACME"}',
            '{"action":"unsubscribe","feed":"quote:ACME"}',
            '{"action":"unsubscribe","feed":"quote:ACME"}',
        ],
    ),
    (
        "wildcards",
        False,
        ['{"action":"subscribe","feed":"quote:*"}', '{"action":"unsubscribe","feed":"quote:*"}'],
    ),
    ("get of nothing", False, ['{"action":"get","cache":"quote:NOBODY"}']),
    ("get of a list without items", False, ['{"action":"get","cache":"news:ticker:NOBODY","limit":10}']),
    (
        "no such action",
        False,
        ['{"action":"dance"}', '{"feed":"quote:ACME"}', '{"action":"subscribe","feed":"quote:ACME"}'],
    ),
    ("subscribe without a feed", False, ['{"action":"subscribe"}']),
    ("get without a key", False, ['{"action":"get"}']),
    ("a limit in words", False, ['{"action":"get","cache":"daily_range_hod_alert","limit":"two"}']),
    ("no JSON", False, ["hello"]),
    ("no object", False, ["[]"]),
]  # fmt: skip


# The provider's REST API


def _answer(path: str, session: str) -> Any:
    """What the provider would say."""
    parts = path.strip("/").split("/")
    if path == "/v1/marketstatus/now":
        extended = "open" if session == "regular" else "extended-hours"
        return {
            "market": extended,
            "earlyHours": session == "pre_market",
            "afterHours": session == "after_hours",
        }
    if path.startswith("/v2/snapshot/"):
        bars = BARS.get(parts[-1])
        ticker = {"ticker": parts[-1], "updated": 0}
        return {"status": "OK", "ticker": ticker | ({"prevDay": bars[-1]} if bars else {})}
    if path.startswith("/v2/aggs/ticker/"):
        return {"status": "OK", "results": list(reversed(BARS.get(parts[3], [])))}
    return {"status": "OK", "results": []}


class Provider(ThreadingHTTPServer):
    """The provider's REST API on a loopback port; `session` is what its market status says."""

    daemon_threads = True

    def __init__(self) -> None:
        self.session = "pre_market"
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        answer = _answer(url.path, self.server.session)
        if url.path == "/stocks/vX/float":
            symbol = url.query.partition("ticker=")[2].partition("&")[0]
            answer["results"] = [{"ticker": symbol, "free_float": FLOATS[symbol]}] if symbol in FLOATS else []
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


# The predecessor


class Delivery:
    """A message as RabbitMQ would deliver it."""

    delivery_tag = 1

    def __init__(self, body: str) -> None:
        self.body = body.encode()

    @contextlib.asynccontextmanager
    async def process(self) -> AsyncIterator[None]:
        """Acknowledged by doing nothing."""
        yield


class EventTime(datetime):
    """The wall clock of the predecessor's analyzers."""

    ms = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(cls.ms / 1_000, tz or UTC)


class Predecessor:
    """Its processors, analyzers and scanner, fed by hand."""

    def __init__(self, redis_url: str, provider: Provider) -> None:
        load: Callable[[str], Any] = importlib.import_module
        base = "kuhl_haus.mdp."
        options_class = load(base + "analyzers.analyzer").AnalyzerOptions
        rest = load("massive.rest").RESTClient
        url = f"http://127.0.0.1:{provider.server_address[1]}"
        options = options_class(redis_url=redis_url, massive_api_key=KEY)
        options.new_rest_client = lambda: rest(api_key=KEY, base=url)
        boards = load(base + "analyzers.leaderboard_analyzer")
        trades = load(base + "analyzers.top_trades_analyzer")
        ranges = load(base + "analyzers.daily_range_analyzer")
        raw = load(base + "analyzers.massive_data_analyzer")
        news = load(base + "analyzers.finlight_data_analyzer")
        for module in (boards, trades, ranges):
            module.datetime = EventTime
        ranges.time = SimpleNamespace(time=lambda: EventTime.ms / 1_000, monotonic=time.monotonic)
        self._models = load("massive.websocket.models")
        self._codec = load(base + "helpers.web_socket_message_serde").WebSocketMessageSerde
        processor = load(base + "components.massive_data_processor").MassiveDataProcessor
        scanner = load(base + "components.market_data_scanner").MarketDataScanner
        self._redis = options.new_redis_client()
        self._provider = provider

        def started(analyzer: Any) -> Any:
            made = processor("", "", redis_url, analyzer, options)
            made.redis_client = self._redis
            made.analyzer = analyzer(options=options)
            return made

        self._raw = started(raw.MassiveDataAnalyzer)
        self._boards = started(boards.LeaderboardAnalyzer)
        self._trades = started(trades.TopTradesAnalyzer)
        self._news = started(news.FinlightDataAnalyzer)
        self._ranges = scanner(redis_url, ["quote:*"], ranges.DailyRangeAnalyzer, options)
        self._ranges.analyzer = ranges.DailyRangeAnalyzer(options=options)
        self._quotes = self._redis.pubsub()

    async def start(self) -> None:
        """Connect what reads derived feeds."""
        await self._ranges.connect()
        await self._ranges.analyzer.rehydrate()
        await self._quotes.psubscribe("quote:*")

    async def take(self, now_ms: int, session: str, wire: list[Any]) -> None:
        """Let all its analyzers see events, one after the other."""
        EventTime.ms = now_ms
        if self._provider.session != session:
            self._provider.session = session
            self._ranges.analyzer._market_status = None  # else kept for a minute of the machine's clock
        for number, event in enumerate(wire, 1):
            message = self._models.parse_single(event, _Silent(), self._models.Market.Stocks)
            if message is None:
                await self._raw._process_message(Delivery(json.dumps(event)))
                continue
            body = self._codec.serialize(message)
            await self._raw._process_message(Delivery(body))
            last = number == len(wire)
            if event["ev"] in ("A", "AM"):
                await asyncio.sleep(BOARD_SECONDS if last else 0)
                await self._boards._process_message(Delivery(body))
                await self._scan()
            elif event["ev"] == "T":
                await asyncio.sleep(TOP_TRADES_SECONDS if last else 0)
                await self._trades._process_message(Delivery(body))
        for part in (self._raw, self._boards, self._trades):
            assert part.error + part.decoding_error + part.processing_error == 0, "see its log"
        assert not self._ranges.errors, "see its log"

    async def take_article(self, article: Any) -> None:
        """Let its news analyzer see an article."""
        for result in await self._news.analyzer.analyze_data(article):
            await self._news._cache_result(result)

    async def _scan(self) -> None:
        """Hand the scanner the enriched quotes published since."""
        while (message := await self._quotes.get_message(timeout=0.2)) is not None:
            if message["type"] == "pmessage":
                await self._ranges._process_message(json.loads(message["data"]))


class _Silent:
    def warning(self, *_: Any) -> None:
        """What is unknown is no news here."""


# Its endpoint, and its clients


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(port: int, *command: str, **environment: str) -> Iterator[None]:
    """A server process, from when it listens on its port to the end of the block."""
    running = subprocess.Popen(command, env=os.environ | environment)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if running.poll() is not None:
                raise RuntimeError(f"{command[0]} ended")
            threading.Event().wait(0.1)
        yield
    finally:
        running.terminate()
        running.wait(10)


def endpoint(port: int, redis_url: str, *, auth: bool) -> contextlib.AbstractContextManager[None]:
    """The predecessor's WebSocket endpoint."""
    return process(
        port, sys.executable, "-m", "uvicorn", "kuhl_haus.servers.wds_server:app", "--port", str(port),
        "--log-level", "warning",
        WDC_REDIS_URL=redis_url, AUTH_ENABLED=str(auth), AUTH_API_KEY=KEY, LOG_LEVEL="ERROR",
    )  # fmt: skip


async def heard(client: Any) -> list[Any]:
    """Everything that comes until it is quiet: payloads, then perhaps how the connection ended."""
    closed = importlib.import_module("websockets.exceptions").ConnectionClosed
    frames: list[Any] = []
    while True:
        try:
            frames.append({"receive": json.loads(await asyncio.wait_for(client.recv(), QUIET_SECONDS))})
        except TimeoutError:
            return frames
        except closed as error:
            return [*frames, {"closed": error.rcvd.code if error.rcvd else None}]


async def ask(client: Any, message: Any) -> Any:
    """Send one message; the one answer to it."""
    await client.send(json.dumps(message))
    return json.loads(await asyncio.wait_for(client.recv(), 10))


def _get(key: str, limit: int | None) -> dict[str, Any]:
    return {"action": "get", "cache": key} | ({} if limit is None else {"limit": limit})


async def record(redis_url: str, ports: dict[bool, int], provider: Provider) -> dict[str, Any]:
    """Everything the predecessor says."""
    connect = importlib.import_module("websockets.asyncio.client").connect

    def url(auth: bool) -> str:
        return f"ws://127.0.0.1:{ports[auth]}/ws"

    subscribers: dict[str, Any] = {}
    for feed in FEEDS:
        subscribers[feed] = await connect(url(False))
        answer = await ask(subscribers[feed], {"action": "subscribe", "feed": feed})
        assert answer == {"status": "subscribed", "feed": feed}
    asker = await connect(url(False))
    predecessor = Predecessor(redis_url, provider)
    await predecessor.start()
    said: dict[str, Any] = {
        "predecessor": ["kuhl-haus-mdp 0.4.17", "kuhl-haus-mdp-servers 0.3.0"],
        "reference": {"bars": BARS, "floats": FLOATS},
        "key": KEY,
        "steps": [],
    }

    async def step(name: str, keys: list[tuple[str, int | None]]) -> dict[str, Any]:
        # Asked at once: trades and quotes are kept for five seconds.
        gets = [{"ask": (message := _get(*key)), "answer": await ask(asker, message)} for key in keys]
        heard_now = await asyncio.gather(*[heard(client) for client in subscribers.values()])
        streams = {
            feed: [frame["receive"] for frame in frames]
            for feed, frames in zip(subscribers, heard_now, strict=True)
            if frames
        }
        print(f"{name}: {sum(map(len, streams.values()))} payloads")
        return {"name": name, "streams": streams, "gets": gets}

    for name, now_ms, session, wire, keys in STEPS:
        await predecessor.take(now_ms, session, wire)
        said["steps"].append({"now_ms": now_ms, "wire": wire} | await step(name, keys))
    await predecessor.take_article(ARTICLE)
    said["news"] = {"article": ARTICLE} | await step("news", [(key, None) for key in NEWS_KEYS])
    said["conversations"] = []
    for name, auth, messages in CONVERSATIONS:
        client = await connect(url(auth))
        frames: list[Any] = []
        for message in messages:
            with contextlib.suppress(importlib.import_module("websockets.exceptions").ConnectionClosed):
                await client.send(message)
                frames.append({"send": message})
            frames += await heard(client)
        await client.close()
        said["conversations"].append({"name": name, "auth": auth, "frames": frames})
    for client in [*subscribers.values(), asker]:
        await client.close()
    return said


def _text(said: Any, depth: int = 0) -> str:
    """JSON with a line for each payload, so that changes can be read."""
    if depth == 4 or not said or not isinstance(said, dict | list):
        return json.dumps(said)
    if isinstance(said, dict):
        parts = [f"{json.dumps(key)}: {_text(value, depth + 1)}" for key, value in said.items()]
        return "{\n" + ",\n".join(parts) + "\n}"
    return "[\n" + ",\n".join(_text(value, depth + 1) for value in said) + "\n]"


def main() -> None:
    """Start everything on loopback, record, write `conversation.json`."""
    server = shutil.which("redis-server")
    if server is None:
        raise SystemExit("redis-server is not on the PATH; install the distribution's package")
    provider = Provider()
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    redis_port, ports = _free_port(), {auth: _free_port() for auth in (False, True)}
    redis_url = f"redis://127.0.0.1:{redis_port}/1"
    with (
        tempfile.TemporaryDirectory() as folder,
        process(
            redis_port, server, "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", folder,
            "--save", "", "--loglevel", "warning",
        ),
        endpoint(ports[False], redis_url, auth=False),
        endpoint(ports[True], redis_url, auth=True),
    ):  # fmt: skip
        said = asyncio.run(record(redis_url, ports, provider))
    provider.shutdown()
    (HERE / "conversation.json").write_text(_text(said) + "\n")


if __name__ == "__main__":
    main()
