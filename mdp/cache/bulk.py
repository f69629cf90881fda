"""Reading the provider's bulk answers without holding the event loop, and without trusting them.

A full snapshot has 11,000 rows in 6 MB. The list is cut into undecoded rows by one call of msgspec
(4 ms), and the rows are decoded a few hundred at a time. A body that is too large for one call, or
that msgspec refuses (one `NaN` is enough: it is no JSON), is walked row by row by the standard
library's scanner, which is slower, can stop anywhere, and reads what Python's json would have written.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Literal, TypeVar

import msgspec

from mdp.cache.tasks import next_turn
from mdp.cache.validate import Checks
from mdp.observability.loop_lag import StepTimer

#: Rows decoded in one step; about 0.3 ms of decoding, the rest is left to what is done with them.
SLICE_ROWS = 500
SCAN_ROWS = 100
#: Larger bodies are not cut by one call: at 1.5 GB/s it would take more than the 10 ms of a step.
CUT_BYTES = 10 * 1024 * 1024

_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError, OverflowError)

ListName = Literal["tickers", "results"]


class BodyError(Exception):
    """A body from which nothing, or nothing more, can be read. One line, without data."""


# Fields are of any type here, so that one wrong value loses itself and not its row; `Checks`
# decides. Only what is used is named: msgspec skips the rest unread.


class Bar(msgspec.Struct, gc=False):
    """A day's bar as in `prevDay`: prices in USD, volume in shares."""

    o: Any = None
    h: Any = None
    l: Any = None  # noqa: E741 - the wire's name
    c: Any = None
    v: Any = None
    vw: Any = None


class SnapshotRow(msgspec.Struct, gc=False):
    """One of `tickers` in a full snapshot."""

    ticker: Any = None
    prevDay: Bar | None = None


class Today(msgspec.Struct, gc=False):
    """Of a snapshot's `day` or `min`: volume, the day's volume so far, start in ms."""

    v: Any = None
    av: Any = None
    t: Any = None


class TodayRow(msgspec.Struct, gc=False):
    """One of `tickers` in a full snapshot where only today's volume is wanted."""

    ticker: Any = None
    updated: Any = None  # ns since the epoch
    day: Today | None = None
    min: Today | None = None


class GroupedBar(Bar, gc=False):
    """One of `results` in grouped daily bars."""

    T: Any = None


class GroupedVolume(msgspec.Struct, gc=False):
    """The same where only the volume is wanted: half the time."""

    T: Any = None
    v: Any = None


class FloatRow(msgspec.Struct, gc=False):
    """One of `results` of the float endpoint."""

    ticker: Any = None
    free_float: Any = None
    effective_date: Any = None


class SplitRow(msgspec.Struct, gc=False):
    """One of `results` of the splits endpoint: `split_from` old shares become `split_to` new ones."""

    ticker: Any = None
    execution_date: Any = None
    split_from: Any = None
    split_to: Any = None


class _Envelope(msgspec.Struct):
    status: Any = None
    tickers: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None


RowT = TypeVar("RowT", SnapshotRow, TodayRow, GroupedBar, GroupedVolume, FloatRow, SplitRow)

_cut = msgspec.json.Decoder(_Envelope).decode


async def rows(
    body: bytes, name: ListName, row_type: type[RowT], checks: Checks, step: StepTimer
) -> AsyncIterator[list[RowT]]:
    """The rows of a bulk answer, some at a time, giving the loop back after each.

    What the caller does with a slice belongs to the same step and must not await. Rows that cannot be
    decoded are counted and left out. A missing or null list has no rows.

    Raises:
        BodyError: The body is no answer of this kind, says that it is an error, or is cut off; what
            came before was handed out.
    """
    await next_turn()
    envelope = None
    if len(body) <= CUT_BYTES:
        with step, suppress(*_UNREADABLE):  # the scanner will tell what is wrong, or manage
            envelope = _cut(body)
    if envelope is None:
        async for scanned in _scan(body, name, row_type, checks, step):
            yield scanned
        return
    if isinstance(envelope.status, str) and envelope.status.upper() in ("ERROR", "NOT_AUTHORIZED"):
        raise BodyError(f"the answer's status is {envelope.status.upper()}")
    pieces = (envelope.tickers if name == "tickers" else envelope.results) or []
    decode = msgspec.json.Decoder(row_type).decode
    for start in range(0, len(pieces), SLICE_ROWS):
        await next_turn()
        with step:
            yield _decode_all(pieces[start : start + SLICE_ROWS], decode, checks)


def _decode_all(pieces: list[msgspec.Raw], decode: Callable[[Any], RowT], checks: Checks) -> list[RowT]:
    found = []
    for piece in pieces:
        try:
            found.append(decode(piece))
        except _UNREADABLE:
            checks.add("row")
    return found


async def _scan(
    body: bytes, name: ListName, row_type: type[RowT], checks: Checks, step: StepTimer
) -> AsyncIterator[list[RowT]]:
    with step:
        text = body.decode("utf-8", "replace")
        start = re.search(rf'"{name}"\s*:\s*\[\s*', text) if text.lstrip()[:1] == "{" else None
    if start is None:
        raise BodyError("the answer is not JSON, or holds no list")
    position = start.end()
    scan = json.JSONDecoder().raw_decode
    gap = re.compile(r"\s*(,\s*|\])")
    done = text[position : position + 1] == "]"
    while not done:
        await next_turn()
        found: list[RowT] = []
        with step:
            for _ in range(SCAN_ROWS):
                try:
                    row, position = scan(text, position)
                except _UNREADABLE:
                    raise BodyError("the answer is cut off or not JSON") from None
                try:
                    found.append(msgspec.convert(row, row_type))
                except _UNREADABLE:
                    checks.add("row")
                between = gap.match(text, position)
                if between is None:
                    raise BodyError("the answer is cut off or not JSON")
                position = between.end()
                if between.group(1) == "]":
                    done = True
                    break
            yield found
