"""The memory that recognizes repeats."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.analyzers.seen import Seen
from mdp.events import Trade


def make(symbol: str = "AAA", number: Any = "1", exchange: Any = 4, tape: Any = 3, trf: Any = None) -> Trade:
    """A trade by its key."""
    return Trade(symbol, 10.0, 100, 0, exchange=exchange, id=number, tape=tape, trf_id=trf)


keys = st.tuples(
    st.sampled_from(["AAA", "BBB"]),
    st.sampled_from(["1", "2", "3", None, "", 0, 7]),
    st.sampled_from([4, 11, None]),
    st.sampled_from([1, 3]),
    st.sampled_from([None, 202]),
)


@given(st.lists(st.lists(keys, max_size=12), max_size=12))
def test_each_key_is_new_once(batches: list[list[tuple[Any, ...]]]) -> None:
    """Within a batch and over batches; a trade without an id is always new. Nothing is lost or reordered."""
    seen = Seen()
    known: set[tuple[Any, ...]] = set()
    for batch in batches:
        trades = [make(*key) for key in batch]
        expected = []
        for key, trade in zip(batch, trades, strict=True):
            if key[1] in (None, ""):
                expected.append(trade)
            elif key not in known:
                known.add(key)
                expected.append(trade)
        new, repeated = seen.admit(trades)
        assert [id(t) for t in new] == [id(t) for t in expected]
        assert len(new) + len(repeated) == len(trades)


def test_the_last_so_many_are_remembered_and_memory_is_bounded() -> None:
    """At least as many as said, at most twice as many and the batch at hand."""
    seen = Seen(remembered=100)
    for begin in range(0, 5_000, 10):
        trades = [make(number=str(n)) for n in range(begin, begin + 10)]
        assert seen.admit(trades)[0] == trades
        assert len(seen) <= 210
        if begin >= 90:
            last = [make(number=str(n)) for n in range(begin - 90, begin + 10)]
            assert seen.admit(last)[0] == []
    assert seen.admit([make(number="0")])[1] == []  # so long ago that it is forgotten


def test_forgotten_trades_are_freed() -> None:
    """Bit by bit, with the batches that follow, however their sizes lie."""
    seen = Seen(remembered=50)
    for n in range(1_000):
        seen.admit([make(number=str(n))])
        assert len(seen._forgotten.hashes) <= 50
    for n in range(1_000, 1_030):
        seen.admit([make(number=str(n))])
    assert not seen._forgotten.hashes


@pytest.mark.parametrize("kind", ["without an id", "repeats", "forgotten"])
def test_memory_is_bounded_whatever_comes(kind: str) -> None:
    """Also of what leaves no hash behind: the order of hashes is kept for as many as hashes are."""
    seen = Seen(remembered=100)
    for n in range(2_000):
        number = {"without an id": None, "repeats": "1", "forgotten": str(n)}[kind]
        batch = [make(number=number)]
        seen.admit(batch)
        if kind == "forgotten":
            seen.forget(batch[0])
        generations = (seen._newer, seen._older, seen._forgotten)
        assert sum(len(one.batches) for one in generations) <= 300
        assert all(one.noted == sum(map(len, one.batches)) for one in generations[:2])


def test_what_did_not_count_may_come_again_where_its_batch_filled_a_generation() -> None:
    """It is in the older one then."""
    seen = Seen(remembered=3)
    batch = [make(number=number) for number in "abc"]
    seen.admit(batch)
    seen.forget(batch[1])
    assert seen.admit([batch[1]]) == ([batch[1]], [])
    assert seen.admit([batch[0]]) == ([], [batch[0]])


def test_ids_are_unique_within_a_day_only() -> None:
    """The same id on another day is another trade."""
    seen = Seen()
    seen.admit([make()])
    seen.day += 1
    assert seen.admit([make()])[1] == []
    assert len(seen.admit([make()])[1]) == 1


def test_what_did_not_count_may_come_again() -> None:
    """A print with a broken price does not stand in the way of the right one."""
    seen = Seen()
    trade = make()
    seen.admit([trade])
    seen.forget(trade)
    assert seen.admit([make()])[1] == []
