"""Rows of reference values, what they wait for, and who is told."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mdp.cache.table import ALL_PENDING, AVERAGE, FLOAT, PREVIOUS, ReferenceRow, ReferenceTable
from mdp.cache.validate import Rejected

CHECKS = Rejected().at("x")


def test_a_new_row_waits_for_all_that_has_not_been_settled() -> None:
    """Once floats are settled, nobody waits for one any more."""
    table = ReferenceTable(10)
    row = table.row("A", CHECKS)
    assert row is not None
    assert row.pending == ALL_PENDING
    for _ in table.settle(FLOAT):
        pass
    assert row.pending == PREVIOUS + AVERAGE
    other = table.row("B", CHECKS)
    assert other is not None
    assert other.pending == PREVIOUS + AVERAGE


def test_settling_tells_only_those_who_waited_and_not_all_at_once() -> None:
    """Eleven thousand rows in one step would hold the loop."""
    table = ReferenceTable(10_000)
    told: list[Mapping[str, ReferenceRow]] = []
    table.on_rows.append(lambda rows: told.append(dict(rows)))
    for n in range(1_200):
        row = table.row(f"S{n}", CHECKS)
        assert row is not None
        if n % 2:
            row.answered(FLOAT)
    steps = sum(1 for _ in table.settle(FLOAT))
    assert steps == 3
    assert [len(rows) for rows in told] == [250, 250, 100]
    assert all(int(symbol[1:]) % 2 == 0 for rows in told for symbol in rows)
    assert sum(1 for _ in table.settle(FLOAT)) == 3
    assert len(told) == 3


def test_a_bar_is_taken_in_the_shares_of_the_trading_day() -> None:
    """After a reverse split 1:10 prices are ten times, volumes a tenth; it is not waited for any more."""
    row = ReferenceRow(pending=ALL_PENDING)
    row.take_bar((1.0, 3.0, 0.5, 2.0, 1_000.0, 1.5), 0.1)
    assert row == ReferenceRow(10, 30, 5, 20, 100, 15, pending=AVERAGE + FLOAT)


def test_whole_numbers_stay_whole_where_no_split_changes_them() -> None:
    """Clients of the predecessor get `10` where the provider says `10`, also after a restart."""
    row = ReferenceRow(free_float=5_000_000)
    row.take_bar((9.5, 11, 9, 10, 2_000_000, 10.25))

    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=ReferenceRow)

    for one in (row, kept):
        numbers = [
            one.prev_day_high,
            one.prev_day_low,
            one.prev_day_close,
            one.prev_day_volume,
            one.free_float,
        ]
        assert msgspec.json.encode(numbers) == b"[11,9,10,2000000,5000000]"
        assert msgspec.json.encode([one.prev_day_open, one.prev_day_vwap]) == b"[9.5,10.25]"


def test_rows_share_what_they_wait_for() -> None:
    """The same few tuples for all: eleven thousand of their own would cost a megabyte."""
    table = ReferenceTable(10)
    first, second = table.row("A", CHECKS), table.row("B", CHECKS)
    assert first is not None
    assert second is not None
    first.answered(AVERAGE)
    second.answered(AVERAGE)
    assert first.pending is second.pending


def test_rows_are_bounded_in_number() -> None:
    """Who is one too many gets none, counted."""
    rejected = Rejected()
    table = ReferenceTable(1)
    assert table.row("A", rejected.at("x")) is table.row("A", rejected.at("x"))
    assert table.row("B", rejected.at("x")) is None
    assert rejected.counts == {("x", "too many symbols"): 1}


def test_a_listener_that_raises_keeps_nobody_from_hearing() -> None:
    """Whatever a part does with the values, the others get theirs; nothing is told of nothing."""
    told: list[int] = []

    def fail(_rows: Mapping[str, ReferenceRow]) -> None:
        raise RuntimeError

    table = ReferenceTable(5, [fail, lambda rows: told.append(len(rows))])
    table.notify({"A": ReferenceRow()})
    table.notify({})
    assert told == [1]


def test_a_row_survives_msgpack() -> None:
    """With what it waits for."""
    row = ReferenceRow(1, 2, 3, 4, 5, 6, 7, 8, 9, FLOAT)
    again = msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(row)), ReferenceRow)
    assert again == row
    assert again.answered(FLOAT)
    assert again.pending == ()
