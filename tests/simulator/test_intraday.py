"""Second and minute bars of the present day, as the range endpoint tells them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import aiohttp

from mdp.simulator import Simulator, SimulatorOptions
from mdp.simulator.intraday import MINUTE_MS, SECOND_MS, RecentBars, RecordedBars

START = 1_709_649_000_000  # 2024-03-05 09:30 in New York, a whole minute


def bar(symbol: str, start: int, close: float, *, ev: str = "A", **more: Any) -> dict[str, Any]:
    """On the wire."""
    event = {"ev": ev, "sym": symbol, "o": close, "h": close + 1, "l": close - 1, "c": close, "v": 10}
    return {**event, "vw": close, "z": 5, "s": start, **more}


def recording(path: Path, *lines: tuple[int, list[dict[str, Any]]]) -> Path:
    """A file with a frame for each (arrival in ms, events)."""
    with gzip.open(path, "wt") as file:
        file.writelines(f"{arrival * 1_000_000}\t{json.dumps(events)}\n" for arrival, events in lines)
    return path


def test_no_bar_is_told_before_it_was_sent(tmp_path: Path) -> None:
    """What the recording still holds is the future; when the replay begins again, it is so again."""
    path = recording(
        tmp_path / "day.frames.gz",
        (START + 2_000, [bar("AAA", START, 10)]),
        (START + 3_000, [bar("AAA", START + 1_000, 11), bar("BBB", START + 1_000, 5)]),
    )
    now = START + 2_500
    bars = RecordedBars(path, lambda: now * 1_000_000)

    def closes() -> list[float]:
        return [one.c for one in bars.bars("AAA", SECOND_MS, 0, START + 60_000)]

    assert closes() == [10]
    now = START + 3_000
    assert closes() == [10, 11]
    now = START + 2_000
    assert closes() == [10]


def test_a_bar_sent_again_replaces_the_one_before(tmp_path: Path) -> None:
    """And both ends of the stretch asked for are in it."""
    path = recording(
        tmp_path / "day.frames.gz",
        (START, [bar("AAA", START, 10), bar("AAA", START + 1_000, 11)]),
        (START + 1, [bar("AAA", START, 12, v=30)]),
    )
    bars = RecordedBars(path, lambda: (START + 1) * 1_000_000)
    (one,) = bars.bars("AAA", SECOND_MS, START, START)
    assert (one.c, one.v, one.n) == (12, 30, 6)


def test_minutes_are_made_of_seconds_where_there_are_no_others(tmp_path: Path) -> None:
    """With the volume's mean of the VWAPs; a recording's own minutes are told as they are."""
    path = recording(
        tmp_path / "day.frames.gz",
        (START, [bar("AAA", START + 5_000, 10), bar("AAA", START + 7_000, 20, v=30)]),
        (START + 1, [bar("BBB", START, 3), bar("BBB", START, 9, ev="AM")]),
    )
    bars = RecordedBars(path, lambda: (START + 1) * 1_000_000)
    (one,) = bars.bars("AAA", MINUTE_MS, START, START)
    assert (one.t, one.o, one.h, one.l, one.c, one.v, one.vw) == (START, 10, 21, 9, 20, 40, 17.5)
    assert [one.c for one in bars.bars("BBB", MINUTE_MS, START, START)] == [9]


def test_the_simulated_market_says_what_it_has_forgotten() -> None:
    """An answer that lacks bars would pass for a quiet time."""
    recent = RecentBars(most=2)
    for second in range(3):
        event = bar("AAA", START + second * 1_000, 10 + second)
        recent.note([("A", "AAA", json.dumps(event)), ("Q", "AAA", "{}")])
    found = recent.bars("AAA", SECOND_MS, START + 1_000, START + 9_000)
    assert found is not None
    assert [one.c for one in found] == [11, 12]
    assert recent.bars("AAA", SECOND_MS, START, START + 9_000) is None
    assert recent.bars("BBB", SECOND_MS, START + 1_000, START + 9_000) == []


async def test_the_endpoint_pages_and_refuses_what_it_does_not_keep(tmp_path: Path) -> None:
    """As the provider's: ascending, `next_url` where there is more, other lengths are an error."""
    events = [bar("AAA", START + n * 1_000, 10 + n) for n in range(3)]
    path = recording(tmp_path / "day.frames.gz", (START + 9_000, events))
    simulator = Simulator(SimulatorOptions(replay=str(path)))
    await simulator.start()
    try:
        url = f"http://127.0.0.1:{simulator.port}/v2/aggs/ticker/AAA/range/1"
        key = {"Authorization": "Bearer any"}
        async with aiohttp.ClientSession(headers=key) as session:
            first = f"{url}/second/{START}/{START + 60_000}?limit=2&sort=asc"
            async with session.get(first) as answer:
                page = await answer.json()
            async with session.get(page["next_url"]) as answer:
                rest = await answer.json()
            async with session.get(f"{url}/hour/{START}/{START}") as answer:
                refused = answer.status
            async with session.get(f"{url}/minute/2024-03-05/2024-03-05") as answer:
                by_date = await answer.json()
            async with session.get(f"{url}/minute/no/date") as answer:
                assert answer.status == 400
    finally:
        await simulator.stop()
    assert [row["t"] for row in page["results"] + rest["results"]] == [e["s"] for e in events]
    assert "next_url" not in rest
    assert refused == 400
    assert [(row["t"], row["v"]) for row in by_date["results"]] == [(START, 30)]
