"""A symbol explained by processors: by its owner as one process does, by others with who that is."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from mdp.cache.origin import OriginOf
from mdp.cache.reference import Reference
from mdp.exchange_calendar import ExchangeCalendar
from mdp.queues.entry import partition_of
from mdp.roles import processor_explain
from mdp.roles.assembly import RoleProcess
from mdp.roles.explanation import explained
from mdp.roles.processor_explain import place_of
from tests.app_support import request
from tests.processor.processors import Listener, OneProcess
from tests.processor.test_partitions import REFERENCES, SYMBOLS, market
from tests.redis_server import RedisServer
from tests.roles.test_processor import PARTITIONS, config, live, role, working
from tests.waiting import eventually

#: Bars with `av` need it not, and how often it is brought up to date depends on batches.
UNUSED = "volume_before"
SECTIONS = ("fields", "daily_range", "trade_stats", "halt")


async def ask(process: RoleProcess, symbol: str) -> tuple[int, Any]:
    """Status and answer of the admin API."""
    return await request("GET", process.ports()["admin"], f"/api/v1/explain/{symbol}")


async def ask_until_known(process: RoleProcess, symbol: str) -> tuple[int, Any]:
    """As an operator does who is told to ask again."""
    async with asyncio.timeout(60):
        while (answer := await ask(process, symbol))[0] == 503:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
    return answer


def numbers(answer: dict[str, Any]) -> dict[str, Any]:
    """By section and field: value and time, those of inputs too; without digits that depend on batches."""

    def plain(fact: dict[str, Any]) -> tuple[Any, Any]:
        value = fact["value"]
        if isinstance(value, tuple | list):
            value = list(value)
        return float(f"{value:.12g}") if isinstance(value, float) else value, fact["as_of"]

    return {
        f"{section}.{name}": (
            plain(told),
            {one: plain(fact) for one, fact in told["inputs"].items() if one != UNUSED},
        )
        for section in SECTIONS
        for name, told in answer[section].items()
    }


def known(one: OneProcess, symbol: str, reference: Reference) -> dict[str, Any]:
    """What one process with the same events says."""
    answer = explained(
        one.engine,
        symbol,
        origin=OriginOf(reference, symbol),
        calendar=ExchangeCalendar(),
        feed_state="down",
        gaps=[],
    )
    assert answer is not None
    return answer


async def test_the_owner_says_the_numbers_of_one_process_and_others_say_who_owns(
    redis_server: RedisServer,
) -> None:
    """Each symbol is explained by exactly one of two processors; the other names it, its host and process."""
    frames = market(30)
    one = OneProcess()
    one.send(frames)
    one.market.refer(REFERENCES)
    listener = Listener(redis_server, PARTITIONS)
    await listener.start()
    processes = [RoleProcess(config(redis_server), ["processor"]) for _ in range(2)]
    try:
        for process in processes:
            await process.start()
        await eventually(lambda: [live(process) for process in processes] == [PARTITIONS // 2] * 2)
        sent = await listener.send(frames)
        engines = [
            partition.engine
            for process in processes
            for partition in role(process).partitions.working.values()
        ]
        await eventually(lambda: sum(role(process).partitions.processed for process in processes) == sent)
        await eventually(lambda: {e.market.clock.now_ms for e in engines} == {one.market.clock.now_ms})
        for engine in engines:
            engine.market.refer(REFERENCES)

        for symbol in SYMBOLS:
            owner, other = processes
            if partition_of(symbol, PARTITIONS) not in role(owner).partitions.working:
                owner, other = other, owner
            status, told = await ask_until_known(owner, symbol)
            assert status == 200, told
            assert numbers(told) == numbers(known(one, symbol, role(owner).reference.reference))
            assert told["market_time"] == one.market.clock.now_ms
            assert (told["partition"], told["owner"]) == (
                partition_of(symbol, PARTITIONS),
                owner.shared.id,
            )
            assert told["trust"]["feed_state"] == "down", "no listener has said anything"
            status, refused = await ask_until_known(other, symbol)
            assert status == 404
            assert (refused["owner"], refused["partition"]) == (told["owner"], told["partition"])
            assert refused["process"] == os.getpid()
            assert refused["host"] in owner.shared.id
            assert f"ask the admin API of process {os.getpid()} on host {refused['host']}" in refused["error"]
            status, said = await request("GET", owner.ports()["admin"], "/api/v1/status")
            assert said["processor"]["id"] == refused["owner"], "so that an operator knows it there"
    finally:
        for process in processes:
            await process.stop()
        await listener.stop()


async def test_what_nobody_knows_is_told_with_what_to_check(redis_server: RedisServer) -> None:
    """By its owner: 404 without an owner to ask; its case where that is it, whosever partition that is."""
    async with working(redis_server) as (process, listener):
        await listener.send(market(30))
        await eventually(lambda: all("S" in s for s in [*_symbols(process)]) and len(_symbols(process)) == 40)
        status, told = await ask(process, "NOPE")
        assert (status, told.keys()) == (404, {"error"})
        assert "check its spelling" in told["error"]
        for symbol in ("s1", "s2", "s3", "s4"):
            status, told = await ask(process, symbol)
            assert status == 404
            assert f"'{symbol.upper()}' is known" in told["error"]


def _symbols(process: RoleProcess) -> set[str]:
    working = role(process).partitions.working.values()
    return {symbol for one in working for symbol in one.engine.market.symbols}


async def test_where_nobody_can_answer_now_it_is_said_to_come(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 and the reason: a partition without owner, on its way, in its replay, written down, Redis gone."""
    monkeypatch.setattr(processor_explain, "_ASK_SECONDS", 0.1)
    process = RoleProcess(config(redis_server, partitions="1,3"), ["processor"])
    await process.start()
    free = next(symbol for symbol in SYMBOLS if partition_of(symbol, PARTITIONS) == 0)
    mine = next(symbol for symbol in SYMBOLS if partition_of(symbol, PARTITIONS) == 1)
    lease = process.shared.keys.lease("partition:0")

    async def said(symbol: str) -> str:
        status, told = await ask(process, symbol)
        assert status == 503, told
        return str(told["error"])

    try:
        await eventually(lambda: live(process) == 2)
        assert "has no owner at this moment; ask again in 3 s" in await said(free)
        with redis_server.client() as client:
            client.set(lease, process.shared.id)
            assert "into or out of this process" in await said(free)
            client.set(lease, "somebody")
            status, told = await ask(process, free)
            assert (status, told["owner"], told["process"]) == (404, "somebody", None)
            client.delete(lease)
        one = role(process).partitions.working[1]
        one.live = False
        assert "is being brought up to date" in await said(mine)
        one.live = True
        one._holding, held = 1, one._freed
        held.clear()
        assert "is being written down" in await said(mine)
        one._holding = 0
        held.set()
        redis_server.freeze()
        assert "Redis does not say whose it is (TimeoutError)" in await said(free)
    finally:
        redis_server.thaw()
        await process.stop()


@pytest.mark.parametrize(
    ("owner", "place"),
    [
        ("rocket-42-0a1b2c3d", ("rocket", 42)),
        ("mdp-processor-5f-x-7-0a1b2c3d", ("mdp-processor-5f-x", 7)),
        ("10.0.0.1-9-ff", ("10.0.0.1", 9)),
        ("p1", ("p1", None)),
        ("a-b", ("a-b", None)),
        ("host-x-0a1b2c3d", ("host-x-0a1b2c3d", None)),
        ("", ("", None)),
    ],
)
def test_an_owners_id_has_its_host_and_process(owner: str, place: tuple[str, int | None]) -> None:
    """A host may have dashes; what is no such id is shown as it is."""
    assert place_of(owner) == place


READS = ("status", "gaps", "queues", "analyzers", "explain/AAPL")
CHANGES = ("feed/stop", "feed/restart", "record/stop")


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("processor", {"status", "gaps", "queues", "analyzers", "explain/AAPL"}),
        ("scanner", {"status"}),
        ("wds", {"status"}),
        ("scp", {"status"}),
    ],
)
async def test_each_route_is_answered_or_sent_to_a_role_that_does(
    redis_server: RedisServer, name: str, here: set[str]
) -> None:
    """As the table of docs/redis.md has it; no change is answered 200 by who cannot make it."""
    process = RoleProcess(config(redis_server), [name])
    await process.start()
    try:
        if name == "processor":
            await eventually(lambda: live(process) == PARTITIONS)
        admin = process.ports()["admin"]
        for path in (*READS, *CHANGES):
            body: Any = {} if path in CHANGES else None
            status, told = await request("GET" if body is None else "POST", admin, f"/api/v1/{path}", body)
            if path.startswith("explain") and path in here:
                assert (status, "no event has come yet" in told["error"]) == (404, True)
            elif path in here:
                assert status == 200, (path, told)
            else:
                assert status == 404
                assert told["error"].startswith(f"this process is --role {name}; ask one that runs --role ")
    finally:
        await process.stop()
