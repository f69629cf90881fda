"""Scanners behind Redis: all know the same, one speaks, and the next one goes on where it was."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import msgspec
from redis.asyncio import Redis

from mdp.analyzers.daily_range import Alert
from mdp.analyzers.rows import QuoteRow
from mdp.cache.base import Message
from mdp.config import Config, ProcessorConfig
from mdp.feeds import ALERTS, HOD_ALERT, LOD_ALERT, SCANNER
from mdp.processor.parts import read
from mdp.roles.assembly import RoleProcess
from mdp.roles.scanner import ScannerRole
from mdp.scanner.base import Scanner
from tests.cache.redis_publisher import Publisher
from tests.cache.relays import eventually
from tests.redis_server import RedisServer

from .support import config_for

DAY_SECONDS = 1_773_151_200.0  # 2026-03-10 10:00 New York time
STATUS_PARTS = "mdp:parts:{market:status}"


class Counting(Scanner):
    """Counts alerts, says the count on a feed of its own, and each alert on another one."""

    name: ClassVar[str] = "counting"
    patterns: ClassVar[tuple[str, ...]] = (HOD_ALERT.name,)

    def __init__(self, out: Any) -> None:
        super().__init__(out)
        self.count = 0

    def process(self, messages: list[Message]) -> None:
        for message in messages:
            self.count += 1
            self.out.publish(SCANNER, "counting", {"count": self.count})
            self.out.emit(ALERTS, "", {"symbol": message.value.symbol})

    def status_fields(self) -> dict[str, Any]:
        return {"counted": self.count}


def config(server: RedisServer) -> Config:
    """With two scanners: the built-in one and the one above."""
    scanners = ["market_breadth", f"{__name__}:Counting"]
    return config_for(server, processor=ProcessorConfig(scanners=scanners))


def role(made: RoleProcess) -> ScannerRole:
    """The process's scanner role."""
    found = made.shared.roles["scanner"]
    assert isinstance(found, ScannerRole)
    return found


async def start(server: RedisServer) -> RoleProcess:
    """A started process of the role, ready."""
    made = RoleProcess(config(server), ["scanner"])
    await made.start()
    await eventually(lambda: all(health.ok for _, health in made.ready()))
    return made


def alert(symbol: str) -> dict[str, Any]:
    """A new session high as an analyzer publishes it."""
    numbers = dict.fromkeys(Alert.__struct_fields__, 1)
    fields = {
        **numbers,
        "symbol": symbol,
        "session": "regular",
        "direction": "high",
        "timestamp": DAY_SECONDS,
        "note": "",
    }
    kinds = {field.name: field.type for field in msgspec.structs.fields(QuoteRow)}
    for name, kind in kinds.items():
        if name != "symbol":
            fields[name] = _example(kind)
    return fields


def _example(kind: Any) -> Any:
    """A value of a type."""
    values: tuple[Any, ...] = (1, True, "x", None, [])
    for value in values:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            continue
        return value
    raise AssertionError(kind)


async def parts(client: Redis) -> dict[str, Any]:
    """What scanners contribute to `market:status`."""
    raw = await client.hget(STATUS_PARTS, "scanner")
    found: dict[str, Any] = read(raw).content if isinstance(raw, bytes) else {}
    return found


async def until_parts(client: Redis, expected: dict[str, Any]) -> None:
    """Wait for that."""
    async with asyncio.timeout(60):
        while await parts(client) != expected:  # noqa: ASYNC110 - Redis has nobody to tell
            await asyncio.sleep(0.02)


async def test_results_leave_as_one_process_publishes_them(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """Values, events and fields of the market's status; scanners see the structs that analyzers publish."""
    made = await start(redis_server)
    try:
        await publisher.emit(HOD_ALERT.name, alert("A"))
        await publisher.emit(HOD_ALERT.name, alert("A"))
        await publisher.emit(LOD_ALERT.name, alert("B"))
        await until_parts(client, {"new_highs": 1, "new_lows": 1, "counted": 2})
        assert msgspec.json.decode(await client.get("scanners:counting") or b"") == {"count": 2}
        items = await client.lrange("alerts", 0, -1)
        assert [msgspec.json.decode(item)["symbol"] for item in items] == ["A", "A"]
        assert role(made).status()["active"]
        text = made.metrics.render().decode()
        assert "mdp_scanner_active 1.0" in text
        assert 'mdp_scanner_writer_lost_total{reason="dropped"} 0.0' in text
        assert 'mdp_scanner_messages_total{fate="processed",scanner="counting"} 2.0' in text
    finally:
        await made.stop()


async def test_who_starts_later_knows_what_happened_and_says_nothing_of_it(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """The histories of event feeds are worked through in silence."""
    for symbol in ("A", "B", "C"):
        await publisher.emit(HOD_ALERT.name, alert(symbol))
    made = await start(redis_server)
    try:
        await until_parts(client, {"new_highs": 3, "new_lows": 0, "counted": 3})
        assert await client.exists("alerts", "scanners:counting") == 0
        await publisher.emit(HOD_ALERT.name, alert("D"))
        await until_parts(client, {"new_highs": 4, "new_lows": 0, "counted": 4})
        assert await client.llen("alerts") == 1
    finally:
        await made.stop()


async def test_one_speaks_and_the_next_goes_on(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """A standby computes the same; when the active one leaves it speaks, and nothing is said twice."""
    first = await start(redis_server)
    second = await start(redis_server)
    try:
        assert [role(one).gate.open for one in (first, second)] == [True, False]
        await publisher.emit(HOD_ALERT.name, alert("A"))
        await until_parts(client, {"new_highs": 1, "new_lows": 0, "counted": 1})
        await eventually(lambda: role(second).scanners.counters["counting"].processed == 1)
        epoch = role(first).lease.epoch
        await first.stop()
        await eventually(lambda: role(second).gate.open)
        assert role(second).lease.epoch > epoch
        await publisher.emit(HOD_ALERT.name, alert("B"))
        await until_parts(client, {"new_highs": 2, "new_lows": 0, "counted": 2})
        items = await client.lrange("alerts", 0, -1)
        assert [msgspec.json.decode(item)["symbol"] for item in items] == ["B", "A"]
    finally:
        await first.stop()
        await second.stop()
