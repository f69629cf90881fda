"""A batch cut into parts keeps its events, their order, their age and the frames they came in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mdp.events import Trade
from mdp.queues.base import Batch


@given(st.lists(st.integers(), max_size=20), st.data())
def test_parts_put_together_are_the_whole(events: list[int], data: st.DataObject) -> None:
    """Wherever a batch is cut: no event is lost, doubled or made younger, and its frames can be found."""
    whole = Batch(events, 1_000, [(1_000, "frame")])
    cut = data.draw(st.integers(0, len(events)))

    parts = [whole.part(0, cut), whole.part(cut, len(events))]

    assert parts[0].events + parts[1].events == events
    for part in parts:
        assert part.arrival_ns == whole.arrival_ns
        assert list(part.sources) == [(1_000, "frame")]
        assert len(part) == len(part.events)


def test_symbols_are_those_of_the_part() -> None:
    """A part does not claim symbols whose events were cut away."""
    trades = [Trade(symbol=s, price=1, size=1, timestamp=1) for s in ("A", "B", "B", "C")]
    whole = Batch(trades, 1)
    assert whole.symbols == {"A", "B", "C"}

    assert whole.part(1, 3).symbols == {"B"}
