"""Market events as typed structs, and the decoding of the provider's frames.

A frame is a JSON array of events of any types. `FrameDecoder` turns it into structs with one call; only
a frame that does not decode whole is taken apart, so that a malformed event loses itself and nothing else.

Numbers keep the form they had on the wire (`100` stays `100`, `12.0` stays `12.0`), hence the
`int | float` of the fields. Times are milliseconds since the Unix epoch, UTC, unless said otherwise.
Structs are not tracked by the garbage collector (`gc=False`): they hold only scalars and lists of
scalars, so they can be in no cycle, and hundreds of thousands a second would make collections long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, Struct

#: Beyond these an event is malformed: nothing in a market is so large, and the journal's integers end there.
LIMIT = 9_000_000_000_000_000_000
Number = Annotated[int, Meta(ge=-LIMIT, le=LIMIT)] | Annotated[float, Meta(ge=-LIMIT, le=LIMIT)]
Symbol = Annotated[str, Meta(min_length=1, max_length=32)]

#: Wire types (`ev`) by the queue that carries them.
AGGREGATES = "aggregates"
TRADES = "trades"
QUOTES = "quotes"
HALTS = "halts"
UNKNOWN = "unknown"
QUEUES = (AGGREGATES, TRADES, QUOTES, HALTS, UNKNOWN)
#: The queue of `HaltNotice`: not the provider's, and there only where a source of them is configured.
HALT_NOTICES = "halt_notices"


class Trade(
    Struct,
    tag_field="ev",
    tag="T",
    gc=False,
    rename={
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
):
    """One print, as the SIP reported it. Price in USD, size in shares."""

    symbol: Symbol
    price: Number
    size: Number
    timestamp: Number
    exchange: Number | None = None
    id: str | Number | None = None
    tape: Number | None = None
    conditions: list[Number] | Number | None = None
    sequence_number: Number | None = None
    trf_id: Number | None = None
    trf_timestamp: Number | None = None
    #: Of REST answers and flat files, for what is replayed from them; not in the payload.
    correction: Number | None = None


class Quote(
    Struct,
    tag_field="ev",
    tag="Q",
    gc=False,
    rename={
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
):
    """One NBBO quote. A side may be missing (no bid or no ask). Sizes are in round lots."""

    symbol: Symbol
    timestamp: Number
    bid_exchange_id: Number | None = None
    bid_price: Number | None = None
    bid_size: Number | None = None
    ask_exchange_id: Number | None = None
    ask_price: Number | None = None
    ask_size: Number | None = None
    condition: Number | list[Number] | None = None
    indicators: list[Number] | Number | None = None
    sequence_number: Number | None = None
    tape: Number | None = None


_AGGREGATE_WIRE = {
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
}


class Aggregate(Struct, tag_field="ev", tag="A", gc=False, rename=_AGGREGATE_WIRE):
    """A second's bar. `accumulated_volume` and `aggregate_vwap` are the day's, the rest the bar's.

    `official_open_price` is absent before the regular session; bars of a symbol that traded in
    no eligible print do not exist at all (no bar, not an empty one).
    """

    is_second: ClassVar[bool] = True

    symbol: Symbol
    close: Number
    high: Number
    low: Number
    start_timestamp: Number
    open: Number | None = None
    volume: Number | None = None
    accumulated_volume: Number | None = None
    end_timestamp: Number | None = None
    official_open_price: Number | None = None
    vwap: Number | None = None
    aggregate_vwap: Number | None = None
    average_size: Number | None = None
    otc: bool | None = None


class MinuteAggregate(Aggregate, tag_field="ev", tag="AM", gc=False, rename=_AGGREGATE_WIRE):
    """A minute's bar; same fields as the second's."""

    is_second: ClassVar[bool] = False


class LimitUpLimitDown(
    Struct,
    tag_field="ev",
    tag="LULD",
    gc=False,
    rename={
        "symbol": "T",  # not `sym`, unlike every other event
        "high_price": "h",
        "low_price": "l",
        "indicators": "i",
        "tape": "z",
        "timestamp": "t",
        "sequence_number": "q",
    },
):
    """A limit up / limit down message: bands, and for Nasdaq listings halts (17) and reopenings (18).

    `timestamp` is in nanoseconds on the wire; the decode stage brings it to `milliseconds`.
    """

    symbol: Symbol
    timestamp: Number
    high_price: Number | None = None
    low_price: Number | None = None
    indicators: list[Number] | Number | None = None
    tape: Number | None = None
    sequence_number: Number | None = None


class HaltNotice(Struct, gc=False):
    """What an exchange says of one trading halt. It says it again and again, with more as more is known.

    Times are ms since the epoch, 0 where not said.
    """

    symbol: Symbol
    timestamp: Number  # market time at which we learned it: moves no clock
    halt_timestamp: Number
    source: str  # who told us, e.g. "nasdaq"
    reason_code: str = ""  # the exchange's, e.g. "LUDP"; several are joined by "+"
    quote_timestamp: Number = 0  # when quoting resumes
    resume_timestamp: Number = 0  # when trading resumes; may lie ahead, and may still be put off
    listing_market: str = ""
    pause_price: Number = 0  # price that set off a volatility pause, USD


class Status(Struct, tag_field="ev", tag="status", gc=False):
    """A word of the provider about the connection; never a market event."""

    status: str = ""
    message: str = ""


class Unknown(Struct, gc=False):
    """Something on the wire that is no event of ours, with the reason."""

    reason: str
    raw: str  # at most 2,048 characters of it
    arrival_ms: int  # wall clock


MarketEvent = Trade | Quote | Aggregate | MinuteAggregate | LimitUpLimitDown

_MALFORMED = (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError)
_RAW_LIMIT = 2_048
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{},]', re.DOTALL)


class FrameDecoder:
    """Decodes frames of the provider into events. Holds no state between frames."""

    def __init__(self) -> None:
        wire = Trade | Quote | Aggregate | MinuteAggregate | LimitUpLimitDown | Status
        #: The one call of the hot path: `decode(frame) -> list[event]`, raises on anything unusual.
        self.decode = msgspec.json.Decoder(list[wire]).decode
        self._one = msgspec.json.Decoder(wire).decode

    def salvage(self, frame: str | bytes, arrival_ms: int) -> tuple[list[Any], list[Unknown]]:
        """Decode event by event a frame that `decode` refused.

        Returns:
            The good events in order, and what was not understood with its reason. A frame that
            is no array counts as one event.
        """
        good: list[Any] = []
        bad: list[Unknown] = []
        for piece in _pieces(frame):
            try:
                good.append(self._one(piece))
            except _MALFORMED as exc:
                text = bytes(piece).decode("utf-8", "replace") if not isinstance(piece, str) else piece
                text = text.encode("utf-8", "replace").decode("utf-8")
                bad.append(Unknown(reason=_reason(text, exc), raw=text[:_RAW_LIMIT], arrival_ms=arrival_ms))
        return good, bad


def _pieces(frame: str | bytes) -> list[Any]:
    """The events of a frame, undecoded: by the JSON grammar, else by brackets and quotes alone."""
    try:
        pieces: list[Any] = msgspec.json.decode(frame, type=list[msgspec.Raw])
        return pieces
    except _MALFORMED:
        pass
    text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
    text = text.strip()
    if not text.startswith("["):
        return [text]
    found: list[Any] = []
    depth, start = 0, 1
    for token in _TOKEN.finditer(text):
        mark = token.group()[0]
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
            if depth == 0:
                found.append(text[start : token.start()])
                start = token.end()  # behind the end there should be nothing
                break
        elif mark == "," and depth == 1:
            found.append(text[start : token.start()])
            start = token.end()
    found.append(text[start:])  # what a cut-off frame ends with, or what follows the end of one
    return [piece.strip() for piece in found if piece.strip()]


def _reason(text: str, exc: Exception) -> str:
    """Why an event was not understood, in a few words that hold no data of other events."""
    try:
        event = msgspec.json.decode(text)
    except _MALFORMED:
        return "not JSON"
    if not isinstance(event, dict):
        return "not an object"
    kind = event.get("ev")
    if kind is None:
        return "no event type"
    if not isinstance(kind, str):
        return "event type is not a string"
    if kind not in _KINDS:
        return f"unknown event type {kind[:32]!r}"
    return str(exc)[:200]


#: `ev` of what this module decodes.
_KINDS = {
    "T": Trade,
    "Q": Quote,
    "A": Aggregate,
    "AM": MinuteAggregate,
    "LULD": LimitUpLimitDown,
    "status": Status,
}

#: The queue that carries a struct.
QUEUE_OF: dict[type, str] = {
    Trade: TRADES,
    Quote: QUOTES,
    Aggregate: AGGREGATES,
    MinuteAggregate: AGGREGATES,
    LimitUpLimitDown: HALTS,
    Unknown: UNKNOWN,
}

_PAYLOAD_FIELDS: dict[type, tuple[str, tuple[str, ...]]] = {
    Trade: (
        "T",
        ("symbol", "exchange", "id", "tape", "price", "size", "conditions", "timestamp", "sequence_number",
         "trf_id", "trf_timestamp"),
    ),
    Quote: (
        "Q",
        ("symbol", "bid_exchange_id", "bid_price", "bid_size", "ask_exchange_id", "ask_price", "ask_size",
         "condition", "indicators", "timestamp", "sequence_number", "tape"),
    ),
    LimitUpLimitDown: (
        "LULD",
        ("symbol", "high_price", "low_price", "indicators", "tape", "timestamp", "sequence_number"),
    ),
}  # fmt: skip
_AGGREGATE_FIELDS = (
    "symbol", "volume", "accumulated_volume", "official_open_price", "vwap", "open", "close", "high", "low",
    "aggregate_vwap", "average_size", "start_timestamp", "end_timestamp", "otc",
)  # fmt: skip
_PAYLOAD_FIELDS[Aggregate] = ("A", _AGGREGATE_FIELDS)
_PAYLOAD_FIELDS[MinuteAggregate] = ("AM", _AGGREGATE_FIELDS)


def payload(event: Any) -> dict[str, Any]:
    """The event as clients get it (`docs/feeds.md`): `event_type`, then all fields, null if absent."""
    if isinstance(event, Unknown):
        return {
            "event_type": UNKNOWN,
            "reason": event.reason,
            "raw": event.raw,
            "timestamp": event.arrival_ms,
        }
    kind, names = _PAYLOAD_FIELDS[type(event)]
    out: dict[str, Any] = {"event_type": kind}
    for name in names:
        out[name] = getattr(event, name)
    return out


#: A bar that is later than this says by its own time nothing of when data was lost.
_LATEST_MS = 600_000


def oldest_start(bars: Iterable[Aggregate], newest_ms: Number) -> Number:
    """When the oldest of some bars began, in ms; `newest_ms` where all are newer, or very late."""
    starts = (milliseconds(bar.start_timestamp) for bar in bars)
    return min((start for start in starts if newest_ms - _LATEST_MS <= start < newest_ms), default=newest_ms)


def milliseconds(timestamp: Number) -> Number:
    """A time in ms, µs or ns (13, 16 or 19 digits) in milliseconds; ms are left as they are."""
    if timestamp < 100_000_000_000_000:  # ms until the year 5138
        return timestamp
    if timestamp < 100_000_000_000_000_000:
        return int(timestamp) // 1_000
    return int(timestamp) // 1_000_000
