"""Processes of some roles: what they serve, what they say they lack, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdp.config import ProcessorConfig
from mdp.roles.assembly import ROLES, RoleProcess
from mdp.roles.base import StartError
from tests.app_support import request
from tests.cache.relays import eventually
from tests.redis_server import RedisServer

from .support import config_for, process


async def test_roles_share_a_process(redis_server: RedisServer) -> None:
    """One metrics and one admin server for all of them; pages know where their data is."""
    async with process(redis_server, "scp", "wds") as made:
        ports = made.ports()
        assert list(ports) == ["wds", "scp", "metrics", "admin"]
        assert all(ports.values())
        assert (await request("GET", ports["metrics"], "/readyz"))[0] == 200
        status, page = await request("GET", ports["scp"], "/config.json")
        assert (status, page["wds_port"]) == (200, ports["wds"])
        status, answer = await request("GET", ports["admin"], "/api/v1/status")
        assert (status, answer["roles"], answer["ports"]) == (200, ["wds", "scp"], dict(ports))
        assert answer["wds"]["clients"] == 0
        status, text = await request("GET", ports["metrics"], "/metrics")
        assert status == 200
        assert "mdp_wds_connected_clients 0.0" in text
        assert "mdp_relay_connected 1.0" in text
        assert (await request("GET", ports["metrics"], "/healthz"))[0] == 200


async def test_pages_of_another_process_are_let_in(redis_server: RedisServer) -> None:
    """The data service takes connections of the pages that the same configuration serves."""
    config = config_for(redis_server)
    config.scp.port = 8_123
    made = RoleProcess(config, ["wds"])
    wds = made.shared.roles["wds"]
    assert "http://localhost:8123" in wds._own_origins()  # type: ignore[attr-defined]
    async with process(redis_server, "wds", "scp") as both:
        origins = both.shared.roles["wds"]._own_origins()  # type: ignore[attr-defined]
        assert f"http://localhost:{both.ports()['scp']}" in origins
    config.wds.port, config.scp.port = 4_999, 0
    pages = RoleProcess(config, ["scp"]).shared.roles["scp"]
    assert pages._wds_port() == 4_999  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "path", "where"),
    [
        ("GET", "gaps", "listener or --role processor"),
        ("GET", "queues", "listener or --role processor"),
        ("GET", "analyzers", "processor"),
        ("GET", "explain/AAPL", "processor"),
        ("POST", "feed/start", "listener"),
        ("POST", "feed/stop", "listener"),
        ("POST", "feed/restart", "listener"),
        ("POST", "record/stop", "listener"),
    ],
)
async def test_what_another_role_knows_is_said_to_be_there(
    redis_server: RedisServer, method: str, path: str, where: str
) -> None:
    """An operator at the wrong process is sent to the right one."""
    async with process(redis_server, "scp") as made:
        body: Any = {} if method == "POST" else None
        status, answer = await request(method, made.ports()["admin"], f"/api/v1/{path}", body)
        assert status == 404
        assert answer["error"] == f"this process is --role scp; ask one that runs --role {where}"


async def test_changes_with_a_body_are_sent_on_too(redis_server: RedisServer) -> None:
    """What is checked before the question is asked stays checked."""
    async with process(redis_server, "scp") as made:
        admin = made.ports()["admin"]
        for path, body in (("feed/configure", {"feed": "Delayed"}), ("record/start", {"path": "x"})):
            status, answer = await request("POST", admin, f"/api/v1/{path}", body)
            assert (status, "--role listener" in answer["error"]) == (404, True)
        assert (await request("POST", admin, "/api/v1/feed/configure", {}))[0] == 400


async def test_a_process_starts_without_redis_and_says_what_it_lacks(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves as soon as Redis does; nobody has to start it again."""
    redis_server.kill()
    monkeypatch.setattr("mdp.cache.relay._START_SECONDS", 0.1)
    async with process(redis_server, "wds", ready=False) as made:
        status, answer = await request("GET", made.ports()["metrics"], "/readyz")
        assert status == 503
        lacking = {part["name"]: part["detail"] for part in answer["parts"] if not part["ok"]}
        assert lacking.keys() == {"redis", "relay"}
        assert f"Redis at 127.0.0.1:{redis_server.port}" in lacking["redis"]
        assert (await request("GET", made.ports()["metrics"], "/healthz"))[0] == 200, "waiting is working"
        redis_server.start()
        await eventually(lambda: all(health.ok for _, health in made.ready()))
        redis_server.kill()
        await eventually(lambda: not dict(made.ready())["redis"].ok)
        redis_server.start()
        await eventually(lambda: all(health.ok for _, health in made.ready()))


async def test_clients_data_may_be_in_another_redis(redis_server: RedisServer) -> None:
    """Then there are two, and each is said to be ready or not."""
    config = config_for(redis_server)
    config.cache.widget_url = redis_server.url.removesuffix("/0") + "/5"
    made = RoleProcess(config, ["wds"])
    await made.start()
    try:
        await eventually(lambda: all(health.ok for _, health in made.ready()))
        names = [name for name, _ in made.ready()]
        assert names[3:6] == ["redis", "widget_redis", "relay"]
    finally:
        await made.stop()
    assert RoleProcess(config_for(redis_server), ["wds"]).shared.widget_redis.name == "redis"


@pytest.mark.parametrize("roles", [["wsd"], ["wds", "nobody"], []])
async def test_other_roles_are_refused(redis_server: RedisServer, roles: list[str]) -> None:
    """With those that there are."""
    with pytest.raises(StartError, match="allowed: all, or some of wds, scp, scanner, processor, listener"):
        RoleProcess(config_for(redis_server), roles)


async def test_a_taken_port_is_one_line_and_leaves_nothing(redis_server: RedisServer) -> None:
    """Everything that had started is stopped."""
    async with process(redis_server, "scp") as first:
        config = config_for(redis_server)
        config.scp.port = first.ports()["scp"]
        second = RoleProcess(config, ["wds", "scp"])
        with pytest.raises(StartError, match=r"^scp: .*address already in use"):
            await second.start()
        assert second.metrics_server.port == second.admin.port == 0
        assert all("not started" in health.detail for _, health in second.ready())


async def test_a_scanner_that_cannot_be_loaded_is_refused(redis_server: RedisServer) -> None:
    """As in one process: one line that names the setting."""
    config = config_for(redis_server, processor=ProcessorConfig(scanners=["nobody"]))
    with pytest.raises(StartError, match=r"processor\.scanners") as refused:
        RoleProcess(config, ["scanner"])
    assert refused.value.exit_code == 2


async def test_certificates_that_cannot_be_read_are_refused(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Before anything starts."""
    config = config_for(redis_server)
    config.cache.url = redis_server.url.replace("redis:", "rediss:")
    config.cache.tls_ca = str(tmp_path / "none.pem")
    with pytest.raises(StartError, match=r"cache\.tls_ca"):
        RoleProcess(config, ["wds"])


def test_every_role_has_its_place() -> None:
    """Consumers start before producers: whoever produces finds somebody who takes."""
    order = list(ROLES)
    assert order.index("wds") < order.index("scanner") < order.index("processor") < order.index("listener")


async def test_ending_takes_bounded_time_where_redis_is_frozen(redis_server: RedisServer) -> None:
    """Nothing that waits for Redis holds a process up."""
    made = RoleProcess(config_for(redis_server), ["wds", "scanner"])
    await made.start()
    await eventually(lambda: all(health.ok for _, health in made.ready()))
    redis_server.freeze()
    try:
        await made.stop()
    finally:
        redis_server.thaw()
    assert made.metrics_server.port == made.admin.port == 0
