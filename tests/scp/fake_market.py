"""A market made up for the page: boards, alerts, halts and status, published like the analyzers do.

Also a program for looking at the page: `python -m tests.scp.fake_market` prints its address and runs
until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from mdp import feeds
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import ScpConfig, WdsConfig
from mdp.scp.server import ControlPlane
from mdp.wds.server import WidgetDataService

BASE_MS = 1_788_875_100_000  # an arbitrary trading morning
BOARDS = (feeds.TOP_GAINERS, feeds.TOP_GAPPERS, feeds.TOP_VOLUME)


class FakeMarket:
    """The same market for the same seed; `step` is a second of it."""

    def __init__(self, bus: MemoryBus, cache: MemoryCache, seed: int = 7) -> None:
        self._bus = bus
        self._cache = cache
        self._random = random.Random(seed)
        self.seconds = 0
        self._rows = [self._row(number) for number in range(120)]

    def _row(self, number: int) -> dict[str, Any]:
        pick = self._random
        close = round(pick.uniform(0.4, 60.0), 2)
        return {
            "symbol": "".join(pick.choice("ABCDEFGHKLMNPRSTVWXZ") for _ in range(pick.choice((3, 4, 4)))),
            "close": close,
            "pct_change": pick.gauss(8, 25),
            "pct_change_since_open": pick.gauss(4, 15),
            "accumulated_volume": int(pick.paretovariate(0.7) * 100_000) % 400_000_000,
            "relative_volume": round(pick.paretovariate(1.1), 2),
            "free_float": 0 if number % 9 == 0 else int(pick.paretovariate(0.8) * 3_000_000),
        }

    def board(self, family: feeds.Family) -> list[dict[str, Any]]:
        """A board's rows as they are now."""
        field = {
            feeds.TOP_GAINERS.name: "pct_change_since_open",
            feeds.TOP_GAPPERS.name: "pct_change",
            feeds.TOP_VOLUME.name: "accumulated_volume",
        }[family.name]
        ranked = sorted(self._rows, key=lambda row: (-row[field], row["symbol"]))[:60]
        return [{"rank": rank, **row} for rank, row in enumerate(ranked, 1)]

    def step(self) -> None:
        """Let a second pass: move prices, publish boards and status, now and then an alert or a halt."""
        self.seconds += 1
        pick = self._random
        for row in pick.sample(self._rows, 40):
            move = pick.gauss(0, 0.6)
            row["close"] = round(max(0.05, row["close"] * (1 + move / 100)), 4)
            row["pct_change"] += move
            row["pct_change_since_open"] += move
            row["accumulated_volume"] += pick.randrange(0, 90_000)
        for family in BOARDS:
            board = self.board(family)
            self._cache.set(family, "", board)
            self._bus.publish(family, "", board)
        self._event(feeds.HOD_ALERT, "high", "Broke pre-market high of $15.00")
        if self.seconds % 2:
            self._event(feeds.LOD_ALERT, "low", "")
        if self.seconds % 5 == 1:
            row = pick.choice(self._rows)
            halt = {
                "symbol": row["symbol"],
                "event": "halted",
                "status": "halted",
                "halt_timestamp": self._now(),
                "timestamp": self._now(),
                "reason": "volatility trading pause",
            }
            self._cache.push(feeds.HALTS, "", halt)
            self._bus.publish(feeds.HALTS, "", halt)
        status = {
            "session": "regular", "market_time": self._now(), "feed_state": "live", "lag_ms": 84.2,
            "events_per_second": 41_234.6, "symbols": 11_022, "new_highs": 31, "new_lows": 12,
            "warming_up": False,
        }  # fmt: skip
        self._cache.set(feeds.MARKET_STATUS, "", status)
        self._bus.publish(feeds.MARKET_STATUS, "", status)

    def _now(self) -> int:
        return BASE_MS + self.seconds * 1_000

    def _event(self, family: feeds.Family, direction: str, note: str) -> None:
        row = self._random.choice(self._rows)
        alert = {
            "session": "regular", "direction": direction, "price": row["close"],
            "previous": row["close"] - 0.01, "timestamp": self._now() / 1_000, "note": note, **row,
        }  # fmt: skip
        self._cache.push(family, "", alert)
        self._bus.publish(family, "", alert)


async def main() -> None:
    """Serve the page of a made-up market."""
    bus = MemoryBus()
    cache = MemoryCache(bus)
    market = FakeMarket(bus, cache)
    page = ControlPlane(ScpConfig(port=0), wds_port=lambda: service.port)
    service = WidgetDataService(WdsConfig(port=0), bus, cache, own_origins=page.origins)
    await service.start()
    await page.start()
    print(f"http://127.0.0.1:{page.port}/", flush=True)
    while True:
        market.step()
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
