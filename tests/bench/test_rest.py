"""The bench's REST server in its manners; what it answers when well is in `test_feeder`."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from mdp.bench import rest
from mdp.bench.frames import Listing
from mdp.bench.rest import Answers, Manner

PATHS = ("/v1/marketstatus/now", "/v2/snapshot/locale/us/markets/stocks/tickers", "/nothing/of/that/kind")


async def client(manner: Manner) -> TestClient[web.Request, web.Application]:
    """A client of a started server."""
    opened = TestClient(TestServer(rest.application([], lambda: 1_773_153_000_000.0, manner)))
    await opened.start_server()
    return opened


@pytest.mark.parametrize("manner", ["429", "500"])
async def test_errors_are_answered_to_every_request(manner: Manner) -> None:
    """Whatever is asked for."""
    server = await client(manner)
    try:
        assert [(await server.get(path)).status for path in PATHS] == [int(manner)] * 3
    finally:
        await server.close()


async def test_garbage_looks_like_an_answer_and_cannot_be_read() -> None:
    """Status 200 and no JSON."""
    server = await client("garbage")
    try:
        answer = await server.get(PATHS[1])
        body = await answer.read()
        assert answer.status == 200
        with pytest.raises(UnicodeDecodeError):
            json.loads(body)
    finally:
        await server.close()


@pytest.mark.parametrize("manner", ["silent", "slow"])
async def test_nothing_comes_for_a_while(manner: Manner) -> None:
    """The connection is accepted; that is all."""
    server = await client(manner)
    try:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(server.get(PATHS[0]), 0.2)
    finally:
        await server.close()


async def test_an_answer_of_the_whole_market_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames leave the same process on time: nothing is encoded for a request of the whole market."""
    listings = [Listing(f"S{number}", 10.0, 1_000, 10.0, 5_000) for number in range(100)]
    answers = Answers(listings, lambda: 0.0)
    request = make_mocked_request("GET", "/")

    def refuse(_body: object) -> bytes:
        raise AssertionError("encoded while frames are to be sent")

    monkeypatch.setattr(rest, "_encoded", refuse)
    handlers = (answers.snapshot, answers.grouped, answers.free_float, answers.ratios)
    bodies = [json.loads(bytes((await handler(request)).body)) for handler in handlers]  # type: ignore[arg-type]

    assert [len(body.get("results") or body["tickers"]) for body in bodies] == [100] * 4


async def test_the_float_of_one_symbol_is_asked_for_by_its_name() -> None:
    """One row, or none where nobody knows the symbol."""
    answers = Answers(
        [Listing("A", 10.0, 1_000, 10.0, 5_000), Listing("B", 1.0, 2_000, 1.0, 7_000)], lambda: 0.0
    )

    async def asked(symbol: str) -> list[dict[str, object]]:
        answer = await answers.free_float(make_mocked_request("GET", f"/?ticker={symbol}"))
        assert isinstance(answer.body, bytes)
        rows: list[dict[str, object]] = json.loads(answer.body)["results"]
        return rows

    assert [(row["ticker"], row["free_float"]) for row in await asked("B")] == [("B", 7_000)]
    assert await asked("C") == []
