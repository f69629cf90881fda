"""The feed `market:status`: what it says, once a second, also while nothing happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import mdp.market_status as module
from mdp.analyzers.state import Market
from mdp.cache.base import Message
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.market_status import MarketStatusFeed

OPEN = 1_773_149_400_000  # 2026-03-10 09:30 New York


class Bench:
    """The stage with everything it asks for in plain variables."""

    def __init__(self) -> None:
        self.bus = MemoryBus(epoch=1)
        self.cache = MemoryCache(self.bus)
        self.market = Market()
        self.processed = 0
        self.lag: float | None = None
        self.warming_up = True
        self.feed: dict[str, Any] = {"feed_state": "live", "feed_detail": "", "feed_since": 5, "gaps": 2}
        self.stage = MarketStatusFeed(
            self.market,
            self.bus,
            self.cache,
            events=lambda: self.processed,
            feed=lambda: self.feed,
            extra=lambda: {"new_highs": 3},
            lag_ms=lambda: self.lag,
            warming_up=lambda: self.warming_up,
        )


def test_before_the_first_event_everything_is_known_to_be_unknown() -> None:
    """No day, session closed, no lag: nulls, not zeros that look like values."""
    payload = Bench().stage.payload()

    assert payload["trading_day"] is None
    assert payload["session"] == "closed"
    assert payload["lag_ms"] is None
    assert payload["symbols"] == 0
    assert payload["warming_up"] is True


def test_the_payload_has_session_feed_lag_gaps_and_scanners_fields() -> None:
    """Everything that clients may rely on, in one flat object."""
    bench = Bench()
    bench.market.clock.set(OPEN)
    bench.market.session = "regular"
    bench.lag, bench.warming_up = 123.6, False

    assert bench.stage.payload() == {
        "session": "regular",
        "trading_day": "2026-03-10",
        "market_time": OPEN,
        "feed_state": "live",
        "feed_detail": "",
        "feed_since": 5,
        "gaps": 2,
        "lag_ms": 124,
        "events_per_second": 0,
        "symbols": 0,
        "warming_up": False,
        "new_highs": 3,
    }


async def test_it_is_published_and_kept_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscribers get each one, `get` the last, with the place of the message it equals; stop ends it."""
    monkeypatch.setattr(module, "_PERIOD_SECONDS", 0.01)
    bench = Bench()
    got: list[Message] = []
    bench.bus.subscribe("market:status", got.append)
    assert not bench.stage.health().ok
    await bench.stage.start()
    assert bench.stage.health().ok
    async with asyncio.timeout(10):
        while len(got) < 3:
            bench.processed += 1_000
            await asyncio.sleep(0.005)

    entry = await bench.cache.get("market:status")
    assert entry is not None
    assert (entry.value, entry.seq) == (got[-1].value, got[-1].seq)
    assert got[-1].value["events_per_second"] > 0
    await bench.stage.stop()
    await bench.stage.stop()
    assert not bench.stage.health().ok


async def test_a_field_that_cannot_be_worked_out_does_not_end_the_feed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user's scanner that raises in `status_fields` costs a second's status, not all that follow."""
    monkeypatch.setattr(module, "_PERIOD_SECONDS", 0.01)
    bench = Bench()
    got: list[Message] = []
    bench.bus.subscribe("market:status", got.append)
    fields, bench.feed = bench.feed, None  # type: ignore[assignment]
    await bench.stage.start()
    await asyncio.sleep(0.05)
    bench.feed = fields
    async with asyncio.timeout(10):
        while not got:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await bench.stage.stop()
