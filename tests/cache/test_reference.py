"""Reference values over loopback: from a provider that behaves, and from those that do not."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web

from mdp.cache.averages import SessionVolumes, weekdays_before
from mdp.cache.endpoints import FLOAT_PATH, GROUPED_PATH, SNAPSHOT_PATH, STATUS_PATH, trading_day
from mdp.cache.reference import Reference, ReferenceRow
from mdp.cache.rest import RestClient
from mdp.observability.metrics import Metrics
from tests.cache.provider import Answer, Provider, cut_off, hang, serving

TODAY = date(2026, 9, 23)  # a Wednesday
KEY = "secret-key-123"
STATUS = b'{"market":"open","serverTime":"2026-09-23T09:25:00-04:00"}'


def bar(close: float, volume: float = 1000) -> dict[str, float]:
    """A day's bar as on the wire."""
    return {"o": close - 1, "h": close + 2, "l": close - 2, "c": close, "v": volume, "vw": close + 0.5}


def snapshot(closes: Mapping[str, Any]) -> bytes:
    """A full snapshot: symbol -> previous close, or its whole `prevDay`."""
    tickers = [
        {"ticker": symbol, "day": bar(0), "prevDay": bar(value) if isinstance(value, int | float) else value}
        for symbol, value in closes.items()
    ]
    return json.dumps({"status": "OK", "count": len(tickers), "tickers": tickers}).encode()


def session(volumes: Mapping[str, Any], close: float = 50) -> bytes:
    """Grouped daily bars: symbol -> volume; no list at all where nothing traded."""
    results = [{"T": symbol, **bar(close), "v": volume} for symbol, volume in volumes.items()]
    body: dict[str, Any] = {"status": "OK", "adjusted": True, "resultsCount": len(results)}
    return json.dumps(body | ({"results": results} if results else {})).encode()


def floats(values: Mapping[str, Any], next_url: str = "") -> bytes:
    """A page of floats."""
    results = [{"ticker": symbol, "free_float": value} for symbol, value in values.items()]
    link = {"next_url": next_url} if next_url else {}
    return json.dumps({"status": "OK", "results": results} | link).encode()


class Market(Provider):
    """A provider with two symbols, 60 days of history and one holiday."""

    holiday = TODAY - timedelta(days=1)

    def __init__(self) -> None:
        super().__init__()
        self.volumes: Callable[[date], Mapping[str, Any]] = lambda _day: {"AAPL": 300, "MSFT": 100}
        self.answers[STATUS_PATH] = STATUS
        self.answers[SNAPSHOT_PATH] = snapshot({"AAPL": 250.5, "MSFT": 400})
        self.answers[GROUPED_PATH] = self.grouped
        self.answers[FLOAT_PATH] = floats({"AAPL": 15_000_000_000, "MSFT": 7_400_000_000})

    async def grouped(self, request: web.Request) -> Answer:
        day = date.fromisoformat(request.path.rpartition("/")[2])
        return session({} if day == self.holiday else self.volumes(day))


@asynccontextmanager
async def fetching(
    provider: Provider, *, timeout: float = 30.0, tries: int = 2, **options: Any
) -> AsyncIterator[Reference]:
    """A reference stage for a started provider; pauses between tries of its REST client take no time."""

    async def no_wait(_seconds: float) -> None:
        await asyncio.sleep(0)

    async with serving(provider):
        rest = RestClient(provider.url, KEY, rate=1e9, tries=tries, timeout=timeout, sleep=no_wait)
        reference = Reference(rest, **options)
        try:
            yield reference
        finally:
            await reference.stop()


async def test_a_row_has_the_bar_the_average_and_the_float() -> None:
    """Everything the contract's rows need, after one round."""
    provider = Market()
    async with fetching(provider) as reference:
        assert not reference.ready
        assert await reference.warm_up()

        assert reference.day == TODAY
        assert reference.get("AAPL") == ReferenceRow(
            prev_day_open=249.5,
            prev_day_high=252.5,
            prev_day_low=248.5,
            prev_day_close=250.5,
            prev_day_volume=1000,
            prev_day_vwap=251,
            avg_volume=300,
            avg_volume_days=30,
            free_float=15_000_000_000,
        )
        assert reference.get("NOPE") is None
        assert (reference.ready, reference.warming_up) == (True, False)
        assert reference.health().detail == "2 symbols, 30 sessions before 2026-09-23"
    assert all(KEY not in path for path in provider.asked)
    assert set(provider.keys) == {f"Bearer {KEY}"}


async def test_the_average_is_of_the_last_30_completed_sessions() -> None:
    """Not of today, weekends or holidays; adjusted for splits; in as few calls as there are days."""
    provider = Market()
    provider.volumes = lambda day: {"AAPL": day.toordinal()}
    async with fetching(provider) as reference:
        await reference.warm_up()
        row = reference.rows["AAPL"]

    sessions = [day for day in weekdays_before(TODAY, 40) if day != Market.holiday][:30]
    assert row.avg_volume == pytest.approx(sum(day.toordinal() for day in sessions) / 30, rel=1e-12)
    asked = [path for path in provider.asked if path.startswith(GROUPED_PATH)]
    assert sorted(asked) == sorted(
        f"{GROUPED_PATH}{day}?adjusted=true" for day in [*sessions, Market.holiday]
    )
    assert len(provider.asked) == 34


async def test_a_young_listing_is_averaged_over_the_days_it_has() -> None:
    """With their number."""
    provider = Market()
    provider.volumes = lambda day: {"AAPL": 300} | ({"NEW": 40} if day >= date(2026, 9, 17) else {})
    async with fetching(provider) as reference:
        await reference.warm_up()
        row = reference.rows["NEW"]
        assert (row.avg_volume, row.avg_volume_days) == (40, 3)


async def test_the_snapshot_wins_and_the_newest_session_fills_what_it_lacks() -> None:
    """Whichever comes first; a symbol the snapshot does not know gets the last session's bar."""
    provider = Market()
    provider.answers[SNAPSHOT_PATH] = snapshot(
        {"AAPL": 250.5, "ZERO": {"o": 0, "h": 0, "l": 0, "c": 0, "v": 0, "vw": 0}, "NONE": None}
    )
    provider.volumes = lambda day: dict.fromkeys(("AAPL", "ZERO", "NONE", "MSFT"), day.day)
    async with fetching(provider) as reference:
        await reference.warm_up()
        assert reference.rows["AAPL"].prev_day_close == 250.5
        for symbol in ("ZERO", "NONE", "MSFT"):
            row = reference.rows[symbol]
            assert (row.prev_day_close, row.prev_day_high, row.prev_day_volume) == (50, 52, 21)


async def test_an_older_session_is_never_taken_for_the_previous_one() -> None:
    """While the newest day's answer is missing, a symbol has no previous close instead of a wrong one."""
    provider = Market()
    provider.answers[SNAPSHOT_PATH] = 404
    provider.answers[GROUPED_PATH + "2026-09-21"] = [500, 500, session({"AAPL": 5}, close=77)]
    async with fetching(provider) as reference:
        assert not await reference.warm_up()
        row = reference.rows["AAPL"]
        assert (row.prev_day_close, row.avg_volume, row.avg_volume_days) == (0, 300, 29)

        assert await reference.warm_up()
        row = reference.rows["AAPL"]
        assert (row.prev_day_close, row.avg_volume_days) == (77, 30)
        assert row.avg_volume == pytest.approx((29 * 300 + 5) / 30)
    assert provider.count(GROUPED_PATH + "2026-09-18") == 1


@pytest.mark.parametrize(
    ("server_time", "day"),
    [
        ("2026-09-23T03:59:59-04:00", date(2026, 9, 22)),
        ("2026-09-23T04:00:00-04:00", date(2026, 9, 23)),
        ("2026-09-23T08:00:00Z", date(2026, 9, 23)),
        ("2026-09-24T07:59:59.999+00:00", date(2026, 9, 23)),
        ("2026-01-15T08:30:00Z", date(2026, 1, 14)),
        ("2026-03-08T04:00:00", date(2026, 3, 8)),
    ],
)
def test_the_trading_day_begins_at_four_in_new_york(server_time: str, day: date) -> None:
    """In summer and winter, whatever zone the time is given in."""
    assert trading_day(json.dumps({"serverTime": server_time}).encode()) == day


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"serverTime":null}', b'{"serverTime":"now"}', b'{"serverTime":17}']
)
def test_a_status_without_a_time_is_an_error(body: bytes) -> None:
    """It is never taken for some day."""
    with pytest.raises(ValueError, match="tells no time"):
        trading_day(body)


async def test_without_market_status_the_market_clock_tells_the_day() -> None:
    """And as long as neither does, the snapshot and floats come, the sessions wait."""
    provider = Market()
    provider.answers[STATUS_PATH] = 404
    clock: list[date | None] = [None]
    async with fetching(provider, today=lambda: clock[0]) as reference:
        assert not await reference.warm_up()
        row = reference.rows["AAPL"]
        assert (row.prev_day_close, row.free_float, row.avg_volume) == (250.5, 15e9, 0)
        assert provider.count(GROUPED_PATH) == 0
        assert reference.ready

        clock[0] = TODAY
        assert await reference.warm_up()
        assert reference.rows["AAPL"].avg_volume == 300
        assert reference.day == TODAY


BROKEN: dict[str, Any] = {
    "missing": 404,
    "not for this key": 403,
    "failing": 500,
    "garbage": b"<html>busy</html>",
    "empty": b"",
    "no list": b"{}",
    "truncated": b'{"status":"OK","tickers":[{"ticker":"AAPL"},{"ti',
    "wrong shape": b'{"tickers":{"AAPL":1},"results":{"AAPL":1}}',
    "error inside": b'{"status":"ERROR","error":"x"}',
    "cut off": cut_off,
    "hanging": hang,
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("path", [SNAPSHOT_PATH, GROUPED_PATH, FLOAT_PATH])
async def test_one_broken_endpoint_costs_only_its_own_values(path: str, fault: str) -> None:
    """Whatever it does, the others' values are there after the same round."""
    provider = Market()
    provider.answers[path] = BROKEN[fault]
    limits: dict[str, Any] = {"timeout": 0.5, "tries": 1} if fault == "hanging" else {}
    async with fetching(provider, **limits) as reference:
        complete = await reference.warm_up()
        row = reference.rows["AAPL"]
        assert reference.ready
        assert complete == (fault in ("missing", "not for this key", "no list"))
        if path != SNAPSHOT_PATH:
            assert row.prev_day_close == 250.5
        else:
            assert row.prev_day_close == 50  # the newest session's
        assert row.avg_volume == (0 if path == GROUPED_PATH else 300)
        assert row.free_float == (0 if path == FLOAT_PATH else 15_000_000_000)
        assert "missing: " in reference.health().detail


@pytest.mark.parametrize("status", [404, 403])
async def test_an_endpoint_that_is_not_there_is_not_asked_for_every_day(status: int) -> None:
    """A handful of answers tells it."""
    provider = Market()
    provider.answers[GROUPED_PATH] = status
    async with fetching(provider) as reference:
        assert await reference.warm_up()
    assert provider.count(GROUPED_PATH) < 10


async def test_a_server_without_any_endpoint_lets_the_process_be_ready() -> None:
    """It has given its answer; there is nothing to wait for but the trading day."""
    async with fetching(Provider(), today=lambda: TODAY) as reference:
        assert await reference.warm_up()
        assert reference.ready
        assert reference.rows == {}


async def test_a_server_that_only_fails_is_no_warm_up() -> None:
    """Nothing is known, and health says why; no request waits for ever."""
    provider = Provider()
    provider.answers["/"] = 500
    async with fetching(provider) as reference:
        assert not await reference.warm_up()
        assert not reference.ready
        assert not reference.health().ok
        assert "snapshot (HTTP 500)" in reference.health().detail


async def test_what_is_wrong_is_counted_and_never_used() -> None:
    """Null, negative, NaN, text and absurd values, and rows that are no rows."""
    provider = Market()
    provider.answers[SNAPSHOT_PATH] = snapshot(
        {
            "AAPL": bar(250.5) | {"v": -5, "vw": None, "h": 1e16, "l": "248"},
            "NEG": bar(-1),
            "BAD": "x",
        }
    )
    provider.volumes = lambda day: {
        "AAPL": -1 if day.day == 21 else 300,
        "MSFT": 1,
        "TXT": "5",
        "": 3,
        "BIG": 1e300,
    }
    provider.answers[FLOAT_PATH] = b'{"results":[{"ticker":"AAPL","free_float":NaN},{"ticker":"X"},7]}'
    async with fetching(provider) as reference:
        await reference.warm_up()
        row = reference.rows["AAPL"]
        assert (row.prev_day_close, row.prev_day_open) == (250.5, 249.5)
        assert (row.avg_volume, row.avg_volume_days, row.free_float) == (300, 28, 0)
        assert (row.prev_day_volume, row.prev_day_vwap) == (0, 50.5)
        assert (row.prev_day_high, row.prev_day_low) == (52, 48)  # the session's: the snapshot's were wrong
        assert "NEG" not in reference.rows
        assert "BAD" not in reference.rows
        assert reference.rows["TXT"].avg_volume == 0
        reasons = {reason for (reason,) in reference.rejected.counts}
        assert reasons == {"missing", "negative", "absurd", "not a number", "row", "symbol"}
        metrics = Metrics()
        reference.register(metrics)
        text = metrics.render().decode()
        assert re.search(r'mdp_reference_rejected_total\{reason="symbol"\} 30\.0', text)
        assert 'mdp_reference_complete{source="sessions"} 1.0' in text


async def test_a_fault_of_the_program_costs_one_source_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nobody thought of is like a broken endpoint: the others go on, and the next round may mend it."""
    provider = Market()
    async with fetching(provider) as reference:
        with monkeypatch.context() as patch:
            add = SessionVolumes.add

            def add_and_fail(volumes: SessionVolumes, part: Mapping[str, float]) -> None:
                add(volumes, part)
                if volumes.count == 5:
                    raise RuntimeError

            patch.setattr(SessionVolumes, "add", add_and_fail)
            assert not await reference.warm_up()
        assert "sessions (internal error)" in reference.health().detail
        assert reference.rows["AAPL"].free_float == 15_000_000_000
        assert await reference.warm_up()
        assert (reference.rows["AAPL"].avg_volume, reference.rows["AAPL"].avg_volume_days) == (300, 30)


async def test_floats_are_paged() -> None:
    """All pages count; a link elsewhere ends them with an error and without the key."""
    provider = Market()
    provider.answers[FLOAT_PATH] = [
        floats({"AAPL": 1}, f"{FLOAT_PATH}?cursor=b"),
        floats({"MSFT": 2}, "http://127.0.0.1:9/steal"),
        floats({"AAPL": 3}, f"{FLOAT_PATH}?cursor=b"),
        floats({"MSFT": 4}),
    ]
    async with fetching(provider) as reference:
        assert not await reference.warm_up()
        assert (reference.rows["AAPL"].free_float, reference.rows["MSFT"].free_float) == (1, 0)
        assert "another server" in reference.health().detail

        assert await reference.warm_up()
        assert (reference.rows["AAPL"].free_float, reference.rows["MSFT"].free_float) == (3, 4)
    assert provider.asked.count(f"{FLOAT_PATH}?limit=5000") == 2


async def test_symbols_are_bounded() -> None:
    """A provider gone mad cannot fill the memory."""
    provider = Market()
    provider.answers[SNAPSHOT_PATH] = snapshot({f"S{n}": 5 for n in range(50)})
    async with fetching(provider, max_symbols=10) as reference:
        await reference.warm_up()
        assert len(reference.rows) == 10
        assert reference.rejected.counts[("too many symbols",)] >= 40


async def test_changes_are_told_in_slices_and_a_broken_listener_harms_nobody() -> None:
    """Every symbol is told, at most 500 at once, to everybody."""
    provider = Market()
    provider.answers[SNAPSHOT_PATH] = snapshot({f"S{n}": n + 1 for n in range(1_200)})
    sizes: list[int] = []
    known: dict[str, ReferenceRow] = {}

    def fail(_rows: Mapping[str, ReferenceRow]) -> None:
        raise RuntimeError

    def take(rows: Mapping[str, ReferenceRow]) -> None:
        sizes.append(len(rows))
        known.update(rows)

    async with fetching(provider) as reference:
        reference.on_rows += [fail, take]
        await reference.warm_up()
        assert known == reference.rows
        assert len(known) == 1_202
        assert max(sizes) == 500


async def test_progress_counts_calls_and_symbols() -> None:
    """What is done never exceeds what is needed, and both meet at the end."""
    provider = Market()
    seen: list[tuple[int, int]] = []
    async with fetching(provider) as reference:
        first = reference.progress
        reference.on_rows.append(lambda _: seen.append((reference.progress.done, reference.progress.total)))
        await reference.warm_up()
        last = reference.progress
    assert (first.done, first.total, first.symbols) == (0, 33, 0)
    assert (last.done, last.total, last.symbols) == (34, 34, 2)
    assert all(done <= total for done, total in seen)


async def test_the_stage_tries_until_everything_is_there() -> None:
    """With growing pauses, in the background; only what failed is asked for again."""
    pauses: list[float] = []
    finished = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            provider.answers[SNAPSHOT_PATH] = snapshot({"AAPL": 250.5})
        await asyncio.sleep(0)

    provider = Market()
    provider.answers[SNAPSHOT_PATH] = 503
    async with fetching(provider, sleep=pause) as reference:
        reference.on_rows.append(
            lambda _: finished.set() if reference.rows["AAPL"].prev_day_close == 250.5 else None
        )
        await reference.start()
        await reference.start()
        await asyncio.wait_for(finished.wait(), 10)
    assert len(pauses) == 4
    assert all(2 * 2**n * 0.75 <= seconds <= 2 * 2**n * 1.25 for n, seconds in enumerate(pauses))
    assert provider.count(FLOAT_PATH) == 1
    assert provider.count(GROUPED_PATH) == 31


async def test_what_is_absent_is_asked_for_again_much_later() -> None:
    """A plan may be upgraded while the process runs."""
    pauses: list[float] = []
    finished = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        provider.answers[FLOAT_PATH] = floats({"AAPL": 5})
        provider.answers[GROUPED_PATH] = provider.grouped
        await asyncio.sleep(0)

    provider = Market()
    provider.answers[FLOAT_PATH] = 403
    provider.answers[GROUPED_PATH] = b"{}"
    async with fetching(provider, sleep=pause) as reference:
        reference.on_rows.append(lambda _: finished.set() if reference.rows["AAPL"].avg_volume else None)
        await reference.start()
        await asyncio.wait_for(finished.wait(), 10)
        assert reference.rows["AAPL"].free_float == 5
    assert pauses == [1800.0]


async def test_a_slow_provider_does_not_keep_the_process_from_being_ready() -> None:
    """After its patience it is ready with what it has, and goes on waiting for the rest."""
    provider = Market()
    provider.answers[FLOAT_PATH] = hang
    ready = asyncio.Event()
    async with fetching(provider, patience_seconds=0.01) as reference:
        reference.on_rows.append(lambda _: ready.set())
        await reference.start()
        await ready.wait()
        await asyncio.sleep(0.02)
        assert reference.ready
        assert reference.warming_up


async def test_stop_ends_what_is_under_way() -> None:
    """Also before start, and twice; no task is left."""
    provider = Market()
    provider.answers[SNAPSHOT_PATH] = hang
    async with fetching(provider) as reference:
        await reference.stop()
        await reference.start()
        await asyncio.sleep(0.01)
        await asyncio.wait_for(reference.stop(), 1)
        await reference.stop()
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "reference"]


def through_msgpack(reference: Reference) -> list[Any]:
    """A dump as it comes back from a file."""
    records: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(list(reference.dump())))
    return records


async def test_a_second_start_on_the_same_day_asks_only_which_day_it_is() -> None:
    """The values come from the file, at once, and are told to listeners."""
    provider = Market()
    async with fetching(provider) as first:
        assert list(first.dump()) == []
        await first.warm_up()
        records = through_msgpack(first)
        rows = first.rows

    again = Market()
    told: dict[str, ReferenceRow] = {}
    async with fetching(again) as second:
        second.on_rows.append(told.update)
        second.load(records, "2026-09-23")
        assert told == second.rows == rows
        assert second.ready
        assert await second.warm_up()
        assert second.rows == rows
        assert second.health().detail == first.health().detail
        assert through_msgpack(second) == records
    assert again.asked == [STATUS_PATH]


async def test_what_was_missing_is_fetched_after_a_restart() -> None:
    """Only that."""
    provider = Market()
    provider.answers[FLOAT_PATH] = 500
    async with fetching(provider) as first:
        await first.warm_up()
        records = through_msgpack(first)
    again = Market()
    async with fetching(again) as second:
        second.load(records, "2026-09-23")
        assert await second.warm_up()
        assert second.rows["AAPL"].free_float == 15_000_000_000
        assert second.rows["AAPL"].avg_volume == 300
    assert again.asked == [STATUS_PATH, f"{FLOAT_PATH}?limit=5000"]


async def test_values_of_another_day_do_not_stay() -> None:
    """The provider has moved on: everything is fetched anew, and who is not there any more is blank."""
    provider = Market()
    provider.answers[SNAPSHOT_PATH] = snapshot({"AAPL": 250.5, "GONE": 9})
    async with fetching(provider) as first:
        await first.warm_up()
        records = through_msgpack(first)
    again = Market()
    again.answers[STATUS_PATH] = b'{"serverTime":"2026-09-24T09:25:00-04:00"}'
    again.answers[SNAPSHOT_PATH] = snapshot({"AAPL": 260})
    told: dict[str, ReferenceRow] = {}
    async with fetching(again) as second:
        second.on_rows.append(told.update)
        second.load(records, "2026-09-23")
        assert told["GONE"].prev_day_close == 9
        assert await second.warm_up()
        assert second.day == date(2026, 9, 24)
        assert told["AAPL"].prev_day_close == 260
        assert told["GONE"] == ReferenceRow()
        assert second.get("GONE") is None
    assert again.count(GROUPED_PATH + "2026-09-23") == 1


@pytest.mark.parametrize(
    "records",
    [
        [],
        [["head"]],
        [["head", 99, "2026-09-23", [], 0]],
        [["head", 1, "2026-09-22", [], 0]],
        [["head", 1, "2026-09-23", ["nonsense"], 0]],
        [["head", 1, "2026-09-23", ["snapshot"], 30], ["rows", {"AAPL": ["x"]}]],
        [["head", 1, "2026-09-23", ["snapshot"], 30], 7],
    ],
)
async def test_a_dump_that_does_not_fit_is_left_alone(records: list[Any]) -> None:
    """Another day or version, or a damaged file: the values are fetched as if there were none."""
    provider = Market()
    async with fetching(provider) as reference:
        reference.load(records, "2026-09-23")
        assert not reference.ready
        assert reference.rows == {}
        assert await reference.warm_up()
        assert reference.rows["AAPL"].prev_day_close == 250.5


async def test_renew_fetches_the_next_days_values() -> None:
    """For the day it is told, without asking which; the process stays ready meanwhile."""
    provider = Market()
    async with fetching(provider) as reference:
        await reference.warm_up()
        provider.answers[SNAPSHOT_PATH] = snapshot({"AAPL": 260})
        provider.asked.clear()
        reference.renew(date(2026, 9, 24))
        assert reference.ready
        assert await reference.warm_up()
        assert reference.rows["AAPL"].prev_day_close == 260
        assert reference.day == date(2026, 9, 24)
    assert provider.count(STATUS_PATH) == 0
    assert provider.count(GROUPED_PATH + "2026-09-23") == 1


async def test_renew_interrupts_a_round_under_way() -> None:
    """Nothing of the old day comes after it."""
    asked, done = asyncio.Event(), asyncio.Event()

    async def first_hang_then_answer(request: web.Request) -> Answer:
        if asked.is_set():
            return snapshot({"AAPL": 260})
        asked.set()
        return await hang(request)

    def complete(_rows: Mapping[str, ReferenceRow]) -> None:
        row = reference.rows.get("AAPL", ReferenceRow())
        if row.prev_day_close == 260 and row.avg_volume and row.free_float:
            done.set()

    provider = Market()
    provider.answers[SNAPSHOT_PATH] = first_hang_then_answer
    async with fetching(provider) as reference:
        await reference.start()
        await asked.wait()
        reference.on_rows.append(complete)
        reference.renew(date(2026, 9, 24))
        await asyncio.wait_for(done.wait(), 10)
        assert reference.day == date(2026, 9, 24)
    assert provider.count(GROUPED_PATH + "2026-09-23") == 1
