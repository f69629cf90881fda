"""Faults: what can be asked for, and what each does to the data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mdp.simulator.faults import (
    FAULTS,
    LATE_STEPS,
    MALFORMED,
    TRUNCATED,
    Events,
    Faults,
    corrected,
    parse_fault,
)

BAR = (
    '{"ev":"A","sym":"AAPL","v":200,"av":5000,"vw":10.5,"o":10.4,"c":10.6,"h":10.9,"l":10.1,"a":10.2,"z":12,'
    '"s":1773149100000,"e":1773149101000}'
)
TRADE = '{"ev":"T","sym":"AAPL","x":4,"i":"7","z":3,"p":10.5,"s":100,"t":1773149100000,"q":7}'
LULD = '{"ev":"LULD","T":"AAPL","h":11.5,"l":9.5,"i":[17],"z":3,"t":1773149100000000000,"q":8}'
EVENTS: Events = [("A", "AAPL", BAR), ("T", "AAPL", TRADE), ("LULD", "AAPL", LULD)]


def corrupted(**faults: float) -> tuple[Events, Faults]:
    one = Faults(1, faults)
    return one.corrupt(list(EVENTS)), one


@pytest.mark.parametrize(
    "text", ["nonsense", "late_bars=2", "late_bars=-1", "stall=x", "stall=nan", "http_401=inf"]
)
def test_impossible_faults_are_refused(text: str) -> None:
    """An unknown name or a value outside its range never reaches the simulator."""
    with pytest.raises(ValueError, match="fault"):
        parse_fault(text)


def test_a_name_alone_takes_the_default() -> None:
    """One connection, now, until cleared, one event in a hundred."""
    assert parse_fault("http_401") == ("http_401", 1)
    assert parse_fault("abrupt_close") == ("abrupt_close", 0)
    assert parse_fault("stall") == ("stall", -1)
    assert parse_fault("late_bars") == ("late_bars", 0.01)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_can_be_switched_on_and_off(name: str) -> None:
    """By its name alone, then off again."""
    faults = Faults()
    faults.set(name, True)
    assert name in faults.on
    faults.set(name, False)
    assert faults.on == {}


def test_a_counted_fault_strikes_so_many_connections() -> None:
    """Two, and no third; all with -1."""
    faults = Faults(0, {"auth_failed": 2})
    assert [faults.strikes("auth_failed") for _ in range(3)] == [True, True, False]
    assert faults.injected["auth_failed"] == 2
    faults.set("auth_failed", -1)
    assert all(faults.strikes("auth_failed") for _ in range(10))


def test_no_fault_changes_nothing() -> None:
    """Without rates, events pass as they are."""
    assert corrupted()[0] == EVENTS


def test_a_duplicate_trade_is_the_same_text_again() -> None:
    """Same id, same everything; bars are left alone."""
    events, faults = corrupted(duplicate_trades=1)
    assert [text for _, _, text in events] == [BAR, TRADE, TRADE, LULD]
    assert faults.injected == {"duplicate_trades": 1}


def test_a_repeated_bar_is_the_same_text_again() -> None:
    """Trades are left alone."""
    events, _ = corrupted(repeat_bars=1)
    assert [text for _, _, text in events] == [BAR, BAR, TRADE, LULD]


def test_a_corrected_bar_replaces_the_first_by_its_time() -> None:
    """Same start and end, more volume, a range that shrank."""
    row = json.loads(corrected(BAR))
    assert (row["s"], row["e"], row["sym"]) == (1773149100000, 1773149101000, "AAPL")
    assert (row["v"], row["av"], row["h"], row["l"]) == (300, 5100, 10.6, 10.4)
    assert [topic for topic, _, _ in corrupted(corrected_bars=1)[0]] == ["A", "A", "T", "LULD"]


def test_a_late_bar_comes_later_unchanged() -> None:
    """It is missing first and comes after others; nothing is lost."""
    events, faults = corrupted(late_bars=1)
    assert [topic for topic, _, _ in events] == ["T", "LULD"]
    faults.set("late_bars", False)
    later = [faults.corrupt([]) for _ in range(LATE_STEPS)]
    assert [event for part in later for event in part] == [("A", "AAPL", BAR)]
    assert later[-1]
    assert not faults.in_data


def test_late_bars_can_be_released_at_the_end() -> None:
    """When no further data will come, what is held back comes at once."""
    faults = corrupted(late_bars=1)[1]
    assert faults.release() == [("A", "AAPL", BAR)]
    assert faults.release() == []


def test_float_z_is_the_same_number_as_a_float() -> None:
    """`z: 12` becomes `z: 12.0`, in bars and trades."""
    events, _ = corrupted(float_z=1)
    assert '"z":12.0,' in events[0][2]
    assert '"z":3.0,' in events[1][2]
    assert json.loads(events[0][2]) == json.loads(BAR)


def test_an_unknown_event_is_added_under_its_own_type() -> None:
    """The known ones stay."""
    events, _ = corrupted(unknown_events=1)
    assert [json.loads(text)["ev"] for _, _, text in events] == ["A", "XT", "T", "XT", "LULD", "XT"]


def malformed(events: Events) -> list[str]:
    return [text for topic, _, text in events if topic == MALFORMED]


def test_a_string_in_a_numeric_field() -> None:
    """Valid JSON, wrong type; added, not in place of the good event."""
    events, _ = corrupted(malformed_string=1)
    rows = [json.loads(text) for text in malformed(events)]
    assert [row.get("v", row.get("p", row.get("h"))) for row in rows] == ["200", "10.5", "11.5"]
    assert [event for event in events if event[0] != MALFORMED] == EVENTS


def test_nan_is_no_json() -> None:
    """A strict decoder refuses the whole frame that holds it."""
    texts = malformed(corrupted(malformed_nan=1)[0])

    def refuse(literal: str) -> Any:
        raise ValueError(literal)

    assert len(texts) == 3
    for text in texts:
        with pytest.raises(ValueError, match="NaN"):
            json.loads(text, parse_constant=refuse)


def test_an_event_without_its_symbol() -> None:
    """Neither `sym` nor `T`."""
    for text in malformed(corrupted(malformed_no_symbol=1)[0]):
        row = json.loads(text)
        assert "ev" in row
        assert "sym" not in row
        assert "T" not in row


def test_a_truncated_event_ends_in_the_middle() -> None:
    """It is marked for a frame of its own, and is no JSON."""
    cut = [text for topic, _, text in corrupted(truncated_frames=1)[0] if topic == TRUNCATED]
    assert len(cut) == 3
    for text in cut:
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)


def test_rates_are_parts_of_the_events() -> None:
    """One in five hits about one in five, and the same ones for the same seed."""
    one, two = Faults(5, {"duplicate_trades": 0.2}), Faults(5, {"duplicate_trades": 0.2})
    trades: Events = [("T", "AAPL", TRADE)] * 2_000
    assert one.corrupt(trades) == two.corrupt(trades)
    assert 300 < one.injected["duplicate_trades"] < 500
