"""Reading bulk answers: in slices, row by row where they are odd, never trusting a value."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

import mdp.cache.bulk as bulk
from mdp.cache.bulk import BodyError, FloatRow, GroupedBar, SnapshotRow, rows
from mdp.cache.validate import Checks, Rejected
from mdp.observability.loop_lag import StepTimer


def checks_of(rejected: Rejected) -> Checks:
    """Those of an endpoint."""
    return rejected.at("bulk")


async def read(
    body: bytes, name: Any = "results", row_type: Any = FloatRow, rejected: Rejected | None = None
) -> list[Any]:
    """All rows of a body."""
    checks = checks_of(rejected if rejected is not None else Rejected())
    return [row async for part in rows(body, name, row_type, checks, StepTimer()) for row in part]


async def test_rows_come_in_slices_and_the_loop_goes_on_between() -> None:
    """Other tasks run between any two slices."""
    body = json.dumps({"results": [{"ticker": f"S{n}", "free_float": n} for n in range(1_700)]}).encode()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(count_turns())
    sizes, turns_seen = [], []
    async for part in rows(body, "results", FloatRow, checks_of(Rejected()), StepTimer()):
        sizes.append(len(part))
        turns_seen.append(turns)
    other.cancel()

    assert sizes == [500, 500, 500, 200]
    assert all(before < after for before, after in pairwise(turns_seen))


async def test_what_the_caller_does_with_a_slice_is_measured_as_part_of_the_step() -> None:
    """A step's duration is that of decoding and using the slice."""
    now = 0.0

    def clock() -> float:
        return now

    step = StepTimer(clock=clock)
    async for _ in rows(b'{"results":[{"ticker":"A"}]}', "results", FloatRow, checks_of(Rejected()), step):
        now += 0.25
    assert step.max_seconds == 0.25


async def test_only_named_fields_are_decoded() -> None:
    """The rest of a row may be of any shape."""
    body = b'{"tickers":[{"ticker":"A","prevDay":{"c":2.5,"extra":{}},"day":"odd","lastTrade":[1]}],"x":{}}'
    [row] = await read(body, "tickers", SnapshotRow)
    assert (row.ticker, row.prevDay.c, row.prevDay.v) == ("A", 2.5, None)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"results":null}', b'{"results":[]}', b'{"status":"OK","count":0}']
)
async def test_a_missing_or_empty_list_has_no_rows(body: bytes) -> None:
    """The provider answers so for a day without a session."""
    assert await read(body) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"<html>busy</html>",
        b'{"results":',
        b'{"results":7}',
        b'{"results":{"a":1}}',
        b"\xff\xfe\x00",
        b'{"status":"ERROR","error":"x"}',
        b'{"status":"NOT_AUTHORIZED","results":[{"ticker":"A"}]}',
        b'{"results":[{"ticker":"A"}',
        b'{"results":[{"ticker":"A"},',
        b'{"results":[{"ticker":"A"},{"tick',
        b'{"results":[{"ticker":"A"} {"ticker":"B"}]}',
        b'{"results":' + b"[" * 100_000,
    ],
)
async def test_a_body_that_is_no_answer_is_an_error(body: bytes) -> None:
    """Garbage, an error in the body, and what is cut off: never taken for an empty day."""
    with pytest.raises(BodyError):
        await read(body)


async def test_a_row_that_is_odd_loses_only_itself() -> None:
    """Rows that are no objects, or whose bar is none, are counted and left out."""
    rejected = Rejected()
    body = (
        b'{"tickers":[{"ticker":"A"},7,null,{"ticker":"B","prevDay":"x"},{"ticker":"C","prevDay":{"c":1}}]}'
    )
    found = await read(body, "tickers", SnapshotRow, rejected)
    assert [row.ticker for row in found] == ["A", "C"]
    assert rejected.counts == {("bulk", "row"): 3}


async def test_a_body_with_nan_is_read_all_the_same() -> None:
    """It is no JSON, but what Python's json writes; the value is rejected later, the rows are there."""
    body = (
        b'{"status":"OK", "results" : [ {"T":"A","v":NaN}, {"T":"B","v":-Infinity} ,{"T":"C","v":3} , 7 ] }'
    )
    rejected = Rejected()
    found = await read(body, "results", GroupedBar, rejected)
    assert [row.T for row in found] == ["A", "B", "C"]
    assert [checks_of(rejected).shares(row.v) for row in found] == [None, None, 3]
    assert rejected.counts == {("bulk", "row"): 1, ("bulk", "not a number"): 1, ("bulk", "negative"): 1}


async def test_a_body_too_large_for_one_step_is_walked_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways give the same rows."""
    body = json.dumps(
        {"status": "OK", "results": [{"T": f"S{n}", "v": n, "c": n / 7, "x": ["]", "}"]} for n in range(950)]}
    ).encode()
    expected = await read(body, "results", GroupedBar)
    assert len(expected) == 950

    monkeypatch.setattr(bulk, "CUT_BYTES", 1_000)
    monkeypatch.setattr(bulk, "_cut", None)  # would be a TypeError
    assert await read(body, "results", GroupedBar) == expected
    assert await read(b'{"results":[]' + b" " * 1_000 + b"}") == []
