"""The damage done to recordings is the damage that was meant."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.integration.disturb import (
    MOST_LATE_SECONDS,
    Frame,
    disturb,
    read,
    with_conditions,
    with_corrections,
    with_market,
    with_minutes,
    write,
)

BEGIN_S = 1_700_000_000


def bar(second: int) -> dict[str, Any]:
    """A second bar that ends 2 s before it arrives."""
    start = (BEGIN_S + second - 3) * 1000
    prices = {"o": 10.0, "c": 10.5, "h": 11.0, "l": 9.5, "vw": 10.2, "a": 10.1}
    return {"ev": "A", "sym": "X", **prices, "v": 5, "av": 5 * second, "z": 5, "s": start, "e": start + 1000}


def recording(count: int = 3_000) -> list[Frame]:
    """A second bar and two trades a second."""
    found = []
    for second in range(count):
        trades = [
            {"ev": "T", "sym": "X", "x": 4, "i": f"{second}-{n}", "z": 3, "p": 10.0, "s": 100, "t": second}
            for n in range(2)
        ]
        found.append(Frame((BEGIN_S + second) * 10**9, json.dumps([bar(second), *trades])))
    return found


def test_the_same_seed_does_the_same_damage() -> None:
    """What fails can be run again."""
    assert disturb(recording(), 7) == disturb(recording(), 7)
    assert disturb(recording(), 7) != disturb(recording(), 8)
    assert with_conditions(recording(), 7) == with_conditions(recording(), 7)
    assert with_corrections(recording(), 7) == with_corrections(recording(), 7)


def test_nothing_is_lost_and_little_is_damaged() -> None:
    """Every frame arrives, about 1 % of them twice, late, or in another's place; arrivals are in order."""
    frames = recording()
    got, done = disturb(frames, 1)
    arrived = Counter(json.dumps(event) for frame in got for event in json.loads(frame.text))
    sent = Counter(json.dumps(event) for frame in frames for event in json.loads(frame.text))
    assert not sent - arrived
    assert 0 < sum((arrived - sent).values()) <= 3 * done["duplicated"]
    assert {damage: 15 < count < 45 for damage, count in done.items()} == dict.fromkeys(
        ("reordered", "delayed", "duplicated"), True
    )
    assert [frame.arrival_ns for frame in got] == sorted(frame.arrival_ns for frame in got)
    latest = {frame.text: frame.arrival_ns for frame in got}
    lateness = [latest[frame.text] - frame.arrival_ns for frame in frames if frame.text in latest]
    assert 60 * 10**9 < max(lateness) <= (MOST_LATE_SECONDS + 1) * 10**9


def test_corrections_are_further_bars_that_can_be() -> None:
    """The original stays; of what is sent again, the open and close lie within low and high."""
    frames = recording()
    got = with_corrections(frames, 1)
    assert not Counter(frames) - Counter(got)
    revised = [event for frame in Counter(got) - Counter(frames) for event in json.loads(frame.text)]
    assert 15 < len(revised) < 45
    for event in revised:
        assert event["ev"] == "A"
        assert event["l"] <= event["o"] <= event["h"]
        assert event["l"] <= event["c"] <= event["h"]
    assert any(event["h"] < 11 for event in revised), "no range can shrink"


def test_minutes_are_made_of_their_seconds() -> None:
    """A minute bar has the extremes and the volume of its seconds, and comes after all of them."""
    added = list((Counter(with_minutes(recording(180))) - Counter(recording(180))).elements())
    minutes = [(frame.arrival_ns, *json.loads(frame.text)) for frame in added]
    assert len(minutes) >= 3
    arrival_ns, minute = minutes[1]
    assert (minute["ev"], minute["h"], minute["l"], minute["v"]) == ("AM", 11.0, 9.5, 300)
    assert minute["s"] % 60_000 == 0
    assert arrival_ns == (minute["s"] + 62_000) * 1_000_000


def test_other_symbols_keep_the_clock_going() -> None:
    """Three of them, never half a minute apart."""
    got = with_market(recording(300))
    beats = [frame.arrival_ns for frame in got if "ZZA" in frame.text]
    assert all(later - earlier <= 30 * 10**9 for earlier, later in pairwise(beats))
    assert all("ZZB" in frame.text and "ZZC" in frame.text for frame in got if "ZZA" in frame.text)


def test_conditions_hit_trades_alone() -> None:
    """Bars stay as they are; some trades get rules, facilities, corrections, or lose their id."""
    before, after = recording(), with_conditions(recording(), 1)
    events = [event for frame in after for event in json.loads(frame.text)]
    assert [e for e in events if e["ev"] == "A"] == [json.loads(f.text)[0] for f in before]
    trades = [event for event in events if event["ev"] == "T"]
    assert {len(trades)} == {2 * len(before)}
    for name in ("c", "trfi", "correction"):
        assert 0 < sum(name in trade for trade in trades) < len(trades), name
    assert any("i" not in trade for trade in trades)


def test_a_recording_is_written_as_it_is_read(tmp_path: Path) -> None:
    """With its reference values beside it."""
    values = tmp_path / "some.reference.json.gz"
    values.write_bytes(b"values")
    path = write(tmp_path / "other.frames.gz", recording(10), values)
    assert read(path) == recording(10)
    assert (tmp_path / "other.reference.json.gz").read_bytes() == b"values"
