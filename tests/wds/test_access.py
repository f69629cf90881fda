"""Who may read what, over sockets: keys and tokens, permissions, limits, and what is never shown."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from joserfc.jwk import OctKey

from mdp import feeds
from mdp.config import LogConfig, WdsConfig
from mdp.observability.logging import configure
from mdp.wds import protocol
from mdp.wds.access import Access, Denied
from mdp.wds.counters import WdsCounters
from mdp.wds.keys import KeyFile, new_key, utc_now
from mdp.wds.permissions import Identity, Permission
from mdp.wds.protocol import ERRORS
from tests.wds.doubles import Running, ask, receive, running, until
from tests.wds.signers import NOW, SECRET, ed25519, publishing, sign

CONFIGURED = "configured-key-5d41"
AUTHORIZED = {"status": "authorized"}


class Clock:
    """Unix seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> WdsConfig:
    """Authentication with a configured key, a file of keys and HS256, and limits for loopback too."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    return WdsConfig(
        auth_enabled=True,
        api_keys=[CONFIGURED],
        keys_path=str(tmp_path / "keys.json"),
        jwt_secret_file=str(secret),
        unlimited_addresses=[],
    )


def add_key(settings: WdsConfig, *patterns: str) -> tuple[str, str]:
    """A key in the file, and its id."""
    key, entry = new_key("test", list(patterns) or ["**"], None, utc_now())
    KeyFile(settings.keys_path).add(entry)
    return key, entry.id


def token(**claims: Any) -> str:
    """A token that the settings accept."""
    return sign(OctKey.import_key(SECRET), "HS256", **claims)


async def login(env: Running, **credentials: str) -> tuple[aiohttp.ClientWebSocketResponse, Any]:
    """A connection and the answer to its auth."""
    client = await env.connect()
    return client, await ask(client, action="auth", **credentials)


async def closed(client: aiohttp.ClientWebSocketResponse) -> tuple[int, str]:
    """Code and reason of the close; texts before it are skipped."""
    while (message := await client.receive(timeout=20)).type is aiohttp.WSMsgType.TEXT:
        pass
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    return int(message.data), str(message.extra)


# Logins


async def test_each_kind_of_credential_opens_the_door(settings: WdsConfig) -> None:
    """A configured key, a key of the file, a token; all by the same action."""
    key, _ = add_key(settings)
    async with running(settings, clock=Clock()) as env:
        for credentials in ({"api_key": CONFIGURED}, {"api_key": key}, {"token": token()}):
            client, answer = await login(env, **credentials)
            assert answer == AUTHORIZED
            assert (await ask(client, action="get", cache="halts"))["data"] == []


@pytest.mark.parametrize(
    ("credentials", "answer"),
    [
        ({"api_key": "wrong"}, {"status": "invalid key"}),
        ({"api_key": ""}, {"status": "invalid key"}),
        ({}, {"status": "invalid key"}),
        (
            {"token": "garbage"},
            {
                "status": "invalid token",
                "message": "the token is not signed by a key that is accepted",
            },
        ),
        (
            {"token": token(exp=NOW - 1)},
            {"status": "invalid token", "message": "the token has expired"},
        ),
        (
            {"token": token(exp=NOW - 1), "api_key": CONFIGURED},
            {"status": "invalid token", "message": "the token has expired"},
        ),
    ],
)
async def test_a_wrong_credential_is_answered_and_closed(
    settings: WdsConfig, credentials: dict[str, str], answer: dict[str, str]
) -> None:
    """With the reason where it helps the honest, and code 4001."""
    async with running(settings, clock=Clock()) as env:
        client, answered = await login(env, **credentials)
        assert answered == answer
        assert (await closed(client))[0] == protocol.UNAUTHORIZED
        assert env.service.counters.auth_failures == 1


async def test_tokens_of_a_published_key_are_accepted(settings: WdsConfig) -> None:
    """The whole way: the set is fetched at the first login."""
    pair = ed25519()
    async with publishing(pair) as publisher:
        settings.jwks_url = publisher.url
        async with running(settings, clock=Clock()) as env:
            assert (await login(env, token=sign(pair)))[1] == AUTHORIZED
            assert (await login(env, token=sign(ed25519())))[1]["status"] == "invalid token"


async def test_a_key_made_while_the_service_runs_works(settings: WdsConfig) -> None:
    """Noticed within a second or two."""
    async with running(settings, clock=Clock()) as env:
        key, _ = add_key(settings)
        await until(lambda: len(env.service.access.store) == 1)
        assert (await login(env, api_key=key))[1] == AUTHORIZED


async def test_revoking_a_key_closes_its_connections_and_no_others(settings: WdsConfig) -> None:
    """Code 4004; whoever comes again is refused."""
    key, key_id = add_key(settings)
    other, _ = add_key(settings)
    async with running(settings) as env:
        first, _ = await login(env, api_key=key)
        second, _ = await login(env, api_key=other)
        KeyFile(settings.keys_path).revoke(key_id, utc_now())
        assert await closed(first) == (protocol.ACCESS_ENDED, "the key was revoked")
        assert (await ask(second, action="get", cache="halts"))["data"] == []
        assert (await login(env, api_key=key))[1] == {"status": "invalid key"}


async def test_a_key_whose_feeds_shrink_loses_its_subscriptions(settings: WdsConfig) -> None:
    """Told of each; what is left goes on."""
    key, _ = add_key(settings, "halts", "alerts")
    path = Path(settings.keys_path)
    async with running(settings) as env:
        client, _ = await login(env, api_key=key)
        for feed in ("halts", "alerts"):
            await ask(client, action="subscribe", feed=feed)
        path.write_text(path.read_text().replace('"halts",', ""))  # noqa: ASYNC240
        assert await receive(client) == {"status": "unsubscribed", "feed": "halts"}
        assert (await ask(client, action="subscribe", feed="halts"))["code"] == "forbidden"
        env.bus.publish(feeds.ALERTS, "", "on")
        assert await receive(client) == "on"


# Tokens end


async def test_a_token_warns_before_it_ends_and_then_closes(settings: WdsConfig) -> None:
    """Once, half a minute before; then code 4005."""
    clock = Clock()
    async with running(settings, clock=clock) as env:
        client, _ = await login(env, token=token(exp=NOW + 600))
        clock.now = NOW + 571
        warning = await receive(client)
        assert (warning["status"], warning["seconds"]) == ("token expires", 29)
        env.service.access.expire()
        assert (await ask(client, action="get", cache="halts"))["data"] == []
        clock.now = NOW + 600
        assert await closed(client) == (protocol.TOKEN_EXPIRED, "the token has expired")
        assert env.service.counters.closed == {"4005": 1}


async def test_a_fresh_token_keeps_the_connection(settings: WdsConfig) -> None:
    """Sent on the same connection; it counts from then on, with what it permits."""
    clock = Clock()
    async with running(settings, clock=clock) as env:
        client, _ = await login(env, token=token(exp=NOW + 60, sub="a"))
        for feed in ("halts", "alerts"):
            await ask(client, action="subscribe", feed=feed)
        fresh = token(exp=NOW + 7_200, sub="a", feeds=["alerts"])
        assert await ask(client, action="auth", token=fresh) == {"status": "unsubscribed", "feed": "halts"}
        assert await receive(client) == AUTHORIZED
        clock.now = NOW + 3_600
        env.service.access.expire()
        assert (await ask(client, action="get", cache="alerts"))["data"] == []


# Permissions


async def test_what_is_not_permitted_is_forbidden_and_the_connection_lives(settings: WdsConfig) -> None:
    """Reading and subscribing alike; nothing of it is delivered."""
    async with running(settings, clock=Clock()) as env:
        client, _ = await login(env, token=token(feeds=["quote:AAPL", "alerts"]))
        refusals = [
            await ask(client, action="subscribe", feed="quote:*"),
            await ask(client, action="subscribe", feed="quote:MSFT"),
            await ask(client, action="get", cache="halts"),
        ]
        assert [refusal["code"] for refusal in refusals] == ["forbidden"] * 3
        assert env.service.counters.refused == {"forbidden": 3}
        assert (await ask(client, action="subscribe", feed="quote:AAPL"))["status"] == "subscribed"
        env.bus.publish(feeds.QUOTE, "MSFT", "no")
        env.bus.publish(feeds.QUOTE, "AAPL", "yes")
        assert await receive(client) == "yes"


async def test_without_authentication_everything_may_be_read(settings: WdsConfig) -> None:
    """And an auth is answered as ever, whatever it holds."""
    async with running(WdsConfig()) as env:
        client, answer = await login(env, token="whatever")
        assert answer == AUTHORIZED
        assert (await ask(client, action="subscribe", feed="quote:*"))["status"] == "subscribed"


# Limits


async def test_failed_logins_slow_down_their_address(settings: WdsConfig) -> None:
    """After five, even the right key is not looked at, and the answer says for how long."""
    async with running(settings, clock=Clock()) as env:
        for number in range(5):
            assert (await login(env, api_key=f"guess {number}"))[1] == {"status": "invalid key"}
        client, answer = await login(env, api_key=CONFIGURED)
        assert answer["code"] == "unauthorized"
        assert "too many failed logins" in answer["message"]
        assert (await closed(client))[0] == protocol.TOO_MANY_LOGINS
        assert env.service.counters.logins_denied == {"key": 5, "throttled": 1}


async def test_an_unlimited_address_is_not_slowed_down(settings: WdsConfig) -> None:
    """A proxy's clients all have its address: one of them must not lock out the others."""
    settings.unlimited_addresses = ["127.0.0.0/8"]
    async with running(settings, clock=Clock()) as env:
        for number in range(7):
            await login(env, api_key=f"guess {number}")
        assert (await login(env, api_key=CONFIGURED))[1] == AUTHORIZED


async def test_connections_of_one_key_are_limited(settings: WdsConfig) -> None:
    """4006; one that goes makes room; other keys are not concerned."""
    settings.max_clients_per_key = 2
    key, _ = add_key(settings)
    other, _ = add_key(settings)
    async with running(settings) as env:
        clients = [(await login(env, api_key=key))[0] for _ in range(2)]
        refused, answer = await login(env, api_key=key)
        assert "2 connections at most" in answer["message"]
        assert (await closed(refused))[0] == protocol.TOO_MANY_CONNECTIONS
        one_more, answer = await login(env, api_key=other)
        assert answer == AUTHORIZED
        assert await ask(clients[1], action="auth", api_key=key) == AUTHORIZED  # again, not one more
        await clients[0].close()
        await one_more.close()
        await until(lambda: env.service.counters.clients <= 2)
        assert (await login(env, api_key=key))[1] == AUTHORIZED


async def test_too_many_actions_are_refused_then_closed() -> None:
    """Each refusal is answered, none is done; who goes on is closed with 4029."""
    async with running(WdsConfig(actions_per_second=0.1, action_burst=10)) as env:
        client = await env.connect()
        for _ in range(10):
            await ask(client, action="unsubscribe", feed="halts")
        assert (await ask(client, action="subscribe", feed="halts"))["code"] == "slow_down"
        assert env.service.counters.subscriptions == 0
        for _ in range(100):
            await client.send_str("x")
        assert (await closed(client))[0] == protocol.TOO_MANY_ACTIONS
        assert env.service.counters.closed == {"4029": 1}


async def test_who_leaves_during_a_login_counts_for_nothing(settings: WdsConfig) -> None:
    """A login may take a fetch of keys; the connection may be gone after it."""

    class Nobody:
        def warn(self, identity: Identity, seconds: float) -> None: ...

        def expel(self, identity: Identity, why: str) -> None: ...

        def restrict(self, permission: Permission) -> None: ...

    settings.max_clients_per_key = 1
    access = Access(settings, WdsCounters(), clock=Clock())
    await access.start()
    gone = access.open(Nobody(), "a")
    access.close(gone)
    await access.login(gone, "", token(sub="x"))
    stays = access.open(Nobody(), "a")
    assert not stays.permits("halts")  # a stranger until the login
    await access.login(stays, "", token(sub="x"))
    assert stays.permits("halts")
    with pytest.raises(Denied, match="1 connections at most"):
        await access.login(access.open(Nobody(), "a"), "", token(sub="x"))
    await access.stop()


# Secrets


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Logging as a run configures it, at its most talkative, without known secrets to mask."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    written = io.StringIO()
    configure(LogConfig(level="debug", format="json"), stream=written)
    yield written
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()


async def test_no_secret_leaves_the_service(settings: WdsConfig, logged: io.StringIO, tmp_path: Path) -> None:
    """Everything a run wrote and answered, its counters and what its objects show: no key, no token."""
    key, key_id = add_key(settings, "alerts")
    good, bad = token(sub="someone"), token(exp=NOW - 5)
    guess = "guess-90125-never-a-key"
    heard: list[Any] = []
    clients = []
    async with running(settings, clock=Clock()) as env:
        for credentials in (
            {"api_key": CONFIGURED},
            {"api_key": key},
            {"token": good},
            {"token": bad},
            {"api_key": guess},
            {"api_key": key + "x"},
        ):
            client, answer = await login(env, **credentials)
            clients.append(client)
            heard.append(answer)
            if answer == AUTHORIZED:
                heard.append(await ask(client, action="subscribe", feed=guess))
        KeyFile(settings.keys_path).revoke(key_id, utc_now())
        await until(lambda: "4004" in env.service.counters.closed)
        Path(settings.keys_path).write_text("broken " + guess)  # noqa: ASYNC240
        await until(lambda: env.service.access.store.errors == 1)
        service = env.service
        heard += [repr(service), repr(service.counters), repr(vars(service.access)), repr(settings)]
        heard += [repr(session.identity) for session in service._clients.sessions()]
        heard += [repr(protocol.Auth(key, good))]
    everything = logged.getvalue() + repr([text for text in heard if guess not in str(text)])
    assert "wds_keys_read" in everything  # that logging was looked at indeed
    for secret in (CONFIGURED, key, key.split("_", 2)[2], good, good.split(".")[2], bad, SECRET, guess):
        assert secret not in everything
    files = [path.read_bytes() for path in tmp_path.iterdir()]  # noqa: ASYNC240
    assert len(files) >= 2
    assert not any(key.encode() in content for content in files)


# Documentation


def test_all_close_codes_and_errors_are_documented() -> None:
    """In one table, with whether it is worth to reconnect."""
    text = Path("docs/security.md").read_text()
    codes = [value for name, value in vars(protocol).items() if name.isupper() and isinstance(value, int)]
    for code in (code for code in codes if code >= 1000):
        if code < 5_000:
            assert f"| {code} |" in text
    for error in ERRORS:
        assert f"`{error}`" in text


async def test_the_flood_of_logins_does_not_stop_others(settings: WdsConfig) -> None:
    """While one guesses, who is connected is served, and the table of failures stays small."""
    async with running(settings, clock=Clock()) as env:
        client, _ = await login(env, api_key=CONFIGURED)

        async def guess() -> None:
            for number in range(15):
                attacker, _ = await login(env, api_key=f"guess {number}")
                await attacker.close()

        guessing = asyncio.gather(*(guess() for _ in range(8)))
        while not guessing.done():
            assert (await ask(client, action="get", cache="halts"))["data"] == []
        await guessing
        assert len(env.service.access.throttle) == 1
        assert env.service.counters.logins_denied["key"] < 120
