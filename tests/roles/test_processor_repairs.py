"""An outage of the provider, with all roles over Redis: repaired from the simulator's bars, and told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mdp.processor.partition_gaps import gaps_of
from mdp.roles.assembly import RoleProcess
from mdp.roles.processor import ProcessorRole
from mdp.simulator import Simulator
from tests import app_support
from tests.app_support import request
from tests.cache.provider import Provider, hang, serving
from tests.processor.repairing import hurry
from tests.redis_server import RedisServer
from tests.simulator.support import serve
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator has its bars at once, and a look costs nothing here."""
    monkeypatch.setattr("mdp.processor.repairs.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("mdp.processor.gap_report._LOOK_SECONDS", 0.1)


def processor(made: RoleProcess) -> ProcessorRole:
    found = made.shared.roles["processor"]
    assert isinstance(found, ProcessorRole)
    return found


@asynccontextmanager
async def running(server: RedisServer, rest: str = "") -> AsyncIterator[tuple[Simulator, RoleProcess]]:
    """All roles, on a simulated market at five times its speed."""
    async with serve(events_per_second=400.0, symbols=20, speed=5) as simulator:
        config = app_support.config_for(simulator.port)
        config.massive.rest_url = rest or config.massive.rest_url
        config.cache = server.config(snapshot_path="", history_path="")
        config.mdq.backend, config.mdq.partitions = "redis", 2
        made = RoleProcess(config, ["all"])
        processor(made).repairs._sleep = hurry
        await made.start()
        try:
            await eventually(lambda: symbols(made) > 5)
            yield simulator, made
        finally:
            await made.stop()


def symbols(made: RoleProcess) -> int:
    return sum(len(one.engine.market.symbols) for one in processor(made).partitions.working.values())


async def test_an_outage_is_repaired_and_told(redis_server: RedisServer) -> None:
    """The listener's ledger, the status and the metrics name what was repaired, and nothing stays marked."""
    async with running(redis_server) as (simulator, made):
        ones = list(processor(made).partitions.working.values())
        simulator.set_fault("abrupt_close", 0)
        await eventually(lambda: all(one.engine.market.losses for one in ones))
        await eventually(lambda: [gap["repair"] for gap in made.admin._controls.gaps()] == ["done"])
        assert not any(one.engine.market.trust for one in ones)

        port = made.ports()["admin"]
        (gap,) = (await request("GET", port, "/api/v1/gaps"))[1]["gaps"]
        assert (gap["reason"], gap["uncertain"], gap["partitions"]) == ("aborted", [], [0, 1])
        assert gap["repaired"] > 5
        assert gap["end_ms"] is not None
        controls: Any = made.shared.roles["listener"].controls
        await eventually(lambda: controls.gaps() == [gap])
        assert gap["market_start_ms"] < gap["market_end_ms"]
        status = (await request("GET", port, "/api/v1/status"))[1]
        assert status["processor"]["uncertain"] == 0
        assert "mdp_backfill_symbols_total" in made.metrics.render().decode()
        queues = (await request("GET", port, "/api/v1/queues"))[1]
        assert queues["processor"]["writer"]["dropped"] == 0


async def test_what_the_provider_does_not_answer_stays_marked_and_named(redis_server: RedisServer) -> None:
    """Live data flows meanwhile; a stop does not wait for the answers."""
    provider = Provider()
    provider.answers["/v2/aggs/ticker/"] = 500
    async with serving(provider), running(redis_server, provider.url) as (simulator, made):
        simulator.set_fault("abrupt_close", 0)
        role = processor(made)
        await eventually(lambda: {g["repair"] for g in made.admin._controls.gaps()} == {"running"})
        before = role.partitions.processed
        await eventually(lambda: role.partitions.processed > before + 200)
        (gap,) = made.admin._controls.gaps()
        assert (gap["repaired"], gap["uncertain_count"]) == (0, None)
        for one in role.partitions.working.values():
            assert gaps_of(one.engine).losses.uncertain() == len(one.engine.market.symbols)
        provider.answers["/v2/aggs/ticker/"] = hang
        asked = len(provider.asked)
        await eventually(lambda: len(provider.asked) > asked)
        async with asyncio.timeout(20):  # a request alone would be waited for longer
            await role.repairs.stop()
