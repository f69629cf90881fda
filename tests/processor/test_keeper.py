"""State over a restart: after a kill nothing is announced twice or wrongly, and no board is empty."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.analyzers.base import Analyzer
from mdp.analyzers.daily_range import DailyRange
from mdp.analyzers.enriched_quote import EnrichedQuote
from mdp.analyzers.leaderboards import Leaderboards
from mdp.analyzers.state import Market
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.cache.persistence import Store
from mdp.events import AGGREGATES, Aggregate
from mdp.processor.engine import Engine
from mdp.processor.keeper import Keeper
from mdp.processor.results import Results
from mdp.queues.base import Batch

OPEN = 1_773_149_400_000  # 2026-03-10 09:30 New York
DAY_MS = 86_400_000


class Process:
    """One life of the platform between its queue and its cache, in a folder that outlives it."""

    def __init__(
        self,
        folder: Path,
        *,
        feed: str = "127.0.0.1:4300",
        wall_ms: int = 1_000_000,
        extra: tuple[Any, ...] = (),
    ) -> None:
        self.loaded: list[tuple[list[Any], str]] = []  # of `extra`, of the life before
        self.bus = MemoryBus(epoch=1)
        self.cache = MemoryCache(self.bus, clock=lambda: 10**12)
        self.results = Results(self.bus, self.cache)
        self.market = Market()
        kinds: tuple[type[Analyzer], ...] = (EnrichedQuote, Leaderboards, DailyRange)
        analyzers = [kind(self.market, self.results) for kind in kinds]
        self.engine = Engine(self.market, self.results, analyzers, max_failures=100)
        self.store = Store(str(folder / "mdp"), feed, "stocks")
        self.wall_ms = wall_ms
        self.keeper = Keeper(
            self.store,
            self.engine,
            self.cache,
            period_seconds=3_600,
            extra_dump=lambda: iter(extra),
            extra_load=lambda records, day: self.loaded.append((records, day)),
            wall_ms=lambda: self.wall_ms,
        )
        self.alerts: list[Any] = []
        for pattern in ("daily_range_hod_alert", "daily_range_lod_alert"):
            self.bus.subscribe(pattern, lambda message: self.alerts.append(message.value))

    def bar(self, symbol: str, second: float, price: float, *, day: int = 0) -> None:
        """A bar that opens, closes and stays at one price."""
        start = OPEN + int(second * 1_000) + day * DAY_MS
        bar = Aggregate(
            symbol=symbol, close=price, high=price, low=price, open=price, volume=100, start_timestamp=start,
            end_timestamp=start + 1_000,
        )  # fmt: skip
        self.engine.process(AGGREGATES, Batch([bar], 1))

    def announced(self) -> list[tuple[str, str, str, float]]:
        return [(alert.symbol, alert.session, alert.direction, alert.price) for alert in self.alerts]

    async def get(self, key: str) -> Any:
        entry = await self.cache.get(key)
        return None if entry is None else msgspec.json.decode(entry.json())

    async def range_of(self, symbol: str) -> tuple[float, float]:
        """High and low of the regular session; the symbol must have had a bar in this life."""
        value = await self.get(f"daily_range:{symbol}")
        return value["regular_session_high"], value["regular_session_low"]

    async def view(self, symbols: str = "AB") -> dict[str, Any]:
        """What clients can see of the kept state."""
        keys = [f"{kind}:{symbol}" for kind in ("daily_range", "quote") for symbol in symbols]
        keys += [
            "scanners:top_volume",
            "scanners:top_gainers",
            "daily_range_hod_alert",
            "daily_range_lod_alert",
        ]
        return {key: await self.get(key) for key in keys}

    def kill(self) -> None:
        """As `kill -9`: nothing is written any more."""
        if self.keeper._task is not None:
            self.keeper._task.cancel()
        self.results.journal_writer = None


async def life(folder: Path, **settings: Any) -> Process:
    process = Process(folder, **settings)
    await process.keeper.start()
    return process


async def test_after_a_kill_ranges_alert_lists_and_quotes_are_as_before(tmp_path: Path) -> None:
    """Snapshot and journal together: what came after the snapshot counts too, at once after the restart."""
    first = await life(tmp_path)
    for second, price in enumerate((10, 11, 9)):
        first.bar("A", second, price)
    await first.keeper.save()
    first.bar("A", 3, 12)
    first.bar("A", 4, 8)
    first.kill()

    second_life = await life(tmp_path)

    assert second_life.announced() == [], "what is restored is not announced"
    restored, before = await second_life.view("A"), await first.view("A")
    for alerts in ("daily_range_hod_alert", "daily_range_lod_alert"):
        assert restored[alerts] == before[alerts]
        assert len(restored[alerts]) == 2
    for side in ("high", "low"):
        name = f"regular_session_{side}"
        assert restored["daily_range:A"][name] == before["daily_range:A"][name]
    assert [row["symbol"] for row in restored["scanners:top_volume"]] == ["A"]
    assert [row["symbol"] for row in restored["scanners:top_gainers"]] == ["A"]
    await second_life.keeper.stop()


async def test_after_a_kill_only_new_extremes_are_announced(tmp_path: Path) -> None:
    """The same price again is no new high; a higher one is, and names the high that it broke."""
    first = await life(tmp_path)
    for second, price in enumerate((10, 11, 12)):
        first.bar("A", second, price)
    first.kill()

    second_life = await life(tmp_path)
    second_life.bar("A", 2, 12)
    second_life.bar("A", 5, 12)
    second_life.bar("A", 6, 10)
    assert second_life.announced() == []
    second_life.bar("A", 7, 13)

    assert second_life.announced() == [("A", "regular", "high", 13)]
    assert second_life.alerts[0].previous == 12
    await second_life.keeper.stop()


async def test_stop_writes_a_snapshot_and_start_goes_on_from_it(tmp_path: Path) -> None:
    """A clean restart on the same trading day."""
    first = await life(tmp_path)
    first.bar("A", 0, 10)
    first.bar("A", 1, 11)
    before = await first.view("A")
    await first.keeper.stop()
    await first.keeper.stop()
    assert first.store.snapshots == 1

    again = await life(tmp_path)

    assert await again.view("A") == before
    assert again.keeper.restored_symbols == 1
    assert again.market.clock.now_ms == first.market.clock.now_ms
    await again.keeper.stop()


async def test_values_of_another_trading_day_do_not_come_back_after_0400(tmp_path: Path) -> None:
    """The boundary passed while the process was down: the first event beyond it clears the day."""
    first = await life(tmp_path)
    first.bar("A", 0, 10)
    first.bar("A", 1, 11)
    await first.keeper.stop()

    again = await life(tmp_path)
    for symbol in "XYZ":  # three symbols agree on a time that far ahead
        again.bar(symbol, 0, 5, day=1)

    assert "A" not in again.market.symbols
    assert again.announced() == []
    await again.keeper.stop()


async def test_a_new_day_in_the_journal_outdates_the_snapshot(tmp_path: Path) -> None:
    """Killed after 04:00, the last snapshot from before it: yesterday's ranges are not today's."""
    first = await life(tmp_path)
    first.bar("A", 0, 10)
    await first.keeper.save()
    for symbol in "XYZA":
        first.bar(symbol, 0, 5, day=1)
    first.bar("A", 1, 6, day=1)
    first.kill()

    again = await life(tmp_path)

    assert again.market.clock.day == first.market.clock.day
    again.bar("A", 2, 5.5, day=1)
    assert again.announced() == []
    assert await again.range_of("A") == (6, 5)
    again.bar("A", 3, 7, day=1)
    assert again.announced() == [("A", "regular", "high", 7)]
    await again.keeper.stop()


async def test_a_market_that_began_again_outdates_the_snapshot_of_the_same_day(tmp_path: Path) -> None:
    """A simulator that was restarted earlier on the same day, then a kill: ranges of its future are gone."""
    first = await life(tmp_path)
    for second, price in enumerate((10, 20, 1)):
        first.bar("A", 3_600 + second, price)
    first.bar("F", 3_600, 10)
    await first.keeper.save()
    first.bar("F", 3_601, 11)
    first.engine.rewind(OPEN)
    first.bar("A", 1, 10)
    first.bar("A", 2, 11)
    first.kill()

    again = await life(tmp_path)

    assert set(again.market.symbols) == {"A"}
    assert again.market.clock.now_ms < OPEN + 3_600_000
    again.bar("A", 3, 10.5)
    assert await again.range_of("A") == (11, 10)
    again.bar("A", 4, 12)
    assert again.announced() == [("A", "regular", "high", 12)]
    await again.keeper.stop()


async def test_another_feed_starts_with_nothing(tmp_path: Path) -> None:
    """A demo's values never reach real boards."""
    first = await life(tmp_path)
    first.bar("A", 0, 10)
    await first.keeper.stop()

    other = await life(tmp_path, feed="socket.massive.com")

    assert other.market.symbols == {}
    assert other.market.clock.day is None
    await other.keeper.stop()


async def test_lists_age_while_the_process_is_down(tmp_path: Path) -> None:
    """Alerts live 8 h from when they came, not from the restart."""
    first = await life(tmp_path, wall_ms=0)
    first.bar("A", 0, 10)
    first.bar("A", 1, 11)
    await first.keeper.stop()

    again = await life(tmp_path, wall_ms=7 * 3_600_000)
    assert len(await again.get("daily_range_hod_alert")) == 1
    again.kill()
    much_later = await life(tmp_path, wall_ms=9 * 3_600_000)
    assert await much_later.get("daily_range_hod_alert") == []
    await much_later.keeper.stop()


async def test_an_analyzer_that_cannot_take_its_state_back_costs_its_state_only(tmp_path: Path) -> None:
    """A snapshot of another version of an analyzer does not stop the start."""
    first = await life(tmp_path)
    first.bar("A", 0, 10)
    first.bar("A", 1, 11)
    await first.keeper.save()
    first.store.write([["s", "daily_range", "nonsense"], ["s", "nobody", 1], ["e", "no:such", 1]])
    first.kill()

    again = await life(tmp_path)

    assert again.market.symbols["A"].bar is not None
    assert len(await again.get("daily_range_hod_alert")) == 1
    await again.keeper.stop()


async def test_what_was_fetched_before_the_first_event_is_kept(tmp_path: Path) -> None:
    """A start at night has no market clock yet, but reference values worth keeping."""
    first = await life(tmp_path, extra=("fetched",))
    await first.keeper.stop()

    again = await life(tmp_path)

    assert again.loaded == [(["fetched"], "")]
    assert again.market.clock.day is None
    await again.keeper.stop()


async def test_a_disk_that_cannot_be_written_shows_in_health_and_stops_nothing(tmp_path: Path) -> None:
    """The platform works without keeping; health says what a restart would lose."""
    obstacle = tmp_path / "file"
    obstacle.write_text("in the way")
    process = await life(obstacle)
    process.bar("A", 0, 10)
    process.bar("A", 1, 11)

    assert process.announced() == [("A", "regular", "high", 11)]
    health = process.keeper.health()
    assert health.ok
    assert "lose" in health.detail
    await process.keeper.stop()


async def test_the_journal_is_written_before_an_alert_leaves(tmp_path: Path) -> None:
    """Whoever hears of an extreme can be sure that a restart knows it."""
    process = await life(tmp_path)
    written: list[int] = []
    process.bus.subscribe("daily_range_hod_alert", lambda _m: written.append(process.store.journal_records))
    process.bar("A", 0, 10)
    before = process.store.journal_records
    process.bar("A", 1, 11)

    assert written
    assert written[0] >= before + 2, "the range and the alert"
    await process.keeper.stop()


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("bar"), st.sampled_from("AB"), st.integers(1, 30)),
        st.tuples(st.just("kill"), st.just(""), st.just(0)),
        st.tuples(st.just("save"), st.just(""), st.just(0)),
        st.tuples(st.just("stop"), st.just(""), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_STEPS)
def test_kills_and_restarts_anywhere_change_nothing_that_clients_see(
    tmp_path_factory: Any, steps: Any
) -> None:
    """Announcements over all lives are those of one life without interruption; ranges and lists too."""

    async def run(interrupted: bool) -> tuple[list[Any], dict[str, Any]]:
        folder = tmp_path_factory.mktemp("kept")
        process = await life(folder)
        announced: list[Any] = []
        for second, (what, symbol, price) in enumerate(steps):
            if what == "bar":
                process.bar(symbol, second, price)
            elif interrupted and what == "save":
                await process.keeper.save()
            elif interrupted:
                await (process.keeper.stop() if what == "stop" else asyncio.sleep(0))
                process.kill()
                announced += process.announced()
                process = await life(folder)
        for symbol in sorted({symbol for _, symbol, _ in steps if symbol}):
            process.bar(symbol, 50, 15)  # so that each has a quote in this life
        announced += process.announced()
        seen = await process.view()
        await process.keeper.stop()
        ranges = {symbol: await process.range_of(symbol) for symbol in process.market.symbols}
        alerts = [
            [
                (a["symbol"], a["direction"], a["price"], a["timestamp"])
                for a in seen[f"daily_range_{side}_alert"]
            ]
            for side in ("hod", "lod")
        ]
        return announced, {"ranges": ranges, "alerts": alerts}

    assert asyncio.run(run(True)) == asyncio.run(run(False))
