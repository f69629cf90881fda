"""Processors that repair, one process that does, and a provider whose bars both ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import redis

from mdp.cache.rest import RestClient
from mdp.listener.announcement import Announcement
from mdp.listener.gaps import Gap, GapLedger
from mdp.processor.backfill import Backfill
from mdp.processor.losses import Losses
from mdp.processor.repairs import Repairs
from tests.processor.processors import KEYS, OneProcess, Processor
from tests.redis_server import RedisServer


class Bars(RestClient):
    """A provider that has second bars of some frames, and may be told to wait.

    Attributes:
        asked: Symbols, in order.
        open: While cleared, whoever asks waits.
    """

    def __init__(self, frames: Iterable[str] = ()) -> None:
        super().__init__("http://127.0.0.1:1")
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.volumes: dict[str, float] = {}
        self.last_ms = 0
        for event in (event for frame in frames for event in json.loads(frame) if event["ev"] == "A"):
            row = {"t": event["s"], **{name: event[name] for name in ("o", "h", "l", "c", "v", "vw")}}
            self.rows.setdefault(event["sym"], []).append(row)
            self.volumes[event["sym"]] = event["av"]
            self.last_ms = max(self.last_ms, event["s"])
        self.asked: list[str] = []
        self.snapshots = 0
        self.at_once = self.most = 0
        self.open = asyncio.Event()
        self.open.set()

    async def pages(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[bytes]:
        symbol, first, last = path.split("/")[4], int(path.split("/")[-2]), int(path.split("/")[-1])
        self.asked.append(symbol)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(0)
            await self.open.wait()
        finally:
            self.at_once -= 1
        rows = [row for row in self.rows.get(symbol, []) if first <= row["t"] <= last]
        yield json.dumps({"status": "OK", "results": rows}).encode()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        self.snapshots += 1
        tickers = [
            {"ticker": symbol, "min": {"t": self.last_ms, "av": volume}}
            for symbol, volume in self.volumes.items()
        ]
        return json.dumps({"tickers": tickers}).encode()


async def hurry(seconds: float) -> None:
    """The sleep of a repair that need not wait for bars."""
    await asyncio.sleep(min(seconds, 0.02))


class Repairing(Processor):
    """A processor as the role puts it together, with its repairs. Tests look by hand."""

    def __init__(self, server: RedisServer, member: str, partitions: int, provider: RestClient) -> None:
        super().__init__(server, member, partitions)
        self.repairs = Repairs(
            provider,
            partitions,
            lambda: self.partitions.working,
            enabled=True,
            max_symbols=1_000,
            include_otc=False,
            sleep=hurry,
        )
        self.partitions.on_ready.append(self.repairs.ready)
        self.partitions.on_gone.append(self.repairs.gone)

    async def look(self, said: Announcement | None = None, *, silent: bool = False) -> None:
        """Hear the listener, and look."""
        if said is not None:
            self.repairs.hear(said, silent=silent)
        await self.repairs.look()

    async def stop(self) -> None:
        await self.repairs.stop()
        await super().stop()

    async def crash(self) -> None:
        await self.repairs.stop()
        await super().crash()


class OneRepairing(OneProcess):
    """The same market in one process with its repairs."""

    def __init__(self, provider: RestClient) -> None:
        super().__init__()
        self.backfill = Backfill(provider, self.engine, sleep=hurry)
        self.ledger = GapLedger()
        self.losses = Losses(self.market, None, self.ledger, self.backfill)

    def outage(self, missed: Callable[[], None]) -> None:
        """The feed is away while something happens."""
        self.ledger.open("aborted")
        self.losses.look()
        missed()
        self.ledger.close()


def gap(market_ms: int, *, over: bool = False, number: int = 1, **more: Any) -> dict[str, Any]:
    """An entry of the listener's ledger."""
    made = Gap(number, "aborted", "", 1_000_000, market_ms)
    entry = {name: getattr(made, name) for name in made.__struct_fields__}
    return {**entry, "end_ms": 1_005_000 if over else None, **more}


def said(*gaps: dict[str, Any]) -> Announcement:
    """The listener's word."""
    return Announcement(ts=1_010_000, ledger=list(gaps))


def parts_of(client: redis.Redis) -> dict[bytes, bytes]:
    """Ledgers of partitions in Redis."""
    found: dict[bytes, bytes] = client.hgetall(KEYS.parts("gaps"))  # type: ignore[assignment]
    return found
