"""Entries: what is packed comes out the same, whatever it is."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.events import (
    AGGREGATES,
    HALT_NOTICES,
    HALTS,
    LIMIT,
    QUEUE_OF,
    QUOTES,
    TRADES,
    UNKNOWN,
    Aggregate,
    FrameDecoder,
    HaltNotice,
    LimitUpLimitDown,
    MinuteAggregate,
    Quote,
    Trade,
    Unknown,
    payload,
)
from mdp.queues.entry import (
    STREAMED,
    VERSION,
    EntryError,
    Header,
    NewerEntry,
    Partitions,
    pack,
    pack_header,
    partition_of,
    read_version,
    scatter,
    unpack,
    unpack_header,
)

NUMBERS = st.integers(-LIMIT, LIMIT) | st.floats(-LIMIT, LIMIT)
SYMBOLS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=32)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "symbol": SYMBOLS,
    "otc": st.none() | st.booleans(),
    "id": st.none() | TEXTS | NUMBERS,
    "conditions": st.none() | NUMBERS | st.lists(NUMBERS, max_size=4),
    "condition": st.none() | NUMBERS | st.lists(NUMBERS, max_size=4),
    "indicators": st.none() | NUMBERS | st.lists(NUMBERS, max_size=4),
    "source": TEXTS,
    "reason_code": TEXTS,
    "listing_market": TEXTS,
    "reason": TEXTS,
    "raw": TEXTS,
    "arrival_ms": st.integers(0, LIMIT),
}


def events_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any event of a class: optional numbers present or not, whole or not."""
    needed = {field.name for field in msgspec.structs.fields(kind) if field.required}
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name in kind.__struct_fields__:
        fields[name] = NUMBERS if name in needed or kind is HaltNotice else st.none() | NUMBERS
        if name in FIELDS:
            fields[name] = FIELDS[name]
    return st.builds(kind, **fields)


KINDS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    TRADES: (Trade,),
    QUOTES: (Quote,),
    AGGREGATES: (Aggregate, MinuteAggregate),
    HALTS: (LimitUpLimitDown,),
    HALT_NOTICES: (HaltNotice,),
    UNKNOWN: (Unknown,),
}


def exact(event: Any) -> list[Any]:
    """Class and fields with their types: 1, 1.0 and True are three things here."""
    fields = msgspec.structs.astuple(event)
    return [type(event), *[(type(field), repr(field)) for field in fields]]


@pytest.mark.parametrize("queue", STREAMED)
@given(data=st.data())
def test_events_come_out_as_they_went_in(queue: str, data: st.DataObject) -> None:
    """Classes, values, numbers' forms, what is absent, and the order of each symbol; for every queue."""
    events = data.draw(st.lists(st.one_of([events_of(kind) for kind in KINDS[queue]]), max_size=20))
    before = [exact(event) for event in events]
    symbols = [getattr(event, "symbol", "") for event in events]
    parts = scatter(queue, events, Partitions(4))
    came = {partition: unpack(queue, pack(rows)) for partition, rows in parts.items()}
    for partition, found in came.items():
        expected = [
            row
            for row, symbol in zip(before, symbols, strict=True)
            if partition == (partition_of(symbol, 4) if queue != UNKNOWN else 0)
        ]
        assert [exact(event) for event in found] == expected
    assert sum(len(found) for found in came.values()) == len(before)


@given(event=events_of(Trade) | events_of(Quote) | events_of(Aggregate))
def test_what_came_through_gives_the_same_payload(event: Any) -> None:
    """Analyzers and clients cannot tell it from one that was decoded here."""
    before = payload(event)
    queue = QUEUE_OF[type(event)]
    ((_, rows),) = scatter(queue, [event], Partitions(1)).items()
    (found,) = unpack(queue, pack(rows))
    assert payload(found) == before


def test_frames_of_the_provider_come_through() -> None:
    """Decoded from the wire: missing fields stay missing, 12.0 stays a float, 100 an int."""
    frame = (
        b'[{"ev":"T","sym":"A","p":12.0,"s":100,"t":1,"i":"x"},'
        b'{"ev":"T","sym":"BRK.A","p":1,"s":0.5,"t":2,"c":[1]}]'
    )
    events = FrameDecoder().decode(frame)
    before = [exact(event) for event in events]
    ((_, rows),) = scatter(TRADES, events, Partitions(1)).items()
    assert [exact(event) for event in unpack(TRADES, pack(rows))] == before


# --- partitions ---


def test_partitions_are_those_of_the_contract() -> None:
    """CRC-32 modulo, known by value: another process, version or language has to come to the same."""
    assert [partition_of(symbol, 16) for symbol in ("AAPL", "MSFT", "BRK.A", "X:BTC-USD")] == [12, 11, 6, 11]
    assert partition_of("123456789", 1 << 32) == 0xCBF43926, "the check value of CRC-32"


@given(symbols=st.lists(SYMBOLS, max_size=50), count=st.integers(1, 64))
def test_a_remembered_partition_is_the_right_one(symbols: list[str], count: int) -> None:
    """The first time and again."""
    partitions = Partitions(count)
    for symbol in [*symbols, *symbols]:
        assert partitions[symbol] == partition_of(symbol, count)


def test_the_memory_of_partitions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed that invents symbols does not fill the machine."""
    monkeypatch.setattr("mdp.queues.entry._MAX_SYMBOLS", 10)
    partitions = Partitions(4)
    for number in range(100):
        assert partitions[f"S{number}"] == partition_of(f"S{number}", 4)
        assert len(partitions) <= 10


def test_what_has_no_symbol_is_of_partition_0() -> None:
    """Of which one processor takes care."""
    assert list(scatter(UNKNOWN, [Unknown("r", "x", 1), Unknown("r", "y", 2)], Partitions(16))) == [0]
    assert scatter(UNKNOWN, [], Partitions(16)) == {}
    assert scatter(TRADES, [], Partitions(16)) == {}


# --- headers, versions, defects ---

HEADERS = st.builds(
    Header,
    **dict.fromkeys(("epoch", "place", "total", "count", "arrival_ms", "market_ms"), st.integers(0, LIMIT)),
    trace=st.none() | TEXTS,
)


@given(header=HEADERS)
def test_headers_come_out_as_they_went_in(header: Header) -> None:
    """As an array in the contract's order."""
    data = pack_header(header)
    assert unpack_header(data) == header
    assert msgspec.msgpack.decode(data) == list(msgspec.structs.astuple(header))


def test_a_newer_version_is_refused_and_this_one_read() -> None:
    """With both numbers and the remedy."""
    assert read_version(str(VERSION).encode()) == VERSION
    with pytest.raises(NewerEntry, match=rf"version {VERSION + 1}.*up to {VERSION}.*upgrade"):
        read_version(str(VERSION + 1).encode())


@pytest.mark.parametrize("text", [b"", b"0", b"-1", b"x", b"1.0", b"9" * 5_000])
def test_what_is_no_version_is_no_newer_one(text: bytes) -> None:
    """It is a defect of one entry, and no reason to stop."""
    with pytest.raises(EntryError) as caught:
        read_version(text)
    assert not isinstance(caught.value, NewerEntry)


@pytest.mark.parametrize("queue", STREAMED)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_events_or_an_error(queue: str, data: bytes) -> None:
    """Never another exception, whatever lies in Redis."""
    for read in (lambda: unpack(queue, data), lambda: unpack_header(data)):
        with contextlib.suppress(EntryError):
            read()


@given(event=events_of(Trade), cut=st.integers(1, 200))
def test_a_cut_entry_is_an_error(event: Trade, cut: int) -> None:
    """And gives no half of its events."""
    ((_, rows),) = scatter(TRADES, [event, Trade("A", 1, 1, 1)], Partitions(1)).items()
    data = pack(rows)
    with pytest.raises(EntryError):
        unpack(TRADES, data[: max(0, len(data) - cut)])


def test_what_cannot_be_written_is_an_error() -> None:
    """Integers end at 64 bits there; the decoder of frames lets none through."""
    ((_, rows),) = scatter(TRADES, [Trade("A", 1 << 70, 1, 1)], Partitions(1)).items()
    with pytest.raises(EntryError):
        pack(rows)


def test_headers_of_other_versions_are_read() -> None:
    """One without the newest field, and one with a field that is newer than us: fields are only added."""
    fields = [3, 7, 70, 10, 1, 2, None]
    header = Header(3, 7, 70, 10, 1, 2)
    assert unpack_header(msgspec.msgpack.encode(fields)) == header
    newer = [*fields, {"expired": ["A"], "shed": None}, "more"]
    assert unpack_header(msgspec.msgpack.encode(newer)) == Header(
        3, 7, 70, 10, 1, 2, None, {"expired": ["A"], "shed": None}
    )
