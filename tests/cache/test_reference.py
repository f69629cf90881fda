"""Which trading day's reference values count, when the next ones come, and what a restart keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web

from mdp.cache import paths
from mdp.cache.reference import Reference, ReferenceRow
from mdp.cache.rest import RestClient
from mdp.cache.table import ALL_PENDING, AVERAGE, PREVIOUS
from mdp.observability.metrics import Metrics
from mdp.sessions import NEW_YORK
from tests.cache.market import KEY, TODAY, Market, floats, snapshot, splits
from tests.cache.provider import Answer, Provider, hang, serving

TOMORROW = TODAY + timedelta(days=1)


def new_york(day: date, clock: str) -> float:
    """Epoch ms of a New York time."""
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=NEW_YORK).timestamp() * 1000


class Times:
    """The provider's clock and the market's, as a test sets them."""

    def __init__(self, server: float | None = None) -> None:
        self.server = server
        self.market: float = 0
        self.day: date | None = None

    def open(self, day: date, clock: str) -> None:
        """Events and the provider are at this time."""
        self.day, self.market = day, new_york(day, clock)
        self.server = self.market


@asynccontextmanager
async def keeping(
    provider: Provider, times: Times | None = None, *, timeout: float = 30.0, tries: int = 2, **options: Any
) -> AsyncIterator[Reference]:
    """A stage for a started provider, at 09:25 of today; pauses between its tries take no time."""

    async def no_wait(_seconds: float) -> None:
        await asyncio.sleep(0)

    times = times if times is not None else Times(new_york(TODAY, "09:25:00"))
    async with serving(provider):
        rest = RestClient(provider.url, KEY, rate=1e9, tries=tries, timeout=timeout, sleep=no_wait)
        reference = Reference(
            rest,
            server_ms=lambda: times.server,
            market_ms=lambda: times.market,
            market_day=lambda: times.day,
            **options,
        )
        try:
            yield reference
        finally:
            await reference.stop()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, at most 10 s."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for is set by code that knows no events
            await asyncio.sleep(0.005)


def through_msgpack(reference: Reference) -> list[Any]:
    """A dump as it comes back from a file."""
    records: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(list(reference.dump())))
    return records


async def complete(reference: Reference) -> None:
    """Start it and wait until all is there."""
    await reference.start()
    await until(lambda: reference.complete)


@pytest.mark.parametrize(
    ("day", "clock", "expected"),
    [
        (date(2026, 9, 23), "09:25:00", date(2026, 9, 23)),
        (date(2026, 9, 23), "20:30:00", date(2026, 9, 23)),  # of the day that was: its rows are still shown
        (date(2026, 9, 24), "03:34:59", date(2026, 9, 23)),
        (date(2026, 9, 24), "03:35:00", date(2026, 9, 24)),
        (date(2026, 9, 26), "12:00:00", date(2026, 9, 25)),  # a Saturday shows Friday
        (date(2026, 9, 28), "03:34:00", date(2026, 9, 25)),
        (date(2026, 9, 28), "03:36:00", date(2026, 9, 28)),
        (date(2026, 9, 7), "10:00:00", date(2026, 9, 4)),  # Labor Day
        (date(2026, 3, 8), "10:00:00", date(2026, 3, 6)),  # clocks went forward this Sunday
        (date(2026, 3, 9), "03:35:00", date(2026, 3, 9)),
        (date(2026, 11, 2), "03:35:00", date(2026, 11, 2)),  # and back the day before
    ],
)
async def test_a_start_asks_for_the_trading_day_it_falls_in(day: date, clock: str, expected: date) -> None:
    """Previous close: of the session before that day, whatever day it is now by the calendar."""
    provider = Market()
    times = Times(new_york(day, clock))
    async with keeping(provider, times) as reference:
        await complete(reference)
        assert reference.day == expected
    newest = max(path for path in provider.asked if path.startswith(paths.GROUPED))
    assert newest < paths.GROUPED + expected.isoformat()


async def test_the_next_days_values_are_fetched_from_0335_and_swapped_in_at_the_reset() -> None:
    """In one step, complete, with a split that takes effect that day; until then the old day's stay."""
    provider = Market()
    provider.closing = date(2000, 1, 1)
    times = Times()
    times.open(TODAY, "19:59:00")
    swapped: list[Mapping[str, ReferenceRow]] = []
    async with keeping(provider, times) as reference:
        reference.on_swap.append(swapped.append)
        await complete(reference)
        asked = len(provider.asked)
        provider.answers[paths.SPLITS] = splits(("AAPL", str(TOMORROW), 10, 1))

        times.server = new_york(TOMORROW, "03:34:00")
        reference.look()
        await asyncio.sleep(0.05)
        assert len(provider.asked) == asked

        times.server = new_york(TOMORROW, "03:35:00")
        reference.look()
        await until(lambda: "2 symbols for 2026-09-24" in reference.health().detail)
        await until(lambda: provider.count(paths.FLOAT) == 2)
        await until(lambda: reference._next is not None and reference._next.done)
        assert (reference.day, reference.rows["AAPL"].prev_day_close) == (TODAY, 50)
        assert provider.count(paths.GROUPED + str(TODAY)) == 1
        asked = len(provider.asked)

        reference.enter(TOMORROW)
        assert len(swapped) == 2
        assert swapped[1]["AAPL"].prev_day_close == 500
        assert reference.rows["AAPL"] == ReferenceRow(490, 520, 480, 500, 30, 505, 30, 30, 1.5e9)
        assert reference.complete
        times.open(TOMORROW, "04:00:01")
        reference.look()
        await asyncio.sleep(0.05)
        assert len(provider.asked) == asked
        assert len(swapped) == 2


async def test_a_reset_without_values_shows_none_of_the_old_day() -> None:
    """They would look right. All is pending until the new ones come, which are asked for at once."""
    provider = Market()
    times = Times()
    times.open(TODAY, "19:59:00")
    swapped: list[int] = []
    async with keeping(provider, times) as reference:
        reference.on_swap.append(lambda rows: swapped.append(len(rows)))
        await complete(reference)
        reference.enter(TOMORROW)
        assert swapped == [0, 0]
        assert reference.rows == {}
        assert reference.day == TOMORROW
        times.open(TOMORROW, "04:00:00")
        await until(lambda: reference.complete)
        assert reference.rows["AAPL"].prev_day_close == 50
        assert provider.count(paths.GROUPED + str(TODAY)) == 1


async def test_a_rewind_asks_for_the_earlier_day() -> None:
    """A replay that begins again."""
    provider = Market()
    times = Times()
    times.open(TODAY, "10:00:00")
    async with keeping(provider, times) as reference:
        await complete(reference)
        earlier = date(2026, 9, 2)
        times.open(earlier, "10:00:00")
        reference.enter(earlier)
        await until(lambda: reference.complete)
        assert reference.day == earlier
        assert provider.count(paths.GROUPED + "2026-09-01") == 2


async def test_a_provider_of_another_time_does_not_lead_a_replay_astray() -> None:
    """Events of 2013 with the clock of today: the events' trading day counts."""
    provider = Market()
    times = Times()
    times.open(date(2013, 9, 25), "10:00:00")
    times.server = new_york(TODAY, "10:00:00")
    async with keeping(provider, times) as reference:
        await complete(reference)
        assert reference.day == date(2013, 9, 25)
        reference.look()
        assert reference._next is None


async def test_while_nobody_tells_the_day_nothing_is_asked() -> None:
    """The provider may have no market status; the first event tells. Meanwhile it is ready after a while."""
    provider = Market()
    times = Times()
    async with keeping(provider, times, patience_seconds=0.01) as reference:
        assert not reference.ready
        await reference.start()
        await until(lambda: reference.ready)
        assert provider.asked == []
        assert "not known" in reference.health().detail
        times.open(TODAY, "04:00:00")
        times.server = None
        await until(lambda: reference.complete)
        assert reference.day == TODAY


async def test_a_server_that_only_fails_is_no_warm_up() -> None:
    """Nothing is known, and health says why; one without any endpoint lets the process be ready."""
    provider = Provider()
    provider.answers["/"] = 500
    async with keeping(provider) as reference:
        await reference.start()
        await until(lambda: "missing" in reference.health().detail)
        assert not reference.ready
        assert "snapshot (HTTP 500)" in reference.health().detail
    async with keeping(Provider()) as reference:
        await complete(reference)
        assert reference.ready
        assert reference.rows == {}


async def test_the_stage_tries_until_everything_is_there() -> None:
    """With growing pauses, in the background; only what failed is asked for again."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            provider.answers[paths.SNAPSHOT] = snapshot({"AAPL": 50})
        await asyncio.sleep(0)

    provider = Market()
    provider.answers[paths.SNAPSHOT] = 418  # an answer that trips no circuit breaker
    async with keeping(provider, sleep=pause) as reference:
        await reference.start()
        await complete(reference)
    assert len(pauses) == 4
    assert all(2 * 2**n * 0.75 <= seconds <= 2 * 2**n * 1.25 for n, seconds in enumerate(pauses))
    assert provider.count(paths.FLOAT) == 1
    assert provider.count(paths.GROUPED) == 31


async def test_what_is_absent_is_asked_for_again_much_later() -> None:
    """A plan may be upgraded while the process runs."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        provider.answers[paths.FLOAT] = floats({"AAPL": 5})
        provider.answers[paths.GROUPED] = provider.grouped
        await asyncio.sleep(0)

    provider = Market()
    provider.answers[paths.FLOAT] = 403
    provider.answers[paths.GROUPED] = b"{}"
    async with keeping(provider, sleep=pause) as reference:
        await reference.start()
        await until(lambda: reference.rows.get("AAPL", ReferenceRow()).free_float == 5)
        await until(lambda: reference.rows["AAPL"].avg_volume == 300)
    assert pauses == [1800.0]


async def test_a_slow_provider_does_not_keep_the_process_from_being_ready() -> None:
    """After its patience it is ready with what it has, and goes on waiting for the rest."""
    provider = Market()
    provider.answers[paths.FLOAT] = hang
    async with keeping(provider, patience_seconds=0.01) as reference:
        await reference.start()
        await until(lambda: reference.rows and reference.ready)
        assert reference.warming_up


async def test_stop_ends_what_is_under_way() -> None:
    """Also before start, and twice; no task is left."""
    provider = Market()
    provider.answers[paths.SNAPSHOT] = hang
    before = asyncio.all_tasks()
    async with keeping(provider) as reference:
        await reference.stop()
        await reference.start()
        await until(lambda: provider.asked)
        await asyncio.wait_for(reference.stop(), 60)
        await reference.stop()
        names = {task.get_name() for task in asyncio.all_tasks() - before}
        assert not {name for name in names if name.startswith(("reference", "lookup"))}


async def test_a_symbol_seen_later_is_asked_for_by_itself_once() -> None:
    """Its previous day, average and float; one that the provider does not know is not asked for again."""
    provider = Market()
    seen = {"AAPL"}
    days = {date(2026, 9, 21): 12.0, date(2026, 9, 18): 6.0}
    bars = [
        {"t": new_york(day, "00:00:00"), "o": 3, "h": 5, "l": 2, "c": 4, "v": volume, "vw": 4}
        for day, volume in days.items()
    ]
    provider.closing = date(2000, 1, 1)
    provider.answers[paths.BARS + "NEW"] = msgspec.json.encode({"results": bars})

    async def the_floats(request: web.Request) -> Answer:
        return floats({"NEW": 77} if "ticker.any_of" in request.query else {"AAPL": 5})

    provider.answers[paths.FLOAT] = the_floats
    told: dict[str, ReferenceRow] = {}
    async with keeping(provider, seen=lambda: seen) as reference:
        reference.on_rows.append(told.update)
        await complete(reference)
        asked = len(provider.asked)
        seen |= {"NEW", "NOPE"}
        reference.latecomers.look()
        await until(lambda: "NOPE" in told)
        assert told["NOPE"] == ReferenceRow(pending=())
        assert told["NEW"].avg_volume_days == 3  # 18, 21 and 22 September, on which it did not trade
        assert (told["NEW"].avg_volume, told["NEW"].free_float, told["NEW"].pending) == (6, 77, ())
        assert told["NEW"].prev_day_close == 0
        reference.latecomers.look()
        await asyncio.sleep(0.02)
        assert len(provider.asked) == asked + 3
        assert provider.count(paths.FLOAT) == 2
        assert reference.latecomers.asked == 2


async def test_a_second_start_on_the_same_day_asks_nothing() -> None:
    """The values come from the file, at once, and are told to listeners; splits are kept for lookups."""
    provider = Market()
    provider.answers[paths.SPLITS] = splits(("MSFT", str(TODAY), 1, 4))
    async with keeping(provider) as first:
        assert list(first.dump()) == []
        await complete(first)
        await until(lambda: first.ready)
        records = through_msgpack(first)
        rows = first.rows

    again = Market()
    told: dict[str, ReferenceRow] = {}
    times = Times()
    times.open(TODAY, "11:00:00")
    async with keeping(again, times) as second:
        second.on_rows.append(told.update)
        second.load(records, str(TODAY))
        assert told == second.rows == rows
        assert second.ready
        await complete(second)
        for _ in range(3):
            second.look()
            await asyncio.sleep(0.01)
        assert second.rows == rows
        assert second.health().detail == first.health().detail
        assert through_msgpack(second) == records
        assert (await second.aside.get("snapshot", "MSFT")).close == 12.5
    assert again.asked == []


async def test_what_was_missing_is_fetched_after_a_restart() -> None:
    """Only that, and with the splits that the first start knew."""
    provider = Market()
    provider.answers[paths.FLOAT] = 418
    provider.answers[paths.SPLITS] = splits(("AAPL", str(TODAY), 10, 1))
    async with keeping(provider) as first:
        await first.start()
        await until(lambda: "float (HTTP 418)" in first.health().detail and first.ready)
        records = through_msgpack(first)
    again = Market()
    async with keeping(again) as second:
        second.load(records, str(TODAY))
        assert "free_float" in second.rows["AAPL"].pending
        await complete(second)
        assert second.rows["AAPL"].free_float == 1_500_000_000
        assert not second.rows["AAPL"].pending
        assert second.rows["AAPL"].avg_volume == 30
    assert again.asked == [f"{paths.FLOAT}?limit=5000"]


async def test_a_restart_between_0335_and_four_keeps_both_days() -> None:
    """Neither is asked for again; the reset swaps in what the first process had fetched."""
    provider = Market()
    times = Times()
    times.open(TODAY, "19:59:00")
    async with keeping(provider, times) as first:
        await complete(first)
        times.server = new_york(TOMORROW, "03:40:00")
        provider.volumes = lambda _day: {"AAPL": 900}
        provider.closing = date(2000, 1, 1)
        first.look()
        await until(lambda: first._next is not None and first._next.done)
        records = through_msgpack(first)
    again = Market()
    async with keeping(again, times) as second:
        second.load(records, str(TODAY))
        await second.start()
        second.look()
        await asyncio.sleep(0.05)
        assert second.rows["AAPL"].avg_volume == 300
        second.enter(TOMORROW)
        assert second.rows["AAPL"].avg_volume == 900
    assert again.asked == []


@pytest.mark.parametrize(("clock", "day"), [("19:59:00", TODAY), ("03:40:00", TOMORROW)])
async def test_a_second_start_before_the_first_event_asks_nothing_either(clock: str, day: date) -> None:
    """At night there is no market clock: of the days in the file the one that is due counts."""
    provider = Market()
    provider.closing = date(2000, 1, 1)
    times = Times()
    times.open(TODAY, "19:59:00")
    async with keeping(provider, times) as first:
        await complete(first)
        times.server = new_york(TOMORROW, "03:40:00")
        first.look()
        await until(lambda: first._next is not None and first._next.done)
        records = through_msgpack(first)
    again = Market()
    async with keeping(again, Times(new_york(day, clock))) as second:
        second.load(records, "")
        assert through_msgpack(second) == records
        await complete(second)
        assert second.day == day
        assert second.rows["AAPL"].avg_volume == 300
    assert again.asked == []


async def test_values_of_another_day_do_not_stay() -> None:
    """The market has moved on since: all is asked for anew."""
    provider = Market()
    async with keeping(provider) as first:
        await complete(first)
        records = through_msgpack(first)
    again = Market()
    times = Times()
    times.open(TOMORROW, "09:25:00")
    async with keeping(again, times) as second:
        second.load(records, str(TOMORROW))
        assert second.rows == {}
        await complete(second)
        assert second.day == TOMORROW
    assert again.count(paths.GROUPED + str(TODAY)) == 1


@pytest.mark.parametrize(
    "records",
    [
        [],
        [["head"]],
        [["head", 99, "2026-09-23", [], 0, []]],
        [["head", 2, "2026-09-22", [], 0, []]],
        [["head", 2, "2026-09-23", ["nonsense"], 0, []]],
        [["head", 2, "2026-09-23", ["splits"], 0, [["AAPL", "never", 2.0]]]],
        [["head", 2, "2026-09-23", ["snapshot"], 30, []], ["rows", {"AAPL": ["x"]}]],
        [["head", 2, "2026-09-23", ["snapshot"], 30, []], 7],
    ],
)
async def test_a_dump_that_does_not_fit_is_left_alone(records: list[Any]) -> None:
    """Another day or version, or a damaged file: the values are fetched as if there were none."""
    provider = Market()
    async with keeping(provider) as reference:
        reference.load(records, "2026-09-23")
        assert not reference.ready
        assert reference.rows == {}
        await complete(reference)
        assert reference.rows["AAPL"].prev_day_close == 50


async def test_a_symbol_without_a_row_waits_for_what_the_provider_may_have() -> None:
    """For everything at first; not for floats, once it is clear that there are none. Nothing is asked alone
    of a provider that has nothing."""
    provider = Market()
    provider.answers[paths.FLOAT] = 403
    told: list[tuple[str, ...]] = []
    async with keeping(provider) as reference:
        reference.on_unknown.append(told.append)
        await complete(reference)
        await until(lambda: len(told) == 2)
        assert told == [ALL_PENDING, PREVIOUS + AVERAGE]

    none = Provider()
    async with keeping(none, seen=lambda: {"AAPL"}) as reference:
        reference.on_unknown.append(told.append)
        await complete(reference)
        asked = len(none.asked)
        reference.look()
        reference.latecomers.look()
        await until(lambda: told[-1] == ())
        assert (reference.latecomers.asked, len(none.asked)) == (0, asked)


async def test_latecomers_that_cannot_be_had_are_tried_again_a_minute_later() -> None:
    """Their rows stay pending meanwhile; whatever the other answers were, nothing wrong is shown."""
    provider = Market()
    clock = [100.0]
    async with keeping(provider, seen=lambda: {"NEW"}) as reference:
        reference.latecomers._clock = lambda: clock[0]
        await complete(reference)
        provider.answers[paths.FLOAT] = 418
        reference.latecomers.look()
        await until(lambda: reference.latecomers.failed == 1)
        assert "NEW" not in reference.rows
        provider.answers[paths.FLOAT] = floats({"NEW": 5})
        clock[0] += 59
        reference.latecomers.look()
        assert reference.latecomers.asked == 1
        clock[0] += 1
        reference.latecomers.look()
        await until(lambda: "NEW" in reference.rows)
        assert reference.rows["NEW"] == ReferenceRow(free_float=5)


async def test_hundreds_of_latecomers_come_in_batches_of_fifty() -> None:
    """One batch at a time; the provider's limits hold as ever."""
    provider = Market()
    seen = {f"S{n}" for n in range(120)}
    async with keeping(provider, seen=lambda: seen) as reference:
        await complete(reference)
        for expected in (50, 100, 120):
            reference.latecomers.look()
            reference.latecomers.look()
            await until(lambda expected=expected: len(reference.rows) == 2 + expected)  # type: ignore[misc]
            assert reference.latecomers.asked == expected
        assert provider.count(paths.FLOAT) == 1 + 3


async def test_counters_are_shown() -> None:
    """Symbols by day, what is complete, what was refused by endpoint and reason, requests by endpoint."""
    provider = Market()
    provider.answers[paths.FLOAT] = floats({"AAPL": -5, "MSFT": 3})
    async with keeping(provider) as reference:
        await complete(reference)
        metrics = Metrics()
        reference.register(metrics)
        text = metrics.render().decode()
    assert 'mdp_reference_symbols{day="current"} 2.0' in text
    assert 'mdp_reference_complete{source="sessions"} 1.0' in text
    assert 'mdp_reference_rejected_total{endpoint="float",reason="negative"} 1.0' in text
    assert 'mdp_rest_requests_total{endpoint="grouped",outcome="200"} 31.0' in text
    assert 'mdp_rest_breaker_open{endpoint="grouped"} 0.0' in text


async def test_a_row_that_is_not_there_is_nothing() -> None:
    """`get` never raises; what a table's row waits for is everything at first."""
    async with keeping(Market()) as reference:
        assert reference.get("AAPL") is None
        assert reference.progress.total == 0
        reference.enter(TODAY)
        row = reference._current.row("X") if reference._current is not None else None
        assert row is not None
        assert row.pending == ALL_PENDING
