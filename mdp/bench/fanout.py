"""`mdp bench fanout`: how many clients one WDS serves, how fast, and at what cost.

Throughput is given as ratios measured in the same run: to a plain loop of aiohttp's `send_str`, which is what
one writes first, and to writing bytes that were framed before, which is the limit. Clients live in a process
of their own (`mdp.bench.crowd`), read and drop.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvloop
from aiohttp import web
from rich.console import Console
from rich.table import Table

from mdp import feeds
from mdp.bench.crowd import Crowd, CrowdProcess
from mdp.bench.figures import middle, ratio
from mdp.bench.process import Machine, rss_mb
from mdp.cache.base import Message, encode_json
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import WdsConfig
from mdp.feeds import match
from mdp.wds.frames import text_frame
from mdp.wds.server import WidgetDataService
from mdp.wds.views import Options, View

MESSAGES = 10
SIZE = 300  # bytes of a message
_ROOM = 256 * 1024  # bytes waiting for a client, at most, before the sender waits
_BOARDS = (feeds.TOP_GAINERS, feeds.TOP_GAPPERS, feeds.TOP_VOLUME)
_PAGE = (
    "symbol", "rank", "close", "pct_change", "pct_change_since_open", "accumulated_volume", "relative_volume",
    "free_float", "high", "low",
)  # fmt: skip


class FanoutOptions(msgspec.Struct):
    """What is measured."""

    clients: int = 500
    seconds: float = 2.0  # of each measurement
    rounds: int = 3
    many: int = 2_000  # clients of boards and quotes
    idle: int = 5_000  # connections that do nothing
    steady_seconds: float = 10.0  # of boards and quotes
    pairs: int = 5  # of runs with and without stalled clients
    json: str = ""


class Row(msgspec.Struct):
    """One line of the result."""

    what: str
    target: str
    measured: str


class Fanout(msgspec.Struct):
    """The result."""

    machine: Machine
    rows: list[Row]


Tick = Callable[[], Awaitable[None]]


def _payload(number: int, size: int = SIZE) -> dict[str, Any]:
    value: dict[str, Any] = {"n": number, "text": ""}
    value["text"] = "x" * (size - len(encode_json(value)))
    return value


async def _rate(crowd: CrowdProcess, tick: Tick, options: FanoutOptions, tick_bytes: int) -> float:
    """Deliveries (messages times clients) a second, of ticks that follow each other as they are taken."""
    await tick()
    await asyncio.sleep(0.2)
    await crowd.count()
    began = time.perf_counter()
    ticks = 0
    while time.perf_counter() - began < options.seconds:
        await tick()
        ticks += 1
    arrived = 0
    while arrived < ticks * tick_bytes:
        await asyncio.sleep(0.01)
        arrived += (await crowd.count()).bytes
        if time.perf_counter() - began > options.seconds + 30:
            raise ConnectionError(f"{ticks * tick_bytes - arrived:,} bytes never arrived")
    return arrived / tick_bytes * MESSAGES * options.clients / (time.perf_counter() - began)


class _Service:
    """A WDS with an empty market."""

    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.cache = MemoryCache(self.bus)
        config = WdsConfig(port=0, max_clients=20_000)
        self.wds = WidgetDataService(config, self.bus, self.cache)

    async def __aenter__(self) -> _Service:
        await self.wds.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.wds.stop()

    async def room(self) -> None:
        """Wait until nobody who reads has much waiting."""
        while self.wds.most_waiting_bytes > _ROOM:  # noqa: ASYNC110 (sockets tell nobody)
            await asyncio.sleep(0.001)


def _waiting(transport: asyncio.WriteTransport) -> int:
    return transport.get_write_buffer_size()


async def _hub_rate(options: FanoutOptions) -> float:
    says = [[f'{{"action":"subscribe","feed":"quote:M{n}"}}' for n in range(MESSAGES)]]
    async with _Service() as service:
        crowd = await CrowdProcess.start(Crowd(service.wds.port, options.clients, says=says))
        try:
            number = 0

            async def tick() -> None:
                nonlocal number
                for n in range(MESSAGES):
                    service.bus.publish(feeds.QUOTE, f"M{n}", _payload(number % 10))
                number += 1
                await service.wds.tick()
                await service.room()

            size = sum(len(text_frame(encode_json(_payload(0)))) for _ in range(MESSAGES))
            return await _rate(crowd, tick, options, size * options.clients)
        finally:
            await crowd.stop()


async def _plain_rates(options: FanoutOptions) -> tuple[float, float]:
    """(`send_str` loop, bytes framed before) with aiohttp's own server."""
    sockets: list[web.WebSocketResponse] = []
    transports: list[asyncio.WriteTransport] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        assert request.transport is not None
        sockets.append(socket)
        transports.append(request.transport)
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.router.add_get("/ws", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    crowd = await CrowdProcess.start(Crowd(runner.addresses[0][1], options.clients))
    text = encode_json(_payload(0)).decode()
    frames = b"".join(text_frame(text.encode()) for _ in range(MESSAGES))

    async def send_str() -> None:
        for _ in range(MESSAGES):
            for socket in sockets:
                await socket.send_str(text)

    async def write() -> None:
        for transport in transports:
            transport.write(frames)
        while max(map(_waiting, transports)) > _ROOM:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    try:
        size = len(frames) * options.clients
        return (
            await _rate(crowd, send_str, options, size),
            await _rate(crowd, write, options, size),
        )
    finally:
        await crowd.stop()
        await runner.cleanup()


async def _throughput(options: FanoutOptions) -> list[Row]:
    rates = []
    for _ in range(options.rounds):
        plain, limit = await _plain_rates(options)
        rates.append((await _hub_rate(options), plain, limit))
    hub, plain, limit = (middle([rate[n] for rate in rates]) for n in range(3))
    times = middle([ratio(rate[0], rate[1]) for rate in rates])
    share = middle([ratio(rate[0], rate[2]) for rate in rates])
    what = f"{options.clients} clients, {MESSAGES} messages of {SIZE} bytes a tick: deliveries/s"
    return [
        Row(
            f"{what}, against a loop of send_str",
            "5 times",
            f"{times:.1f} times ({hub:,.0f} against {plain:,.0f})",
        ),
        Row("the same, against bytes framed before", "0.5", f"{share:.2f} (of {limit:,.0f})"),
    ]


def _board(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows as the platform's have them."""
    rnd = random.Random(seed)
    return [_row(f"S{n:04}", rank, rnd) for rank, n in enumerate(range(size), 1)]


def _row(symbol: str, rank: int, rnd: random.Random) -> dict[str, Any]:
    price, previous = round(rnd.uniform(1, 300), 2), round(rnd.uniform(1, 300), 2)
    change = price - previous
    row: dict[str, Any] = {
        "symbol": symbol,
        "volume": rnd.randint(100, 99_999),
        "free_float": rnd.randint(10**6, 10**9),
        "accumulated_volume": rnd.randint(10**5, 10**8),
        "relative_volume": rnd.random() * 10,
        "official_open_price": previous,
        "vwap": round(price * 1.0001, 4),
        "open": previous,
        "close": price,
        "high": price,
        "low": price,
        "aggregate_vwap": round(price * 0.998, 4),
        "average_size": rnd.randint(20, 500),
        "avg_volume": rnd.randint(10**5, 10**8),
        "prev_day_close": previous,
        "prev_day_open": previous,
        "prev_day_high": previous,
        "prev_day_low": previous,
        "prev_day_volume": rnd.randint(10**5, 10**8),
        "prev_day_vwap": previous,
        "change": change,
        "pct_change": change / previous * 100,
        "change_since_open": change,
        "pct_change_since_open": change / previous * 100,
        "start_timestamp": 1_773_153_000_000,
        "end_timestamp": 1_773_153_001_000,
        "avg_volume_days": 30,
        "rank": rank,
    }
    return row


def _moved(rows: list[dict[str, Any]], rnd: random.Random, share: float) -> list[dict[str, Any]]:
    """A second later: that share of the rows traded."""
    out = []
    for row in rows:
        if rnd.random() >= share:
            out.append(row)
            continue
        price = round(row["close"] * rnd.uniform(0.999, 1.001), 2)
        change, since = price - row["prev_day_close"], price - row["open"]
        size = rnd.randint(100, 9_999)
        out.append(
            row
            | {
                "volume": size,
                "accumulated_volume": row["accumulated_volume"] + size,
                "close": price,
                "relative_volume": (row["accumulated_volume"] + size) / row["avg_volume"],
                "high": price,
                "low": price,
                "vwap": round(price * 1.0001, 4),
                "aggregate_vwap": round(row["aggregate_vwap"] * 1.00001, 4),
                "change": change,
                "pct_change": change / row["prev_day_close"] * 100,
                "change_since_open": since,
                "pct_change_since_open": since / row["open"] * 100,
                "average_size": rnd.randint(20, 500),
                "start_timestamp": row["start_timestamp"] + 1_000,
                "end_timestamp": row["end_timestamp"] + 1_000,
            }
        )
    return out


def _bytes_rows() -> list[Row]:
    """Bytes to a client, by what it asked for; no network needed."""

    def squeezed(data: bytes) -> int:
        deflate = zlib.compressobj(4, zlib.DEFLATED, -15)
        return len(deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))

    rnd = random.Random(1)
    whole = plain = packed = narrow = 0
    for family in _BOARDS:
        rows = _board(500, 7)
        both = (Options(), Options(fields=tuple(sorted(_PAGE))))
        views = [View(family.name, options, match(family.name)) for options in both]
        for seq in range(1, 12):
            message = Message(family.name, family, 1, seq, rows)
            deltas = [view.render(message) for view in views]
            if seq > 1 and deltas[0] is not None and deltas[1] is not None:
                whole += len(encode_json(rows))
                plain += len(deltas[0].frame)
                packed += squeezed(deltas[0].frame)
                narrow += squeezed(deltas[1].frame)
            rows = _moved(rows, rnd, 0.5)
    what = "bytes, three 500-row boards, half of the rows changing, against version 1"
    return [
        Row(f"{what}: deltas", "35 %", f"{plain / whole:.1%}"),
        Row("the same, compressed", "10 %", f"{packed / whole:.1%}"),
        Row("the same, the page's ten columns", "4 %", f"{narrow / whole:.1%}"),
    ]


async def _many(options: FanoutOptions, *, stalled: float = 0.0, part: float = 1.0) -> tuple[Any, float, int]:
    """(latency, RSS in MB, clients left) with boards and quotes once a second."""
    rnd = random.Random(3)
    symbols = [f"S{n:04}" for n in range(500)]
    boards = [{"action": "subscribe", "feeds": [family.name for family in _BOARDS], "limit": 50}]
    says = [
        [encode_json(text).decode() for text in [
            *boards, {"action": "subscribe", "feeds": [f"quote:{name}" for name in rnd.sample(symbols, 20)]},
        ]]
        for _ in range(200)
    ]  # fmt: skip
    async with _Service() as service:
        order = Crowd(
            service.wds.port, options.many, "mdp.v2", says, stalled=int(options.many * stalled), timed=True
        )
        crowd = await CrowdProcess.start(order)
        try:
            await asyncio.sleep(1.5)
            await crowd.count()
            quotes = {name: _row(name, 1, rnd) for name in symbols}
            rows = {family.name: _board(50, 7) for family in _BOARDS}
            began = time.perf_counter()
            ticks = int(options.steady_seconds * part * 50)
            for tick in range(ticks):
                for name in symbols[tick % 50 * 10 : tick % 50 * 10 + 10]:
                    (quotes[name],) = _moved([quotes[name]], rnd, 1.0)
                    service.bus.publish(feeds.QUOTE, name, quotes[name])
                if tick % 50 in (5, 20, 35):
                    family = _BOARDS[tick % 50 // 15]
                    rows[family.name] = _moved(rows[family.name], rnd, 0.5)
                    service.bus.publish(family, "", rows[family.name])
                await asyncio.sleep(max(0.0, began + (tick + 1) / 50 - time.perf_counter()))
            await asyncio.sleep(0.5)
            count = await crowd.count()
            return count.latency, rss_mb(), count.clients
        finally:
            await crowd.stop()


async def _many_rows(options: FanoutOptions) -> list[Row]:
    latency, rss, clients = await _many(options)
    what = f"{options.many} clients, 3 boards of 50 rows and 20 quotes each at 1 Hz"
    rows = [
        Row(
            f"{what}: publish to receipt, p99",
            "250 ms",
            f"{latency.p99:.0f} ms (p50 {latency.p50:.0f}, {latency.count:,})",
        ),
        Row("the same: RSS of the service", "500 MB", f"{rss:.0f} MB, {clients:,} clients"),
    ]
    fewer = msgspec.structs.replace(options, many=options.many // 4)
    pairs = []
    for _ in range(options.pairs):
        healthy, _, _ = await _many(fewer, part=0.4)
        beside, _, _ = await _many(fewer, stalled=0.1, part=0.4)
        pairs.append((healthy.p99, beside.p99))
    without, with_stalled = (middle([pair[n] for pair in pairs]) for n in range(2))
    rows.append(
        Row(
            f"p99 of healthy clients, a tenth of {fewer.many} stalled against none, "
            f"median of {options.pairs} pairs",
            "1.2 times or 5 ms more", f"{with_stalled:.0f} against {without:.0f} ms",
        )
    )  # fmt: skip
    return rows


async def _idle_rows(options: FanoutOptions) -> list[Row]:
    async with _Service() as service:
        warm = await CrowdProcess.start(Crowd(service.wds.port, 200))
        before = rss_mb()
        crowd = await CrowdProcess.start(Crowd(service.wds.port, options.idle))
        try:
            await asyncio.sleep(0.5)
            each = (rss_mb() - before) * 1e6 / options.idle
            return [Row(f"{options.idle:,} idle connections, each", "20 KB", f"{each / 1000:.1f} KB")]
        finally:
            await crowd.stop()
            await warm.stop()


async def measure(options: FanoutOptions) -> Fanout:
    """Everything, one after the other: idle connections first, while memory is untouched."""
    rows = await _idle_rows(options)
    rows += await _throughput(options)
    rows += await _many_rows(options)
    rows += _bytes_rows()
    return Fanout(Machine.here(), rows)


def main(options: FanoutOptions, console: Console | None = None) -> int:
    """Measure and print. Speed never decides; 1 where it could not be measured."""
    console = console or Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    try:
        result = uvloop.run(measure(options))
    except (OSError, TimeoutError) as error:
        console.print(f"mdp bench fanout: {error}")
        return 1
    if options.json:
        with open(options.json, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    table = Table("what", "target", "measured", title="mdp bench fanout", title_justify="left")
    for row in result.rows:
        table.add_row(row.what, row.target, row.measured)
    console.print(table)
    machine = result.machine
    console.print(f"{machine.date} · Python {machine.python} · {machine.cpu} · {machine.cores} cores")
    return 0
