"""A trading day's reference values over loopback: from a provider that behaves and those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import pytest
from aiohttp import web

from mdp.cache import paths
from mdp.cache.averages import SessionVolumes
from mdp.cache.rest import RestClient
from mdp.cache.table import ALL_PENDING, AVERAGE, FLOAT, PREVIOUS, ReferenceRow
from mdp.cache.validate import Rejected
from mdp.cache.warmup import Warmup
from mdp.observability.loop_lag import StepTimer
from mdp.sessions import sessions_before
from tests.cache.market import KEY, TODAY, Market, bar, floats, session, snapshot, splits
from tests.cache.provider import Answer, Provider, cut_off, hang, serving


@asynccontextmanager
async def fetching(
    provider: Provider,
    *,
    timeout: float = 30.0,
    tries: int = 2,
    rejected: Rejected | None = None,
    **options: Any,
) -> AsyncIterator[Warmup]:
    """A day of a started provider; pauses between tries of its REST client take no time."""

    async def no_wait(_seconds: float) -> None:
        await asyncio.sleep(0)

    async with serving(provider):
        rest = RestClient(
            provider.url, KEY, rate=1e9, tries=tries, timeout=timeout, sleep=no_wait, breaker_failures=10**9
        )
        options = {"snapshot_fits": lambda _day: True, **options}
        rejected = rejected if rejected is not None else Rejected()
        try:
            yield Warmup(rest, options.pop("day", TODAY), rejected=rejected, step=StepTimer(), **options)
        finally:
            await rest.close()


async def test_a_row_has_the_bar_the_average_and_the_float() -> None:
    """Everything the contract's rows need, after one round, and nothing is pending."""
    provider = Market()
    async with fetching(provider) as book:
        assert await book.round()
        assert book.rows["AAPL"] == ReferenceRow(
            prev_day_open=49,
            prev_day_high=52,
            prev_day_low=48,
            prev_day_close=50,
            prev_day_volume=300,
            prev_day_vwap=50.5,
            avg_volume=300,
            avg_volume_days=30,
            free_float=15_000_000_000,
            pending=(),
        )
        assert (book.done, book.missing, book.sessions) == (True, [], 30)
    assert all(KEY not in path for path in provider.asked)
    assert set(provider.keys) == {f"Bearer {KEY}"}


async def test_the_average_is_of_the_last_30_completed_sessions() -> None:
    """Not of today, weekends or holidays (Labor Day is not even asked for), nor of a closing nobody knew."""
    provider = Market()
    provider.volumes = lambda day: {"AAPL": day.toordinal()}
    async with fetching(provider) as book:
        await book.round()
        row = book.rows["AAPL"]

    days = sessions_before(TODAY, 31)
    assert Market.closing in days
    assert date(2026, 9, 7) not in days
    mean = sum(day.toordinal() for day in days if day != Market.closing) / 30
    assert row.avg_volume == pytest.approx(mean, rel=1e-12)
    asked = [path for path in provider.asked if path.startswith(paths.GROUPED)]
    assert sorted(asked) == sorted(f"{paths.GROUPED}{day}?adjusted=false" for day in days)
    assert len(provider.asked) == 34


async def test_a_young_listing_is_averaged_over_the_days_it_has() -> None:
    """With their number; a session in which it did not trade counts as zero, those before it do not count."""
    provider = Market()
    traded = {date(2026, 9, 17), date(2026, 9, 21)}
    provider.volumes = lambda day: {"AAPL": 300} | ({"NEW": 60} if day in traded else {})
    async with fetching(provider) as book:
        await book.round()
        row = book.rows["NEW"]
        assert (row.avg_volume, row.avg_volume_days, row.prev_day_close) == (40, 3, 50)


async def test_a_split_that_takes_effect_today_is_in_every_value() -> None:
    """A reverse split 1:10: a tenth of the shares, ten times the price, also where the provider's bars of
    yesterday cannot know it; splits between two sessions change only what is before them."""
    provider = Market()
    provider.answers[paths.SPLITS] = splits(
        ("AAPL", "2026-09-23", 10, 1), ("MSFT", "2026-09-21", 1, 4), ("MSFT", "2026-09-24", 1, 7)
    )
    provider.volumes = lambda day: {"AAPL": 300, "MSFT": 400 if day >= date(2026, 9, 21) else 100}
    provider.answers[paths.FLOAT] = floats({"AAPL": 5_000, "MSFT": 800}, effective="2026-09-18")
    async with fetching(provider) as book:
        await book.round()
        apple, micro = book.rows["AAPL"], book.rows["MSFT"]
    assert apple == ReferenceRow(490, 520, 480, 500, 30, 505, 30, 30, 500)
    assert (micro.prev_day_close, micro.prev_day_volume) == (50, 400)
    assert (micro.avg_volume, micro.free_float) == (400, 3_200)
    query = [path for path in provider.asked if path.startswith(paths.SPLITS)]
    assert query == [f"{paths.SPLITS}?execution_date.gte=2026-07-05&execution_date.lte=2026-09-23&limit=5000"]


async def test_without_the_splits_the_provider_adjusts() -> None:
    """And once they come, all is asked for anew if one takes effect today: nobody knows whether it was in."""
    provider = Market()
    provider.answers[paths.SPLITS] = [500, 500, splits(("AAPL", "2026-09-23", 10, 1))]
    async with fetching(provider) as book:
        assert not await book.round()
        assert book.rows["AAPL"].prev_day_close == 50
        assert provider.count(paths.GROUPED + "2026-09-21?adjusted=true") == 1

        assert not await book.round()
        assert await book.round()
        row = book.rows["AAPL"]
        assert (row.prev_day_close, row.avg_volume, row.free_float) == (500, 30, 1_500_000_000)
        assert provider.count(paths.GROUPED + "2026-09-21?adjusted=false") == 1


async def test_splits_that_hang_do_not_hold_up_the_others() -> None:
    """After a while the sessions are asked for without them."""
    provider = Market()
    provider.answers[paths.SPLITS] = hang
    async with fetching(provider, timeout=1.0, tries=1, splits_seconds=0.01) as book:
        assert not await book.round()
        assert book.rows["AAPL"].avg_volume == 300
        assert provider.count(paths.GROUPED + "2026-09-21?adjusted=true") == 1


async def test_the_previous_session_wins_and_the_snapshot_fills_what_it_lacks() -> None:
    """A symbol that is absent from the snapshot has a previous day all the same, and the other way round."""
    provider = Market()
    zero = {"o": 0, "h": 0, "l": 0, "c": 0, "v": 0, "vw": 0}
    provider.answers[paths.SNAPSHOT] = snapshot({"AAPL": 50, "ZERO": zero, "NONE": None, "RARE": 7})
    provider.volumes = lambda day: dict.fromkeys(("AAPL", "ZERO", "NONE", "MSFT"), day.day)
    async with fetching(provider) as book:
        await book.round()
        for symbol in ("AAPL", "ZERO", "NONE", "MSFT"):
            row = book.rows[symbol]
            assert (row.prev_day_close, row.prev_day_high, row.prev_day_volume) == (50, 52, 21)
        assert (book.rows["RARE"].prev_day_close, book.rows["RARE"].pending) == (7, ())


async def test_a_snapshot_of_another_day_is_not_used() -> None:
    """Its closes are not those of the previous session: whatever the clock says, it is of another one."""
    provider = Market()
    provider.answers[paths.SNAPSHOT] = snapshot({"AAPL": 47, "MSFT": 55, "RARE": 7})
    rejected = Rejected()
    async with fetching(provider, rejected=rejected) as book:
        assert await book.round()
        assert book.rows["AAPL"].prev_day_close == 50
        assert "RARE" not in book.rows
        assert rejected.counts[("snapshot", "another day")] == 1
        assert book.done


@pytest.mark.parametrize(("fits", "close"), [(True, 47), (False, 0)])
async def test_without_sessions_the_clock_decides_about_the_snapshot(fits: bool, close: float) -> None:
    """Between 04:00 and the next 03:30 its `prevDay` is the previous session's; else there is none."""
    provider = Market()
    provider.answers[paths.SNAPSHOT] = snapshot({"AAPL": 47})
    provider.answers[paths.GROUPED] = 403
    async with fetching(provider, snapshot_fits=lambda _day: fits) as book:
        assert await book.round()
        assert book.rows["AAPL"].prev_day_close == close
        assert book.sources["snapshot"].state == ("done" if fits else "absent")


async def test_before_four_the_snapshot_is_not_asked_for() -> None:
    """It was cleared at 03:30: the previous session's bars say it all. Without these it is asked later."""
    provider = Market()
    fits: list[bool | None] = [None]
    async with fetching(provider, snapshot_fits=lambda _day: fits[0]) as book:
        assert await book.round()
        assert provider.count(paths.SNAPSHOT) == 0
        assert book.done

    provider = Market()
    provider.answers[paths.GROUPED] = 403
    async with fetching(provider, snapshot_fits=lambda _day: fits[0]) as book:
        assert not await book.round()
        assert "prev_day_close" in book.rows["AAPL"].pending
        fits[0] = True
        assert await book.round()
        assert book.rows["AAPL"] == ReferenceRow(49, 52, 48, 50, 1000, 50.5, free_float=15_000_000_000)


async def test_an_older_session_is_never_taken_for_the_previous_one() -> None:
    """While the newest day's answer is missing, a symbol has no previous close instead of a wrong one."""
    provider = Market()
    provider.answers[paths.SNAPSHOT] = 404
    provider.answers[paths.GROUPED + "2026-09-21"] = [500, 500, session({"AAPL": 5}, close=77)]
    async with fetching(provider) as book:
        assert not await book.round()
        row = book.rows["AAPL"]
        assert (row.prev_day_close, row.avg_volume, row.avg_volume_days) == (0, 300, 29)
        assert set(row.pending) == {*PREVIOUS, *AVERAGE}

        assert await book.round()
        assert (row.prev_day_close, row.avg_volume_days) == (77, 30)
        assert not row.pending
        assert row.avg_volume == pytest.approx((29 * 300 + 5) / 30)
    assert provider.count(paths.GROUPED + "2026-09-18") == 1


async def test_what_has_not_come_is_pending_and_what_came_is_not() -> None:
    """Field by field, in what listeners are told; who has no float waits until all pages are there."""
    provider = Market()
    release = asyncio.Event()

    async def late(_request: web.Request) -> Answer:
        await release.wait()
        return floats({"AAPL": 5})

    provider.answers[paths.FLOAT] = late
    told: dict[str, tuple[str, ...]] = {}
    first: dict[str, tuple[str, ...]] = {}

    def note(rows: Mapping[str, ReferenceRow]) -> None:
        for symbol, row in rows.items():
            first.setdefault(symbol, row.pending)
            told[symbol] = row.pending
        if told.get("MSFT") == FLOAT:
            release.set()

    async with fetching(provider, on_rows=[note]) as book:
        await asyncio.wait_for(book.round(), 60)
        assert first["AAPL"] == AVERAGE + FLOAT
        assert told == {"AAPL": (), "MSFT": ()}
        assert book.rows["MSFT"].free_float == 0
    assert set(PREVIOUS + AVERAGE + FLOAT) == set(ALL_PENDING)


BROKEN: dict[str, Any] = {
    "missing": 404,
    "not for this key": 403,
    "failing": 500,
    "too much": 429,
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
@pytest.mark.parametrize("path", [paths.SNAPSHOT, paths.GROUPED, paths.FLOAT, paths.SPLITS])
async def test_one_broken_endpoint_costs_only_its_own_values(path: str, fault: str) -> None:
    """Whatever it does, the others' values are there after the same round."""
    provider = Market()
    provider.answers[path] = BROKEN[fault]
    limits: dict[str, Any] = {"timeout": 0.3, "tries": 1} if fault == "hanging" else {}
    async with fetching(provider, **limits) as book:
        complete = await book.round()
        row = book.rows["AAPL"]
        answers = fault in ("missing", "not for this key", "no list")
        assert complete == answers
        assert row.prev_day_close == 50
        assert row.avg_volume == (0 if path == paths.GROUPED else 300)
        assert row.free_float == (0 if path == paths.FLOAT else 15_000_000_000)
        assert ("avg_volume" in row.pending) == (path == paths.GROUPED and not answers)
        assert ("free_float" in row.pending) == (path == paths.FLOAT and not answers)
        quiet = fault == "no list" and path in (paths.SPLITS, paths.SNAPSHOT)
        assert bool(book.missing) != quiet  # no splits are an answer; nor does the snapshot have to have any


@pytest.mark.parametrize("status", [404, 403])
async def test_an_endpoint_that_is_not_there_is_not_asked_for_every_day(status: int) -> None:
    """A handful of answers tells it."""
    provider = Market()
    provider.answers[paths.GROUPED] = status
    async with fetching(provider) as book:
        assert await book.round()
    assert provider.count(paths.GROUPED) < 10


async def test_what_is_wrong_is_counted_and_never_used() -> None:
    """Null, negative, NaN, text and absurd values, and rows that are no rows, by endpoint and reason."""
    provider = Market()
    provider.answers[paths.SNAPSHOT] = snapshot({"AAPL": 50, "NEG": bar(-1), "BAD": "x"})
    odd = bar(50) | {"h": 10, "l": 20, "vw": None, "o": "49"}
    provider.volumes = lambda day: {
        "AAPL": -1 if day.day == 21 else 300,
        "MSFT": 1,
        "TXT": "5",
        "": 3,
        "BIG": 1e300,
        "ODD": odd,
        "HUGE": bar(50) | {"c": 20_000_000},
        "FAR": bar(50) | {"h": 50_001},
    }
    provider.answers[paths.FLOAT] = b'{"results":[{"ticker":"AAPL","free_float":NaN},{"ticker":"X"},7]}'
    provider.answers[paths.SPLITS] = splits(
        ("AAPL", "2026-09-23", 0, 1),
        ("AAPL", "soon", 1, 2),
        ("AAPL", "2026-09-23", 1, -3),
        ("AAPL", "2026-09-23", 99999, 0.5),
    )
    rejected = Rejected()
    async with fetching(provider, rejected=rejected) as book:
        await book.round()
        row = book.rows["AAPL"]
        assert (row.prev_day_close, row.prev_day_volume) == (50, 0)
        assert (row.avg_volume, row.avg_volume_days, row.free_float) == (300, 28, 0)
        assert not {"NEG", "BAD", "X", "HUGE"} & {s for s, one in book.rows.items() if one.prev_day_close}
        odd_row = book.rows["ODD"]
        assert (odd_row.prev_day_close, odd_row.prev_day_high, odd_row.prev_day_low) == (50, 0, 0)
        assert (odd_row.prev_day_open, odd_row.prev_day_vwap) == (0, 0)
        assert (book.rows["FAR"].prev_day_high, book.rows["FAR"].prev_day_low) == (0, 48)
        assert book.rows["BIG"].avg_volume == 0
    counts = rejected.counts
    assert counts[("snapshot", "negative")] == 1
    assert counts[("snapshot", "row")] == 1
    assert counts[("grouped", "symbol")] == 30
    assert counts[("grouped", "not a number")] == 30 + 1
    assert counts[("grouped", "high below low")] == 1
    assert counts[("grouped", "far from the close")] == 1
    assert counts[("grouped", "absurd")] == 30 + 1
    assert counts[("float", "not a number")] == 1
    assert counts[("float", "missing")] == 1
    assert counts[("float", "row")] == 1
    assert {reason for endpoint, reason in counts if endpoint == "splits"} == {
        "zero", "not a date", "negative", "absurd"
    }  # fmt: skip


async def test_a_fault_of_the_program_costs_one_source_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nobody thought of is like a broken endpoint: the others go on, and the next round may mend it."""
    provider = Market()
    async with fetching(provider) as book:
        with monkeypatch.context() as patch:
            add = SessionVolumes.add

            def add_and_fail(volumes: SessionVolumes, *args: Any) -> None:
                add(volumes, *args)
                if volumes.count == 5:
                    raise RuntimeError

            patch.setattr(SessionVolumes, "add", add_and_fail)
            assert not await book.round()
        assert "sessions (internal error)" in book.missing
        assert book.rows["AAPL"].free_float == 15_000_000_000
        assert await book.round()
        assert (book.rows["AAPL"].avg_volume, book.rows["AAPL"].avg_volume_days) == (300, 30)


async def test_floats_are_paged() -> None:
    """All pages count; a link elsewhere ends them with an error and without the key."""
    provider = Market()
    provider.answers[paths.FLOAT] = [
        floats({"AAPL": 1}, f"{paths.FLOAT}?cursor=b"),
        floats({"MSFT": 2}, "http://127.0.0.1:9/steal"),
        floats({"AAPL": 3}, f"{paths.FLOAT}?cursor=b"),
        floats({"MSFT": 4}),
    ]
    async with fetching(provider) as book:
        assert not await book.round()
        assert book.rows["AAPL"].free_float == 1
        assert any("another server" in one for one in book.missing)

        assert await book.round()
        assert (book.rows["AAPL"].free_float, book.rows["MSFT"].free_float) == (3, 4)
    assert provider.asked.count(f"{paths.FLOAT}?limit=5000") == 2


async def test_symbols_are_bounded() -> None:
    """A provider gone mad cannot fill the memory."""
    provider = Market()
    provider.volumes = lambda _day: {f"S{n}": 5 for n in range(50)}
    rejected = Rejected()
    async with fetching(provider, max_symbols=10, rejected=rejected) as book:
        await book.round()
        assert len(book.rows) == 10
        assert rejected.counts[("grouped", "too many symbols")] >= 40


async def test_eleven_thousand_symbols_take_fewer_than_60_calls_and_small_steps() -> None:
    """No step tells or reads more than 500 symbols, and the loop is given back between them."""
    symbols = [f"S{n}" for n in range(11_000)]
    provider = Market()
    provider.closing = date(2000, 1, 1)
    provider.volumes = lambda _day: whole
    whole = dict.fromkeys(symbols, 1000)
    body = session(whole)
    provider.answers[paths.GROUPED] = body
    provider.answers[paths.SNAPSHOT] = snapshot(dict.fromkeys(symbols, 50))
    pages = [symbols[start : start + 5_000] for start in (0, 5_000, 10_000)]
    provider.answers[paths.FLOAT] = [
        floats(dict.fromkeys(page, 7), f"{paths.FLOAT}?cursor={n}" if n < 2 else "")
        for n, page in enumerate(pages)
    ]
    sizes: list[int] = []
    turns = 0
    told_in_turn: list[tuple[int, int]] = []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def note(rows: Mapping[str, ReferenceRow]) -> None:
        sizes.append(len(rows))
        told_in_turn.append((turns, len(rows)))

    async with fetching(provider, on_rows=[note]) as book:
        counter = asyncio.create_task(count_turns())
        try:
            assert await book.round()
        finally:
            counter.cancel()
        assert len(book.rows) == 11_000
        assert all(row.pending == () and row.avg_volume_days == 30 for row in book.rows.values())
        assert book.progress.done == len(provider.asked) == 1 + 30 + 1 + 3
    assert max(sizes) == 500
    in_turn: dict[int, int] = {}
    for turn, rows in told_in_turn:
        in_turn[turn] = in_turn.get(turn, 0) + rows
    assert max(in_turn.values()) <= 2_000  # two readers and their settling may meet in one turn


async def test_volumes_are_added_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand symbols at a time, whatever the size of an answer."""
    added: list[int] = []
    add = SessionVolumes.add

    def noted(self: SessionVolumes, day: date, volumes: Mapping[str, float], refused: Any = ()) -> None:
        added.append(len(volumes))
        add(self, day, volumes, refused)

    monkeypatch.setattr(SessionVolumes, "add", noted)
    provider = Market()
    provider.answers[paths.GROUPED] = session({f"S{n}": 1000 for n in range(2_500)})
    async with fetching(provider) as book:
        assert await book.round()
        assert book.rows["S2499"].avg_volume_days == 30
    assert sorted(added) == [500] * 30 + [1_000] * 60


async def test_progress_counts_calls_and_symbols() -> None:
    """What is done never exceeds what is needed, and both meet at the end."""
    provider = Market()
    seen: list[tuple[int, int]] = []
    async with fetching(provider) as book:
        first = book.progress
        book.table.on_rows.append(lambda _: seen.append((book.progress.done, book.progress.total)))
        await book.round()
        last = book.progress
    assert (first.done, first.total, first.symbols) == (0, 33, 0)
    assert (last.done, last.total, last.symbols) == (34, 34, 2)
    assert all(done <= total for done, total in seen)
