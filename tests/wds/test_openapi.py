"""The OpenAPI document: kept, served, and true: schemathesis asks what it says may be asked, and what not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, settings

from mdp import feeds
from mdp.wds import openapi, query
from mdp.wds.admission import MAX_HEADER_BYTES
from tests.wds.doubles import Running, running

KEPT = Path(__file__).parents[2] / "docs" / "openapi.json"

schema = schemathesis.openapi.from_dict(openapi.document())


async def serve_until(done: asyncio.Event, ready: threading.Event, found: list[Running]) -> None:
    """A service that ends every stream after a moment, so that its response has an end."""
    async with running() as env:
        env.cache.set(feeds.TOP_GAINERS, "", [{"rank": 1, "symbol": "A", "pct_change": 12.5}])
        env.cache.provide(feeds.QUOTE, lambda symbol: {"symbol": symbol, "close": 1})
        found.append(env)
        ready.set()
        while not done.is_set():
            for client in list(env.service._clients):
                client.close(1001, "over")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 0.01)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    """In a thread of its own: schemathesis waits for answers without a loop."""
    loop, done = asyncio.new_event_loop(), asyncio.Event()
    ready, found = threading.Event(), list[Running]()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve_until(done, ready, found)))
    thread.start()
    assert ready.wait(20)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(20)
        loop.close()


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_service_does_what_the_document_says(case: schemathesis.Case[Any], service: Running) -> None:
    """Right requests are answered as described, wrong ones refused; no answer is our fault."""
    # A longer request line is refused by aiohttp itself, in its own words.
    assume(len(case.as_curl_command()) < MAX_HEADER_BYTES)
    case.call_and_validate(base_url=f"http://127.0.0.1:{service.service.port}", timeout=20)
    assert "failed" not in service.service.counters.refused


def test_the_kept_document_is_what_is_served() -> None:
    """`python -m mdp.wds.openapi > docs/openapi.json` makes it so."""
    assert json.loads(KEPT.read_text()) == openapi.document()


def test_every_problem_has_a_documented_status() -> None:
    """Each status that a code leads to is among the responses of some operation."""
    documented = {
        int(status)
        for path in openapi.document()["paths"].values()
        for operation in path.values()
        for status in operation["responses"]
    }
    assert {query.Problem(code).status for code in query.ERRORS} <= documented | {405}
