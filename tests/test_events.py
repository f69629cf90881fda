"""Decoding of frames: what is accepted, what is malformed, and that nothing is lost or raised."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.cache.base import encode_json
from mdp.events import (
    QUEUE_OF,
    Aggregate,
    FrameDecoder,
    LimitUpLimitDown,
    MinuteAggregate,
    Quote,
    Status,
    Trade,
    Unknown,
    milliseconds,
    payload,
)
from mdp.listener.ring import RawRing
from mdp.processor.decode import DecodeStage
from mdp.processor.pace import Pace
from mdp.queues.memory import MemoryQueue

from .data import data_file

#: The contract's words: our name -> wire name, by event type.
NAMES: dict[str, dict[str, str]] = {
    "T": {
        "symbol": "sym",
        "exchange": "x",
        "id": "i",
        "tape": "z",
        "price": "p",
        "size": "s",
        "conditions": "c",
        "timestamp": "t",
        "sequence_number": "q",
        "trf_id": "trfi",
        "trf_timestamp": "trft",
    },
    "Q": {
        "symbol": "sym",
        "bid_exchange_id": "bx",
        "bid_price": "bp",
        "bid_size": "bs",
        "ask_exchange_id": "ax",
        "ask_price": "ap",
        "ask_size": "as",
        "condition": "c",
        "indicators": "i",
        "timestamp": "t",
        "sequence_number": "q",
        "tape": "z",
    },
    "A": {
        "symbol": "sym",
        "volume": "v",
        "accumulated_volume": "av",
        "official_open_price": "op",
        "vwap": "vw",
        "open": "o",
        "close": "c",
        "high": "h",
        "low": "l",
        "aggregate_vwap": "a",
        "average_size": "z",
        "start_timestamp": "s",
        "end_timestamp": "e",
        "otc": "otc",
    },
    "LULD": {
        "symbol": "T",
        "high_price": "h",
        "low_price": "l",
        "indicators": "i",
        "tape": "z",
        "timestamp": "t",
        "sequence_number": "q",
    },
}
NAMES["AM"] = NAMES["A"]
CLASSES: dict[str, type] = {
    "T": Trade,
    "Q": Quote,
    "A": Aggregate,
    "AM": MinuteAggregate,
    "LULD": LimitUpLimitDown,
    "status": Status,
}
LISTS = {("T", "c"), ("Q", "i"), ("LULD", "i")}
REQUIRED = {
    "T": {"sym", "p", "s", "t"},
    "Q": {"sym", "t"},
    "A": {"sym", "c", "h", "l", "s"},
    "AM": {"sym", "c", "h", "l", "s"},
    "LULD": {"T", "t"},
}
decoder = FrameDecoder()


def decode(frame: str | bytes) -> tuple[list[Any], list[Unknown]]:
    """As the pipeline does: whole if possible, else event by event."""
    try:
        return decoder.decode(frame), []
    except (ValueError, RecursionError):
        return decoder.salvage(frame, 7)


def full(kind: str) -> dict[str, Any]:
    """An event on the wire with every field, each with another number."""
    event: dict[str, Any] = {"ev": kind}
    for number, name in enumerate(NAMES[kind].values(), 2):
        event[name] = [number, 37] if (kind, name) in LISTS else number
    event["T" if kind == "LULD" else "sym"] = "BRK.A"
    if "otc" in event:
        event["otc"] = True
    return event


@pytest.mark.parametrize("name", ["wire/frames_real.jsonl", "wire/frames_docs.jsonl"])
def test_real_frames_decode_field_by_field(name: str) -> None:
    """Every event of every recorded frame; what it does not know (NOI) is named, nothing is dropped."""
    for line in data_file(name).read_text().splitlines():
        wire = json.loads(line)
        good, bad = decode(line)
        known = [event for event in wire if event["ev"] in CLASSES]
        assert len(good) + len(bad) == len(wire)
        assert [type(event) for event in good] == [CLASSES[event["ev"]] for event in known]
        assert {unknown.reason for unknown in bad} <= {"unknown event type 'NOI'"}
        for event, sent in zip(good, known, strict=True):
            if sent["ev"] == "status":
                assert (event.status, event.message) == (sent["status"], sent["message"])
                continue
            body = payload(event)
            assert body["event_type"] == sent["ev"]
            for ours, theirs in NAMES[sent["ev"]].items():
                assert repr(body[ours]) == repr(sent.get(theirs)), (ours, line)


@pytest.mark.parametrize("kind", NAMES)
def test_payloads_have_the_contracts_names_and_no_other(kind: str) -> None:
    """`event_type` is the wire's `ev`; every field under its name; fields we do not name are ignored."""
    sent = full(kind) | {"pt": 1, "ds": "1.5", "dv": "2.0", "dav": "3", "new": {"x": [None]}}
    (event,), bad = decode(json.dumps([sent]))
    assert bad == []
    assert payload(event) == {"event_type": kind} | {ours: sent[wire] for ours, wire in NAMES[kind].items()}


@pytest.mark.parametrize("kind", NAMES)
def test_an_optional_field_may_be_missing(kind: str) -> None:
    """Absent or null, it is null in the payload; each of the others costs the event."""
    for ours, wire in NAMES[kind].items():
        sent = full(kind)
        del sent[wire]
        good, bad = decode(json.dumps([sent]))
        if wire in REQUIRED[kind]:
            assert (good, len(bad)) == ([], 1)
            assert wire in bad[0].reason
        else:
            assert payload(good[0])[ours] is None
            assert payload(decode(json.dumps([sent | {wire: None}]))[0][0])[ours] is None


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    "text", ["100", "100.0", "12.0", "0.25", "1e2", "1e-05", "-3", "0", "123456789012345"]
)
def test_a_number_keeps_its_form(kind: str, text: str) -> None:
    """100 stays 100 and 100.0 stays 100.0, in every numeric field, through the payload to JSON."""
    for ours, wire in NAMES[kind].items():
        if wire in ("sym", "otc") or (kind, wire) in {("LULD", "T"), *LISTS}:
            continue
        frame = json.dumps([full(kind) | {wire: "@"}]).replace('"@"', text)
        (event,), _ = decode(frame)
        got = json.loads(encode_json(payload(event)))[ours]
        assert repr(got) == repr(json.loads(text)), (kind, ours)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    "text",
    [
        '"100"',
        "NaN",
        "Infinity",
        "-Infinity",
        "true",
        "false",
        "{}",
        "[]",
        "1e999",
        "-1e999",
        "9" * 30,
        "1e19",
        '""',
    ],
)
def test_what_is_no_number_makes_its_event_malformed(kind: str, text: str) -> None:
    """In every numeric field; the neighbours of the event pass."""
    for wire in NAMES[kind].values():
        if wire in ("sym", "otc") or (kind, wire) in {("T", "i"), ("LULD", "T"), *LISTS}:
            continue
        if (kind, wire) == ("Q", "c") and text == "[]":
            continue  # a condition, or several
        bad_one = json.dumps(full(kind) | {wire: "@"}).replace('"@"', text)
        good, bad = decode(f"[{json.dumps(full('T'))},{bad_one},{json.dumps(full('Q'))}]")
        assert [type(event) for event in good] == [Trade, Quote], (wire, text)
        assert len(bad) == 1


@pytest.mark.parametrize("text", ["9" * 30, "18446744073709551616", "-9e18", "true", "NaN", "[1]"])
def test_an_id_is_a_text_or_a_number_that_json_can_carry(text: str) -> None:
    """What passes can be sent to clients."""
    good, bad = decode(json.dumps([full("T") | {"i": "@"}]).replace('"@"', text))
    assert len(good) + len(bad) == 1
    for event in good:
        assert json.loads(encode_json(payload(event)))["id"] == json.loads(text)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ('{"ev":"T","sym":"","p":1,"s":1,"t":1}', "length"),
        ('{"ev":"T","sym":null,"p":1,"s":1,"t":1}', "null"),
        ('{"ev":"T","sym":7,"p":1,"s":1,"t":1}', "str"),
        ('{"ev":"LULD","sym":"A","t":1}', "missing"),
        ('{"ev":"NOI","T":"A","t":1}', "unknown event type 'NOI'"),
        ('{"ev":"t","sym":"A"}', "unknown event type 't'"),
        ('{"ev":1}', "event type is not a string"),
        ('{"ev":null}', "no event type"),
        ("{}", "no event type"),
        ("[]", "not an object"),
        ("7", "not an object"),
        ("null", "not an object"),
        ('"T"', "not an object"),
        ('{"ev":"T",}', "not JSON"),
        ('{"ev":"T" "sym":"A"}', "not JSON"),
    ],
)
def test_the_reason_is_said(event: str, reason: str) -> None:
    """In a word that tells what is wrong; the event itself is kept, cut to 2,048 characters."""
    good, (unknown,) = decode(f"[{event}]")
    assert good == []
    assert reason in unknown.reason.lower() or reason in unknown.reason
    assert (unknown.raw, unknown.arrival_ms) == (event, 7)
    assert payload(unknown) == {
        "event_type": "unknown",
        "reason": unknown.reason,
        "raw": event,
        "timestamp": 7,
    }


def test_what_is_kept_of_a_malformed_event_is_bounded() -> None:
    """Reason and text."""
    _, (unknown,) = decode('[{"ev":"' + "x" * 100_000 + '"}]')
    assert len(unknown.raw) == 2_048
    assert len(unknown.reason) < 250


@pytest.mark.parametrize(
    "frame",
    [
        "",
        " ",
        "null",
        "7",
        '"x"',
        "{}",
        "[",
        "]",
        "[[",
        "{",
        '["',
        '"',
        "\\",
        "[,]",
        "[}",
        "x" * 5_000,
        "[" * 100_000,
        '[{"a":' * 50_000,
        "[" + "[" * 5_000 + "]" * 5_000 + "]",
        "[\ud800]",
        '["\ud800"]',
        "\ufeff[]",
        "[1]]",
        "[]x",
        b"",
        b"\xff",
        b"[\xff]",
        b'[{"ev":"T","sym":"\xff\xfe"}]',
        b"\x00",
        "[NaN]",
        "[Infinity,-Infinity]",
    ],
)
def test_no_frame_raises(frame: str | bytes) -> None:
    """Whatever comes; what is reported can be sent on."""
    good, bad = decode(frame)
    assert good == []
    for unknown in bad:
        json.loads(encode_json(payload(unknown)))


def test_a_frame_that_breaks_off_loses_its_last_event_only() -> None:
    """Wherever it is cut: the complete events pass, the rest is one malformed event."""
    events = [json.dumps(full(kind)) for kind in ("T", "Q", "A")]
    frame = "[" + ",".join(events) + "]"
    ends = [1 + sum(len(e) + 1 for e in events[: n + 1]) - 1 for n in range(3)]
    for cut in range(1, len(frame)):
        good, bad = decode(frame[:cut])
        whole = sum(cut >= end for end in ends)
        assert len(good) == whole, frame[:cut]
        rest = frame[ends[whole - 1] if whole else 1 : cut].strip(",")
        assert len(bad) == (1 if rest else 0), frame[:cut]


def test_what_follows_the_end_of_a_frame_is_not_lost_silently() -> None:
    """Two arrays in one frame: the second is counted, one way or the other."""
    good, bad = decode(f"[{json.dumps(full('T'))}][{json.dumps(full('Q'))}]")
    assert [type(event) for event in good][:1] == [Trade]
    assert len(good) + len(bad) == 2


GOOD = st.sampled_from(["T", "Q", "A", "AM", "LULD"]).map(lambda kind: (kind, json.dumps(full(kind))))
numberish = st.sampled_from(
    ["NaN", "-Infinity", "1e999", '"1"', "true", "{}", "9" * 40, "1e300", '"\\ud800"']
)
spoilt = st.builds(
    lambda kind, field, value: json.dumps(full(kind) | {field: "@"}).replace('"@"', value),
    st.sampled_from(["A", "AM", "LULD"]),
    st.sampled_from(["h", "l"]),
    numberish,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
).map(json.dumps)
foreign = st.builds(
    lambda ev, more: json.dumps({"ev": ev, "x": more}), st.text(max_size=5), st.text(max_size=9)
)
BAD = st.one_of(
    spoilt,
    anything.filter(lambda text: '"ev"' not in text),
    foreign.filter(lambda text: json.loads(text)["ev"] not in CLASSES),
    st.sampled_from(
        [
            '{"ev":"T","sym":"\\ud800","p":1,"s":1,"t":1}',
            '{"ev":"T","sym":"","p":1,"s":1,"t":1}',
            '{"ev":"A","sym":"A]}","c":[[{"x":"]"}]]}',
            '{"sym":"AAPL"}',
        ]
    ),
)
space = st.sampled_from(["", " ", "\n\t"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(GOOD, BAD.map(lambda text: ("", text))), max_size=8), space, st.booleans())
def test_good_events_pass_in_order_and_every_event_is_counted(
    events: list[tuple[str, str]], gap: str, as_bytes: bool
) -> None:
    """Whatever stands between them: decoded + rejected = events in the frame."""
    frame: str | bytes = "[" + f"{gap},{gap}".join(text for _, text in events) + "]"
    if as_bytes:
        frame = str(frame).encode()
    good, bad = decode(frame)
    assert [type(event) for event in good] == [CLASSES[kind] for kind, _ in events if kind]
    assert len(good) + len(bad) == len(events)
    for event in good + bad:
        json.loads(encode_json(payload(event)))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet='[]{}",:\\evTsym1. ', max_size=80) | st.binary(max_size=80))
def test_no_text_raises(frame: str | bytes) -> None:
    """Not even one that starts like a frame."""
    good, bad = decode(frame)
    for event in good + bad:
        if not isinstance(event, Status):
            json.loads(encode_json(payload(event)))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(min_value=1_000_000_000_000, max_value=4_000_000_000_000),
    st.integers(min_value=0, max_value=999_999),
)
def test_times_of_any_unit_become_milliseconds(ms: int, rest: int) -> None:
    """13 digits are ms, 16 µs, 19 ns; a fraction of a millisecond is cut off."""
    assert milliseconds(ms) == ms
    assert milliseconds(ms * 1_000 + rest // 1_000) == ms
    assert milliseconds(ms * 1_000_000 + rest) == ms


async def test_luld_times_are_milliseconds_behind_the_decode_stage() -> None:
    """Nanoseconds on the wire, milliseconds for everyone else; every other `t` is left as it is."""
    ring = RawRing(max_bytes=1 << 20, max_age_ns=10**10, clock=lambda: 1)
    queues = {name: MemoryQueue(name, max_events=100) for name in set(QUEUE_OF.values())}
    stage = DecodeStage(ring, queues, Pace(ring), on_status=lambda _status, _message: None)
    luld = '{"ev":"LULD","T":"ATHR","h":3.63,"l":2.97,"i":[15],"z":3,"t":1788877046310003385,"q":3209681}'
    ring.append(f'[{luld},{{"ev":"T","sym":"A","p":1,"s":1,"t":1536036818784}},{{"ev":"NOI"}}]', 1)
    while stage.step():
        pass
    halts, trades, unknown = (queues[name].take() for name in ("halts", "trades", "unknown"))
    assert halts is not None
    assert trades is not None
    assert unknown is not None
    assert [event.timestamp for event in halts.events] == [1_788_877_046_310]
    assert [event.timestamp for event in trades.events] == [1_536_036_818_784]
    assert stage.counters.decoded["halts"] + stage.counters.decoded["trades"] == 2
    assert sum(stage.counters.rejected.values()) == len(unknown.events) == 1


def test_every_struct_has_a_queue() -> None:
    """Every event type of the wire, and what was not understood."""
    assert {kind for kind in CLASSES.values() if kind is not Status} | {Unknown} == set(QUEUE_OF)
    assert {MinuteAggregate.is_second, Aggregate.is_second} == {False, True}
