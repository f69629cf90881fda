"""Deltas and names, without a connection; a subscription against the service's own views."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp import feeds
from mdp.cache.base import Message
from mdp.client.subscription import MAX_MISFITS, Subscription
from mdp.client.values import apply_delta, overlap
from mdp.feeds import FAMILIES, match
from mdp.wds.views import Options, View

FEED = "scanners:top_gainers"
symbols = st.sampled_from("ABCDEF")
figures = st.fixed_dictionaries({"close": st.integers(0, 2)}, optional={"open": st.integers(0, 2)})
boards = st.lists(st.tuples(symbols, figures), max_size=6, unique_by=lambda row: row[0])
options = st.builds(
    Options,
    full=st.booleans(),
    limit=st.integers(0, 3),
    fields=st.sampled_from([(), ("close",)]),
    where=st.sampled_from([(), (("close", ">", 0),)]),
)


@given(st.lists(boards, min_size=1, max_size=8), st.booleans(), options, st.data())
async def test_what_is_read_is_what_the_view_shows(
    changes: list[list[tuple[str, dict[str, int]]]], ranked: bool, wanted: Options, data: st.DataObject
) -> None:
    """Whatever changes, by whatever options; a message lost on the way is noticed, never applied over."""
    view = View(FEED, wanted, match(FEED))
    subscription = Subscription(FEED, {}, max_events=10)
    subscription.ask()
    subscription.begin()
    for number, change in enumerate(changes, 1):
        rows: list[dict[str, Any]] = [
            ({"rank": rank} if ranked else {}) | {"symbol": symbol, **fields}
            for rank, (symbol, fields) in enumerate(change, 1)
        ]
        due = view.render(Message(FEED, feeds.TOP_GAINERS, 1, number, rows))
        if due is None or data.draw(st.integers(0, 5)) == 0:
            continue
        if not subscription.take(msgspec.json.decode(due.frame)):
            subscription.ask()
            subscription.begin()
            known = view.shown(FEED)
            assert known is not None
            assert subscription.take(msgspec.json.decode(known.full()))
        elif not subscription._due:
            continue  # before the first whole value there is nothing to read
        shown = view.shown(FEED)
        assert shown is not None
        assert (await subscription.next()).value == list(shown.value.values())


@given(st.sampled_from(FAMILIES), st.sampled_from(["A", "X:Y"]), st.data())
def test_names_that_may_meet_are_found(family: feeds.Family, symbol: str, data: st.DataObject) -> None:
    """A wildcard that the contract says covers a feed overlaps it, and whatever else covers it."""
    feed = family.feed(symbol if family.hole == "symbol" else "name" if family.hole else "")
    segments = feed.split(":")
    patterns = []
    for _ in range(2):
        starred = data.draw(st.lists(st.booleans(), min_size=len(segments), max_size=len(segments)))
        pattern = ":".join("*" if star else part for star, part in zip(starred, segments, strict=True))
        patterns.append(pattern)
    assert overlap(feed, patterns[0])
    assert overlap(*patterns)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("quote:A", "quote:A", True),
        ("quote:A", "quote:B", False),
        ("quote:*", "quote:X:BTC", True),
        ("quote:*", "daily_range:*", False),
        ("stocks:*:A", "stocks:trades:*", True),
        ("stocks:*:A", "stocks:*:B", False),
        ("tta:*:widget", "tta:A:widget", True),
        ("alerts", "*", True),
    ],
)
def test_which_names_meet(one: str, other: str, meet: bool) -> None:
    """Both ways round."""
    assert overlap(one, other) is overlap(other, one) is meet


@pytest.mark.parametrize(
    ("value", "delta"), [(None, {"a": 1}), ([], {"gone": ["A"]}), ([], {"order": ["A"]}), ([{}], {"set": {}})]
)
def test_a_delta_that_cannot_fit_is_an_error(value: Any, delta: Any) -> None:
    """Which the subscription takes as a reason to ask again."""
    with pytest.raises((KeyError, TypeError, AttributeError)):
        apply_delta(value, delta)


def test_after_some_misfits_whole_values_are_asked_for() -> None:
    """And not before."""
    subscription = Subscription("quote:*", {}, max_events=10)
    delta = {"feed": "quote:A", "epoch": 1, "seq": 2, "ts": 1, "kind": "delta", "base": 1, "data": {}}
    for _ in range(MAX_MISFITS):
        assert "full" not in subscription.ask()
        assert not subscription.take(delta)
    assert subscription.ask()["full"] is True


@given(st.lists(st.integers(1, 20), max_size=40), st.booleans())
async def test_events_are_read_once_in_order_and_gaps_are_said(numbers: list[int], filtered: bool) -> None:
    """Whatever comes twice or is left out; with `where`, what is left out is no gap."""
    wanted = {"where": [["n", ">", 0]]} if filtered else {}
    subscription = Subscription("halts", wanted, max_events=100)
    last = 0
    for seq in numbers:
        subscription.take(
            {"feed": "halts", "epoch": 1, "seq": seq, "ts": 1, "kind": "event", "data": {"n": seq}}
        )
        if seq > last:
            update = await subscription.next()
            assert update.seq == seq
            assert update.gap == (bool(last) and seq != last + 1 and not filtered)
            last = seq
        assert not subscription._due
    if last:
        assert subscription.ask()["resume"] == {"epoch": 1, "seq": last}
