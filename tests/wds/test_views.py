"""Views: rows and fields asked for, deltas that add up, and what catches somebody up."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp import feeds
from mdp.cache.base import Entry, Message
from mdp.feeds import match
from mdp.wds.client import Due
from mdp.wds.views import Options, View, apply_delta

BOARD = feeds.TOP_GAINERS


class Row(msgspec.Struct):
    """Stands for a board's row."""

    symbol: str
    close: float
    rank: int


def view(pattern: str = BOARD.name, **options: Any) -> View:
    """A view with options."""
    return View(pattern, Options(**options), match(pattern))


def message(
    value: Any, seq: int = 1, family: feeds.Family = BOARD, symbol: str = "", epoch: int = 1
) -> Message:
    """A publication."""
    return Message(family.feed(symbol), family, epoch, seq, value, ts=77)


def body(item: Due | None) -> dict[str, Any]:
    """The decoded envelope."""
    assert item is not None
    decoded: dict[str, Any] = msgspec.json.decode(item.frame)
    return decoded


def test_an_envelope_carries_the_publishers_numbers() -> None:
    """Feed, epoch, seq, time, kind and data; the first message of a state is whole."""
    assert body(view().render(message([Row("A", 1.5, 1)], seq=9, epoch=4))) == {
        "feed": "scanners:top_gainers", "epoch": 4, "seq": 9, "ts": 77, "kind": "state",
        "data": [{"symbol": "A", "close": 1.5, "rank": 1}],
    }  # fmt: skip


def test_what_changed_of_a_board() -> None:
    """Changed fields by symbol, new rows whole, who left; with the place that it builds on."""
    seen = view()
    seen.render(message([Row("A", 1, 1), Row("B", 2, 2), Row("C", 3, 3)], seq=3))
    delta = body(seen.render(message([Row("A", 1, 1), Row("C", 4, 2), Row("D", 5, 3)], seq=7)))
    assert (delta["kind"], delta["seq"], delta["base"]) == ("delta", 7, 3)
    assert delta["data"] == {
        "set": {"C": {"close": 4, "rank": 2}, "D": {"symbol": "D", "close": 5, "rank": 3}},
        "gone": ["B"],
    }


def test_what_did_not_change_is_not_said_and_builds_no_base() -> None:
    """The next delta builds on what the client saw last, not on what was left unsaid."""
    seen = view()
    seen.render(message([Row("A", 1, 1)], seq=1))
    assert seen.render(message([Row("A", 1, 1)], seq=2)) is None
    assert body(seen.render(message([Row("A", 2, 1)], seq=3)))["base"] == 1


def test_a_message_that_the_snapshot_had_is_dropped() -> None:
    """By its place; one of another epoch is whole, whatever its number."""
    seen = view()
    seen.learn(BOARD.name, BOARD, Entry([Row("A", 5, 1)], 1, 10), (1, 10), 0)
    assert seen.render(message([Row("A", 4, 1)], seq=10)) is None
    assert body(seen.render(message([Row("A", 4, 1)], seq=1, epoch=2)))["kind"] == "state"


def test_nothing_in_the_cache_is_a_snapshot_of_nothing() -> None:
    """Null, at the feed's place; the first value is told whole."""
    seen = view("quote:A")
    known = seen.learn("quote:A", feeds.QUOTE, None, (1, 0), 5)
    assert msgspec.json.decode(known.full())["data"] is None
    assert body(seen.render(message({"close": 1}, 1, feeds.QUOTE, "A")))["data"] == {"close": 1}


def test_whole_values_fields_rows_and_conditions() -> None:
    """As asked for; a row keeps its symbol and rank, and limit counts those that fulfil the conditions."""
    rows = [Row("A", 1, 1), Row("B", 2, 2), Row("C", 3, 3), Row("D", 4, 4)]
    seen = view(full=True, limit=2, fields=("close",), where=(("close", ">", 1), ("symbol", "!=", "C")))
    first = body(seen.render(message(rows)))
    assert first["data"] == [{"symbol": "B", "close": 2, "rank": 2}, {"symbol": "D", "close": 4, "rank": 4}]
    assert body(seen.render(message(rows[:2], seq=2)))["kind"] == "state"
    assert body(view(fields=("rank",)).render(message(rows[:1])))["data"] == [{"symbol": "A", "rank": 1}]


@pytest.mark.parametrize("where", [("close", "<", "text"), ("absent", "=", 1)])
def test_a_condition_that_cannot_hold_holds_for_none(where: tuple[str, str, Any]) -> None:
    """Neither a text against a number nor a field that is not there is an error."""
    assert body(view(where=(where,)).render(message([Row("A", 1, 1)])))["data"] == []


def test_a_quote_that_fails_the_conditions_is_null_until_it_fulfils_them() -> None:
    """Whoever asked for quotes above ten learns that this one is not any more."""
    seen = view("quote:*", where=(("close", ">", 10),))
    values = [
        body(seen.render(message({"symbol": "A", "close": close}, seq, feeds.QUOTE, "A")))
        for seq, close in ((1, 11), (2, 9), (3, 12))
    ]
    assert [value["data"] for value in values] == [
        {"symbol": "A", "close": 11}, None, {"symbol": "A", "close": 12},
    ]  # fmt: skip
    assert seen.render(message({"symbol": "B", "close": 1}, 1, feeds.QUOTE, "B")) is None, "never told of"
    assert seen.whole("quote:B") is None
    assert (
        body(seen.render(message({"symbol": "B", "close": 12}, 2, feeds.QUOTE, "B")))["data"]["close"] == 12
    )


def test_events_are_told_one_by_one() -> None:
    """Whole, or the fields asked for; those that fail the conditions not at all."""
    seen = view("alerts", where=(("price", ">=", 5),), fields=("price",))
    item = seen.render(message({"symbol": "A", "price": 5, "note": "x"}, 3, feeds.ALERTS))
    assert body(item)["data"] == {"symbol": "A", "price": 5}
    assert body(item)["kind"] == "event"
    assert seen.render(message({"symbol": "A", "price": 4}, 4, feeds.ALERTS)) is None


def test_who_missed_changes_is_told_the_newest_whole_value() -> None:
    """Made when it is written, not when it was missed."""
    seen = view()
    seen.render(message([Row("A", 1, 1)], seq=1))
    item = seen.render(message([Row("A", 2, 1)], seq=2))
    seen.render(message([Row("A", 3, 1)], seq=3))
    assert item is not None
    assert item.full is not None
    caught_up = msgspec.json.decode(item.full())
    assert (caught_up["kind"], caught_up["seq"], caught_up["data"][0]["close"]) == ("snapshot", 3, 3)


def test_rows_without_rank_keep_their_order() -> None:
    """A scanner of the user's own may order its rows by whatever it likes."""
    seen = view("scanners:mine", full=False)
    family = feeds.resolve("scanners:mine")
    assert family is not None
    known: Any = body(seen.render(message([{"symbol": "A"}, {"symbol": "B"}], 1, *family)))["data"]
    delta = body(seen.render(message([{"symbol": "B"}, {"symbol": "A"}], 2, *family)))
    assert apply_delta(known, delta["data"]) == [{"symbol": "B"}, {"symbol": "A"}]


@pytest.mark.parametrize(
    "odd", [[None, 5], [{"name": "A"}], [{"symbol": "A"}, {"symbol": "A"}], [{"symbol": 1}], {}]
)
def test_what_is_no_board_is_told_whole(odd: Any) -> None:
    """A scanner of the user's own may publish what it likes; it reaches its clients as it is."""
    seen = view("scanners:mine")
    family = feeds.resolve("scanners:mine")
    assert family is not None
    assert body(seen.render(message([{"symbol": "A", "rank": 1}], 1, *family)))["kind"] == "state"
    told = body(seen.render(message(odd, 2, *family)))
    assert (told["kind"], told["data"]) == ("state", odd)
    assert seen.render(message(odd, 3, *family)) is None
    assert body(seen.render(message([{"symbol": "B"}], 4, *family)))["data"] == [{"symbol": "B"}]


boards = st.lists(
    st.lists(st.tuples(st.sampled_from("ABCDEFG"), st.integers(0, 3)), unique_by=lambda row: row[0]).map(
        lambda rows: [Row(name, close, rank) for rank, (name, close) in enumerate(rows, 1)]
    ),
    min_size=1,
    max_size=12,
)


@given(boards, st.integers(0, 4), st.booleans())
def test_deltas_add_up_to_the_board(values: list[list[Row]], limit: int, narrow: bool) -> None:
    """Whoever applies each delta holds what whoever asked for whole boards gets."""
    options: dict[str, Any] = {"limit": limit}
    if narrow:
        options |= {"fields": ("close",), "where": (("close", ">=", 1),)}
    deltas, whole = view(**options), view(full=True, **options)
    known: Any = None
    base = 0
    for seq, rows in enumerate(values, 1):
        expected = body(whole.render(message(rows, seq)))["data"]
        item = deltas.render(message(rows, seq))
        if item is not None:
            told = body(item)
            if told["kind"] == "delta":
                assert told["base"] == base
                known = apply_delta(known, told["data"])
            else:
                known = told["data"]
            base = told["seq"]
        assert known == expected


values = st.dictionaries(
    st.sampled_from(["symbol", "close", "open", "note"]), st.integers(0, 2) | st.text(max_size=2)
)


@given(st.lists(values, min_size=1, max_size=12))
def test_deltas_add_up_to_the_value(states: list[dict[str, Any]]) -> None:
    """Of a quote or a range; a field that goes makes the next message whole."""
    seen = view("quote:A")
    known: Any = None
    for seq, state in enumerate(states, 1):
        item = seen.render(message(state, seq, feeds.QUOTE, "A"))
        if item is not None:
            told = body(item)
            known = apply_delta(known, told["data"]) if told["kind"] == "delta" else told["data"]
        assert known == state
