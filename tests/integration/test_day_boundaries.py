"""Replays over the edges of trading days through the whole platform, as processes.

Each case is the end of one session, what may come while nothing trades, and the beginning of the next
session. It is replayed up to four points, each by a fresh `mdp simulate` and a fresh `mdp run`: one event
before 04:00 and 09:30 New York time, and with the event at that very millisecond. The recordings are made
here; their times are made from offsets written down in the table, not from the code under test.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.replay_rig import PATIENCE_SECONDS, Process

Event = dict[str, Any]
VOLUME, GAINERS = "scanners:top_volume", "scanners:top_gainers"
THREE = ("AAA", "BBB", "CCC")


@dataclass(frozen=True)
class Case:
    """Two sessions that follow each other. Offsets are New York's hours from UTC on that date."""

    name: str
    source: str
    last: str  # date of the session that ends
    last_offset: int
    idle: tuple[tuple[str, int], ...]  # dates without a session between them
    first: str  # date of the session that begins
    first_offset: int
    half_day: bool = False  # the session that ends


CASES = [
    Case(
        "clocks go forward",
        "15 U.S.C. 260a (Energy Policy Act of 2005): second Sunday of March, 02:00",
        "2024-03-08", -5, (("2024-03-09", -5), ("2024-03-10", -4)), "2024-03-11", -4,
    ),
    Case(
        "clocks go back",
        "15 U.S.C. 260a (Energy Policy Act of 2005): first Sunday of November, 02:00",
        "2024-11-01", -4, (("2024-11-02", -4), ("2024-11-03", -5)), "2024-11-04", -5,
    ),
    Case(
        "holiday",
        "NYSE rule 7.2; NYSE Group's announcement of 2022-12-21: Thanksgiving, 2024-11-28",
        "2024-11-27", -5, (("2024-11-28", -5),), "2024-11-29", -5,
    ),
    Case(
        "half day and weekend",
        "NYSE Group's announcement of 2022-12-21: 2024-11-29 ends at 13:00, late trading at 17:00",
        "2024-11-29", -5, (("2024-11-30", -5), ("2024-12-01", -5)), "2024-12-02", -5, half_day=True,
    ),
    Case(
        "weekend and holiday",
        "NYSE rule 7.2; NYSE Group's announcement of 2022-12-21: Memorial Day, 2024-05-27",
        "2024-05-24", -4, (("2024-05-25", -4), ("2024-05-27", -4)), "2024-05-28", -4,
    ),
    Case(
        "closing that no rule foresees",
        "NYSE's announcement of 2024-12-30: day of mourning for Carter, 2025-01-09",
        "2025-01-08", -5, (("2025-01-09", -5),), "2025-01-10", -5,
    ),
]  # fmt: skip


def at(day: str, offset: int, clock: str) -> int:
    """A wall time in ms, by an offset that is given."""
    zone = timezone(timedelta(hours=offset))
    return round(datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=zone).timestamp() * 1000)


def bar(symbol: str, start: int, opened: float, close: float, volume: int) -> Event:
    """A second's bar, which brings the day's volume along."""
    low, high = sorted((opened, close))
    return {
        "ev": "A", "sym": symbol, "v": 100, "av": volume, "o": opened, "c": close, "h": high, "l": low,
        "vw": close, "a": close, "z": 50, "s": start, "e": start + 1000,
    }  # fmt: skip


def by_all(start: int, opened: float, close: float, volume: int) -> list[Event]:
    """A bar of each of three symbols: one alone may be a stray, three move the market clock."""
    return [bar(symbol, start, opened, close, volume - n) for n, symbol in enumerate(THREE)]


def events_of(case: Case) -> dict[str, list[Event]]:
    """The events up to each point, by its name."""
    last, first = (case.last, case.last_offset), (case.first, case.first_offset)
    close, end = ("13:00", "17:00") if case.half_day else ("16:00", "20:00")
    until_close, until_end = at(*last, close), at(*last, end)
    idle = [at(*day, clock) for day in case.idle for clock in ("04:00", "09:30", "16:00")]
    before_four = [
        # Each session has its own prices, so that a range tells which session took a bar.
        *by_all(at(*last, "04:00"), 10, 11, 1_000),
        *by_all(at(*last, "09:29:59"), 11, 12, 2_000),
        *by_all(at(*last, "09:30"), 20, 21, 3_000),
        *by_all(until_close - 1_000, 21, 22, 4_000),
        *by_all(until_close, 30, 31, 5_000),
        *by_all(until_end - 1_000, 31, 32, 6_000),
        *by_all(until_end, 99, 99, 6_000),
        # All bars: those of one type stay in order, also at full speed.
        *[event for start in idle for event in by_all(start, 500, 1000, 10)],
        *by_all(at(*first, "03:59:59"), 500, 1000, 10),
    ]
    four = [*before_four, bar("NEW", at(*first, "04:00"), 2, 3, 700)]
    before_open = [
        *four,
        *by_all(at(*first, "09:29:58"), 40, 41, 500),
        bar("NEW", at(*first, "09:29:59"), 3, 4, 800),
    ]
    opened = [*before_open, bar("OPEN", at(*first, "09:30"), 8, 9, 600)]
    return {"before 04:00": before_four, "04:00": four, "before 09:30": before_open, "09:30": opened}


def write(path: Path, events: list[Event]) -> Path:
    """A recording, an event a frame, each arriving when it happened (a bar when it is over)."""
    with gzip.open(path, "wt") as file:
        arrived = 0
        for event in events:
            arrived = max(arrived, event["e"])
            file.write(f"{arrived * 1_000_000}\t{json.dumps([event])}\n")
    return path


def replay(
    folder: Path, events: list[Event], *keys: str, port: int = 0, snapshot: str = ""
) -> dict[str, Any]:
    """What a client reads once the platform has seen all events; also what the process logged.

    A snapshot is of one feed: who wants it taken up again gives the port of the run before.
    """
    path = write(folder / "day.frames.gz", events)
    simulator = Process(folder, "simulate", "--port", str(port), "--replay", str(path), "--speed", "max")
    try:
        simulator.wait()
        address = f"127.0.0.1:{simulator.ports['simulator']}"
        ports = [word for name in ("wds", "scp", "metrics", "admin") for word in (f"--{name}-port", "0")]
        platform = Process(
            folder, "run", "--role", "all", "--massive-feed", address, "--massive-secure", "false",
            "--massive-rest-url", f"http://{address}", "--log-format", "json",
            "--cache-snapshot-path", snapshot, *ports,
        )  # fmt: skip
        try:
            platform.wait()
            answers = asyncio.run(read(platform, len(events), keys))
        finally:
            platform.end()
    finally:
        simulator.end()
    answers["port"] = simulator.ports["simulator"]
    answers["log"] = [json.loads(line) for line in platform.lines if line.startswith("{")]
    return answers


async def read(platform: Process, events: int, keys: tuple[str, ...]) -> dict[str, Any]:
    """The values of keys once so many events went through, and a second later: boards come once a second."""
    queues = f"http://127.0.0.1:{platform.ports['admin']}/api/v1/queues"
    socket = f"ws://127.0.0.1:{platform.ports['wds']}/ws"
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(PATIENCE_SECONDS):
            processed = 0
            while processed < events:
                await asyncio.sleep(0.05)
                async with session.get(queues) as answer:
                    accounting = await answer.json()
                processed = sum(queue["processed"] for queue in accounting["queues"].values())
        assert accounting["rejected"] == {}
        await asyncio.sleep(1.5)
        answers = {}
        async with session.ws_connect(socket, max_msg_size=0) as client:
            for key in (VOLUME, GAINERS, "market:status", *keys):
                await client.send_json({"action": "get", "cache": key})
                answers[key] = (await client.receive_json(timeout=PATIENCE_SECONDS))["data"]
    return answers


def symbols(rows: list[dict[str, Any]] | None) -> list[str]:
    """Of a board, in its order."""
    return [row["symbol"] for row in rows or []]


def days_begun(answers: dict[str, Any]) -> list[str]:
    """The trading days whose 04:00 reset the process told of."""
    return [entry["day"] for entry in answers["log"] if entry.get("event") == "trading_day"]


#: The rest of the table belongs to `make test-all`: each case is three replays.
_USUAL = ("clocks go forward", "holiday", "half day and weekend")


@pytest.fixture(
    params=[
        pytest.param(case, id=case.name, marks=() if case.name in _USUAL else pytest.mark.slow)
        for case in CASES
    ]
)
def case(request: pytest.FixtureRequest) -> Case:
    """Each of the table."""
    found: Case = request.param
    return found


def test_boards_stay_until_four_of_the_next_session(case: Case, tmp_path: Path) -> None:
    """Days without a session clear nothing, whoever agrees on their time; sessions took what was theirs."""
    answers = replay(tmp_path, events_of(case)["before 04:00"], "daily_range:AAA")

    assert symbols(answers[VOLUME]) == list(THREE)
    assert [row["accumulated_volume"] for row in answers[VOLUME]] == [6_000, 5_999, 5_998]
    assert set(symbols(answers[GAINERS])) == set(THREE)
    assert days_begun(answers) == [case.last]
    status = answers["market:status"]
    assert (status["trading_day"], status["session"]) == (case.last, "closed")
    assert status["market_time"] == at(case.first, case.first_offset, "03:59:59")
    assert status["early_close"] is case.half_day
    assert status["next_session"] == "pre_market"
    assert status["next_session_at"] == at(case.first, case.first_offset, "04:00")
    ranges = [
        (answers["daily_range:AAA"][f"{session}_low"], answers["daily_range:AAA"][f"{session}_high"])
        for session in ("pre_market", "regular_session", "after_hours")
    ]
    assert ranges == [(10, 12), (20, 22), (30, 32)]
    logged = [entry.get("event") for entry in answers["log"]]
    assert "holidays" in logged  # the provider's list was asked for and taken
    assert not {"holidays_failed", "holidays_refused", "open_on_a_holiday"} & set(logged)


def test_the_first_event_from_four_on_clears_everything(case: Case, tmp_path: Path) -> None:
    """A single one, of a single symbol; what is left is its own."""
    answers = replay(tmp_path, events_of(case)["04:00"], "quote:AAA", "quote:NEW", "daily_range:AAA")

    assert symbols(answers[VOLUME]) == symbols(answers[GAINERS]) == ["NEW"]
    assert answers["quote:AAA"] is None
    assert answers["daily_range:AAA"] is None
    assert (answers["quote:NEW"]["open"], answers["quote:NEW"]["accumulated_volume"]) == (2, 700)
    assert days_begun(answers)[-1] == case.first
    status = answers["market:status"]
    assert (status["trading_day"], status["session"]) == (case.first, "pre_market")
    assert status["next_session_at"] == at(case.first, case.first_offset, "09:30")


def test_the_first_event_from_half_past_nine_on_clears_the_opens(case: Case, tmp_path: Path) -> None:
    """Gainers before it count from the first pre-market print, after it from the regular open alone."""
    events = events_of(case)
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    before = replay(tmp_path / "before", events["before 09:30"], "quote:NEW")
    after = replay(tmp_path / "after", events["09:30"], "quote:NEW", "quote:OPEN")

    assert symbols(before[VOLUME]) == ["NEW", *THREE]
    assert set(symbols(before[GAINERS])) == {"NEW", *THREE}
    assert (before["quote:NEW"]["open"], before["quote:NEW"]["change_since_open"]) == (2, 2)
    assert before["market:status"]["session"] == "pre_market"

    assert symbols(after[GAINERS]) == ["OPEN"]
    assert symbols(after[VOLUME]) == ["NEW", "OPEN", *THREE]
    assert after["quote:NEW"]["open"] == 0
    assert (after["quote:OPEN"]["open"], after["quote:OPEN"]["change_since_open"]) == (8, 1)
    assert after["market:status"]["session"] == "regular"
    assert days_begun(after)[-1] == case.first


def test_a_process_that_was_down_meanwhile_resets_at_the_first_event_too(tmp_path: Path) -> None:
    """Restarted on a weekend it still has Friday's boards; restarted again on Monday it clears them."""
    case = CASES[0]
    events = events_of(case)["before 04:00"]
    sessions = [event for event in events if event["s"] < at(*case.idle[0], "04:00")]
    idle = [event for event in events if event not in sessions]
    monday = by_all(at(case.first, case.first_offset, "04:00"), 40, 41, 500)
    snapshot = str(tmp_path / "snapshot")

    friday = replay(tmp_path, sessions, snapshot=snapshot)
    weekend = replay(tmp_path, idle, "daily_range:AAA", port=friday["port"], snapshot=snapshot)
    after = replay(tmp_path, monday, "daily_range:AAA", port=friday["port"], snapshot=snapshot)

    assert [row["accumulated_volume"] for row in friday[VOLUME]] == [6_000, 5_999, 5_998]
    assert [row["accumulated_volume"] for row in weekend[VOLUME]] == [6_000, 5_999, 5_998]
    assert weekend["daily_range:AAA"]["regular_session_high"] == 22
    assert weekend["market:status"]["trading_day"] == case.last
    assert days_begun(weekend) == []
    assert [row["accumulated_volume"] for row in after[VOLUME]] == [500, 499, 498]
    assert after["daily_range:AAA"]["regular_session_high"] is None
    assert days_begun(after) == [case.first]


def test_the_table_is_about_the_days_it_names() -> None:
    """Its offsets and gaps, checked by hand's rule: each wall time is an hour of the right date in UTC."""
    for case in CASES:
        start = datetime.fromtimestamp(at(case.first, case.first_offset, "04:00") / 1000, UTC)
        assert start.date().isoformat() == case.first
        assert start.hour == 4 - case.first_offset
        assert case.last < min(day for day, _ in case.idle) <= max(day for day, _ in case.idle) < case.first
        assert case.source
