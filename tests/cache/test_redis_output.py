"""What one output keeps until it is written: interest, bounds, batches. Without Redis."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mdp.cache.redis_output import RedisOutput
from mdp.feeds import (
    DAILY_RANGE,
    HALT,
    HALTS,
    LULD,
    NEWS_TICKER,
    QUOTE,
    SCANNER,
    TOP_VOLUME,
    TRADES,
    TTA,
    TTA_ALL,
    UNKNOWN,
    Target,
)

from .writer_rig import unaccounted


def output(**options: Any) -> RedisOutput:
    """One of a partition that owns symbols that begin with an A."""
    given: dict[str, Any] = {"packers": {TOP_VOLUME.name: bytes}, "owns": lambda symbol: symbol[0] == "A"}
    return RedisOutput("partition:0", 1, wall_ms=lambda: 5, **(given | options))


def test_an_interest_is_one_object_that_changes_in_place() -> None:
    """Analyzers ask once and look often."""
    one = output()
    quotes = one.interest(QUOTE)
    one.want(Target(QUOTE, "AAPL"), True)
    one.want(Target(QUOTE, "MSFT"), True)  # another partition's
    assert quotes.symbols == {"AAPL"}
    assert one.wants
    one.want(Target(QUOTE, None), True)
    assert quotes.all
    one.want(Target(QUOTE, None), False)
    one.want(Target(QUOTE, "AAPL"), False)
    assert not quotes
    assert not one.wants
    assert one.interest(QUOTE) is quotes


def test_what_analyzers_publish_always() -> None:
    """What is merged from all partitions, and what is rare; whether somebody wants it or not."""
    one = output()
    for family in (TOP_VOLUME, TTA_ALL, HALT, LULD):
        assert one.interest(family).all
    one.want(Target(HALT, None), True)
    one.want(Target(HALT, None), False)
    assert one.interest(HALT).all
    assert not one.wanted(HALT, "AAPL")


def test_feeds_that_another_publishes() -> None:
    """The publisher's `tta:{S}:widget`: a partition's own hundred are not the market's."""
    one = output(foreign=(TTA.name,))
    one.want(Target(TTA, None), True)
    one.begin(Target(TTA, "AAPL"))
    one.publish(TTA, "AAPL", 1)
    assert not one.interest(TTA)
    assert not any((one.states, one.values, one.first))


def test_raw_events_wait_up_to_a_bound() -> None:
    """The oldest are dropped and counted; the last one is kept for the plain key."""
    one = output()
    one.want(Target(TRADES, None), True)
    for n in range(20_010):
        one.publish(TRADES, "AAPL", n)
    assert len(one.raw) == 20_000
    assert one.raw[0][3] == b"10"
    assert one.counters.dropped == 10
    assert unaccounted(one) == 0
    assert one.values == {(TRADES, "AAPL"): 20_009}


def test_events_of_a_feed_wait_up_to_a_bound() -> None:
    """Each feed has its own: a flood of one does not cost the others."""
    one = output()
    one.push(HALTS, "", 0)
    for n in range(10_001):
        one.push(UNKNOWN, "", n)
    assert len(one.batches["unknown"].items) == 10_000
    assert len(one.batches["halts"].items) == 1
    assert (one.counters.events, one.counters.dropped) == (10_002, 1)
    assert unaccounted(one) == 0


def test_a_batch_keeps_its_number_until_it_is_written() -> None:
    """What comes meanwhile belongs to the next; what was dropped under way is not counted as written."""
    one = output()
    for n in range(3):
        one.push(NEWS_TICKER, "AAPL", n)
    feed = "news:ticker:AAPL"
    batch = one.batches[feed]
    assert batch.number == 1
    batch.under_way = 2
    one.written(feed)
    assert (batch.number, [body for _, body in batch.items]) == (2, [b"2"])
    for n in range(10_000):
        if n == 0:
            batch.under_way = 1
        one.push(NEWS_TICKER, "AAPL", n)
    assert batch.under_way == 0  # the item was the oldest
    batch.under_way = 10_000
    one.written(feed)
    assert one.batches == {}
    one.push(NEWS_TICKER, "AAPL", 9)
    assert one.batches[feed].number == 4


def test_after_silence_all_that_is_wanted_is_due() -> None:
    """By name and by wildcard; events of the replay are nobody's present value."""
    one = output()
    one.provide(DAILY_RANGE, lambda symbol: symbol, lambda: ["ABC", "AXY"])
    one.silent = True
    one.want(Target(QUOTE, "AAPL"), True)
    one.want(Target(DAILY_RANGE, None), True)
    one.want(Target(TRADES, None), True)
    one.publish(QUOTE, "AAPL", 1)
    one.set(HALT, "AAPL", 1)
    one.begin(Target(QUOTE, "AAPL"))
    assert not any((one.states, one.values, one.first))
    one.loud()
    assert set(one.first) == {(QUOTE, "AAPL"), (DAILY_RANGE, "ABC"), (DAILY_RANGE, "AXY")}


def test_a_replay_keeps_its_newest_events() -> None:
    """Ten thousand: more are in no history either."""
    one = output()
    one.silent = True
    for n in range(10_005):
        one.push(HALTS, "", n)
    assert len(one.replayed) == 10_000
    assert one.replayed[0][3] == b"5"
    assert not one.batches
    assert one.counters.dropped == 5
    assert unaccounted(one) == 0


def test_a_packer_that_fails_costs_that_part_alone() -> None:
    """As a payload that is no JSON does."""
    one = output(packers={TOP_VOLUME.name: lambda value: bytes(value[0])})
    one.publish(TOP_VOLUME, "", [b"fine"])
    one.publish(TOP_VOLUME, "", [])
    one.publish(SCANNER, "mine", 1)
    assert one.parts == {TOP_VOLUME.name: b"fine"}
    assert (one.counters.unencodable, one.counters.unmergeable) == (1, 1)


def test_whoever_was_refused_has_nothing_left_to_say() -> None:
    """Told once."""
    told: list[int] = []
    one = output(on_refused=lambda: told.append(1))
    one.want(Target(QUOTE, None), True)
    one.publish(QUOTE, "AAPL", 1)
    one.push(HALTS, "", 1)
    one.publish(TOP_VOLUME, "", b"x")
    one.refuse()
    one.refuse()
    assert not any((one.states, one.batches, one.parts, one.families))
    assert told == [1]
    assert one.counters.refused == 2


def test_what_redis_forgot_is_contributed_again() -> None:
    """The last part of each feed, or a newer one that waits."""
    one = output(packers={TOP_VOLUME.name: bytes, TTA_ALL.name: bytes})
    one.publish(TOP_VOLUME, "", b"old")
    one.publish(TTA_ALL, "", b"all")
    one.parts.clear()
    one.publish(TOP_VOLUME, "", b"new")
    generation = one.generation
    one.forgotten()
    assert one.parts == {TOP_VOLUME.name: b"new", TTA_ALL.name: b"all"}
    assert one.generation == generation + 1


@given(
    st.lists(
        st.sampled_from(["event", "other", "raw", "unwanted", "send", "written", "clear", "refuse"]),
        max_size=60,
    )
)
def test_each_event_is_in_one_count(steps: list[str]) -> None:
    """Written, sent, dropped, left behind or waiting: whatever is lost, and whenever."""
    one = output()
    one.want(Target(TRADES, None), True)
    noted = 0
    for n, step in enumerate(steps):
        if step in ("event", "other"):
            one.push(HALTS if step == "event" else UNKNOWN, "", n)
            noted += 1
        elif step == "raw":
            one.publish(TRADES, "AAPL", n)
            noted += 1
        elif step == "unwanted":
            one.publish(LULD, "AAPL", n)
        elif step == "send":
            for batch in one.batches.values():
                batch.under_way = max(1, len(batch.items) - 1)
        elif step == "written":
            for feed, batch in list(one.batches.items()):
                if batch.under_way:
                    one.written(feed)
        elif step == "clear":
            one.clear()
            assert one.waiting == 0
        else:
            one.refuse()
    assert one.counters.events + one.counters.raw == noted
    assert unaccounted(one) == 0


def test_who_goes_on_with_our_state_tells_what_we_could_not() -> None:
    """Events of lists, in their order, those of a replay that was not over, too; raw ones are lost."""
    one, successor = output(), output()
    one.silent = True
    one.push(HALTS, "", {"n": 0})
    one.silent = False
    one.push(HALTS, "", {"n": 1})
    one.push(NEWS_TICKER, "AAPL", {"n": 2})
    one.want(Target(TRADES, "AAPL"), True)
    one.publish(TRADES, "AAPL", {"n": 3})
    one.refuse()
    one.clear()  # as it is when it is closed after that

    successor.silent = True
    successor.inherit(one)

    assert [(family, symbol, body) for family, symbol, _, body in successor.replayed] == [
        (HALTS, "", b'{"n":0}'),
        (HALTS, "", b'{"n":1}'),
        (NEWS_TICKER, "AAPL", b'{"n":2}'),
    ]
    assert unaccounted(one, successor) == 0
    again = output()
    again.inherit(one)
    assert not again.replayed, "once"
