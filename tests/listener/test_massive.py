"""The listener at its work: subscriptions, control at run time, stopping, secrets, gaps."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

import pytest
import structlog

from mdp.listener import subscriptions as subscriptions_module
from mdp.listener.recorder import Recorder
from mdp.listener.states import FeedState

from .fake_provider import (
    CONNECTED,
    KEY,
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


async def test_connects_authenticates_subscribes_and_delivers_frames_in_order() -> None:
    """Acknowledgements and data reach the ring as received; the greeting and the auth answer do not."""

    async def script(session: Session) -> None:
        await session.open()
        for number in range(3):
            await session.send(trade(number=number))
        await session.hold()

    async with FakeProvider(script) as provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until(lambda: len(feed.ring) == 4)
        assert feed.frames() == [
            statuses(("success", "subscribed to: T.*")),
            *(trade(number=number) for number in range(3)),
        ]
        assert feed.states == ["connecting", "authenticating", "live"]
        assert feed.listener.health().ok
        assert feed.listener.counters.frames == 4
        assert feed.listener.counters.last_frame_ns > 0
        assert provider.requests == [
            {"action": "auth", "params": KEY},
            {"action": "subscribe", "params": "T.*"},
        ]
        assert feed.listener.gaps.entries() == []  # the first connection ends no outage
    assert feed.listener.state is FeedState.IDLE


async def test_compression_is_off_unless_asked_for() -> None:
    """permessage-deflate costs CPU on both sides."""
    offers: list[str | None] = []

    async def script(session: Session) -> None:
        assert session.socket.request is not None
        offers.append(session.socket.request.headers.get("Sec-WebSocket-Extensions"))
        await healthy(session)

    for compression in (False, True):
        async with FakeProvider(script) as provider:
            config = quick_config(provider.feed, compression=compression)
            async with Watched(config) as feed:
                await feed.until_state(FeedState.LIVE)
    assert offers[0] is None
    assert "permessage-deflate" in str(offers[1])


async def test_frames_keep_their_arrival_by_the_injected_clock() -> None:
    """The arrival in the ring is the clock's value when the client handed the frame over."""
    async with FakeProvider(healthy) as provider:
        config = quick_config(provider.feed)
        async with Watched(config, clock=lambda: 123_456_789) as feed:
            await feed.until(lambda: len(feed.ring) == 2)
            item = feed.ring.take()
            assert item is not None
            assert item[0] == 123_456_789
            assert feed.listener.counters.last_frame_ns == 123_456_789


async def test_not_authorized_degrades_that_subscription_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names nothing; the pair without an acknowledgement is the one. Logged once, not again."""
    monkeypatch.setattr(subscriptions_module, "GRACE_NS", 50_000_000)
    sessions: list[Session] = []

    async def script(session: Session) -> None:
        sessions.append(session)
        await session.authenticate()
        await session.acknowledge(refuse=("LULD.*",))
        while True:
            await session.send(trade())
            await asyncio.sleep(0.01)

    config = quick_config("", subscriptions=["A.*", "T.*", "LULD.*"], stall_seconds=0.2)
    with structlog.testing.capture_logs() as logs:
        async with FakeProvider(script) as provider:
            config.feed = provider.feed
            async with Watched(config) as feed:
                for connection in (1, 2):
                    await feed.until(lambda: feed.listener.counters.connects == connection)  # noqa: B023
                    await _until_decoded(feed, lambda: bool(feed.listener.subscriptions.degraded))
                    assert feed.listener.subscriptions.degraded == {"LULD.*"}
                    assert feed.listener.subscriptions.granted == {"A.*", "T.*"}
                    assert feed.listener.state is FeedState.LIVE
                    sessions[-1].abort()
                    await feed.until(lambda: feed.listener.counters.connects == connection + 1)  # noqa: B023
                shown = feed.listener.status()["subscriptions"]
    assert shown["wanted"] == ["A.*", "LULD.*", "T.*"]
    assert [entry["subscriptions"] for entry in logs if entry["event"] == "feed_subscription_degraded"] == [
        ["LULD.*"]
    ]
    assert all(pairs == ["A.*", "LULD.*", "T.*"] for pairs in provider.subscribed())  # asked for each time


async def _until_decoded(feed: Watched, condition: object) -> None:
    """Play the decode stage until a condition holds."""

    def step() -> bool:
        feed.decode_statuses()
        return bool(condition())  # type: ignore[operator]

    await feed.until(step)


async def test_subscriptions_change_on_the_live_connection() -> None:
    """No reconnect; exactly the difference goes to the provider; a later connection asks for the new set."""
    sessions: list[Session] = []

    async def script(session: Session) -> None:
        sessions.append(session)
        await healthy(session)

    config = quick_config("", subscriptions=["T.*", "AM.*"])
    async with FakeProvider(script) as provider:
        config.feed = provider.feed
        async with Watched(config) as feed:
            await feed.until_state(FeedState.LIVE)
            await feed.listener.configure(subscriptions=["A.*", "AM.*", "Q.AAPL"])
            await feed.until(lambda: len(provider.requests) == 4)
            assert provider.connections == 1
            assert provider.subscribed()[1] == ["A.*", "Q.AAPL"]
            assert provider.requests[3] == {"action": "unsubscribe", "params": "T.*"}
            await _until_decoded(feed, lambda: "Q.AAPL" in feed.listener.subscriptions.granted)
            assert feed.listener.subscriptions.granted == {"A.*", "AM.*", "Q.AAPL"}
            sessions[-1].abort()
            await feed.until(lambda: provider.connections == 2 and len(provider.subscribed()) == 3)
            assert provider.subscribed()[2] == ["A.*", "AM.*", "Q.AAPL"]


async def test_new_feed_reconnects_there() -> None:
    """The old connection is closed; the time between counts as a gap."""
    async with FakeProvider(healthy) as first, FakeProvider(healthy) as second:
        config = quick_config(first.feed)
        async with Watched(config) as feed:
            await feed.until_state(FeedState.LIVE)
            await feed.listener.configure(feed=second.feed)
            await feed.until(lambda: second.connections == 1 and feed.listener.state is FeedState.LIVE)
            await feed.until(lambda: first.open_now == 0)
            assert feed.listener.status()["feed"] == second.feed
            assert [gap["reason"] for gap in feed.listener.gaps.entries()] == ["operator"]


async def test_new_market_reconnects_to_its_path() -> None:
    """The market is the path of the URL."""
    paths: list[str] = []

    async def script(session: Session) -> None:
        assert session.socket.request is not None
        paths.append(session.socket.request.path)
        await healthy(session)

    async with FakeProvider(script) as provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until_state(FeedState.LIVE)
        await feed.listener.configure(market="crypto", subscriptions=["XT.*"])
        await feed.until(lambda: len(provider.subscribed()) == 2)
        assert paths == ["/stocks", "/crypto"]
        assert provider.subscribed()[1] == ["XT.*"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"feed": "somewhere"}, "massive.feed"),
        ({"feed": "host:99999"}, "massive.feed"),
        ({"market": "bonds"}, "massive.market"),
        ({"subscriptions": []}, "massive.subscriptions"),
        ({"subscriptions": ["T"]}, "massive.subscriptions"),
        ({"subscriptions": ["T.*", 5]}, "massive.subscriptions"),
        ({"feed": 7}, "massive.feed"),
    ],
)
async def test_wrong_settings_are_refused_and_change_nothing(change: dict[str, object], key: str) -> None:
    """One line that names the setting and what is allowed."""
    async with FakeProvider(healthy) as provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until_state(FeedState.LIVE)
        before = feed.listener.status()
        with pytest.raises(ValueError, match=key) as caught:
            await feed.listener.configure(**change)  # type: ignore[arg-type]
        assert "allowed" in str(caught.value)
        assert "\n" not in str(caught.value)
        after = feed.listener.status()
        assert [after[k] for k in ("feed", "market", "subscriptions")] == [
            before[k] for k in ("feed", "market", "subscriptions")
        ]
        assert provider.connections == 1


async def test_operator_stops_starts_and_restarts_the_feed() -> None:
    """Each is remembered as a gap, because data is missed; doing it twice changes nothing."""
    async with FakeProvider(healthy) as provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until_state(FeedState.LIVE)
        await feed.listener.start_feed()
        assert provider.connections == 1
        await feed.listener.stop_feed()
        await feed.listener.stop_feed()
        assert feed.listener.state is FeedState.IDLE
        assert feed.listener.detail == "stopped by an operator"
        await feed.until(lambda: provider.open_now == 0)
        await feed.listener.start_feed()
        await feed.until_state(FeedState.LIVE)
        await feed.listener.restart_feed()
        await feed.until_state(FeedState.LIVE)
        assert provider.connections == 3
        gaps = feed.listener.gaps.entries()
        assert [gap["reason"] for gap in gaps] == ["operator", "operator"]
        assert all(gap["end_ms"] >= gap["start_ms"] for gap in gaps)


async def test_gap_begins_with_the_last_frame_and_carries_market_time() -> None:
    """What the provider's clock said is what a backfill needs."""
    now = [1_000_000_000]
    sessions: list[Session] = []

    async def script(session: Session) -> None:
        sessions.append(session)
        await session.open()
        await session.socket.recv()

    async with FakeProvider(script) as provider:
        config = quick_config(provider.feed)
        async with Watched(config, clock=lambda: now[0], wall_ms=lambda: 5_000_000) as feed:
            feed.market.server_ms = 1_700_000_000_000
            await feed.until_state(FeedState.LIVE)
            now[0] += 2_500_000_000  # silent for 2.5 s, then it breaks
            sessions[-1].abort()
            await feed.until(lambda: feed.listener.counters.connects == 2)
            (gap,) = feed.listener.gaps.entries()
    assert gap["start_ms"] == 5_000_000 - 2_500
    assert gap["market_start_ms"] == 1_700_000_000_000 - 2_500
    assert gap["end_ms"] == 5_000_000
    assert gap["market_end_ms"] == 1_700_000_000_000
    assert gap["states"] == ["connecting", "authenticating", "live"]
    assert gap["attempts"] == 1


async def _hang_on_connect(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        writer.close()


async def hang_before_auth(session: Session) -> None:
    """Never answers the authentication."""
    await session.send(statuses(CONNECTED))
    await session.receive()
    await session.hold()


async def flood(session: Session) -> None:
    """Sends as fast as it can and reads nothing."""
    await session.open()
    frame = trade() * 1
    while True:
        await session.send(frame)


async def evict(session: Session) -> None:
    """Another connection holds the key."""
    await session.open()
    await session.send(statuses(("max_connections", "too many")))
    await session.socket.close(1008, "")


async def refuse(session: Session) -> None:
    """A wrong key."""
    await session.authenticate(("auth_failed", "authentication failed"))


async def close_at_once(session: Session) -> None:
    """Leads to the back-off."""
    await session.open()


@pytest.mark.parametrize(
    ("script", "state"),
    [
        (hang_before_auth, FeedState.AUTHENTICATING),
        (healthy, FeedState.LIVE),
        (flood, FeedState.LIVE),
        (evict, FeedState.COOLING_DOWN),
        (refuse, FeedState.FAILED),
        (close_at_once, FeedState.CONNECTING),
    ],
    ids=lambda value: value.value if isinstance(value, FeedState) else value.__name__,
)
async def test_stops_in_every_state_and_leaves_no_task_behind(script: object, state: FeedState) -> None:
    """Within its bound: a second is the closing handshake's limit, all else is at once."""
    async with FakeProvider(script) as provider:  # type: ignore[arg-type]
        config = quick_config(provider.feed, cooldown_seconds=1000.0, backoff_max_seconds=1000.0)
        feed = Watched(config)
        before = _own_tasks()
        await feed.listener.start()
        await feed.until(lambda: feed.listener.state is state and bool(feed.listener.counters.attempts))
        await feed.until(lambda: script is not close_at_once or "live" in feed.states)
        await feed.until_state(state)
        stopping = asyncio.ensure_future(feed.listener.stop())
        await asyncio.wait_for(stopping, timeout=60)
        assert feed.listener.state is FeedState.IDLE
        await feed.until(lambda: _own_tasks() == before)


async def test_stops_while_the_server_does_not_answer_the_upgrade() -> None:
    """Dialling is cancelled."""
    server = await asyncio.start_server(_hang_on_connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    before = _own_tasks()
    feed = Watched(quick_config(f"127.0.0.1:{port}"))
    await feed.listener.start()
    await feed.until_state(FeedState.CONNECTING)
    await asyncio.sleep(0.05)
    await asyncio.wait_for(feed.listener.stop(), timeout=60)
    assert feed.listener.state is FeedState.IDLE
    await feed.until(lambda: _own_tasks() == before)
    server.close()


async def test_stops_in_time_while_the_server_ignores_the_closing_handshake() -> None:
    """A server that neither reads nor closes does not hold up the shutdown: the socket is dropped."""
    async with FakeProvider(flood) as provider:
        feed = Watched(quick_config(provider.feed))
        await feed.listener.start()
        await feed.until_state(FeedState.LIVE)
        feed.ring.hold()  # nobody reads any more, so the close frame of the server stays unread
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await feed.listener.stop()
        print(f"stopped after {time.monotonic() - start:.2f} s")
        assert feed.listener.state is FeedState.IDLE
        await feed.until(lambda: provider.open_now == 0)


async def test_stop_before_start_and_twice_is_safe() -> None:
    """As a stage promises."""
    feed = Watched(quick_config("127.0.0.1:9"))
    await feed.listener.stop()
    await feed.listener.stop()
    assert feed.listener.state is FeedState.IDLE


async def test_operator_cannot_start_the_feed_after_the_stage_stopped() -> None:
    """A late command of the admin API does not outlive the shutdown."""
    async with FakeProvider(healthy) as provider:
        feed = Watched(quick_config(provider.feed))
        await feed.listener.start()
        await feed.listener.stop()
        await feed.listener.restart_feed()
        await asyncio.sleep(0.05)
        assert provider.upgrades <= 1
        assert feed.listener.state is FeedState.IDLE


async def test_many_reconnects_leave_no_task_behind() -> None:
    """One official client, connection and keep-alive per attempt, and none of them stays."""
    async with FakeProvider(close_at_once) as provider:
        before = _own_tasks()
        async with Watched(quick_config(provider.feed, backoff_max_seconds=0.001)) as feed:
            await feed.until(lambda: feed.listener.counters.attempts >= 20)
        await feed.until(lambda: _own_tasks() == before)


def _own_tasks() -> set[str]:
    """Names of the tasks that belong to the listener and its connections."""
    names = {task.get_name(): task for task in asyncio.all_tasks()}
    return {
        name
        for name, task in names.items()
        if name.startswith(("listener", "massive-client"))
        or "keepalive" in repr(task.get_coro())
        or "async_generator_athrow" in repr(task.get_coro())
    }


async def test_key_is_in_no_log_error_or_status(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not with everything at DEBUG, not when the provider echoes it, not on standard output."""

    async def echo(session: Session) -> None:
        await session.send(statuses(CONNECTED))
        key = (await session.receive())["params"]
        if session.number == 1:
            await session.send(statuses(("auth_success", "authenticated")))
            await session.acknowledge()
            await session.send(statuses(("error", f"what is {key}")))
            await session.socket.close(1008, f"go away {key}")
        else:
            await session.send(statuses(("auth_failed", f"key {key} is wrong")))

    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets").setLevel(logging.DEBUG)
    logging.getLogger("WebSocketClient").setLevel(logging.DEBUG)
    try:
        with structlog.testing.capture_logs() as logs:
            # The server of this test logs what it receives, the key included; that is not what is tested.
            logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
            async with FakeProvider(echo) as provider, Watched(quick_config(provider.feed)) as feed:
                await feed.until(lambda: len(feed.ring) >= 2)
                feed.decode_statuses()
                await feed.until_state(FeedState.FAILED)
                shown = json.dumps([feed.listener.status(), feed.listener.gaps.entries()])
                shown += feed.listener.detail + repr(feed.changes) + repr(feed.listener.health())
    finally:
        for name in ("websockets", "WebSocketClient", "websockets.server"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    out, err = capfd.readouterr()
    assert "is wrong" in feed.listener.gaps.entries()[-1]["detail"] + shown
    assert any(entry["event"] == "feed_disconnected" for entry in logs)
    assert KEY not in shown + repr(logs) + caplog.text + out + err


async def test_recorder_gets_every_frame(tmp_path: Path) -> None:
    """While it is set, it is offered what goes into the ring."""
    recorder = Recorder(tmp_path / "day.frames.gz")
    await recorder.start()
    async with FakeProvider(healthy) as provider:
        feed = Watched(quick_config(provider.feed))
        feed.listener.recorder = recorder
        async with feed:
            await feed.until(lambda: len(feed.ring) == 2)
    await recorder.stop()
    assert recorder.counters.written == 2


async def test_held_reader_stops_reading_and_goes_on_without_loss() -> None:
    """While the ring holds the reader it appends one burst and reads no further; then all come."""
    total = 20_000

    async def script(session: Session) -> None:
        await session.open()
        for number in range(total):
            await session.send(trade(number=number))
        await session.hold()

    async with FakeProvider(script) as provider, Watched(quick_config(provider.feed)) as feed:
        feed.ring.hold()
        await feed.until(lambda: len(feed.ring) >= 1)
        held = len(feed.ring)
        await asyncio.sleep(0.1)
        assert len(feed.ring) == held < total / 2
        feed.ring.release()
        await feed.until(lambda: len(feed.ring) == total + 1)
        assert feed.frames()[1:] == [trade(number=number) for number in range(total)]


async def test_odd_statuses_are_counted_all_and_logged_at_most_once_a_second() -> None:
    """A provider that repeats itself fills neither the disk nor the label set."""
    now = [0]
    feed = Watched(quick_config("127.0.0.1:9"), clock=lambda: now[0])
    with structlog.testing.capture_logs() as logs:
        for number in range(1_000):
            feed.listener.on_status(f"odd{number}", "text")
            feed.listener.on_status("odd0", "text")
        now[0] += 1_000_000_000
        feed.listener.on_status("odd0", "text")
    assert len([entry for entry in logs if entry["event"] == "feed_status"]) == 2
    assert feed.listener.counters.statuses["odd0"] == 1_002
    assert len(feed.listener.counters.statuses) == 32


async def test_watchdog_survives_a_market_status_that_raises() -> None:
    """One bad look is logged; the next ones go on, and still notice a stall."""
    async with FakeProvider(healthy) as provider:
        feed = Watched(quick_config(provider.feed, stall_seconds=0.05))
        market, looks = feed.market.market, [0]

        def now(_: str = "stocks") -> object:
            looks[0] += 1
            if looks[0] == 1:
                raise RuntimeError("broken")
            return market

        feed.market.now = now  # type: ignore[method-assign,assignment]
        async with feed:
            await feed.until(lambda: feed.listener.counters.stalls >= 1)
