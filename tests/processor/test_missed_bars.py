"""Bars fetched after an outage: what of an answer is believed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from mdp.analyzers.state import SymbolState
from mdp.cache.bulk import BodyError
from mdp.cache.rest import RestClient, RestError
from mdp.cache.validate import Rejected
from mdp.events import Aggregate, MinuteAggregate
from mdp.observability.loop_lag import StepTimer
from mdp.processor.missed_bars import MINUTE, SECOND, complete, fetch, read, volumes
from mdp.sessions import TradingDay
from tests.analyzers.rig import at

NOON = at(12)
DAY = TradingDay.containing(NOON)


class Answers(RestClient):
    """A provider that gives these pages."""

    def __init__(self, *pages: Any) -> None:
        super().__init__("http://127.0.0.1:1")
        self._pages = [page if isinstance(page, bytes) else json.dumps(page).encode() for page in pages]
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def pages(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[bytes]:
        self.asked.append((path, dict(params or {})))
        for page in self._pages:
            yield page

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        self.asked.append((path, dict(params or {})))
        return self._pages[0]


def row(second: int = 0, close: Any = 10.0, **more: Any) -> dict[str, Any]:
    """As the range endpoint gives it."""
    return {
        "t": NOON + second * 1_000,
        "o": 10,
        "h": 11,
        "l": 9,
        "c": close,
        "v": 100,
        "vw": 10.1,
        "n": 4,
        **more,
    }


async def ask(*pages: Any, timespan: str = SECOND, near: float = 10.0) -> tuple[list[Aggregate], int, Any]:
    """(bars, rows refused, counts by reason) of a minute of a provider's answers."""
    rejected = Rejected()
    found = await fetch(
        Answers(*pages), "AAA", timespan, NOON, NOON + 60_000, near=near, checks=rejected.at("bars")
    )
    return found.bars, found.refused, {reason: n for (_, reason), n in rejected.counts.items()}


async def test_it_asks_for_bars_as_traded_in_the_stretch_alone() -> None:
    """Both ends of the endpoint's stretch are included, ours is not; a symbol is quoted."""
    rest = Answers({"results": []})
    await fetch(rest, "BRK/A", MINUTE, NOON, NOON + 60_000, near=0, checks=Rejected().at("bars"))
    ((path, query),) = rest.asked
    assert path == f"/v2/aggs/ticker/BRK%2FA/range/1/minute/{NOON}/{NOON + 59_999}"
    assert (query["adjusted"], query["sort"]) == ("false", "asc")


async def test_rows_become_bars_in_order_of_time() -> None:
    """Over pages, a repeated one once."""
    bars, refused, _ = await ask({"results": [row(5), row(3)]}, {"results": [row(5, 10.5), row(4)]})
    assert [(bar.start_timestamp - NOON, bar.close) for bar in bars] == [
        (3_000, 10),
        (4_000, 10),
        (5_000, 10.5),
    ]
    assert refused == 0
    one = bars[0]
    assert type(one) is Aggregate
    assert (one.open, one.high, one.low, one.volume, one.vwap, one.average_size) == (10, 11, 9, 100, 10.1, 25)
    assert one.end_timestamp == one.start_timestamp + 1_000
    assert one.accumulated_volume is None
    (minute,), _, _ = await ask({"results": [row()]}, timespan=MINUTE)
    assert type(minute) is MinuteAggregate
    assert minute.end_timestamp == NOON + 60_000


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (None, "row"),
        ([], "row"),
        (row(t=None), "missing"),
        (row(t="noon"), "not a time"),
        (row(t=NOON + 0.5), "not a time"),
        (row(t=True), "not a time"),
        (row(-1), "outside"),
        (row(60), "outside"),
        (row(t=NOON + 1), "outside"),
        (row(h=None), "missing"),
        (row(l="9"), "not a number"),
        (row(-0, -10.0), "negative"),
        (row(c=0), "zero"),
        (row(h=1e12), "absurd"),
        (row(h=8.0, o=8, close=8.0), "high below low"),
        (row(c=12.0), "outside of its range"),
        (row(o=8.0), "outside of its range"),
        (row(h=1_000.0), "far from the last price"),
        (row(l=0.01), "far from the last price"),
        (row(v=None), "missing"),
        (row(v=-5), "negative"),
        (row(v=1e20), "absurd"),
    ],
)
async def test_what_cannot_be_is_left_out_and_counted(item: Any, reason: str) -> None:
    """One row loses itself; whoever asked is told."""
    bars, refused, counts = await ask({"results": [item, row(7)]})
    assert [bar.start_timestamp for bar in bars] == [NOON + 7_000]
    assert refused == 1
    assert counts == {reason: 1}


async def test_what_is_not_needed_may_be_missing() -> None:
    """An open, a VWAP, a number of trades."""
    bare = {name: value for name, value in row().items() if name in "thlcv"}
    (bar,), refused, counts = await ask(
        {
            "results": [
                bare,
            ]
        },
        near=0,
    )
    assert (bar.open, bar.vwap, bar.average_size, refused, counts) == (10, None, None, 0, {})


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (b"<html>", "not JSON"),
        (b'{"results":[{"t":NaN}]}', "not JSON"),
        (b'{"results":7}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ({"status": "NOT_AUTHORIZED"}, "status"),
        ({"results": [row()] * 2_001}, "too many rows"),
        (b" " * (512 * 1024 + 1), "too large"),
    ],
)
async def test_an_answer_that_is_none_is_an_error(page: Any, reason: str) -> None:
    """It proves nothing about the symbol."""
    rejected = Rejected()
    with pytest.raises(RestError):
        await fetch(Answers(page), "AAA", SECOND, NOON, NOON + 60_000, near=0, checks=rejected.at("bars"))
    assert list(rejected.counts) == [("bars", reason)]


async def test_nothing_is_an_answer() -> None:
    """A symbol without a trade has no bars: `results` is not there, or null."""
    for page in ({}, {"results": None}, {"results": [], "status": "DELAYED"}):
        assert await ask(page) == ([], 0, {})


def symbol(volume: float = 1_000, vwap: float | None = 10.0) -> SymbolState:
    """With a newest bar of 12:00:00."""
    state = SymbolState("AAA", None)
    state.bar = Aggregate(
        symbol="AAA", close=10, high=10, low=10, start_timestamp=NOON, end_timestamp=NOON + 1_000,
        aggregate_vwap=vwap,
    )  # fmt: skip
    state.start, state.accumulated_volume = NOON, volume
    return state


def fetched(second: int, volume: float = 100, vwap: float = 12.0) -> Aggregate:
    """One bar."""
    item = row(second, 12.0, h=12, l=12, o=12, v=volume, vw=vwap)
    bar = read(item, "AAA", SECOND, NOON, NOON + 60_000, near=0, checks=Rejected().at("bars"))
    assert bar is not None
    return bar


def test_later_bars_carry_the_days_volume_and_vwap() -> None:
    """The newest known bar, fetched again, adds nothing."""
    bars = [fetched(0), fetched(1), fetched(2, 900)]
    complete(bars, symbol(), None)
    assert bars[0].accumulated_volume is None
    assert [bar.accumulated_volume for bar in bars[1:]] == [1_100, 2_000]
    assert bars[1].aggregate_vwap == pytest.approx((10 * 1_000 + 12 * 100) / 1_100)
    assert bars[2].aggregate_vwap == pytest.approx((10 * 1_000 + 12 * 1_000) / 2_000)


def test_a_volume_that_is_known_is_not_added_to() -> None:
    """The provider's snapshot holds these bars already."""
    bars = [fetched(1), fetched(2, 900)]
    complete(bars, symbol(volume=2_050), 2_050)
    assert bars[-1].accumulated_volume == 2_050
    assert bars[-1].aggregate_vwap == pytest.approx((10 * 1_050 + 12 * 1_000) / 2_050)


def test_a_symbol_that_was_not_seen_begins_with_its_bars() -> None:
    """Or with the volume that a snapshot tells: it may have traded before."""
    bars = [fetched(1), fetched(2, 300, vwap=16.0)]
    complete(bars, None, None)
    assert [bar.accumulated_volume for bar in bars] == [100, 400]
    assert bars[-1].aggregate_vwap == pytest.approx(15)
    complete(bars, None, 5_000)
    assert bars[-1].accumulated_volume == 5_000


def test_an_unknown_vwap_stays_unknown() -> None:
    """It cannot be worked out from a part of the day."""
    bars = [fetched(1)]
    complete(bars, symbol(vwap=None), None)
    assert bars[0].aggregate_vwap is None


async def test_a_snapshot_tells_the_volumes_of_this_trading_day_alone() -> None:
    """The larger of the minute's and the day's; neither where its time is not of this day."""
    today, yesterday = NOON, NOON - 86_400_000
    answer = {
        "tickers": [
            {"ticker": "PRE", "min": {"av": 500, "t": today}, "day": {"v": 0}, "updated": today * 1_000_000},
            {
                "ticker": "DAY",
                "min": {"av": 500, "t": today},
                "day": {"v": 700},
                "updated": today * 1_000_000,
            },
            {
                "ticker": "OLD",
                "min": {"av": 500, "t": yesterday},
                "day": {"v": 700},
                "updated": yesterday * 1e6,
            },
            {"ticker": "NONE", "min": {"av": 0, "t": 0}, "day": {"v": 0}, "updated": 0},
            {"ticker": "BAD", "min": {"av": -5, "t": today}, "day": {"v": "7"}, "updated": today * 1_000_000},
            {"ticker": "no symbol", "min": {"av": 5, "t": today}},
            {"ticker": "NULL", "min": None, "day": None},
            7,
        ]
    }
    rejected = Rejected()
    found = await volumes(Answers(answer), DAY, rejected.at("snapshot"), StepTimer(), include_otc=False)
    assert found == {"PRE": 500, "DAY": 700}
    assert {reason for _, reason in rejected.counts} == {"negative", "not a number", "symbol", "row"}
    with pytest.raises(BodyError):
        await volumes(Answers(b"<html>"), DAY, rejected.at("snapshot"), StepTimer(), include_otc=False)
