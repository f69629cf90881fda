"""The way to Redis, against a real server."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import redis.exceptions
import trustme
import uvloop
from redis.asyncio import Redis, RedisCluster

from mdp.cache.redis_connections import PlainConnection
from mdp.cache.redis_link import REDIS_ERRORS, Link, RedisUnavailable, check, connect, is_refusal, reason
from mdp.config import CacheConfig
from tests.ports import free_port
from tests.redis_server import OTHER_SERVER, RedisServer

PASSWORD = "s3cret-S3CRET"


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of the empty server."""
    made = connect(redis_server.config())
    yield made
    await made.aclose()


async def test_a_client_reads_and_writes_bytes(client: Redis) -> None:
    """Nothing is decoded on the way."""
    await client.set("a", b"\xff\x00")
    assert await client.get("a") == b"\xff\x00"


async def test_the_database_of_the_url_is_used(redis_server: RedisServer) -> None:
    """A client of /3 writes into database 3."""
    made = connect(CacheConfig(url=redis_server.url.removesuffix("/0") + "/3"))
    await made.set("a", "b")
    await made.aclose()
    with redis_server.client(db=3) as other, redis_server.client() as zero:
        assert other.get("a") == b"b"
        assert zero.get("a") is None


async def test_the_widget_url_leads_elsewhere_where_it_is_set(redis_server: RedisServer) -> None:
    """And to `url` where it is empty."""
    for widget_url, db in (("", 0), (redis_server.url.removesuffix("/0") + "/5", 5)):
        made = connect(redis_server.config(widget_url=widget_url), widget=True)
        await made.set("a", "b")
        await made.aclose()
        with redis_server.client(db=db) as other:
            assert other.get("a") == b"b"
            other.flushall()


async def test_more_commands_than_connections_wait_for_each_other(redis_server: RedisServer) -> None:
    """The pool is bounded, and being bounded is no error."""
    made = connect(redis_server.config(max_connections=4))
    answers = await asyncio.gather(*(made.incr("n") for _ in range(40)))
    assert sorted(answers) == list(range(1, 41))
    with redis_server.client() as other:
        assert len(other.client_list()) <= 4 + 1
    await made.aclose()


async def test_nothing_is_retried(redis_server: RedisServer) -> None:
    """A command whose connection is lost fails at once: it may have been done."""
    made = connect(redis_server.config())
    await made.set("a", 1)
    redis_server.kill()
    with pytest.raises(REDIS_ERRORS):
        await made.incr("a")
    redis_server.start()
    assert await made.incr("a") == 1, "it started empty"
    await made.aclose()


def test_a_connection_that_is_closed_under_a_command_is_an_error_of_redis(redis_server: RedisServer) -> None:
    """On uvloop, too, which raises RuntimeError: tasks that wait for Redis to come back would end."""

    async def closed() -> None:
        client = connect(redis_server.config())
        pool: Any = client.connection_pool
        connection = await pool.get_connection()
        assert connection._writer is not None
        connection._writer.transport.abort()
        await asyncio.sleep(0.05)
        try:
            with pytest.raises(REDIS_ERRORS):
                await connection.send_command("PING")
            assert await client.ping(), "another one is made"
        finally:
            await pool.release(connection)
            await client.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(closed())


async def test_a_frozen_server_is_given_up(redis_server: RedisServer) -> None:
    """After `timeout_seconds`, which is no more than that."""
    made = connect(redis_server.config(timeout_seconds=1.0))
    await made.ping()
    redis_server.freeze()
    with pytest.raises(REDIS_ERRORS) as caught:
        await made.ping()
    assert reason(caught.value, redis_server.config(timeout_seconds=1.0)) == "no answer within 1 s"
    redis_server.thaw()
    await made.aclose()


# --- check ---


async def test_a_server_is_described_and_its_missing_limit_warned_of(
    client: Redis, redis_server: RedisServer
) -> None:
    """One line for each warning, and none but the limit for a fresh server."""
    server = await check(client, redis_server.config())
    assert server.name == ("valkey" if "valkey" in redis_server.binary else "redis")
    assert int(server.version.partition(".")[0]) >= 7
    assert len(server.warnings) == 1
    assert server.warnings[0].startswith("cache.url: no memory limit")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_eviction_is_warned_of_where_the_roles_meet(
    policy: str, client: Redis, redis_server: RedisServer
) -> None:
    """A lease or checkpoint that Redis throws away is worse than a refused write; widgets' values may go."""
    await client.config_set("maxmemory", 100 << 20)
    await client.config_set("maxmemory-policy", policy)
    (warning,) = (await check(client, redis_server.config())).warnings
    assert policy in warning
    assert "noeviction" in warning
    apart = redis_server.config(widget_url=redis_server.url.removesuffix("/0") + "/1")
    assert (await check(client, apart, widget=True)).warnings == ()
    await client.config_set("maxmemory-policy", "noeviction")
    assert (await check(client, redis_server.config())).warnings == ()


async def test_a_database_of_its_own_is_warned_of_unless_names_differ(
    client: Redis, redis_server: RedisServer
) -> None:
    """Channels are common to all databases: boards of a platform in another one replaced ours for good."""
    await client.config_set("maxmemory", 100 << 20)
    config = msgspec.structs.replace(redis_server.config(), url=redis_server.url.removesuffix("/0") + "/3")
    (warning,) = (await check(client, config)).warnings
    assert "database 3" in warning
    assert "cache.key_prefix" in warning
    assert (await check(client, msgspec.structs.replace(config, key_prefix="x:"))).warnings == ()


async def test_an_unreachable_server_is_named_without_its_password() -> None:
    """In one line that says what is wrong."""
    port = free_port()
    config = CacheConfig(url=f"redis://user:{PASSWORD}@127.0.0.1:{port}/0")
    made = connect(config)
    with pytest.raises(RedisUnavailable) as caught:
        await check(made, config)
    message = str(caught.value)
    assert message.isprintable()
    assert f"127.0.0.1:{port}" in message
    assert PASSWORD not in message
    await made.aclose()


async def test_a_password_is_used_and_a_wrong_one_refused(tmp_path: Path) -> None:
    """The refusal does not hold it."""
    server = RedisServer(tmp_path, password=PASSWORD)
    server.start()
    try:
        right, wrong = server.config(), CacheConfig(url=f"redis://:no-{PASSWORD}@127.0.0.1:{server.port}")
        for config in (right, wrong, CacheConfig(url=f"redis://127.0.0.1:{server.port}")):
            made = connect(config)
            if config is right:
                assert (await check(made, config)).version
            else:
                with pytest.raises(RedisUnavailable, match="refuses the user or the password") as caught:
                    await check(made, config)
                assert PASSWORD not in str(caught.value)
            await made.aclose()
    finally:
        server.stop()


async def test_a_user_who_may_not_ask_is_served(client: Redis, redis_server: RedisServer) -> None:
    """An ACL user without INFO works; that nothing was checked is said."""
    await client.acl_setuser(
        "app", enabled=True, passwords=[f"+{PASSWORD}"], commands=["-@all", "+ping", "+select"]
    )
    config = CacheConfig(url=f"redis://app:{PASSWORD}@127.0.0.1:{redis_server.port}/0")
    made = connect(config)
    try:
        server = await check(made, config)
        assert server.version == ""
        assert "not checked" in server.warnings[0]
    finally:
        await made.aclose()
        await client.acl_deluser("app")


async def test_a_replica_is_refused(client: Redis, redis_server: RedisServer) -> None:
    """It could not be written to."""
    await client.replicaof("127.0.0.1", free_port())
    try:
        with pytest.raises(RedisUnavailable, match="replica"):
            await check(client, redis_server.config())
    finally:
        await client.replicaof("NO", "ONE")


async def test_tls_trusts_the_named_authority_alone(tmp_path: Path) -> None:
    """rediss:// with tls_ca; without it the server's certificate is refused."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(tmp_path / "cert.pem"), append=True)
    port = free_port()
    server = RedisServer(
        tmp_path, "--tls-port", str(port), "--tls-cert-file", str(tmp_path / "cert.pem"),
        "--tls-key-file", str(tmp_path / "key.pem"), "--tls-ca-cert-file", str(tmp_path / "ca.pem"),
        "--tls-auth-clients", "no",
    )  # fmt: skip
    try:
        server.start()
    except RuntimeError as error:
        if "Failed finding TLS support" in str(error) and OTHER_SERVER in os.environ:
            pytest.skip("the server that was named was built without TLS")
        raise
    try:
        url = f"rediss://127.0.0.1:{port}/0"
        trusting = CacheConfig(url=url, tls_ca=str(tmp_path / "ca.pem"))
        made = connect(trusting)
        assert (await check(made, trusting)).version
        await made.aclose()
        wary = CacheConfig(url=url)
        made = connect(wary)
        with pytest.raises(RedisUnavailable, match=f"127.0.0.1:{port}"):
            await check(made, wary)
        await made.aclose()
    finally:
        server.stop()


def test_a_missing_file_of_certificates_is_named() -> None:
    """Before anything connects."""
    with pytest.raises(RedisUnavailable, match=r"cache.tls_ca: /no/ca.pem: No such file"):
        connect(CacheConfig(url="rediss://h", tls_ca="/no/ca.pem"))


async def test_a_socket_of_the_file_system(tmp_path: Path) -> None:
    """unix:// with a database."""
    server = RedisServer(tmp_path, "--unixsocket", str(tmp_path / "r.sock"))
    server.start()
    try:
        config = CacheConfig(url=f"unix://{tmp_path}/r.sock?db=2")
        made = connect(config)
        await made.set("a", "b")
        assert (await check(made, config)).version
        await made.aclose()
        with server.client(db=2) as other:
            assert other.get("a") == b"b"
    finally:
        server.stop()


async def test_sentinels_name_the_master(redis_server: RedisServer, tmp_path: Path) -> None:
    """redis+sentinel:// finds it by the service's name; one that they do not know is refused in one line."""
    conf = tmp_path / "sentinel.conf"
    conf.write_text(f"sentinel monitor main 127.0.0.1 {redis_server.port} 1\n", encoding="utf-8")
    sentinel = SentinelServer(tmp_path, conf)
    sentinel.start()
    try:
        config = CacheConfig(url=f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main/1")
        made = connect(config)
        assert (await check(made, config)).version
        await made.set("a", "b")
        await made.aclose()
        with redis_server.client(db=1) as other:
            assert other.get("a") == b"b"
        config = CacheConfig(url=f"redis+sentinel://127.0.0.1:{sentinel.port}/other")
        made = connect(config)
        with pytest.raises(RedisUnavailable, match="other"):
            await check(made, config)
        await made.aclose()
    finally:
        sentinel.stop()


class SentinelServer(RedisServer):
    """redis-server as a sentinel."""

    def __init__(self, folder: Path, conf: Path) -> None:
        super().__init__(folder)
        self._conf = conf

    def _try_start(self, port: int) -> bool:
        # The file comes first, and a sentinel knows no --save.
        return self._try_start_with(port, [self.binary, str(self._conf), "--sentinel", "--port", str(port)])


async def test_a_cluster_of_one(tmp_path: Path) -> None:
    """redis+cluster:// reads and writes; the same server by redis:// is refused with the remedy."""
    server = RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    try:
        server.form_cluster()
        config = CacheConfig(url=f"redis+cluster://127.0.0.1:{server.port}")
        made = connect(config)
        assert (await check(made, config)).version
        await made.set("a", "b")
        assert await made.get("a") == b"b"
        assert [one.connection_class for one in cast(RedisCluster, made).get_nodes()] == [PlainConnection]
        await made.aclose()
        plain = connect(server.config())
        with pytest.raises(RedisUnavailable, match=r"redis\+cluster://"):
            await check(plain, server.config())
        await plain.aclose()
    finally:
        server.stop()


# --- Link ---


class Time:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def link(time: Time, config: CacheConfig | None = None) -> Link:
    return Link("test", config or CacheConfig(), clock=time.clock, sleep=time.sleep, rng=random.Random(1))


async def test_attempts_come_at_least_once_a_second_however_long_it_lasts() -> None:
    """From about 0.1 s to 1 s, spread; after a success from the start again."""
    time = Time()
    way = link(time)
    for _ in range(10):
        way.bad(ConnectionError("gone"))
        await way.pause()
    assert time.slept[0] <= 0.1
    assert max(time.slept) <= 1.0
    assert all(seconds >= 0.5 for seconds in time.slept[4:])
    way.good()
    way.bad(ConnectionError("gone"))
    await way.pause()
    assert time.slept[-1] <= 0.1


async def test_health_says_since_when_and_why_without_a_password() -> None:
    """And that it is over once it is."""
    time = Time()
    way = link(time, CacheConfig(url=f"redis://:{PASSWORD}@h"))
    assert way.health().ok
    way.bad(redis.exceptions.ConnectionError(f"lost {PASSWORD}\nthere"))
    time.now += 7
    way.bad(redis.exceptions.ConnectionError(f"lost {PASSWORD}\nthere"))
    health = way.health()
    assert not health.ok
    assert health.detail == "Redis: lost ******** there, for 7 s"
    assert (way.failures, way.outages) == (2, 1)
    way.good()
    assert way.health().ok
    assert way.last_outage_seconds == 7


def test_only_an_answer_is_a_refusal() -> None:
    """A lost connection or a timeout leaves open whether the command was done."""
    assert is_refusal(redis.exceptions.OutOfMemoryError("OOM"))
    assert is_refusal(redis.exceptions.ReadOnlyError("READONLY"))
    assert not is_refusal(redis.exceptions.ConnectionError("lost"))
    assert not is_refusal(redis.exceptions.TimeoutError("slow"))
    assert not is_refusal(TimeoutError())
