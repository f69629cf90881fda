"""REST endpoints of the simulated market, as a client of the provider would use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import aiohttp
import pytest
from massive import RESTClient

from mdp.cache.rest import RestClient
from mdp.cache.validate import Rejected
from mdp.cache.warmup import Warmup
from mdp.observability.loop_lag import StepTimer
from mdp.simulator import Simulator
from mdp.simulator.calendar import new_york
from mdp.simulator.market import SyntheticMarket
from mdp.simulator.options import parse_start
from mdp.simulator.rest_data import MarketRest

from .support import serve

GROUPED = "/v2/aggs/grouped/locale/us/market/stocks/"
SNAPSHOT = "/v2/snapshot/locale/us/markets/stocks/tickers"


class Rest:
    """GET with a key; answers decoded."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self._session = session

    async def get(self, path: str, **query: str) -> Any:
        """The body of a good answer."""
        async with self._session.get(path, params={**query, "apiKey": "key"}) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "application/json"
            return await answer.json()

    async def status(self, path: str, headers: dict[str, str] | None = None, **query: str) -> int:
        """The status code of any answer."""
        async with self._session.get(path, params=query, headers=headers) as answer:
            return answer.status


@asynccontextmanager
async def open_rest(**settings: Any) -> AsyncIterator[Rest]:
    """A market that nearly stands still, so that values hold within a test."""
    settings = {"speed": 0.01, "events_per_second": 10.0, **settings}
    async with (
        serve(**settings) as simulator,
        aiohttp.ClientSession(f"http://127.0.0.1:{simulator.port}") as session,
    ):
        yield Rest(simulator, session)


@pytest.fixture
async def rest() -> AsyncIterator[Rest]:
    """A market of 250 symbols at 10:00."""
    async with open_rest(symbols=250) as rest:
        yield rest


async def test_every_endpoint_needs_a_key(rest: Rest) -> None:
    """401 without; Bearer and apiKey both do."""
    for path in ("/v1/marketstatus/now", SNAPSHOT, GROUPED + "2026-03-09", "/stocks/vX/float"):
        assert await rest.status(path) == 401
        assert await rest.status(path, {"Authorization": "Bearer key"}) == 200
        assert await rest.status(path, apiKey="key") == 200


async def test_only_known_keys_where_some_are_given() -> None:
    """A wrong key is 401, in either form."""
    async with open_rest(symbols=30, api_keys=["right"]) as rest:
        assert await rest.status("/v1/marketstatus/now", apiKey="wrong") == 401
        assert await rest.status("/v1/marketstatus/now", {"Authorization": "Bearer wrong"}) == 401
        assert await rest.status("/v1/marketstatus/now", {"Authorization": "Bearer right"}) == 200


@pytest.mark.parametrize(
    ("start", "market", "early", "after"),
    [
        ("2026-03-10T09:25:00", "extended-hours", True, False),
        ("2026-03-10T10:00:00", "open", False, False),
        ("2026-03-10T16:30:00", "extended-hours", False, True),
        ("2026-03-10T21:00:00", "closed", False, False),
        ("2026-03-08T12:00:00", "closed", False, False),
    ],
)
async def test_market_status_follows_the_simulated_clock(
    start: str, market: str, early: bool, after: bool
) -> None:
    """Session and server time are those of the simulated day, whatever the wall clock says."""
    async with open_rest(symbols=30, start=start) as rest:
        answer = await rest.get("/v1/marketstatus/now")
    assert (answer["market"], answer["earlyHours"], answer["afterHours"]) == (market, early, after)
    assert answer["serverTime"].startswith(start[:16])
    assert answer["serverTime"].endswith("-04:00")


async def test_upcoming_closings_begin_today(rest: Rest) -> None:
    """Good Friday is next; an early close carries its hours in UTC."""
    rows = await rest.get("/v1/marketstatus/upcoming")
    assert rows[0] == {"date": "2026-04-03", "exchange": "NYSE", "name": "Good Friday", "status": "closed"}
    early = next(row for row in rows if row["status"] == "early-close")
    assert early["date"] == "2026-11-27"
    # In the provider's own form, with milliseconds.
    assert (early["open"], early["close"]) == ("2026-11-27T14:30:00.000Z", "2026-11-27T18:00:00.000Z")
    assert [row["exchange"] for row in rows[:3]] == ["NYSE", "NASDAQ", "OTC"]


async def test_the_full_snapshot_has_every_symbol(rest: Rest) -> None:
    """With the fields clients read, and the previous close that the day's change is against."""
    answer = await rest.get(SNAPSHOT)
    assert answer["count"] == len(answer["tickers"]) == 250
    for row in answer["tickers"]:
        assert set(row) >= {"ticker", "todaysChange", "todaysChangePerc", "updated", "day", "min", "prevDay"}
        assert set(row["prevDay"]) == {"o", "h", "l", "c", "v", "vw"}
        assert row["prevDay"]["c"] > 0
    row = next(row for row in answer["tickers"] if row["day"]["c"])
    assert row["todaysChange"] == pytest.approx(row["day"]["c"] - row["prevDay"]["c"], abs=1e-4)


async def test_before_the_open_the_day_bar_is_zero_and_the_minute_is_not() -> None:
    """As at the provider: pre-market shows in `min.av` only."""
    async with open_rest(symbols=60, start="2026-03-10T09:00:00") as rest:
        rows = (await rest.get(SNAPSHOT))["tickers"]
    assert all(set(row["day"].values()) == {0} for row in rows)
    assert sum(row["min"]["av"] > 0 for row in rows) > 30


async def test_snapshots_of_some_tickers(rest: Rest) -> None:
    """One by path, several by query, unknown ones left out or 404."""
    assert (await rest.get(f"{SNAPSHOT}/BRK.B"))["ticker"]["ticker"] == "BRK.B"
    some = await rest.get(SNAPSHOT, tickers="NVDA,NOSUCH,AAPL")
    assert [row["ticker"] for row in some["tickers"]] == ["NVDA", "AAPL"]
    assert await rest.status(f"{SNAPSHOT}/NOSUCH", apiKey="key") == 404


async def test_grouped_bars_are_the_same_whenever_asked(rest: Rest) -> None:
    """A whole market day in one answer; consistent bars; equal over restarts."""
    answer = await rest.get(GROUPED + "2026-02-20")
    assert answer["status"] == "OK"
    assert answer["queryCount"] == answer["resultsCount"] == len(answer["results"]) == 250
    for row in answer["results"]:
        assert row["h"] >= max(row["o"], row["c"]) >= min(row["o"], row["c"]) >= row["l"] > 0
        assert row["v"] > 0
        assert row["t"] == parse_start("2026-02-20T16:00:00")
    async with open_rest(symbols=250) as other:
        await other.get(GROUPED + "2026-03-02")  # another order of questions
        assert await other.get(GROUPED + "2026-02-20") == answer


@pytest.mark.parametrize("day", ["2026-03-08", "2026-01-19", "2026-03-10", "2026-03-11", "1999-03-10"])
async def test_no_grouped_bars_without_a_completed_session(rest: Rest, day: str) -> None:
    """Weekend, holiday, today, tomorrow, long ago: empty, status OK."""
    answer = await rest.get(GROUPED + day)
    assert (answer["status"], answer["resultsCount"]) == ("OK", 0)
    assert not answer.get("results")


async def test_yesterdays_grouped_bar_is_the_snapshots_previous_day(rest: Rest) -> None:
    """The previous close is one number wherever it is asked for."""
    grouped = {row["T"]: row["c"] for row in (await rest.get(GROUPED + "2026-03-09"))["results"]}
    snapshot = {row["ticker"]: row["prevDay"]["c"] for row in (await rest.get(SNAPSHOT))["tickers"]}
    assert grouped == snapshot
    previous = await rest.get("/v2/aggs/ticker/AAPL/prev")
    assert previous["results"][0]["c"] == grouped["AAPL"]


async def test_daily_bars_of_a_ticker(rest: Rest) -> None:
    """The same values as the grouped ones, at the day's beginning; newest first on request."""
    path = "/v2/aggs/ticker/AAPL/range/1/day/2026-03-02/2026-03-10"
    rows = (await rest.get(path))["results"]
    assert [row["t"] for row in rows] == [
        parse_start(f"2026-03-{day:02}T00:00:00") for day in (2, 3, 4, 5, 6, 9)
    ]
    grouped = (await rest.get(GROUPED + "2026-03-05"))["results"]
    assert next(row["v"] for row in grouped if row["T"] == "AAPL") == rows[3]["v"]
    assert [row["t"] for row in (await rest.get(path, sort="desc", limit="2"))["results"]] == [
        rows[5]["t"],
        rows[4]["t"],
    ]


@pytest.mark.parametrize(
    "path",
    [
        GROUPED + "soon",
        "/v2/aggs/ticker/AAPL/range/1/day/2026-03-10/2026-03-02",
        "/v2/aggs/ticker/AAPL/range/1/day/x/2026-03-02",
        "/v2/aggs/ticker/AAPL/range/1/day/0/9999999999999999999",
        "/v2/aggs/ticker/AAPL/range/5/minute/2026-03-02/2026-03-02",
    ],
)
async def test_impossible_requests_are_refused(rest: Rest, path: str) -> None:
    """400, and the server goes on."""
    assert await rest.status(path, apiKey="key") == 400
    await rest.get("/v1/marketstatus/now")


async def test_floats_are_paged_by_next_url_without_the_key(rest: Rest) -> None:
    """Following next_url, with the key attached again, gives every ticker once."""
    seen: list[str] = []
    page = await rest.get("/stocks/vX/float", limit="100")
    while True:
        seen += [row["ticker"] for row in page["results"]]
        if "next_url" not in page:
            break
        assert "apiKey" not in page["next_url"]
        page = await rest.get(page["next_url"])
    assert len(seen) == len(set(seen)) == 250
    only = await rest.get("/stocks/vX/float", ticker="AAPL")
    assert [row["ticker"] for row in only["results"]] == ["AAPL"]


async def test_conditions_carry_their_update_rules(rest: Rest) -> None:
    """Odd lots count as volume only; corrected closes as price only."""
    rows = (await rest.get("/v3/reference/conditions", asset_class="stocks", limit="1000"))["results"]
    rules = {row["id"]: tuple(row["update_rules"]["consolidated"].values()) for row in rows}
    assert rules[37] == (False, False, True)
    assert rules[10] == (True, False, True)
    assert rules[16] == (False, False, False)
    assert rules[38] == (True, True, False)
    assert rules[14] == (True, True, True)


async def test_news_is_newest_first_and_of_the_past(rest: Rest) -> None:
    """Nothing from the future; filters by ticker and time."""
    rows = (await rest.get("/v2/reference/news", limit="1000"))["results"]
    times = [row["published_utc"] for row in rows]
    assert rows
    assert times == sorted(times, reverse=True)
    assert times[0] <= "2026-03-10T14:00:01Z"
    ticker = rows[0]["tickers"][0]
    of_one = (await rest.get("/v2/reference/news", ticker=ticker))["results"]
    assert {row["tickers"][0] for row in of_one} == {ticker}
    newer = (await rest.get("/v2/reference/news", **{"published_utc.gt": times[3], "limit": "1000"}))[
        "results"
    ]
    assert [row["published_utc"] for row in newer] == [at for at in times if at > times[3]]


async def test_the_official_rest_client_reads_the_answers(rest: Rest) -> None:
    """Grouped bars, a snapshot, market status and paged conditions through Massive's own client."""
    client = RESTClient("key", base=f"http://127.0.0.1:{rest.simulator.port}")
    bars: Any = await asyncio.to_thread(client.get_grouped_daily_aggs, "2026-03-09")
    assert len(bars) == 250
    status: Any = await asyncio.to_thread(client.get_market_status)
    assert (status.market, status.exchanges.nasdaq) == ("open", "open")
    snapshot: Any = await asyncio.to_thread(client.get_snapshot_ticker, "stocks", "AAPL")
    assert snapshot.prev_day.close == next(bar.close for bar in bars if bar.ticker == "AAPL")
    details: Any = await asyncio.to_thread(client.get_ticker_details, "BRK.B")
    assert details.name == "Berkshire Hathaway Class B"


def test_a_finished_simulated_day_becomes_history() -> None:
    """After the night its bars are answered like those of any past session."""
    market = SyntheticMarket(seed=1, symbols=50, rate=500, start_ms=parse_start("2026-03-10T19:59:59"))
    rest = MarketRest(market)
    day = market.shape.day
    assert rest.session(day) is None
    for _ in range(40):
        market.advance()
    market.now_ms = parse_start("2026-03-11T04:00:00")
    market.advance()
    bars = rest.session(day)
    assert bars is not None
    assert [bar.close for bar in bars] == [state.prev[3] for state in market.states]


SPLITS = "/stocks/v1/splits"


async def test_splits_explain_the_difference_between_adjusted_bars_and_those_as_traded(rest: Rest) -> None:
    """On each side of an execution date; prices and volumes go opposite ways."""
    rows = (await rest.get(SPLITS))["results"]
    assert len(rows) == 4
    assert rows[0]["execution_date"] == "2026-03-10"
    assert {row["adjustment_type"] for row in rows} == {"forward_split", "reverse_split"}
    for row in rows:
        ticker, ratio = row["ticker"], row["split_to"] / row["split_from"]
        path = f"/v2/aggs/ticker/{ticker}/range/1/day/2026-01-20/2026-03-09"
        adjusted = (await rest.get(path))["results"]
        traded = (await rest.get(path, adjusted="false"))["results"]
        days = [new_york(bar["t"]).date().isoformat() for bar in adjusted]
        assert any(day < row["execution_date"] for day in days)
        for day, after, before in zip(days, adjusted, traded, strict=True):
            factor = ratio if day < row["execution_date"] else 1
            assert before["c"] == pytest.approx(after["c"] * factor, abs=1e-5)
            assert before["v"] == pytest.approx(after["v"] / factor, abs=1e-5)


async def test_grouped_bars_come_adjusted_and_as_traded(rest: Rest) -> None:
    """And say which they are; only those of symbols with a later split differ."""
    split = (await rest.get(SPLITS, ticker=(await rest.get(SPLITS))["results"][0]["ticker"]))["results"][0]
    adjusted = await rest.get(GROUPED + "2026-03-09")
    traded = await rest.get(GROUPED + "2026-03-09", adjusted="false")
    assert (adjusted["adjusted"], traded["adjusted"]) == (True, False)
    before = {row["T"]: row["c"] for row in traded["results"]}
    differ = {row["T"] for row in adjusted["results"] if row["c"] != before[row["T"]]}
    assert differ == {split["ticker"]}


async def test_splits_are_filtered_by_date(rest: Rest) -> None:
    """Both ends belong to the range."""
    query = {"execution_date.gte": "2026-02-20", "execution_date.lte": "2026-03-09"}
    dates = [row["execution_date"] for row in (await rest.get(SPLITS, **query))["results"]]
    assert dates == sorted(dates, reverse=True)
    assert dates
    assert all("2026-02-20" <= day <= "2026-03-09" for day in dates)
    assert await rest.status(SPLITS + "?execution_date.gte=soon", apiKey="key") == 400


async def test_short_interest_and_short_volume_are_of_one_ticker(rest: Rest) -> None:
    """Newest first, before today; an unknown ticker has none."""
    interest = (await rest.get("/stocks/v1/short-interest", ticker="NVDA", limit="5"))["results"]
    days = [row["settlement_date"] for row in interest]
    assert len(days) == 5
    assert days == sorted(days, reverse=True)
    assert days[0] < "2026-03-10"
    assert all(row["short_interest"] > 0 and row["ticker"] == "NVDA" for row in interest)
    volume = (await rest.get("/stocks/v1/short-volume", ticker="NVDA", limit="3"))["results"]
    assert [row["date"] for row in volume] == ["2026-03-09", "2026-03-06", "2026-03-05"]
    assert all(0 < row["short_volume"] < row["total_volume"] for row in volume)
    for path in ("/stocks/v1/short-interest", "/stocks/v1/short-volume"):
        assert (await rest.get(path, ticker="NOPE"))["results"] == []


async def test_requests_are_counted_by_endpoint(rest: Rest) -> None:
    """So that a test in another process can tell what a start costs; refused ones do not count."""
    await rest.get(GROUPED + "2026-03-09")
    await rest.get(GROUPED + "2026-03-06")
    await rest.status(SPLITS)
    counts = rest.simulator.stats()["rest"]
    assert counts == {GROUPED + "{date}": 2}


async def test_the_platform_makes_the_adjusted_closes_of_those_as_traded(rest: Rest) -> None:
    """What is fetched equals the simulated market's own previous closes and floats, splits included."""
    client = RestClient(f"http://127.0.0.1:{rest.simulator.port}", "key")
    book = Warmup(
        client, date(2026, 3, 10), rejected=Rejected(), step=StepTimer(), snapshot_fits=lambda _day: True
    )
    try:
        assert await book.round()
    finally:
        await client.close()
    assert book.done
    rows = (await rest.get(SNAPSHOT))["tickers"]
    assert len(rows) == len(book.rows) == 250
    for row in rows:
        assert book.rows[row["ticker"]].prev_day_close == pytest.approx(row["prevDay"]["c"], rel=1e-4)
    assert isinstance(rest.simulator._rest._data, MarketRest)
    for one in rest.simulator._rest._data.floats():
        assert book.rows[one.ticker].free_float == pytest.approx(one.free_float, abs=1)
