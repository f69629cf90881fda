"""Repairs from REST bars: what is asked for, in which order, and what becomes of every kind of answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from mdp.analyzers.state import NoReference
from mdp.cache.rest import RestClient, RestError
from mdp.listener.gaps import Gap
from mdp.observability.metrics import Metrics
from mdp.processor import backfill as module
from mdp.processor.backfill import Backfill
from tests.analyzers.rig import Rig, at, bar

NOON = at(12)
RESUMED = at(12, 0, 40)
_RANGE = re.compile(r"/v2/aggs/ticker/([^/]+)/range/1/(second|minute)/(\d+)/(\d+)")


class FakeProvider(RestClient):
    """Has bars by symbol and length; fails as told."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.bars: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.snapshot: list[dict[str, Any]] | None = None
        self.fails: Callable[[str], RestError | bytes | None] = lambda _symbol: None
        self.asked: list[tuple[str, str]] = []
        self.stretches: list[tuple[int, int]] = []
        self.before: Callable[[], None] = lambda: None  # called at each question

    async def pages(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        found = _RANGE.fullmatch(path)
        assert found is not None, path
        symbol, timespan, first, last = found[1], found[2], int(found[3]), int(found[4])
        self.asked.append((symbol, timespan))
        self.stretches.append((first, last))
        self.before()
        failure = self.fails(symbol)
        if isinstance(failure, RestError):
            raise failure
        if failure is not None:
            yield failure
            return
        rows = [row for row in self.bars.get((symbol, timespan), []) if first <= row["t"] <= last]
        yield json.dumps({"status": "OK", "results": rows}).encode()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        if self.snapshot is None:
            raise RestError(path, "HTTP 404", status=404)
        return json.dumps({"tickers": self.snapshot}).encode()


def row(start: int, close: float, volume: float = 50, **more: Any) -> dict[str, Any]:
    """A bar of the provider."""
    return {"t": start, "o": close, "h": close, "l": close, "c": close, "v": volume, "vw": close, **more}


class Case:
    """A market at noon with AAA and BBB, which lost everything from 12:00:02 to 12:00:40."""

    def __init__(self, **settings: Any) -> None:
        self.rig = Rig()
        self.rig.tick(NOON)
        self.rig.send(
            bar("AAA", NOON, 11, high=12, low=10, av=1_000, a=11), bar("BBB", NOON, 5, av=9_000, a=5)
        )
        self.rig.tick(at(12, 0, 2))
        self.rig.subscribe("daily_range_hod_alert")
        self.rig.subscribe("daily_range_lod_alert")
        self.provider = FakeProvider()
        self.now = 0.0
        self.slept: list[float] = []
        self.on_sleep: Callable[[float], None] = lambda _seconds: None
        self.gap = Gap(1, "aborted", "", 0, None)
        self.backfill = Backfill(
            self.provider, self.rig.engine, clock=lambda: self.now, sleep=self.sleep, **settings
        )

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self.on_sleep(seconds)
        await asyncio.sleep(0)

    def lose(self, symbols: list[str] | None = None) -> None:
        """Data is lost, and comes again; it is the backfill's turn."""
        number = self.rig.market.lose(symbols)
        self.gap.name_uncertain(symbols)
        self.rig.tick(RESUMED)
        self.backfill.want(self.gap, number, RESUMED)

    async def run(self, until: Callable[[], bool] | None = None) -> None:
        """Until the entry is done with."""
        over = until or (lambda: self.gap.repair not in ("waiting", "running"))
        await self.backfill.start()
        try:
            async with asyncio.timeout(60):
                while not over():  # noqa: ASYNC110  conditions of many kinds, none with an event
                    await asyncio.sleep(0)
        finally:
            await self.backfill.stop()

    def range_of(self, symbol: str = "AAA") -> tuple[Any, Any]:
        value = self.rig.get(f"daily_range:{symbol}")
        return value["regular_session_high"], value["regular_session_low"]

    def since(self, symbol: str) -> Any:
        return self.rig.market.trust.uncertain_since(symbol)


async def test_what_was_missed_is_repaired_and_is_no_news() -> None:
    """Range, volume and price; symbols that did not trade are certain again; the entry says so."""
    case = Case()
    case.provider.bars["AAA", "second"] = [row(at(12, 0, 20), 15, 300), row(at(12, 0, 21), 13)]
    case.lose()
    assert [case.rig.get(f"quote:{name}")["stale"] for name in ("AAA", "BBB")] == [True, True]
    await case.run()
    quote = case.rig.get("quote:AAA")
    assert case.range_of() == (15, 10)
    assert (quote["close"], quote["accumulated_volume"], quote["stale"]) == (13, 1_350, False)
    assert quote["aggregate_vwap"] == (11 * 1_000 + 15 * 300 + 13 * 50) / 1_350
    assert case.rig.get("quote:BBB")["stale"] is False
    assert case.rig.get("daily_range:AAA")["uncertain_since"] is None
    assert case.rig.taken() == []
    assert (case.gap.repair, case.gap.repaired, case.gap.uncertain) == ("done", 2, [])
    case.rig.send(bar("AAA", at(12, 0, 41), 16))
    assert [(alert["price"], alert["previous"]) for _, alert in case.rig.taken()] == [(16, 15)]


async def test_it_waits_until_the_last_second_is_published_and_asks_from_before_the_loss() -> None:
    """Bars of what was current when data was lost had not come either."""
    case = Case()
    case.lose()
    await case.run()
    assert case.slept[0] == 3.0
    first, last = case.provider.stretches[0]
    assert first == max(at(12, 0, 2) - 30_000, at(4))
    assert last == RESUMED - 1


async def test_bars_that_the_stream_brought_meanwhile_count_once() -> None:
    """The stream's volume is the day's; a fetched bar beside it adds nothing."""
    case = Case()
    case.provider.bars["AAA", "second"] = [row(at(12, 0, 20), 15, 300), row(at(12, 0, 39), 11, 20)]
    case.lose()
    case.rig.send(bar("AAA", at(12, 0, 39), 11, v=20, av=1_320))
    await case.run()
    assert case.rig.get("quote:AAA")["accumulated_volume"] == 1_320
    assert case.range_of() == (15, 10)


async def test_one_snapshot_repairs_volumes_and_bars_do_not_add_to_them() -> None:
    """Of silent symbols at once; also one seen first in the outage is known by it."""
    case = Case()
    case.provider.snapshot = [
        {"ticker": "AAA", "min": {"av": 1_400, "t": NOON}},
        {"ticker": "NEW", "min": {"av": 70, "t": NOON}},
    ]
    case.provider.bars["AAA", "second"] = [row(at(12, 0, 20), 11, 300)]
    case.provider.bars["NEW", "second"] = [row(at(12, 0, 20), 3, 60)]
    case.lose()
    await case.run()
    assert case.rig.get("quote:AAA")["accumulated_volume"] == 1_400
    assert case.rig.get("quote:NEW")["accumulated_volume"] == 70
    assert case.range_of("NEW") == (3, 3)


async def test_those_that_somebody_looks_at_come_first() -> None:
    """Then by the day's volume, then those that have not traded as far as we know."""

    async def boards() -> list[str]:
        return ["CCC"]

    case = Case(wanted=lambda: ["AAA"], boards=boards)
    case.rig.send(bar("CCC", NOON, 5, av=1), bar("DDD", NOON, 5, av=10_000))
    case.rig.market.references["QUIET"] = NoReference()
    case.provider.bars["AAA", "second"] = [row(at(12, 0, 20), 11)]
    case.lose()
    await case.run()
    assert [symbol for symbol, _ in case.provider.asked] == ["AAA", "CCC", "DDD", "BBB", "QUIET"]


async def test_only_the_symbols_of_a_batch_are_asked_for() -> None:
    """What expired in a queue is known by name; no snapshot of the whole market for that."""
    case = Case()
    case.provider.snapshot = [{"ticker": "BBB", "min": {"av": 99_999, "t": NOON}}]
    case.provider.bars["BBB", "second"] = [row(at(12, 0, 20), 6)]
    case.lose(["BBB"])
    await case.run()
    assert case.provider.asked == [("BBB", "second")]
    assert case.range_of("BBB") == (6, 5)
    assert case.rig.get("quote:BBB")["accumulated_volume"] == 9_050


async def test_minutes_are_asked_for_where_there_are_no_seconds() -> None:
    """Once that is known of a provider, no second is asked for in vain."""
    case = Case()
    for name in ("AAA", "BBB"):
        case.provider.bars[name, "minute"] = [row(NOON, 14)]
    case.lose()
    await case.run()
    assert [timespan for _, timespan in case.provider.asked].count("second") <= 2
    assert [timespan for _, timespan in case.provider.asked].count("minute") == 2
    assert case.range_of() == (14, 10)


async def test_long_outages_are_repaired_from_minutes_that_are_over() -> None:
    """The last one is fetched when the market is past it: its live part is news that is not to be taken."""
    case = Case()
    number = case.rig.market.lose()
    resumed = at(12, 30, 20)
    case.rig.tick(resumed)
    case.provider.bars["AAA", "minute"] = [row(at(12, 30), 14), row(at(12, 31), 99)]

    def go_on(_seconds: float) -> None:
        assert case.provider.asked == [] or case.rig.market.clock.now_ms >= at(12, 31)
        case.rig.market.clock.now_ms += 10_000

    case.on_sleep = go_on
    case.backfill.want(case.gap, number, resumed)
    await case.run()
    assert {timespan for _, timespan in case.provider.asked} == {"minute"}
    assert {last for _, last in case.provider.stretches} == {at(12, 31) - 1}
    assert case.range_of() == (14, 10)


async def test_a_market_that_stands_still_is_not_waited_for_longer() -> None:
    """The end of the day, or of a replay."""
    case = Case()
    number = case.rig.market.lose()
    case.rig.tick(at(12, 30, 20))
    case.backfill.want(case.gap, number, at(12, 30, 20))
    await case.run()
    assert case.gap.repair == "done"
    assert case.now < 200


async def test_garbage_leaves_the_symbol_uncertain_and_the_others_repaired() -> None:
    """After some tries, with the reason counted; what was good of an answer is taken."""
    case = Case()
    case.provider.fails = lambda symbol: b"<html>" if symbol == "BBB" else None
    case.provider.bars["AAA", "second"] = [row(at(12, 0, 20), 15), row(at(12, 0, 21), -1)]
    case.lose()
    await case.run()
    assert case.gap.repair == "partial"
    assert (case.gap.uncertain, case.gap.uncertain_count) == (["AAA", "BBB"], 2)
    assert case.range_of() == (15, 10)
    assert case.since("AAA") == case.since("BBB") == at(12, 0, 2)
    assert case.since("CCC") is None
    counts = {reason for _, reason in case.backfill.rejected.counts}
    assert counts == {"negative", "not JSON"}
    assert len([symbol for symbol, _ in case.provider.asked if symbol == "BBB"]) == module.PASSES


async def test_very_many_that_cannot_be_repaired_are_not_kept_by_name(monkeypatch: Any) -> None:
    """Whoever is not repaired is uncertain, as before; who was, is not."""
    monkeypatch.setattr(module, "MAX_LEFT", 1)
    case = Case()
    case.rig.send(bar("CCC", NOON, 5))
    case.provider.fails = lambda symbol: None if symbol == "AAA" else b"<html>"
    case.lose()
    await case.run()
    assert (case.gap.repair, case.gap.uncertain) == ("partial", None)
    assert [case.since(name) for name in ("AAA", "BBB", "CCC")] == [None, at(12, 0, 2), at(12, 0, 2)]


async def test_a_provider_that_is_down_is_asked_again_until_it_answers() -> None:
    """With growing pauses; the entry says why meanwhile; then all is repaired."""
    case = Case()
    said: list[str] = []
    case.provider.bars["AAA", "second"] = [row(at(12, 0, 20), 15)]
    case.provider.fails = lambda _: RestError("/p", "HTTP 500", status=500) if case.now < 300 else None
    case.on_sleep = lambda _: said.append(case.gap.repair_detail)
    case.lose()
    await case.run()
    assert any("HTTP 500" in detail for detail in said)
    assert case.gap.repair == "done"
    assert case.gap.repair_detail == ""
    assert case.range_of() == (15, 10)
    assert len(case.provider.asked) < 40


async def test_an_open_breaker_is_waited_for() -> None:
    """Nothing is sent meanwhile; as long as the REST client says."""
    case = Case()
    refusals = [RestError("/p", "only failed lately", retry_after=25.0, asked=False)] * 2
    case.provider.fails = lambda _: refusals.pop() if refusals else None
    case.provider.bars["AAA", "second"] = [row(at(12, 0, 20), 15)]
    case.lose()
    await case.run()
    assert 25.0 in case.slept
    assert case.gap.repair == "done"


async def test_a_plan_without_bars_is_given_up() -> None:
    """Not 11,000 questions; all stay uncertain and the entry says why."""
    case = Case()
    case.rig.send(*(bar(f"S{n}", NOON, 5) for n in range(100)))
    case.provider.fails = lambda _: RestError("/p", "HTTP 403", status=403)
    case.lose()
    await case.run()
    assert case.gap.repair == "failed"
    assert "HTTP 403" in case.gap.repair_detail
    assert case.gap.uncertain is None
    assert module.GIVE_UP_AFTER <= len(case.provider.asked) <= module.GIVE_UP_AFTER + 2
    assert case.since("AAA") == at(12, 0, 2)


async def test_a_newer_loss_goes_into_the_same_repair() -> None:
    """One question a symbol for both stretches, and both entries are done with."""
    case = Case()
    newer = Gap(2, "shed", "", 0, None)
    case.provider.bars["AAA", "second"] = [row(at(12, 0, 20), 15), row(at(12, 1, 5), 16)]

    def lose_again() -> None:
        if len(case.provider.asked) == 1:
            case.rig.tick(at(12, 1))
            number = case.rig.market.lose()
            case.rig.tick(at(12, 1, 30))
            case.backfill.want(newer, number, at(12, 1, 30))

    case.provider.before = lose_again
    case.lose()
    await case.run(lambda: newer.repair == "done")
    assert case.gap.repair == "done"
    assert case.range_of() == (16, 10)
    assert case.since("AAA") is None
    assert case.since("BBB") is None


async def test_the_reset_ends_a_repair() -> None:
    """Of a day that is over nothing is kept."""
    case = Case()
    case.rig.send(*(bar(f"S{n}", NOON, 5) for n in range(20)))
    tomorrow = at(9, day=(2024, 3, 6))
    case.provider.before = lambda: case.rig.tick(tomorrow)
    case.lose()
    await case.run()
    assert (case.gap.repair, case.gap.repair_detail) == ("failed", "the trading day was over")
    assert len(case.provider.asked) <= 4


async def test_more_symbols_than_allowed_stay_uncertain() -> None:
    """The busiest are repaired, and the entry says that it is not all."""
    case = Case(max_symbols=1)
    case.provider.bars["BBB", "second"] = [row(at(12, 0, 20), 6)]
    case.lose()
    await case.run()
    assert case.gap.repair == "partial"
    assert "1 of 2" in case.gap.repair_detail
    assert (case.since("BBB"), case.since("AAA")) == (None, at(12, 0, 2))


async def test_switched_off_it_says_so() -> None:
    """And asks for nothing."""
    case = Case(enabled=False)
    case.lose()
    await case.run()
    assert (case.gap.repair, case.provider.asked) == ("off", [])
    assert case.backfill.health().detail == "off"
    assert case.since("AAA") == at(12, 0, 2)


async def test_a_defect_ends_one_repair_and_not_those_to_come() -> None:
    """The log has the cause."""
    case = Case()

    def broken() -> None:
        raise RuntimeError("a defect")

    case.provider.before = broken
    repairs: list[str] = []

    def mend() -> None:
        if case.gap.repair == "failed":
            repairs.append(case.gap.repair)
            case.provider.before = lambda: None
            case.lose()

    case.lose()
    await case.run(lambda: mend() or case.gap.repair == "done")  # type: ignore[func-returns-value]
    assert repairs == ["failed"]
    assert case.since("AAA") is None


async def test_its_counts_are_shown() -> None:
    """By outcome."""
    case = Case()
    metrics = Metrics()
    case.backfill.register(metrics)
    case.provider.bars["AAA", "second"] = [row(at(12, 0, 20), 15)]
    case.lose()
    await case.run()
    text = metrics.render().decode()
    assert 'mdp_backfill_symbols_total{outcome="bars"} 1.0' in text
    assert 'mdp_backfill_symbols_total{outcome="nothing"} 1.0' in text
    assert "mdp_backfill_waiting_symbols 0.0" in text
    assert "mdp_backfill_bars_total 1.0" in text
    assert case.backfill.health().ok
