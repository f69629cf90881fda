"""The bench's REST server in its manners; what it answers when well is in `test_feeder`."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mdp.bench import rest
from mdp.bench.rest import Manner

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
