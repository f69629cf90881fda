"""The application as a whole, in this process: real simulator, official client, real servers."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mdp.app import App, StartError
from mdp.client import WdsClient
from mdp.config import Config, MetricsConfig, ProcessorConfig
from mdp.simulator import Simulator, SimulatorOptions

from .app_support import SECRET, config_for, eventually, on_the_wire, platform, request, sums
from .simulator.support import serve

FAULTS = {
    "late_bars": 0.05,
    "repeat_bars": 0.05,
    "corrected_bars": 0.05,
    "duplicate_trades": 0.05,
    "float_z": 0.1,
    "unknown_events": 0.02,
    "malformed_string": 0.02,
    "malformed_nan": 0.02,
    "malformed_no_symbol": 0.02,
    "truncated_frames": 0.01,
}
QUEUE_OF = {"A": "aggregates", "AM": "aggregates", "T": "trades", "Q": "quotes", "LULD": "halts"}


def by_queue(sent: Counter[str]) -> dict[str, int]:
    """What the simulator counted as sent, by our queues."""
    totals: Counter[str] = Counter()
    for name, count in sent.items():
        if name != "status":
            totals[QUEUE_OF.get(name, "unknown")] += count
    return {name: count for name, count in totals.items() if count}


def market_events(sent: Counter[str]) -> int:
    return sum(count for name, count in sent.items() if name != "status")


async def quiet(simulator: Simulator, app: App) -> None:
    """Let the simulator fall silent, and everything that was sent go through."""
    simulator.set_fault("stall", -1)
    await asyncio.sleep(0.05)
    await eventually(lambda: not any(one.waiting_bytes for one in simulator.connections.values()))

    def through() -> bool:
        queues = app.accounting()["queues"].values()
        return (
            not len(app.ring)
            and not any(queue["waiting"] for queue in queues)
            and on_the_wire(app.accounting()) >= market_events(simulator.sent)
        )

    await eventually(through)


async def test_every_event_sent_is_accounted_for_whatever_is_wrong_with_it() -> None:
    """Malformed, unknown, duplicate, late, repeated: each arrives in its queue, or is rejected, once."""
    async with serve(events_per_second=8_000.0, faults=FAULTS) as simulator, platform(simulator) as app:
        await eventually(lambda: simulator.sent["malformed"] > 100 and simulator.sent["LULD"] > 0)
        await quiet(simulator, app)
        accounting = app.accounting()

        sums(accounting)
        assert accounting["ring"]["shed_frames"] == 0
        assert on_the_wire(accounting) == market_events(simulator.sent)
        received = {name: queue["received"] for name, queue in accounting["queues"].items()}
        assert {name: count for name, count in received.items() if count} == by_queue(simulator.sent)
        assert sum(accounting["rejected"].values()) == simulator.sent["malformed"] + simulator.sent["XT"]
        assert all(not queue["expired"] and not queue["dropped"] for queue in accounting["queues"].values())

        await app.stop()
        assert app.accounting() == accounting, "stopping changes nothing where nothing waits"


async def test_the_accounting_is_exact_after_stopping_in_full_flow() -> None:
    """Ctrl-C while data pours in: every sum still holds, and we counted no event that was not sent."""
    async with serve(events_per_second=30_000.0, speed=20.0) as simulator:
        async with platform(simulator) as app:
            await eventually(lambda: app.processed_events() > 5_000)
        accounting = app.accounting()

        sums(accounting)
        assert accounting["ring"]["waiting_frames"] == 0, "what was received has been decoded"
        assert 5_000 < on_the_wire(accounting) <= market_events(simulator.sent)


async def test_under_overload_everything_lost_is_counted_and_the_connection_is_kept() -> None:
    """Analyzers far too slow for the feed: frames are shed, events expire, and every sum is exact."""
    async with serve(events_per_second=20_000.0, speed=1.0, faults={"unknown_events": 0.02}) as simulator:
        config = config_for(simulator.port, ring_max_age_seconds=0.02)
        config.mdq.max_events, config.mdq.ttl_seconds = 1_500, 0.02
        app = App(config, ["all"])
        process = app.engine.process

        def slow(queue: str, batch: Any) -> None:
            time.sleep(0.025)
            process(queue, batch)

        app.engine.process = slow  # type: ignore[method-assign]
        await app.start()
        try:
            counters = [queue.counters for queue in app.queues.values()]
            await eventually(lambda: sum(c.expired for c in counters) + app.ring.counters.shed_events > 500)
            await asyncio.sleep(1)
            for name in ("aggregates", "trades", "quotes", "halts", "unknown"):
                assert app.queues[name].waiting <= 1_500
            app.engine.process = process  # type: ignore[method-assign]
            await quiet(simulator, app)

            accounting = app.accounting()
            sums(accounting)
            assert on_the_wire(accounting) == market_events(simulator.sent)
            assert accounting["queues"]["halts"]["expired"] == 0
            assert simulator.connections_total == 1
            assert simulator.slow_consumers == 0
        finally:
            await app.stop()
        sums(app.accounting())


async def test_connections_that_vanish_cost_only_what_was_on_the_way() -> None:
    """Abrupt closes: we reconnect, the ledger has each outage, and the sums stay exact."""
    async with serve(events_per_second=5_000.0, faults=FAULTS) as simulator, platform(simulator) as app:
        for outages in range(1, 4):
            seen = app.processed_events()
            await eventually(lambda seen=seen: app.processed_events() > seen + 500)  # type: ignore[misc]
            simulator.set_fault("abrupt_close", 0)
            await eventually(lambda n=outages: app.listener.gaps.total >= n)  # type: ignore[misc]
        await eventually(lambda: app.listener.gaps.current is None)
        simulator.set_fault("stall", -1)
        await asyncio.sleep(0.2)
        await eventually(lambda: not len(app.ring) and not any(q.waiting for q in app.queues.values()))

        accounting = app.accounting()
        sums(accounting)
        assert on_the_wire(accounting) <= market_events(simulator.sent)
        status, gaps = await request("GET", app.ports()["admin"], "/api/v1/gaps")
        assert status == 200
        assert len(gaps["gaps"]) == 3
        assert all(gap["end_ms"] >= gap["start_ms"] for gap in gaps["gaps"])


async def test_ready_turns_200_once_live_and_warmed_up_and_503_when_the_feed_stops() -> None:
    """Nobody is sent to a platform whose boards lack previous closes."""
    async with serve() as simulator, platform(simulator) as app:
        port = app.ports()["metrics"]
        status, _ = await request("GET", port, "/readyz")
        assert status == 503
        assert (await request("GET", port, "/healthz"))[0] == 200
        await eventually(lambda: all(health.ok for _, health in app.ready()))
        status, body = await request("GET", port, "/readyz")
        assert status == 200, body
        assert app.reference.ready

        await app.listener.stop_feed()

        assert (await request("GET", port, "/readyz"))[0] == 503
        assert (await request("GET", port, "/healthz"))[0] == 200, "no supervisor should restart it for that"


async def test_metrics_parse_and_agree_with_the_accounting() -> None:
    """Each term as it was counted; the text is what Prometheus reads, and holds no secret."""
    async with serve(faults=FAULTS) as simulator, platform(simulator) as app:
        await eventually(lambda: app.processed_events() > 3_000 and app.reference.ready)
        await quiet(simulator, app)
        _, text = await request("GET", app.ports()["metrics"], "/metrics")

        assert SECRET not in text
        samples: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families(text):
            assert family.documentation
            for sample in family.samples:
                samples[sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))] = (
                    sample.value
                )
        accounting = app.accounting()
        for name, queue in accounting["queues"].items():
            for fate in ("received", "processed", "expired", "dropped"):
                assert samples["mdp_queue_events_total", f"fate={fate},queue={name}"] == queue[fate]
            assert samples["mdp_queue_waiting_events", f"queue={name}"] == 0
        decoded = sum(v for (name, _), v in samples.items() if name == "mdp_decoded_events_total")
        rejected = sum(v for (name, _), v in samples.items() if name == "mdp_rejected_events_total")
        shed = samples["mdp_ring_shed_events_total", ""]
        assert decoded + rejected + shed == market_events(simulator.sent)
        assert samples["mdp_feed_state", "state=live"] == 1
        assert sum(v for (name, _), v in samples.items() if name == "mdp_feed_state") == 1
        assert samples["mdp_feed_lag_seconds_count", ""] > 0
        assert samples["mdp_symbols", ""] == len(app.market.symbols) > 0


async def test_market_status_says_what_a_user_asks_first() -> None:
    """Session, day, feed, lag, speed, and how many symbols make new highs and lows."""
    async with serve() as simulator, platform(simulator) as app:
        url = f"ws://127.0.0.1:{app.ports()['wds']}/ws"
        await eventually(lambda: app.processed_events() > 3_000 and app.reference.ready)
        async with WdsClient(url) as client:
            await asyncio.sleep(1.2)  # it is published once a second
            status = await client.get("market:status")

    assert status["session"] == "regular"
    assert status["trading_day"] == "2026-03-10"
    assert status["feed_state"] == "live"
    assert status["gaps"] == 0
    assert status["events_per_second"] > 0
    assert 0 < status["symbols"] <= 200
    assert status["warming_up"] is False
    assert status["market_time"] > 1_773_149_400_000
    assert isinstance(status["lag_ms"], int)
    assert {"new_highs", "new_lows"} <= set(status)


async def test_boards_are_served_with_reference_values() -> None:
    """A client's first look: ranked rows with the fields of the contract, previous closes included."""
    async with serve() as simulator, platform(simulator) as app:
        await eventually(lambda: app.reference.ready and len(app.market.symbols) > 100)
        async with WdsClient(f"ws://127.0.0.1:{app.ports()['wds']}/ws") as client:
            boards = {
                name: await client.get(f"scanners:{name}", limit=20)
                for name in ("top_volume", "top_gappers", "top_gainers")
            }

    ranked = {
        "top_volume": "accumulated_volume",
        "top_gappers": "pct_change",
        "top_gainers": "pct_change_since_open",
    }
    for name, rows in boards.items():
        assert [row["rank"] for row in rows] == list(range(1, 21))
        values = [row[ranked[name]] for row in rows]
        assert values == sorted(values, reverse=True)
        assert all(row["prev_day_close"] > 0 for row in rows if name == "top_gappers")
        assert all(row["avg_volume"] > 0 for row in rows)


async def test_the_admin_api_stops_starts_and_reconfigures_the_feed() -> None:
    """End to end, at run time: each change takes effect, and what is missed is a recorded gap."""
    async with serve() as simulator, serve(seed=2, symbols=50) as other, platform(simulator) as app:
        port = app.ports()["admin"]
        await eventually(lambda: app.processed_events() > 500)

        assert (await request("POST", port, "/api/v1/feed/stop", {}))[0] == 200
        await eventually(lambda: not simulator.connections)
        assert (await request("GET", port, "/api/v1/status"))[1]["feed"]["state"] == "idle"
        assert (await request("GET", port, "/api/v1/feed/start"))[0] == 405, "POST, never GET"
        assert not simulator.connections
        assert (await request("POST", port, "/api/v1/feed/start", {}))[0] == 200
        await eventually(lambda: bool(simulator.connections) and app.listener.state.value == "live")
        (gap,) = (await request("GET", port, "/api/v1/gaps"))[1]["gaps"]
        assert gap["reason"] == "operator"
        assert gap["end_ms"] is not None

        body = {"feed": f"127.0.0.1:{other.port}", "subscriptions": ["T.*"]}
        assert (await request("POST", port, "/api/v1/feed/configure", body))[0] == 200
        await eventually(lambda: other.sent["T"] > 100 and not simulator.connections)
        assert other.sent["Q"] == other.sent["A"] == 0
        status, answer = await request("POST", port, "/api/v1/feed/configure", {"feed": "no address"})
        assert status == 400
        assert "\n" not in answer["error"]
        status, answer = await request("GET", port, "/api/v1/queues")
        assert set(answer["queues"]) == {"aggregates", "trades", "quotes", "halts", "unknown"}
        _, answer = await request("GET", port, "/api/v1/analyzers")
        assert {"raw_feeds", "daily_range"} <= {one["name"] for one in answer["analyzers"] if one["enabled"]}


async def test_a_recording_made_through_the_admin_api_replays(tmp_path: Path) -> None:
    """What is recorded is what came: the simulator sends it again, event by event."""
    path = tmp_path / "day.frames.gz"
    async with serve() as simulator, platform(simulator) as app:
        port = app.ports()["admin"]
        await eventually(lambda: app.processed_events() > 500)
        assert (await request("POST", port, "/api/v1/record/start", {"path": str(path)}))[0] == 200
        seen = app.processed_events()
        await eventually(lambda: app.processed_events() > seen + 2_000)
        assert (await request("POST", port, "/api/v1/record/start", {"path": str(path)}))[0] == 400
        assert (await request("POST", port, "/api/v1/record/stop", {}))[0] == 200
    recorded: Counter[str] = Counter()
    for line in gzip.decompress(path.read_bytes()).splitlines():
        recorded.update(event["ev"] for event in json.loads(line.partition(b"\t")[2]))
    recorded.pop("status", None)

    options = SimulatorOptions(replay=str(path), speed=0.0)
    replayer = Simulator(options)
    await replayer.start()
    try:
        async with platform(replayer) as app:
            await eventually(replayer.finished.is_set)
            await eventually(lambda: on_the_wire(app.accounting()) >= recorded.total())
            await eventually(lambda: not any(queue.waiting for queue in app.queues.values()))
            sums(app.accounting())
            received = {name: queue.counters.received for name, queue in app.queues.items()}
    finally:
        await replayer.stop()
    assert {name: count for name, count in received.items() if count} == by_queue(recorded)


async def test_a_replay_of_large_frames_at_full_speed_is_held_not_shed() -> None:
    """Hundreds of events a frame, sent as fast as we read: TCP slows the sender, nothing is lost."""
    # A replay is what goes faster than its market: on a busy machine, too, if the market is slow enough.
    settings: dict[str, Any] = {"speed": 0.0, "events_per_second": 5_000.0, "events_per_frame": 1_000}
    async with serve(**settings) as simulator, platform(simulator) as app:
        await eventually(lambda: app.processed_events() > 200_000, seconds=60)
        accounting = app.accounting()

        sums(accounting)
        assert accounting["ring"]["shed_frames"] == 0
        assert all(not queue["expired"] and not queue["dropped"] for queue in accounting["queues"].values())
        assert simulator.slow_consumers == 0


async def test_a_market_that_begins_again_starts_the_day_afresh() -> None:
    """The simulator restarted at an earlier time, same port: no value of its future stays on a board."""
    settings: dict[str, Any] = {"symbols": 100, "events_per_second": 3_000.0}
    first = Simulator(SimulatorOptions(start="2026-03-10T11:00:00", speed=20.0, **settings))
    await first.start()
    app = App(config_for(first.port), ["all"])
    app.market_status._period_seconds = 0.5  # so that the test need not wait for the next question
    try:
        await app.start()
        await eventually(lambda: len(app.market.symbols) > 50 and app.reference.ready)
        await asyncio.sleep(3)
        future_ms = app.market.clock.now_ms
        await first.stop()
        second = Simulator(
            SimulatorOptions(start="2026-03-10T10:00:00", speed=20.0, port=first.port, seed=5, **settings)
        )
        await second.start()
        try:
            await eventually(lambda: app.market.clock.now_ms < future_ms - 1_800_000)
            await eventually(lambda: len(app.market.symbols) > 50)
            bars = [state.bar for state in app.market.symbols.values() if state.bar is not None]
            assert bars
            assert all(bar.start_timestamp < future_ms - 1_800_000 for bar in bars)
            async with WdsClient(f"ws://127.0.0.1:{app.ports()['wds']}/ws") as client:
                assert await client.get("scanners:top_volume", limit=5)
        finally:
            await app.stop()
            await second.stop()
    finally:
        await app.stop()
        await first.stop()


async def test_an_address_in_use_is_one_line_and_leaves_nothing_running() -> None:
    """What was started before is stopped again, and its ports are free."""
    before = asyncio.all_tasks()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = config_for(1)
        config.wds.port = port
        app = App(config, ["all"])
        with pytest.raises(StartError) as caught:
            await app.start()

    message = str(caught.value)
    assert "\n" not in message
    assert str(port) in message
    assert caught.value.exit_code != 0
    await asyncio.sleep(0.05)
    assert {task.get_name() for task in asyncio.all_tasks() - before} == set()
    assert app.ports()["metrics"] == app.ports()["admin"] == 0


async def test_stop_is_safe_twice_and_before_start() -> None:
    """Whatever state the process is in when it has to end."""
    app = App(config_for(1), ["all"])
    await app.stop()
    async with serve() as simulator, platform(simulator) as app:
        await app.stop()


@pytest.mark.parametrize(
    ("config", "roles"),
    [
        (Config(), ["wds"]),
        (Config(processor=ProcessorConfig(analyzers=["no_such_analyzer"])), ["all"]),
        (Config(processor=ProcessorConfig(analyzers=["no.such.module:Class"])), ["all"]),
        (Config(processor=ProcessorConfig(scanners=["json:JSONDecoder"])), ["all"]),
    ],
)
async def test_what_cannot_be_built_is_refused_in_one_line(config: Config, roles: list[str]) -> None:
    """A wrong name stops the start with exit code 2, and says which."""
    with pytest.raises(StartError) as caught:
        App(config, roles)

    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


async def test_each_stage_is_named_once_and_says_how_it_is_before_the_start() -> None:
    """`/readyz` lists every part; nothing claims to work that has not begun."""
    config = config_for(1)
    config.metrics = MetricsConfig(port=0)
    app = App(config, ["all"])
    parts = app.ready()

    names = [name for name, _ in parts]
    assert len(names) == len(set(names))
    assert not any(health.ok for _, health in parts)
    assert app.live().ok
    await app.stop()
