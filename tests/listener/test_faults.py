"""Everything a provider does wrong, one scripted server each, and what the listener makes of it."""

from __future__ import annotations

import asyncio

import pytest

from mdp.listener.recorder import Recorder
from mdp.listener.states import FeedState
from mdp.listener.watchdog import Market
from tests.ports import free_port

from .fake_provider import (
    CONNECTED,
    FakeMarket,
    FakeProvider,
    Session,
    Watched,
    quick_config,
    statuses,
    trade,
)


async def healthy(session: Session) -> None:
    """A provider without faults."""
    await session.open()
    await session.send(trade())
    await session.hold()


def first_then_healthy(fault: object) -> object:
    """A script whose first connection runs `fault`, and every later one is healthy."""

    async def script(session: Session) -> None:
        await (fault if session.number == 1 else healthy)(session)  # type: ignore[operator]

    return script


async def test_refused_connection_is_noticed_at_once_and_retried_until_the_server_is_there() -> None:
    """The library would wait seconds in silence; we see the refusal and use our own back-off."""
    provider = FakeProvider(healthy)
    provider.port = free_port()
    async with Watched(quick_config(provider.feed, connect_timeout_seconds=1000.0)) as feed:
        await feed.until(lambda: feed.listener.counters.disconnects.get("refused", 0) >= 3)
        assert "refused" in feed.listener.detail
        assert feed.listener.state is FeedState.CONNECTING
        assert not feed.listener.health().ok
        async with provider:
            await feed.until_state(FeedState.LIVE)


async def test_unresolvable_name_is_reported_as_such() -> None:
    """`.invalid` never resolves (RFC 6761)."""
    async with Watched(quick_config("feed.invalid:443", connect_timeout_seconds=1000.0)) as feed:
        await feed.until(lambda: bool(feed.listener.counters.disconnects))
        assert set(feed.listener.counters.disconnects) <= {"dns", "network"}


@pytest.mark.parametrize("http_status", [401, 403, 429, 503])
async def test_http_refusal_of_the_upgrade_is_noticed_at_once_and_survived(http_status: int) -> None:
    """The key is not in the upgrade, so even 401 and 403 are no reason to give up for good."""
    provider = FakeProvider(healthy, http_status=http_status, http_times=3)
    async with provider, Watched(quick_config(provider.feed, connect_timeout_seconds=1000.0)) as feed:
        await feed.until_state(FeedState.LIVE)
        assert feed.listener.counters.disconnects == {f"http_{http_status}": 3}
        assert str(http_status) in feed.listener.gaps.entries()[0]["detail"]


async def test_server_that_never_answers_the_upgrade_runs_into_the_deadline() -> None:
    """A TCP server that accepts and says nothing."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Watched(quick_config(f"127.0.0.1:{port}", connect_timeout_seconds=0.1)) as feed:
        await feed.until(lambda: feed.listener.counters.disconnects.get("timeout", 0) >= 2)
    server.close()
    await server.wait_closed()


async def test_server_that_is_no_websocket_server_is_reported() -> None:
    """Something else on that port."""

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail ready\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Watched(quick_config(f"127.0.0.1:{port}", connect_timeout_seconds=1000.0)) as feed:
        await feed.until(lambda: bool(feed.listener.counters.disconnects))
        assert set(feed.listener.counters.disconnects) == {"bad_handshake"}
    server.close()
    await server.wait_closed()


async def test_plain_server_where_tls_is_expected_is_reported() -> None:
    """`secure = true` against a server without TLS, or a certificate nobody vouches for."""
    async with FakeProvider(healthy) as provider:
        config = quick_config(provider.feed, secure=True, connect_timeout_seconds=1000.0)
        async with Watched(config) as feed:
            await feed.until(lambda: bool(feed.listener.counters.disconnects))
            assert set(feed.listener.counters.disconnects) <= {"tls", "network"}


async def test_callback_that_fails_is_told_apart_from_the_network() -> None:
    """A mistake of ours has its own reason, and the next connection goes on."""
    async with FakeProvider(healthy) as provider:
        feed = Watched(quick_config(provider.feed))
        broken = Recorder("unused")
        broken.offer = lambda frame, epoch_ns: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        feed.listener.recorder = broken
        async with feed:
            await feed.until(lambda: feed.listener.counters.disconnects.get("internal", 0) >= 1)
            feed.listener.recorder = None
            await feed.until_state(FeedState.LIVE)


async def test_hang_before_the_auth_answer_ends_at_the_deadline_and_is_retried() -> None:
    """The official client would wait for ever."""

    async def hang(session: Session) -> None:
        await session.send(statuses(CONNECTED))
        await session.receive()
        await session.receive()

    provider = FakeProvider(first_then_healthy(hang))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed, connect_timeout_seconds=2.0)) as feed:
        await feed.until_state(FeedState.LIVE)
        assert feed.listener.counters.disconnects == {"no_auth_answer": 1}


async def test_authenticated_but_silent_ends_at_the_deadline() -> None:
    """No acknowledgement and no data: such a connection is useless."""

    async def silent(session: Session) -> None:
        await session.authenticate()
        await session.receive()
        await session.receive()

    provider = FakeProvider(first_then_healthy(silent))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed, connect_timeout_seconds=2.0)) as feed:
        await feed.until_state(FeedState.LIVE)
        assert feed.listener.counters.disconnects == {"no_data": 1}


async def test_auth_timeout_is_retried() -> None:
    """The official client takes this answer for success; it is an end."""

    async def late(session: Session) -> None:
        await session.authenticate(("auth_timeout", "No authentication request received."))
        await session.receive()

    provider = FakeProvider(first_then_healthy(late))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed, connect_timeout_seconds=1000.0)) as feed:
        await feed.until_state(FeedState.LIVE)
        assert feed.listener.counters.disconnects == {"auth_timeout": 1}


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("authentication failed", "check massive.api_key"),
        ("Your plan doesn't include websocket access.", "plan has no access"),
    ],
)
async def test_refused_key_is_fatal_and_says_what_to_do(message: str, advice: str) -> None:
    """No retry: the provider would lock the key, and nothing would change."""

    async def refuse(session: Session) -> None:
        await session.authenticate(("auth_failed", message))
        session.abort()

    async with FakeProvider(refuse) as provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until_state(FeedState.FAILED)
        await asyncio.sleep(0.1)  # several back-offs long
        assert provider.connections == 1
        assert advice in feed.listener.detail
        assert message in feed.listener.detail
        assert feed.listener.health().detail.startswith("failed: authentication failed")


async def test_failed_feed_starts_again_when_an_operator_restarts_it() -> None:
    """After the key was fixed at the provider, no new process is needed."""

    async def refuse(session: Session) -> None:
        await session.authenticate(("auth_failed", "authentication failed"))

    provider = FakeProvider(first_then_healthy(refuse))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until_state(FeedState.FAILED)
        await feed.listener.restart_feed()
        await feed.until_state(FeedState.LIVE)


async def test_missing_key_fails_without_connecting() -> None:
    """The message names the setting."""
    async with FakeProvider(healthy) as provider, Watched(quick_config(provider.feed, api_key="")) as feed:
        assert feed.listener.state is FeedState.FAILED
        assert "massive.api_key" in feed.listener.detail
        assert provider.connections == 0


@pytest.mark.parametrize("last", ["status", "data"])
async def test_max_connections_after_success_cools_down(last: str) -> None:
    """It comes after the acknowledgements, with code 1008; also when data came in between."""

    async def evict(session: Session) -> None:
        await session.open()
        await session.send(statuses(("max_connections", "Maximum number of websocket connections exceeded.")))
        if last == "data":
            await session.send(trade())
        await session.socket.close(1008, "")

    provider = FakeProvider(first_then_healthy(evict))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed)) as feed:
        if last == "data":
            # The newest frame does not tell; the decode stage does, within the grace for 1008.
            await feed.until(lambda: len(feed.ring) == 3)
            feed.decode_statuses()
        await feed.until(lambda: provider.connections == 2)
        await feed.until_state(FeedState.LIVE)
        assert feed.listener.counters.disconnects == {"max_connections": 1}
        assert feed.states == [
            "connecting", "authenticating", "live", "cooling_down", "connecting", "authenticating", "live",
        ]  # fmt: skip


async def test_max_connections_of_a_connection_that_is_closed_at_once_cools_down() -> None:
    """Before the client has subscribed: it fails to, and reads nothing more of what has come."""

    async def evict(session: Session) -> None:
        await session.authenticate()
        await session.send(statuses(("max_connections", "Maximum number of websocket connections exceeded.")))
        await session.socket.close(1008, "")

    provider = FakeProvider(first_then_healthy(evict))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until_state(FeedState.LIVE)
        assert feed.listener.counters.disconnects == {"max_connections": 1}


async def test_max_connections_as_auth_answer_cools_down() -> None:
    """The official client takes this answer for success, too."""

    async def evict(session: Session) -> None:
        await session.authenticate(("max_connections", "Maximum number of websocket connections exceeded."))
        await session.socket.close(1008, "")

    provider = FakeProvider(first_then_healthy(evict))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until_state(FeedState.LIVE)
        assert feed.listener.counters.disconnects == {"max_connections": 1}
        assert "cooling_down" in feed.states


async def test_cool_down_lasts_as_long_as_configured() -> None:
    """A fixed wait, not the back-off: the provider has to forget the other connection first."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0.01)

    async def evict(session: Session) -> None:
        await session.open()
        await session.send(statuses(("max_connections", "too many")))
        await session.socket.close(1008, "")

    provider = FakeProvider(first_then_healthy(evict))  # type: ignore[arg-type]
    config = quick_config(provider.feed, cooldown_seconds=61.5)
    async with provider:
        config.feed = provider.feed
        async with Watched(config, sleep=sleep) as feed:
            await feed.until(lambda: provider.connections == 2)
    assert 61.5 in slept


async def test_who_takes_over_tries_again_soon_before_it_cools_down() -> None:
    """The predecessor's connection may still be closing; begun anew, the short waits come again."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0.01)

    async def refuse(session: Session) -> None:
        await session.authenticate(("max_connections", "too many"))
        await session.socket.close(1008, "")

    provider = FakeProvider(refuse)
    async with provider:
        config = quick_config(provider.feed, cooldown_seconds=61.5)
        async with Watched(config, sleep=sleep, takeover_seconds=(2.0, 4.0, 8.0)) as feed:
            await feed.until(lambda: provider.connections == 6)
            assert [seconds for seconds in slept if seconds >= 2][:5] == [2.0, 4.0, 8.0, 61.5, 61.5]
            await feed.listener.stop_feed("for the test")
            assert feed.listener.detail == "for the test"
            slept.clear()
            await feed.listener.start_feed()
            await feed.until(lambda: 2.0 in slept)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1000, "closed_1000"),
        (1001, "closed_1001"),
        (1008, "closed_1008"),
        (1011, "closed_1011"),
        (4321, "closed_other"),
    ],
)
async def test_any_close_of_the_server_is_an_outage(code: int, reason: str) -> None:
    """Also 1000, after which the official client returns as if all were well."""

    async def close(session: Session) -> None:
        await session.open()
        await session.send(trade())
        await session.socket.close(code, "bye")

    provider = FakeProvider(first_then_healthy(close))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until(lambda: feed.listener.counters.connects == 2)
        assert feed.listener.counters.disconnects == {reason: 1}
        assert [gap["reason"] for gap in feed.listener.gaps.entries()] == [reason]


async def test_slow_consumer_is_named_as_the_cause() -> None:
    """The provider says so in its last frame and closes with 1008."""

    async def cut(session: Session) -> None:
        await session.open()
        await session.send(statuses(("slow_consumer", "Slow consumer")))
        await session.socket.close(1008, "")

    provider = FakeProvider(first_then_healthy(cut))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until(lambda: feed.listener.counters.connects == 2)
        assert feed.listener.counters.disconnects == {"slow_consumer": 1}


async def test_abrupt_abort_is_survived_and_everything_resubscribed() -> None:
    """TCP reset in the middle of the data."""

    async def abort(session: Session) -> None:
        await session.open()
        await session.send(trade())
        session.abort()

    provider = FakeProvider(first_then_healthy(abort))  # type: ignore[arg-type]
    config = quick_config("", subscriptions=["T.*", "Q.*", "A.*", "AM.*", "LULD.*"])
    async with provider:
        config.feed = provider.feed
        async with Watched(config) as feed:
            await feed.until(lambda: feed.listener.counters.connects == 2)
            await feed.until(lambda: len(provider.subscribed()) == 2)
            assert provider.subscribed()[0] == provider.subscribed()[1] == sorted(config.subscriptions)
            assert feed.listener.counters.disconnects == {"aborted": 1}


async def test_frame_above_the_limit_ends_the_connection_with_a_clear_reason() -> None:
    """Not endless memory."""

    async def huge(session: Session) -> None:
        await session.open()
        await session.send("[" + " " * 5000 + "]")
        await session.hold()

    provider = FakeProvider(first_then_healthy(huge))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed, max_frame_bytes=4096)) as feed:
        await feed.until(lambda: feed.listener.counters.connects == 2)
        assert feed.listener.counters.disconnects == {"closed_1009": 1}


@pytest.mark.parametrize("greeting", ["not json", "{}", "[]", "[1]", '[{"ev":"status"}]'])
async def test_nonsense_instead_of_the_auth_answer_is_an_outage(greeting: str) -> None:
    """The official client raises whatever comes to it; the listener goes on."""

    async def nonsense(session: Session) -> None:
        await session.send(statuses(CONNECTED))
        await session.receive()
        await session.send(greeting)
        await session.receive()

    provider = FakeProvider(first_then_healthy(nonsense))  # type: ignore[arg-type]
    async with provider, Watched(quick_config(provider.feed, connect_timeout_seconds=1000.0)) as feed:
        await feed.until_state(FeedState.LIVE)
        assert feed.listener.counters.disconnects == {"protocol": 1}


async def test_binary_frames_are_delivered_as_bytes() -> None:
    """A server that sends binary messages does not stop the feed."""

    async def script(session: Session) -> None:
        await session.open()
        await session.socket.send(trade().encode())
        await session.hold()

    async with FakeProvider(script) as provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until(lambda: len(feed.ring) == 2)
        feed.ring.take()
        item = feed.ring.take()
        assert item is not None
        assert item[1] == trade().encode()


async def test_silent_stall_is_restarted() -> None:
    """Open, pinging, and no data while the market is open."""
    provider = FakeProvider(healthy)
    async with provider, Watched(quick_config(provider.feed, stall_seconds=0.1)) as feed:
        await feed.until(lambda: feed.listener.counters.stalls >= 2)
        await feed.until(lambda: provider.connections >= 3)
        assert feed.listener.counters.disconnects["stalled"] >= 2
        assert feed.states[:5] == ["connecting", "authenticating", "live", "stalled", "connecting"]
        assert "stalled" in feed.listener.gaps.entries()[0]["states"]


async def test_silence_of_a_closed_market_is_left_alone() -> None:
    """The same silence, but the provider says that the market is closed."""
    market = FakeMarket(Market.CLOSED)
    provider = FakeProvider(healthy)
    async with provider, Watched(quick_config(provider.feed, stall_seconds=0.02), market) as feed:
        await feed.until_state(FeedState.LIVE)
        await asyncio.sleep(0.3)
        assert feed.listener.state is FeedState.LIVE
        market.market = Market.OPEN
        await feed.until(lambda: feed.listener.counters.stalls >= 1)


async def test_one_quiet_symbol_is_never_a_reason_to_restart() -> None:
    """A single symbol may rightly be silent for hours."""
    config = quick_config("", subscriptions=["T.ZZZZ"], stall_seconds=0.02)
    async with FakeProvider(healthy) as provider:
        config.feed = provider.feed
        async with Watched(config) as feed:
            await feed.until_state(FeedState.LIVE)
            await asyncio.sleep(0.3)
            assert feed.listener.counters.stalls == 0


async def test_closed_market_slows_retries_until_it_opens() -> None:
    """At most an attempt a minute while closed; at once when extended hours begin."""
    market = FakeMarket(Market.CLOSED)
    provider = FakeProvider(healthy)
    provider.port = free_port()
    async with Watched(quick_config(provider.feed), market) as feed:
        await feed.until(lambda: market.waiting == 1)
        assert "the market is closed" in feed.listener.detail
        await asyncio.sleep(0.1)  # several back-offs long
        assert feed.listener.counters.attempts == 1
        async with provider:
            market.market = Market.EXTENDED
            market.opened.set()
            await feed.until_state(FeedState.LIVE)


async def test_closed_market_still_retries_at_the_slow_pace() -> None:
    """A wrong or stuck market status must not keep the feed down for ever."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0.01)

    config = quick_config(f"127.0.0.1:{free_port()}")
    async with Watched(config, FakeMarket(Market.CLOSED), sleep=sleep) as feed:
        await feed.until(lambda: feed.listener.counters.attempts >= 3)
    assert slept.count(60.0) >= 2


async def test_backoff_grows_while_connections_die_young_and_resets_after_stable_data() -> None:
    """Becoming live is no proof of stability; data for `stable_seconds` is."""
    now = [1_000_000_000]
    last_for_seconds = [1]
    provider_sessions: list[Session] = []

    async def script(session: Session) -> None:
        provider_sessions.append(session)
        await session.open()
        await session.socket.recv()  # until the test closes it

    async with FakeProvider(script) as provider:
        config = quick_config(provider.feed, stable_seconds=10.0, backoff_max_seconds=0.01)
        async with Watched(config, clock=lambda: now[0]) as feed:
            for failures in (1, 2, 3):
                await feed.until(lambda: feed.listener.state is FeedState.LIVE)
                await _end_after(feed, provider_sessions, now, last_for_seconds[0])
                assert feed.listener.status()["consecutive_failures"] == failures
            await feed.until(lambda: feed.listener.state is FeedState.LIVE)
            await _end_after(feed, provider_sessions, now, 11)
            assert feed.listener.status()["consecutive_failures"] == 1


async def _end_after(feed: Watched, sessions: list[Session], now: list[int], seconds: int) -> None:
    """Let data come for so long by the injected clock, then close, and wait until that was noticed."""
    ended = sum(feed.listener.counters.disconnects.values())
    frames = feed.listener.counters.frames
    now[0] += seconds * 1_000_000_000
    await sessions[-1].send(trade())
    await feed.until(lambda: feed.listener.counters.frames > frames)
    await sessions[-1].socket.close(1000)
    await feed.until(lambda: sum(feed.listener.counters.disconnects.values()) > ended)
