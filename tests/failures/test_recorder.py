"""The judge of the failure matrix: what it must notice, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.failures.recorder import EVENT_FEEDS, Judge, Seen, silence

HOD = EVENT_FEEDS[0]


def state(feed: str, seq: int, data: Any, *, epoch: int = 1, kind: str = "state") -> dict[str, Any]:
    return {"feed": feed, "kind": kind, "epoch": epoch, "seq": seq, "ts": 0, "data": data}


def alert(seq: int, price: float, *, epoch: int = 1) -> dict[str, Any]:
    data = {"symbol": "A", "session": "regular", "direction": "high", "price": price, "timestamp": price}
    return state(HOD, seq, data, epoch=epoch, kind="event")


def quote(volume: int, updated: int) -> dict[str, Any]:
    return {"accumulated_volume": volume, "updated_ts": updated}


def board(**volumes: int) -> list[dict[str, Any]]:
    return [{"symbol": symbol, "accumulated_volume": volume} for symbol, volume in volumes.items()]


def judged(*messages: dict[str, Any]) -> Judge:
    judge = Judge()
    for at, message in enumerate(messages):
        judge.take(message, float(at))
    return judge


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([alert(1, 1.0), alert(1, 2.0)], "repeated"),
        ([alert(1, 1.0), alert(2, 1.0)], "repeated"),
        ([alert(1, 1.0), alert(1, 1.0, epoch=2)], "repeated"),
        ([alert(1, 1.0), alert(3, 3.0)], "hole"),
        ([alert(2, 1.0, epoch=2), alert(3, 3.0)], "back"),
        ([state("quote:A", 2, quote(5, 5)), state("quote:A", 1, quote(6, 6))], "back"),
        ([state("quote:A", 2, quote(5, 5)), state("quote:A", 2, quote(5, 5))], "repeated"),
        ([state("quote:A", 1, quote(5, 5)), state("quote:A", 2, quote(4, 6))], "value"),
        ([state("quote:A", 1, quote(5, 5)), state("quote:A", 1, quote(6, 4), epoch=2)], "value"),
        (
            [state("scanners:top_volume", 1, board(A=5, B=4)), state("scanners:top_volume", 2, board(B=3))],
            "value",
        ),
    ],
)
def test_what_must_not_happen_is_counted(messages: list[dict[str, Any]], fault: str) -> None:
    """Repeats by place and by content, holes, steps back of places and of values."""
    judge = judged(*messages)
    assert dict(judge.faults) == {fault: 1}
    assert len(judge.details) == 1


@pytest.mark.parametrize(("was", "now"), [((5.0, 2.0), (4.0, 2.0)), ((5.0, 2.0), (5.0, 3.0))])
def test_a_range_that_shrinks_is_counted(was: tuple[float, float], now: tuple[float, float]) -> None:
    """A high goes up, a low goes down."""

    def ranges(high: float, low: float) -> dict[str, Any]:
        empty = dict.fromkeys(("pre_market_high", "pre_market_low", "after_hours_high", "after_hours_low"))
        return {**empty, "regular_session_high": high, "regular_session_low": low}

    judge = judged(state("daily_range:A", 1, ranges(*was)), state("daily_range:A", 2, ranges(*now)))
    assert dict(judge.faults) == {"value": 1}


def test_what_is_right_is_not_counted() -> None:
    """Growing places, epochs and values; a row that leaves a board; a value that is gone."""
    judge = judged(
        alert(1, 1.0),
        alert(2, 2.0),
        alert(1, 3.0, epoch=2),
        state("quote:A", 7, quote(5, 5)),
        state("quote:A", 1, quote(5, 6), epoch=2),
        state("quote:B", 1, None),
        state("scanners:top_volume", 1, board(A=5, B=4)),
        state("scanners:top_volume", 2, board(C=1, A=5)),
    )
    assert not judge.faults
    assert not judge.notes


def test_a_new_connection_may_begin_with_what_was_there() -> None:
    """The same place again, or none at all; an older value is noted, and what follows must be past it."""
    judge = judged(state("quote:A", 3, quote(5, 5)))
    judge.joined(["quote:A"])
    judge.take(state("quote:A", 3, quote(5, 5), kind="snapshot"), 1.0)
    judge.joined(["quote:A"])
    judge.take(state("quote:A", 0, quote(4, 4), epoch=0, kind="snapshot"), 2.0)
    assert not judge.faults
    assert dict(judge.notes) == {"older": 1}
    judge.take(state("quote:A", 4, quote(4, 6)), 3.0)
    assert dict(judge.faults) == {"value": 1}


def test_a_list_after_a_resync_fills_in_what_was_missed() -> None:
    """Neither a hole nor a repeat; what the list shows counts as seen."""
    judge = judged(alert(1, 1.0))
    judge.resync(HOD)
    listed = [alert(9, 3.0)["data"], alert(1, 1.0)["data"]]
    judge.take(state(HOD, 9, listed, kind="snapshot"), 1.0)
    judge.take(alert(10, 4.0), 2.0)
    assert not judge.faults
    assert len(judge.events) == 3
    judge.take(alert(11, 3.0), 3.0)
    assert dict(judge.faults) == {"repeated": 1}


def test_silence_is_the_longest_time_without_news() -> None:
    """The ends count; what says the same again is no news."""
    seen = [Seen("f", "state", 1, n, 0, float(at), fresh) for n, (at, fresh) in enumerate(
        [(1, True), (2, True), (5, False), (8, True)]
    )]  # fmt: skip
    assert silence(seen, 0.0, 10.0) == 6.0
    assert silence(seen, 0.0, 20.0) == 12.0
    assert silence([], 3.0, 10.0) == 7.0
