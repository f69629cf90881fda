"""Single lookups over loopback: one fetch for all who ask, and "nothing" is an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any

import pytest
from aiohttp import web

from mdp.cache import aside as module
from mdp.cache import paths
from mdp.cache.aside import AverageVolume, CacheAside, Day, PreviousDay
from mdp.cache.kinds import Details, Holiday, MarketStatus, ShortInterest, ShortVolume, Split
from mdp.cache.rest import RestClient, RestError
from mdp.cache.splits import Splits
from mdp.cache.table import FLOAT, PREVIOUS, ReferenceRow
from mdp.cache.validate import Rejected
from mdp.observability.metrics import Metrics
from mdp.sessions import NEW_YORK, sessions_before
from tests.cache.market import floats
from tests.cache.provider import Answer, Provider, cut_off, hang, serving

TODAY = date(2026, 9, 23)


class Clock:
    """Monotonic seconds, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Lookup:
    """A cache before a provider."""

    def __init__(self, provider: Provider, cache: CacheAside, clock: Clock, rejected: Rejected) -> None:
        self.provider, self.cache, self.clock, self.rejected = provider, cache, clock, rejected
        self.get = cache.get


@asynccontextmanager
async def looking(provider: Provider, *, timeout: float = 60.0, **options: Any) -> AsyncIterator[Lookup]:
    """A cache before a started provider; pauses between tries take no time."""

    async def no_wait(_seconds: float) -> None:
        await asyncio.sleep(0)

    clock, rejected = Clock(), Rejected()
    async with serving(provider):
        rest = RestClient(provider.url, "key", rate=1e9, tries=2, timeout=timeout, sleep=no_wait)
        cache = CacheAside(rest, rejected, clock=clock, **options)
        try:
            yield Lookup(provider, cache, clock, rejected)
        finally:
            await cache.stop()
            await rest.close()


def results(*rows: dict[str, Any]) -> bytes:
    """A list answer."""
    return json.dumps({"status": "OK", "results": rows}).encode()


def day(splits: Splits | None = None) -> Day:
    """Today, with no splits but these."""
    return Day(TODAY, sessions_before(TODAY, 30), splits if splits is not None else Splits(TODAY))


def daily(when: date, close: float, volume: float | None) -> dict[str, Any]:
    """A daily bar of a ticker."""
    at = datetime.combine(when, datetime.min.time(), NEW_YORK).timestamp() * 1000
    return {"t": at, "o": close, "h": close, "l": close, "c": close, "v": volume, "vw": close}


@pytest.mark.parametrize("kind", ["details", "short_interest", "snapshot", "avg_volume", "free_float"])
async def test_ten_thousand_who_ask_for_one_missing_symbol_make_one_call(kind: str) -> None:
    """All get the answer that there is nothing; it is kept, and nobody asks again for six hours."""
    provider = Provider()

    async def slowly(_request: web.Request) -> Answer:
        await asyncio.sleep(0.05)
        return 404 if kind == "details" else b'{"status":"OK"}'

    provider.answers["/"] = slowly
    async with looking(provider, day=day) as lookup:
        answers = await asyncio.gather(*(lookup.get(kind, "NOPE") for _ in range(10_000)))
        assert answers == [None] * 10_000
        assert len(provider.asked) == 1

        lookup.clock.now += 6 * 3_600 - 1
        assert await lookup.get(kind, "NOPE") is None
        assert len(provider.asked) == 1
        lookup.clock.now += 1
        assert await lookup.get(kind, "NOPE") is None
        assert len(provider.asked) == 2


async def test_values_are_kept_for_their_time_to_live() -> None:
    """Reference data for a day, the market's status for a minute."""
    provider = Provider()
    provider.answers[paths.STATUS] = (
        b'{"market":"open","serverTime":"2026-09-23T10:00:00-04:00","earlyHours":false}'
    )
    provider.answers[paths.DETAILS] = json.dumps({"results": {"ticker": "A", "name": "Agilent"}}).encode()
    async with looking(provider) as lookup:
        status = await lookup.get("market_status")
        assert status == MarketStatus("open", False, False, 1790172000000)
        assert (await lookup.get("details", "A")).name == "Agilent"
        for seconds, asked in ((59, 2), (1, 3), (86_339, 4), (1, 5)):
            lookup.clock.now += seconds
            await lookup.get("market_status")
            await lookup.get("details", "A")
            assert len(provider.asked) == asked


async def test_one_who_goes_away_does_not_take_the_answer_from_the_others() -> None:
    """Nor does it cost a second call."""
    provider = Provider()
    release = asyncio.Event()

    async def late(_request: web.Request) -> Answer:
        await release.wait()
        return 404

    provider.answers["/"] = late
    async with looking(provider) as lookup:
        first = asyncio.create_task(lookup.get("details", "A"))
        second = asyncio.create_task(lookup.get("details", "A"))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        release.set()
        assert await second is None
    assert len(provider.asked) == 1


@pytest.mark.parametrize(
    "answer", [500, 429, 403, b"", b"<html>", b"[]", b'{"results":7}', b"7", cut_off, hang]
)
async def test_what_cannot_be_had_is_an_error_and_is_not_kept(answer: Any) -> None:
    """Not "nothing": the next who asks tries again."""
    provider = Provider()
    provider.answers["/"] = answer
    # Where nothing comes, the time-out is waited for; all else has the time that a busy machine takes.
    async with looking(provider, timeout=1.0 if answer is hang else 60.0) as lookup:
        with pytest.raises(RestError) as caught:
            await lookup.get("short_volume", "A")
        assert "key" not in str(caught.value)
        assert len(lookup.cache) == 0
        provider.answers["/"] = b"{}"
        assert await lookup.get("short_volume", "A") is None


async def test_who_asks_waits_only_so_long_and_the_answer_is_there_later() -> None:
    """A page is not held up by a slow provider, nor is the provider asked again."""
    provider = Provider()
    release = asyncio.Event()

    async def late(_request: web.Request) -> Answer:
        await release.wait()
        return b'{"results":{"ticker":"A","name":"x"}}'

    provider.answers["/"] = late
    async with looking(provider, patience_seconds=0.05) as lookup:
        with pytest.raises(RestError, match="no answer yet"):
            await lookup.get("details", "A")
        release.set()
        async with asyncio.timeout(60):
            while lookup.cache.peek("details", "A") is None:  # noqa: ASYNC110 - nobody is told of it
                await asyncio.sleep(0.005)
        assert (await lookup.get("details", "A")).name == "x"
    assert len(provider.asked) == 1


async def test_an_expired_value_is_better_than_none_while_the_provider_fails() -> None:
    """For some days; then it is an error."""
    provider = Provider()
    provider.answers[paths.DETAILS] = [json.dumps({"results": {"ticker": "A", "name": "x"}}).encode(), 500]
    async with looking(provider) as lookup:
        assert (await lookup.get("details", "A")).name == "x"
        lookup.clock.now += 2 * 86_400
        assert (await lookup.get("details", "A")).name == "x"
        assert lookup.cache.lookups[("details", "stale")] == 1
        lookup.clock.now += 86_400
        with pytest.raises(RestError):
            await lookup.get("details", "A")


async def test_what_is_kept_is_bounded() -> None:
    """The least recently used goes first."""
    provider = Provider()
    async with looking(provider, max_entries=3) as lookup:
        for symbol in ("A", "B", "C", "A", "D"):
            await lookup.get("details", symbol)
        assert len(lookup.cache) == 3
        asked = len(provider.asked)
        await lookup.get("details", "A")
        assert len(provider.asked) == asked == 4
        await lookup.get("details", "B")
        assert len(provider.asked) == 5


async def test_lookups_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ones fail at once instead of filling the memory."""
    monkeypatch.setattr(module, "MAX_FLIGHTS", 2)
    provider = Provider()
    provider.answers["/"] = hang
    async with looking(provider) as lookup:
        tasks = [asyncio.create_task(lookup.get("details", symbol)) for symbol in ("A", "B")]
        await asyncio.sleep(0)
        with pytest.raises(RestError, match="too many"):
            await lookup.get("details", "C")
        await lookup.cache.stop()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)


@pytest.mark.parametrize(
    ("kind", "symbol"),
    [("details", ""), ("details", "A B"), ("details", "../x?"), ("holidays", "A"), ("details", "X" * 33)],
)
async def test_only_symbols_are_asked_for(kind: str, symbol: str) -> None:
    """Whatever a page hands on never becomes another path."""
    provider = Provider()
    async with looking(provider) as lookup:
        with pytest.raises(ValueError, match="not a symbol"):
            await lookup.get(kind, symbol)
        with pytest.raises(KeyError):
            await lookup.get("nonsense", "A")
    assert provider.asked == []


async def test_a_slash_in_a_symbol_stays_in_the_symbol() -> None:
    """It is part of the name, not of the path."""
    provider = Provider()
    async with looking(provider) as lookup:
        assert await lookup.get("details", "BRK/A") is None
    assert provider.asked == [f"{paths.DETAILS}BRK%2FA"]


async def test_what_others_fetch_can_be_put() -> None:
    """Conditions are nobody's here: they are an error until they were put."""
    async with looking(Provider()) as lookup:
        with pytest.raises(RestError, match="nobody has put"):
            await lookup.get("conditions")
        lookup.cache.put("conditions", "", [1])
        assert await lookup.get("conditions") == [1]
        assert lookup.cache.peek("conditions") == [1]
        lookup.clock.now += 86_400
        assert lookup.cache.peek("conditions") is None


async def test_the_trading_days_values_come_from_the_table_where_it_has_them() -> None:
    """Without asking; what is pending there is asked for alone."""
    row = ReferenceRow(1, 3, 0.5, 2, 100, 2, 70, 30, 0, FLOAT)
    provider = Provider()
    provider.answers[paths.FLOAT] = floats({"A": 55, "OTHER": 3})
    async with looking(provider, row={"A": row}.get, day=day) as lookup:
        assert await lookup.get("snapshot", "A") == PreviousDay(1, 3, 0.5, 2, 100, 2)
        assert await lookup.get("avg_volume", "A") == AverageVolume(70, 30)
        assert provider.asked == []
        assert await lookup.get("free_float", "A") == 55
        assert provider.asked == [f"{paths.FLOAT}?ticker.any_of=A&limit=5000"]
        row.pending = PREVIOUS
        provider.answers[paths.BARS] = results(daily(date(2026, 9, 22), 9, 30))
        assert (await lookup.get("snapshot", "A")).close == 9


async def test_while_the_day_is_not_known_its_values_are_an_error() -> None:
    """They would be of some day."""
    async with looking(Provider()) as lookup:
        with pytest.raises(RestError, match="not known yet"):
            await lookup.get("snapshot", "A")


async def test_a_symbols_own_bars_give_its_previous_day_and_average() -> None:
    """Adjusted for a split that takes effect today; sessions before its first do not count, gaps do."""
    splits = Splits(TODAY)
    splits.add("A", TODAY, 10, 1)
    provider = Provider()
    provider.answers[paths.BARS + "A/"] = results(
        daily(date(2026, 9, 18), 3, 500),
        daily(date(2026, 9, 22), 5, 100),
        daily(TODAY, 77, 1e6),  # today is not over
        {"t": "x"},
    )
    async with looking(provider, day=lambda: day(splits)) as lookup:
        assert await lookup.get("snapshot", "A") == PreviousDay(50, 50, 50, 50, 10, 50)
        assert await lookup.get("avg_volume", "A") == AverageVolume(20, 3)
        assert provider.asked == [
            f"{paths.BARS}A/range/1/day/2026-08-11/2026-09-22?adjusted=false&sort=asc&limit=500"
        ]


async def test_a_symbol_that_did_not_trade_in_the_previous_session_has_no_previous_day() -> None:
    """An older close is not taken for it."""
    provider = Provider()
    provider.answers[paths.BARS] = results(daily(date(2026, 9, 21), 5, 100))
    async with looking(provider, day=day) as lookup:
        assert await lookup.get("snapshot", "A") is None
        assert await lookup.get("avg_volume", "A") == AverageVolume(50, 2)


async def test_wrong_values_of_one_symbol_are_counted_and_not_used() -> None:
    """As in bulk."""
    provider = Provider()
    provider.answers[paths.BARS] = results(
        daily(date(2026, 9, 22), -5, None), daily(date(2026, 9, 21), 5, 100)
    )
    provider.answers[paths.FLOAT] = floats({"A": 1e14})
    async with looking(provider, day=day) as lookup:
        assert await lookup.get("snapshot", "A") is None
        assert await lookup.get("avg_volume", "A") == AverageVolume(100, 1)
        assert await lookup.get("free_float", "A") is None
        assert lookup.rejected.counts == {
            ("bars", "missing"): 1,
            ("bars", "negative"): 1,
            ("float", "absurd"): 1,
        }


async def test_floats_of_dozens_are_one_request() -> None:
    """And are kept one by one, also that there is none."""
    provider = Provider()
    provider.answers[paths.FLOAT] = floats({"S1": 5})
    symbols = [f"S{n}" for n in range(60)]
    async with looking(provider, day=day) as lookup:
        assert await lookup.cache.floats(symbols) == {"S1": 5}
        assert len(provider.asked) == 2
        assert await lookup.get("free_float", "S1") == 5
        assert await lookup.get("free_float", "S59") is None
        assert len(provider.asked) == 2


async def test_details_are_read() -> None:
    """Texts that can be shown, numbers that can be; of the symbol asked for and of no other."""
    provider = Provider()
    found = {
        "ticker": "A",
        "name": "Agi\u0007lent",
        "market": "stocks",
        "primary_exchange": "XNYS",
        "type": "CS",
        "currency_name": "usd",
        "list_date": "1999-11-18",
        "description": "d" * 3_000,
        "market_cap": -4,
        "share_class_shares_outstanding": 285_000_000,
        "total_employees": None,
        "sic_description": ["no text"],
    }
    provider.answers[paths.DETAILS] = json.dumps({"results": found}).encode()
    async with looking(provider) as lookup:
        assert await lookup.get("details", "A") == Details(
            "A",
            "Agi lent",
            "stocks",
            "XNYS",
            "CS",
            "usd",
            "1999-11-18",
            "d" * 2_000,
            shares_outstanding=285_000_000,
        )
        assert lookup.rejected.counts == {("details", "negative"): 1}
        with pytest.raises(RestError, match="cannot be read"):
            await lookup.get("details", "B")


async def test_short_interest_short_volume_and_splits_are_lists_newest_first() -> None:
    """Rows of other symbols, and rows that cannot be, are left out."""
    provider = Provider()
    interest = {"ticker": "A", "short_interest": 7, "avg_daily_volume": 2, "days_to_cover": 3.5}
    provider.answers[paths.SHORT_INTEREST] = results(
        interest | {"settlement_date": "2026-08-31"},
        interest | {"settlement_date": "2026-09-15", "days_to_cover": None},
        interest | {"settlement_date": "2026-09-15", "ticker": "B"},
        interest | {"settlement_date": "2026-09-30", "short_interest": None},
    )
    volume = {"ticker": "A", "total_volume": 200}
    provider.answers[paths.SHORT_VOLUME] = results(
        volume | {"date": "2026-09-21", "short_volume": 50},
        volume | {"date": "2026-09-22", "short_volume": 201},
    )
    split = {"ticker": "A", "split_from": 1, "split_to": 2, "adjustment_type": "forward_split"}
    provider.answers[paths.SPLITS] = results(
        split | {"execution_date": "2020-01-02"}, split | {"execution_date": "2024-05-06"}
    )
    async with looking(provider) as lookup:
        assert await lookup.get("short_interest", "A") == [
            ShortInterest("2026-09-15", 7, 2, 0),
            ShortInterest("2026-08-31", 7, 2, 3.5),
        ]
        assert await lookup.get("short_volume", "A") == [ShortVolume("2026-09-21", 50, 200, 25)]
        assert await lookup.get("splits", "A") == [
            Split("2024-05-06", 1, 2, "forward_split"),
            Split("2020-01-02", 1, 2, "forward_split"),
        ]
        assert lookup.rejected.counts[("short_volume", "part above the whole")] == 1


async def test_holidays_are_read() -> None:
    """A list without an envelope."""
    provider = Provider()
    rows = [
        {"date": "2026-11-26", "exchange": "NYSE", "name": "Thanksgiving", "status": "closed"},
        7,
        {"date": "x"},
    ]
    provider.answers[paths.HOLIDAYS] = json.dumps(rows).encode()
    async with looking(provider) as lookup:
        assert await lookup.get("holidays") == [Holiday("2026-11-26", "NYSE", "Thanksgiving", "closed")]


async def test_its_counters_are_metrics() -> None:
    """By kind and where the answer came from."""
    provider = Provider()
    metrics = Metrics()
    async with looking(provider) as lookup:
        lookup.cache.register(metrics)
        await lookup.get("details", "A")
        await lookup.get("details", "A")
    text = metrics.render().decode()
    assert 'mdp_reference_lookups_total{kind="details",result="fetched"} 1.0' in text
    assert 'mdp_reference_lookups_total{kind="details",result="nothing"} 1.0' in text
    assert "mdp_reference_entries 1.0" in text
