"""Ids, ends of streams, and how far back they are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.cache.redis_link import connect
from mdp.queues.entry import Header, pack_header
from mdp.queues.streams import (
    START,
    End,
    PartitionsDiffer,
    Stream,
    end_of,
    format_id,
    parse_id,
    settle_partitions,
)
from tests.queues.streams_support import KEYS
from tests.redis_server import RedisServer

HEADER = Header(3, 7, 70, 10, 1, 2)


@given(st.tuples(st.integers(0, 1 << 62), st.integers(0, 1 << 62)))
def test_ids_come_back_and_order_as_in_redis(entry_id: tuple[int, int]) -> None:
    """As numbers: 10-0 comes after 9-0, and 9-10 after 9-9."""
    assert parse_id(format_id(entry_id)) == entry_id
    assert parse_id(format_id(entry_id).encode()) == entry_id
    assert entry_id >= START


def test_the_end_of_a_stream_is_read_whatever_lies_there() -> None:
    """An empty one, ours, and one that somebody else wrote."""
    assert end_of([]) == end_of(None) == End()
    assert end_of([(b"5-1", {b"h": pack_header(HEADER)})]) == End((5, 1), HEADER)
    assert end_of([[b"5-1", [b"v", b"1", b"h", pack_header(HEADER)]]]) == End((5, 1), HEADER)
    assert end_of([(b"5-1", {b"x": b"y"})]) == End((5, 1), None)


def test_a_stream_is_kept_by_age() -> None:
    """Half-second steps are fine enough for a minute."""
    stream = Stream("k", "trades", 0)
    for ms in range(1_000_000, 1_100_000, 20):
        stream.total += 1
        least = stream.least_ms(ms, 60_000, 1_000_000)
        assert least == ms - 60_000
    assert len(stream._marks) <= 122


def test_a_stream_is_kept_by_events_where_they_are_more() -> None:
    """What is kept holds the bound's newest events, and about half a second more."""
    stream = Stream("k", "trades", 0)
    written: list[tuple[int, int]] = []
    least = 0  # what is gone stays gone
    for ms in range(1_000_000, 1_030_000, 20):
        stream.total += 100
        written.append((ms, stream.total))
        least = max(least, stream.least_ms(ms, 60_000, 10_000))
        kept = stream.total - max((total for at, total in written if at < least), default=0)
        assert kept <= 10_000 + 100 * 27
        assert kept >= min(10_000, stream.total)


def test_an_end_is_followed() -> None:
    """Its place and total; nothing where there is none."""
    stream = Stream("k", "trades", 0)
    stream.go_on(End((1, 1), HEADER))
    assert (stream.place, stream.total) == (7, 70)
    stream.go_on(End())
    assert (stream.place, stream.total) == (0, 0)


async def test_the_first_says_how_many_partitions_there_are(redis_server: RedisServer) -> None:
    """And others are told which key says so."""
    client = connect(redis_server.config())
    await settle_partitions(client, KEYS, 16)
    await settle_partitions(client, KEYS, 16)
    with pytest.raises(
        PartitionsDiffer, match=r"mdq.partitions is 8, and this Redis has 16.*t:mdq:partitions"
    ):
        await settle_partitions(client, KEYS, 8)
    await client.aclose()
