"""Names in Redis: what one script touches together lies in one slot of a cluster."""

from __future__ import annotations

import itertools

import pytest
from redis.crc import key_slot

from mdp.cache.keys import LISTENER, PUBLISHER, SCANNER, Keys, partition_name
from mdp.events import QUEUES

FEEDS = (
    "quote:AAPL",
    "scanners:top_gainers",
    "daily_range_hod_alert",
    "quote:X:BTC-USD",
    "news:ticker:BRK.A",
)


def slot(key: str) -> int:
    return key_slot(key.encode())


@pytest.mark.parametrize("prefix", ["", "mdp-test:", "a.b:"])
@pytest.mark.parametrize("feed", FEEDS)
def test_all_of_a_feed_lies_in_the_slot_of_its_plain_key(prefix: str, feed: str) -> None:
    """Whatever the prefix: place, fence, event stream, counter, parts and limits."""
    keys = Keys(prefix)
    made = [
        make(feed) for make in (keys.place, keys.fence, keys.events, keys.counter, keys.parts, keys.limits)
    ]
    assert {slot(key) for key in made} == {slot(keys.value(feed))}
    assert len(set(made)) == len(made), "names differ"


@pytest.mark.parametrize("prefix", ["", "mdp-test:"])
def test_all_of_a_partition_lies_in_one_slot_and_partitions_spread(prefix: str) -> None:
    """One XREAD reads a partition's queues; one script compares lease and epoch and writes the checkpoint."""
    keys = Keys(prefix)
    slots = []
    for partition in range(16):
        name = partition_name(partition)
        made = [*keys.streams(partition), keys.checkpoint(partition), keys.windows(partition)]
        made += [keys.lease(name), keys.epoch(name)]
        assert len({slot(key) for key in made}) == 1
        slots.append(slot(made[0]))
    assert len(set(slots)) == 16


@pytest.mark.parametrize("name", [LISTENER, PUBLISHER, SCANNER, partition_name(7)])
def test_a_lease_and_its_epoch_share_a_slot(name: str) -> None:
    """The script that acquires touches both."""
    keys = Keys("p:")
    assert slot(keys.lease(name)) == slot(keys.epoch(name))
    assert keys.lease(name) != keys.epoch(name)


def test_no_two_names_are_the_same() -> None:
    """Of any kind, for any feed, partition or lease, and none is a feed of the contract."""
    keys = Keys()
    makers = (
        keys.value,
        keys.place,
        keys.fence,
        keys.events,
        keys.counter,
        keys.parts,
        keys.limits,
        keys.bus,
    )
    made = [
        keys.partitions, keys.members, keys.control, keys.interest_channel, keys.listener,
        keys.listeners, keys.interest("w1"),
        keys.reference("2026-11-20"),
        *[make(feed) for feed, make in itertools.product(FEEDS, makers)],
        *[keys.stream(queue, partition) for queue in QUEUES for partition in range(16)],
        *[keys.lease(name) for name in (LISTENER, PUBLISHER, SCANNER)],
        *[keys.epoch(name) for name in (LISTENER, PUBLISHER, SCANNER)],
    ]  # fmt: skip
    assert len(set(made)) == len(made)
    assert all(key.startswith(("mdp:", "mdq:")) or key in FEEDS for key in made)


def test_every_name_carries_the_prefix() -> None:
    """Two installations share a Redis by a prefix each."""
    keys = Keys("x:")
    names = [value for value in vars(keys).values() if isinstance(value, str)]
    names += [
        keys.stream("trades", 1), keys.checkpoint(1), keys.lease(LISTENER), keys.epoch(LISTENER),
        keys.value("halts"), keys.place("halts"), keys.fence("halts"), keys.events("halts"),
        keys.counter("halts"), keys.parts("halts"), keys.limits("halts"), keys.bus("halts"),
        keys.interest("w"), keys.reference("d"),
    ]  # fmt: skip
    assert all(name.startswith("x:") for name in names)


def test_streams_name_their_queue() -> None:
    """In the order of the queues, as an answer of XREAD is read back."""
    keys = Keys("x:")
    expected = [(f"x:mdq:{queue}:{{3}}", queue) for queue in (*QUEUES, "halt_notices")]
    assert list(keys.streams(3).items()) == expected


def test_a_channel_of_the_bus_names_its_feed() -> None:
    """And nothing else does."""
    keys = Keys("x:")
    for feed in FEEDS:
        assert keys.feed_of_bus(keys.bus(feed)) == feed
    with pytest.raises(ValueError, match="no channel"):
        keys.feed_of_bus("mdp:bus:halts")


@pytest.mark.parametrize("prefix", ["{", "a}", "{a}:"])
def test_a_prefix_with_braces_is_refused(prefix: str) -> None:
    """It would put everything into one slot, or take the tags' meaning."""
    with pytest.raises(ValueError, match="braces"):
        Keys(prefix)
