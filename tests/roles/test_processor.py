"""The role `processor` as it runs: from streams to values, boards and the day's reference values."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mdp.cache.base import Interest
from mdp.cache.redis_output import RedisOutput
from mdp.cache.table import ReferenceRow
from mdp.config import Config, MassiveConfig, MdqConfig, ProcessorConfig
from mdp.feeds import TRADES
from mdp.roles.assembly import RoleProcess
from mdp.roles.base import StartError
from mdp.roles.processor import ProcessorRole, parse_partitions
from mdp.roles.processor_controls import ProcessorControls
from tests.processor.processors import Listener
from tests.processor.test_partitions import market
from tests.redis_server import RedisServer
from tests.roles.support import config_for
from tests.waiting import eventually

PARTITIONS = 4


def config(server: RedisServer, *, rest: str = "http://127.0.0.1:9", **processor: Any) -> Config:
    """Of a processor whose names in Redis begin as those of the tests' listener do."""
    made = config_for(
        server,
        mdq=MdqConfig(backend="redis", partitions=PARTITIONS, ttl_seconds=30),
        massive=MassiveConfig(rest_url=rest, api_key="k", secure=False),
        processor=ProcessorConfig(**processor),
    )
    made.cache.key_prefix = "t:"
    made.cache.plain_keys = True
    return made


def role(process: RoleProcess) -> ProcessorRole:
    found = process.shared.roles["processor"]
    assert isinstance(found, ProcessorRole)
    return found


def live(*processes: RoleProcess) -> int:
    return sum(one.live for process in processes for one in role(process).partitions.working.values())


@asynccontextmanager
async def working(server: RedisServer) -> AsyncIterator[tuple[RoleProcess, Listener]]:
    """A processor that has all partitions, and a listener that fills their streams."""
    listener = Listener(server, PARTITIONS)
    await listener.start()
    process = RoleProcess(config(server), ["processor"])
    await process.start()
    try:
        await eventually(lambda: live(process) == PARTITIONS)
        yield process, listener
    finally:
        await process.stop()
        await listener.stop()


async def test_a_processor_makes_quotes_and_boards_of_what_is_in_the_streams(
    redis_server: RedisServer,
) -> None:
    """Under the names that clients read; boards of the whole market by whoever has the lease for them."""
    async with working(redis_server) as (process, listener):
        await listener.send(market(30))
        with redis_server.client() as client:

            def value(feed: str) -> Any:
                return json.loads(client.get(f"t:{feed}") or b"{}")

            await eventually(lambda: len(value("scanners:top_volume")) == 40)
            assert [row["rank"] for row in value("scanners:top_volume")] == list(range(1, 41))
            assert client.llen("t:daily_range_hod_alert") > 0
            await eventually(lambda: value("market:status")["session"] == "regular")
        said = process.shared.roles["processor"].status()
        assert said["publishes"]
        assert said["lost"] == {}
        assert all(one["live"] for one in said["partitions"].values())
    with redis_server.client() as client:
        assert client.keys("t:mdp:lease:*") == [], "given back"
        assert len(client.keys("t:mdp:checkpoint:*")) == PARTITIONS


async def test_one_processor_fetches_the_reference_values_and_another_has_them_too(
    redis_server: RedisServer,
) -> None:
    """The other one asks the provider for nothing."""
    listener = Listener(redis_server, PARTITIONS)
    await listener.start()
    rows = {f"S{n}": ReferenceRow(prev_day_close=5.0, avg_volume=100.0) for n in range(40)}
    processes = [RoleProcess(config(redis_server), ["processor"]) for _ in range(2)]
    try:
        await processes[0].start()
        await eventually(lambda: live(processes[0]) == PARTITIONS)
        await processes[1].start()
        await eventually(lambda: live(processes[1]) == PARTITIONS // 2)
        await listener.send(market(5))
        fetching = role(processes[0]).reference
        await eventually(lambda: fetching.reference.book is not None)
        assert fetching.lease.valid()
        book = fetching.reference.book
        assert book is not None
        for symbol, row in rows.items():
            book.rows[symbol] = row
        await eventually(lambda: role(processes[1]).reference.loaded > 0)

        for process in processes[1:]:
            for one in role(process).partitions.working.values():
                for state in one.engine.market.symbols.values():
                    assert state.reference.prev_day_close == 5.0
        assert not role(processes[1]).reference.lease.valid()
    finally:
        for process in processes:
            await process.stop()
        await listener.stop()


async def test_another_number_of_partitions_is_refused(redis_server: RedisServer) -> None:
    """The first one says it, for everybody in this Redis."""
    with redis_server.client() as client:
        client.set("t:mdq:partitions", PARTITIONS + 1)
    process = RoleProcess(config(redis_server), ["processor"])

    with pytest.raises(StartError, match=r"mdq\.partitions is 4, and this Redis has 5"):
        await process.start()


async def test_a_processor_waits_for_redis_at_its_start(redis_server: RedisServer) -> None:
    """It starts, says what is missing, and takes its partitions when Redis is there."""
    redis_server.freeze()
    process = RoleProcess(config(redis_server), ["processor"])
    await process.start()
    try:
        assert not dict(process.ready())["partitions"].ok
        redis_server.thaw()
        await eventually(lambda: live(process) == PARTITIONS)
        assert dict(process.ready())["partitions"].ok
    finally:
        redis_server.thaw()
        await process.stop()


@pytest.mark.parametrize(
    ("text", "expected"), [("0", [0]), ("0-3", [0, 1, 2, 3]), ("5,1-2,2", [1, 2, 5]), (" 1 , 3", [1, 3])]
)
def test_partitions_are_given_as_numbers_and_ranges(text: str, expected: list[int]) -> None:
    """Each counts once, whatever the order."""
    assert parse_partitions(text) == expected


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1,,2", "0-99999999999"])
def test_what_is_no_list_of_partitions_is_refused(text: str) -> None:
    """Before anything is taken."""
    with pytest.raises(ValueError, match="not a list of partitions"):
        parse_partitions(text)


@pytest.mark.parametrize("text", ["2-4", "3-1"])
async def test_a_static_assignment_beyond_the_partitions_is_refused(
    redis_server: RedisServer, text: str
) -> None:
    """The line says which numbers there are."""
    with pytest.raises(StartError, match="allowed: numbers from 0 to 3"):
        RoleProcess(config(redis_server, partitions=text), ["processor"])


async def test_a_static_assignment_is_all_that_is_taken(redis_server: RedisServer) -> None:
    """The others are left alone, though nobody works on them."""
    process = RoleProcess(config(redis_server, partitions="1,3"), ["processor"])
    await process.start()
    try:
        await eventually(lambda: live(process) == 2)
        assert set(role(process).partitions.working) == {1, 3}
        with redis_server.client() as client:
            assert client.zcard("t:mdp:members:processor") == 0
    finally:
        await process.stop()


async def test_what_became_of_every_event_is_told(redis_server: RedisServer) -> None:
    """By queue and in sum: what the listener wrote was processed, and each analyzer says how it does."""
    async with working(redis_server) as (process, listener):
        total = await listener.send(market(30))
        controls = process.shared.roles["processor"].controls
        assert isinstance(controls, ProcessorControls)
        await eventually(lambda: controls.queues()["reader"]["delivered"] == total)

        said = controls.queues()
        assert sum(terms["processed"] for terms in said["queues"].values()) == said["reader"]["delivered"]
        assert {terms[why] for terms in said["queues"].values() for why in ("expired", "missed")} == {0}
        rows = {row["name"]: row for row in controls.analyzers()}
        assert rows["leaderboards"]["partitions"] == PARTITIONS
        assert rows["leaderboards"]["failures"] == 0


async def test_the_last_boards_are_written_before_the_lease_for_them_is_given_back(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor begins with what is there, not with what was there a second ago."""
    process = RoleProcess(config(redis_server), ["processor"])
    await process.start()
    held: dict[str, bool] = {}
    writer, close = role(process).writer, role(process).writer.close

    async def noted(output: RedisOutput, seconds: float = 1.0) -> None:
        held[output.name] = output.valid()
        await close(output, seconds)

    monkeypatch.setattr(writer, "close", noted)
    try:
        await eventually(lambda: live(process) == PARTITIONS and role(process).publisher.output is not None)
    finally:
        await process.stop()
    assert held == {"publisher": True, **{f"partition:{number}": True for number in range(PARTITIONS)}}


async def test_what_redis_could_not_take_is_told(redis_server: RedisServer) -> None:
    """Raw events of a failed turn are lost: the control API and the metrics count them."""
    process = RoleProcess(config(redis_server), ["processor"])
    await process.start()
    try:
        await eventually(lambda: live(process) == PARTITIONS)
        made = role(process)
        output = next(one.out.output for one in made.partitions.working.values())
        redis_server.kill()
        output._wanted[TRADES.name] = Interest()
        output._wanted[TRADES.name].all = True
        for number in range(7):
            output.publish(TRADES, "S1", {"n": number})
        controls = made.controls
        assert isinstance(controls, ProcessorControls)
        await eventually(lambda: controls.queues()["writer"]["dropped"] == 7)
        assert 'mdp_writer_lost_total{reason="dropped"} 7.0' in process.metrics.render().decode()
    finally:
        redis_server.restart()
        await process.stop()
