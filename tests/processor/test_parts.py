"""Contributions of partitions and what they add up to: the same as one process says."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.analyzers.leaderboards import BOARDS, RANKED_BY
from mdp.analyzers.rows import BoardRow, QuoteRow
from mdp.analyzers.state import NoReference
from mdp.cache.base import encode_json
from mdp.feeds import GAP_DOWN, HALTS_ACTIVE, MARKET_STATUS, TOP_GAINERS, TOP_VOLUME, TTA, TTA_ALL
from mdp.processor.parts import (
    SCHEMA,
    Packer,
    Part,
    SchemaError,
    merge_board,
    merge_halts,
    merge_trades,
    read,
)
from tests.analyzers.halt_rig import luld
from tests.analyzers.rig import bar, trade

from .market_parts import NOON, HaltRig, Whole, value_of

# Few different numbers, so that there are ties of every kind.
symbol_of_market = st.tuples(
    st.integers(0, 3),  # partition
    st.sampled_from([0, 8, 10, 12]),  # previous close
    st.sampled_from([9, 10, 10.5, 11]),  # open
    st.sampled_from([8, 10, 11, 12.25]),  # close
    st.sampled_from([0, 100, 1_000]),  # volume
    st.sampled_from([0, 500, 700]),  # average volume
    st.integers(0, 3),  # trades
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(symbol_of_market, min_size=1, max_size=60), st.sampled_from([1, 3, 500]))
def test_merged_boards_are_those_of_one_process(market: list[Any], limit: int) -> None:
    """Whatever symbols are where, also where partitions gave too few rows at first: the same bytes."""
    homes = {f"S{n:02}": row[0] for n, row in enumerate(market)}
    whole = Whole(homes.__getitem__, 4, limit=limit)
    whole.refer(
        {
            f"S{n:02}": NoReference(prev_day_close=row[1], avg_volume=row[5], avg_volume_days=1)
            for n, row in enumerate(market)
        }
    )
    whole.send(
        *[bar(f"S{n:02}", NOON, row[3], o=row[2], av=row[4]) for n, row in enumerate(market)],
        *[trade(f"S{n:02}", NOON, 10, i=str(t)) for n, row in enumerate(market) for t in range(row[6])],
    )
    for board in BOARDS:
        assert encode_json(whole.merged(board, rounds=8)) == encode_json(value_of(whole.one, board.name))


def test_a_board_of_five_hundred_out_of_two_thousand() -> None:
    """Exact after a few rounds, though each partition gives only what it had in the last board, and some."""
    whole = Whole(lambda symbol: int(symbol[1:]) % 8, 8)
    whole.send(*[bar(f"S{n}", NOON, 10, o=10, av=1 + n * 7_919 % 2_003) for n in range(2_000)])
    assert encode_json(whole.merged(TOP_VOLUME)) == encode_json(value_of(whole.one, TOP_VOLUME.name))
    given = [len(part.content[1]) for part in whole.read(TOP_VOLUME).values()]
    assert 500 < sum(given) < 800
    # All leaders of the board change to one partition's symbols.
    whole.send(*[bar(f"S{n}", NOON + 1_000, 10, o=10, av=100_000 + n) for n in range(0, 2_000, 8)])
    whole.merged(TOP_VOLUME, rounds=2)
    assert encode_json(whole.merged(TOP_VOLUME)) == encode_json(value_of(whole.one, TOP_VOLUME.name))


def test_the_number_a_board_is_ranked_by_is_in_its_rows() -> None:
    """Every board names one; the merge rests on it."""
    assert RANKED_BY.keys() == {board.name for board in BOARDS}
    assert {field for field, _ in RANKED_BY.values()} <= set(QuoteRow.__struct_fields__)
    assert BoardRow.__struct_fields__[:-1] == QuoteRow.__struct_fields__  # the rank comes last


def row_of(symbol: str, volume: int) -> list[Any]:
    """A row with nothing but a volume."""
    fields = QuoteRow.__struct_fields__
    row: list[Any] = [0] * len(fields)
    row[fields.index("symbol")], row[fields.index("accumulated_volume")] = symbol, volume
    row[fields.index("stale")], row[fields.index("pending")] = False, []
    return row


def test_rows_of_a_silent_partition_stay_and_say_so() -> None:
    """Where a partition stopped, its symbols' numbers are old: they are shown as such."""
    parts = {"a": Part(1, 1, [500, [row_of("AAA", 2)]]), "b": Part(1, 1, [500, [row_of("BBB", 1)]])}
    board, _ = merge_board(TOP_VOLUME, parts, stale=["a"])
    assert [(row.symbol, row.stale) for row in board] == [("AAA", True), ("BBB", False)]
    board, _ = merge_board(TOP_VOLUME, parts)
    assert [row.stale for row in board] == [False, False]


def test_how_many_rows_are_asked_for() -> None:
    """More where all of a partition's rows made it and it may have others; else those it had, and some."""
    rows = [row_of(f"A{n:02}", 1_000 - n) for n in range(20)]
    cases = {
        "may have more": (Part(1, 1, [20, rows]), 40),
        "has no more": (Part(1, 1, [30, rows]), 20 + 5 + 10),
    }
    for name, (part, asked) in cases.items():
        assert merge_board(TOP_VOLUME, {"a": part})[1] == {"a": asked}, name
    # None of its rows is in a board of ten.
    parts = {"a": Part(1, 1, [20, rows]), "b": Part(1, 1, [500, [row_of("B", 1)]])}
    assert merge_board(TOP_VOLUME, parts, rows=10)[1] == {"a": 10, "b": 10}


def test_rows_of_other_versions_are_read() -> None:
    """Fields were only ever appended: what is missing is 0, what is unknown is left out."""
    long, short = [*row_of("LONG", 2), "new field"], row_of("SHORT", 1)[:-1]
    board, _ = merge_board(TOP_VOLUME, {"a": Part(1, 1, [500, [long, short]])})
    assert [(row.symbol, row.rank) for row in board] == [("LONG", 1), ("SHORT", 2)]


def test_smallest_first_where_the_losers_are_ranked() -> None:
    """Ties by symbol, as everywhere."""
    fields = QuoteRow.__struct_fields__
    rows = []
    for symbol, change in (("B", -5), ("A", -5), ("C", -9)):
        row = row_of(symbol, 1)
        row[fields.index("pct_change")] = change
        rows.append(row)
    board, _ = merge_board(GAP_DOWN, {"a": Part(1, 1, [500, rows])})
    assert [row.symbol for row in board] == ["C", "A", "B"]


# Top trades.


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=150))
def test_merged_top_trades_are_those_of_one_process(trades: list[tuple[int, int]]) -> None:
    """All symbols' statistics, and the hundred with the most volume, ties by symbol."""
    homes = {f"S{n:03}": home for n, (home, _) in enumerate(trades)}
    whole = Whole(homes.__getitem__, 3)
    whole.send(*[trade(f"S{n:03}", NOON, size, i=str(n)) for n, (_, size) in enumerate(trades)])
    everything, top = merge_trades(whole.read(TTA_ALL).values())
    expected = json.loads(encode_json(value_of(whole.one, TTA_ALL.name)))
    assert json.loads(encode_json(everything)) == expected
    assert len(top) == min(100, len(trades))
    for symbol in homes:
        right = value_of(whole.one, TTA.feed(symbol))
        assert (symbol in top) == (right is not None)
        if right is not None:
            assert bytes(top[symbol]) == encode_json(right)


def test_no_top_trades_before_the_first_trade() -> None:
    """As in one process: nothing instead of an empty list."""
    assert merge_trades([]) == (None, {})


def test_top_trades_of_long_ago_drop_out() -> None:
    """A partition without trades since yesterday has a part of yesterday."""

    def part(timestamp: str, symbol: str) -> Part:
        return Part(1, 1, [timestamp, 1, b'"%b":{"n":1}' % symbol.encode(), [[-5, symbol, b'{"n":1}']]])

    now, recent, old = (f"2024-03-05T12:{m}+00:00" for m in ("30:00", "25:00.500000", "24:59"))
    everything, top = merge_trades([part(old, "OLD"), part(recent, "B"), part(now, "A")])
    assert everything is not None
    assert json.loads(bytes(everything)) == {
        "timestamp": now,
        "symbols": {"A": {"n": 1}, "B": {"n": 1}},
        "symbol_count": 2,
    }
    assert json.loads(bytes(top["B"])) == {"timestamp": now, "symbol": "B", "n": 1}
    assert top.keys() == {"A", "B"}


# Halts.


def test_merged_halts_are_those_of_one_process() -> None:
    """The newest first, from all partitions."""
    whole = Whole(lambda symbol: ord(symbol[-1]) % 3, 3, HaltRig)
    for n in range(30):
        whole.send(luld(f"S{n:02}", NOON + 1_000 * (n % 7), 17))
    merged = json.loads(encode_json(merge_halts(whole.read(HALTS_ACTIVE).values())))
    assert len(merged) == 30
    assert merged == json.loads(encode_json(value_of(whole.one, HALTS_ACTIVE.name)))


# The form of a part.


def test_parts_are_numbered_and_carry_their_epoch() -> None:
    """So that a reader sees whether a partition lives, and whose it is."""
    packer = Packer(epoch=7)
    packs = [read(packer.packers[MARKET_STATUS.name]({"n": n})) for n in range(3)]
    assert packs == [Part(7, n + 1, {"n": n}) for n in range(3)]
    assert packer.packers.keys() == {board.name for board in BOARDS} | {
        TTA_ALL.name,
        HALTS_ACTIVE.name,
        MARKET_STATUS.name,
    }


def test_a_newer_version_is_refused_with_a_word() -> None:
    """Whoever reads must be upgraded first; what is no part at all is another error."""
    with pytest.raises(SchemaError, match="upgrade"):
        read(msgspec.msgpack.encode([SCHEMA + 1, 1, 1, {}]))
    for broken in (b"", b"\xc1", msgspec.msgpack.encode({}), msgspec.msgpack.encode([1, 2])):
        with pytest.raises(ValueError, match="not a part"):
            read(broken)


def test_numbers_keep_their_form() -> None:
    """100 stays 100 and 100.0 stays 100.0, whichever way they take."""
    whole = Whole(lambda _symbol: 0, 1)
    whole.send(bar("AAA", NOON, 11.0, o=10, av=100), bar("BBB", NOON, 12, o=10, av=100.5))
    assert b'"close":12,' in encode_json(whole.merged(TOP_GAINERS))
    assert b'"close":11.0,' in encode_json(whole.merged(TOP_GAINERS))
