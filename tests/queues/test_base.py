"""A batch cut into parts keeps its events, their order and where each of them came from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mdp.events import Trade
from mdp.queues.base import Batch, Mark


def numbered(frames: list[int]) -> Batch:
    """A batch of numbers 0, 1, 2 ... from frames that hold so many events each; each frame has a name."""
    marks: list[Mark] = []
    end = 0
    for at, size in enumerate(frames):
        if size:
            end += size
            marks.append((end, (1_000 + at, f"frame-{at}")))
    return Batch(list(range(end)), 1_000, marks)


def sources(batch: Batch) -> dict[int, str | bytes]:
    """Event -> the frame its batch says it came from."""
    found: dict[int, str | bytes] = {}
    start = 0
    for end, (_, frame) in batch.marks:
        for event in batch.events[start:end]:
            found[event] = frame
        start = end
    return found


@given(st.lists(st.integers(0, 6), max_size=8), st.data())
def test_a_part_says_of_each_event_the_same_frame_as_the_whole(
    frames: list[int], data: st.DataObject
) -> None:
    """Wherever a batch is cut, also in the middle of a frame, no event changes its source."""
    whole = numbered(frames)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))

    part = whole.part(start, end)

    assert part.events == whole.events[start:end]
    assert part.arrival_ns == whole.arrival_ns
    expected = sources(whole)
    assert sources(part) == {event: expected[event] for event in part.events}
    ends = [mark[0] for mark in part.marks]
    assert ends == sorted(set(ends)), "each mark ends later than the one before"
    if part.events:
        assert ends[-1] == len(part), "the last mark ends where the events end"


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_parts_of_parts_are_parts(frames: list[int], data: st.DataObject) -> None:
    """Cutting twice gives what cutting once gives: a queue may cut what the decode stage has cut."""
    whole = numbered(frames)
    a = data.draw(st.integers(0, len(whole)))
    b = data.draw(st.integers(a, len(whole)))
    c = data.draw(st.integers(0, b - a))

    twice = whole.part(a, b).part(c, b - a)
    once = whole.part(a + c, b)

    assert twice.events == once.events
    assert sources(twice) == sources(once)


def test_a_part_of_a_batch_without_marks_has_none() -> None:
    """Where the source of events is not known, cutting does not invent one."""
    part = Batch([1, 2, 3], 5).part(1, 3)

    assert part.events == [2, 3]
    assert list(part.marks) == []


def test_symbols_are_those_of_the_part() -> None:
    """A part does not claim symbols whose events were cut away."""
    trades = [Trade(symbol=s, price=1, size=1, timestamp=1) for s in ("A", "B", "B", "C")]
    whole = Batch(trades, 1)
    assert whole.symbols == {"A", "B", "C"}

    assert whole.part(1, 3).symbols == {"B"}
