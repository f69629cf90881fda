"""Metrics of a whole application: every counter shown as it was counted, named as Prometheus wants it."""

from __future__ import annotations

from datetime import date

from prometheus_client.parser import text_string_to_metric_families

from mdp.analyzers.halt_state import HaltState
from mdp.analyzers.halts import Halts
from mdp.analyzers.volume_history import VolumeHistory
from mdp.app import App
from tests.app_support import SECRET, config_for


def samples_of(app: App) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Name and labels -> value, of everything that `/metrics` would say."""
    text = app.metrics.render()
    body = text.decode() if isinstance(text, bytes) else text
    assert SECRET not in body
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


async def test_counters_are_shown_as_they_were_counted() -> None:
    """Each term on its own: none is computed from the others, so that a wrong sum would be seen."""
    app = App(config_for(1), ["all"])
    trades = app.queues["trades"].counters
    trades.received, trades.expired, trades.dropped = 100, 20, 3  # a sum that cannot be: it must show
    app.processor.counters["trades"].processed = 50
    app.ring.counters.frames, app.ring.counters.taken_frames, app.ring.counters.shed_frames = 10, 6, 1
    app.ring.counters.shed_events = 77
    app.decode.counters.decoded["trades"] = 99
    app.decode.counters.rejected["unknown_type"] = 4
    shown = samples_of(app)

    def queue(fate: str) -> float:
        return shown["mdp_queue_events_total", (("fate", fate), ("queue", "trades"))]

    assert [queue(fate) for fate in ("received", "processed", "expired", "dropped")] == [100, 50, 20, 3]
    assert shown["mdp_queue_waiting_events", (("queue", "trades"),)] == 0
    frames = [shown["mdp_ring_frames_total", (("fate", fate),)] for fate in ("received", "taken", "shed")]
    assert frames == [10, 6, 1]
    assert shown["mdp_ring_shed_events_total", ()] == 77
    assert shown["mdp_decoded_events_total", (("queue", "trades"),)] == 99
    assert shown["mdp_rejected_events_total", (("reason", "unknown_type"),)] == 4
    await app.stop()


async def test_exactly_one_feed_state_is_on() -> None:
    """A dashboard shows the state by the label whose value is 1."""
    app = App(config_for(1), ["all"])
    on = [labels for (name, labels), value in samples_of(app).items() if name == "mdp_feed_state" and value]
    assert on == [(("state", app.listener.state.value),)]
    await app.stop()


async def test_analyzers_show_failures_and_whether_they_run() -> None:
    """Disabled is 0; labels are analyzers' names."""
    app = App(config_for(1), ["all"])
    guard = next(guard for guard in app.engine.guards if guard.name == "daily_range")
    guard.failures, guard.disabled, guard.lost_events = 5, True, 50
    shown = samples_of(app)

    key = (("analyzer", "daily_range"),)
    assert shown["mdp_analyzer_failures_total", key] == 5
    assert shown["mdp_analyzer_lost_events_total", key] == 50
    assert shown["mdp_analyzer_enabled", key] == 0
    assert shown["mdp_analyzer_enabled", (("analyzer", "raw_feeds"),)] == 1
    await app.stop()


async def test_halts_are_shown_by_source_and_polls_only_where_somebody_asks() -> None:
    """How many are halted, who announced them, and how the exchange's list answers."""
    app = App(config_for(1), ["all"])
    halts = next(guard.analyzer for guard in app.engine.guards if isinstance(guard.analyzer, Halts))
    halts.active["AAA"] = HaltState("AAA")
    halts.announced["halted", "luld"] = 3
    halts.ignored["late"] = 2
    shown = samples_of(app)
    assert shown["mdp_halts_active", ()] == 1
    assert shown["mdp_halts_total", (("event", "halted"), ("source", "luld"))] == 3
    assert shown["mdp_analyzer_ignored_events_total", (("analyzer", "halts"), ("reason", "late"))] == 2
    assert not any(name == "mdp_halt_source_polls_total" for name, _ in shown)
    await app.stop()

    config = config_for(1)
    config.halts.rss_url = "http://127.0.0.1:9/"
    asking = App(config, ["all"])
    assert asking.halt_source is not None
    asking.halt_source.polls["timeout"] = 4
    assert samples_of(asking)["mdp_halt_source_polls_total", (("outcome", "timeout"),)] == 4
    await asking.stop()

    config.processor.analyzers.remove("halts")
    without = App(config, ["all"])
    assert not any(name == "mdp_halts_active" for name, _ in samples_of(without))
    await without.stop()


async def test_snapshots_are_shown_only_where_they_are_kept(tmp_path: object) -> None:
    """No metric that could never move."""
    without = App(config_for(1), ["all"])
    assert not any(name == "mdp_snapshots_total" for name, _ in samples_of(without))
    kept = App(config_for(1, snapshot_path=f"{tmp_path}/mdp"), ["all"])
    assert kept.keeper is not None
    kept.keeper.store.snapshots, kept.keeper.store.errors = 3, 1
    shown = samples_of(kept)

    assert shown["mdp_snapshots_total", ()] == 3
    assert shown["mdp_snapshot_errors_total", ()] == 1
    await without.stop()
    await kept.stop()


async def test_the_volume_history_is_shown_only_where_it_is_on(tmp_path: object) -> None:
    """How many days it rests on, what is recorded of the present one, and what went wrong."""
    without = App(config_for(1), ["all"])
    assert not any(name.startswith("mdp_volume_history") for name, _ in samples_of(without))
    kept = App(config_for(1, history_path=f"{tmp_path}/history"), ["all"])
    assert kept.volumes is not None
    kept.volumes.recorder.use(VolumeHistory([date(2024, 3, 4), date(2024, 3, 5)]))
    kept.volumes.files.errors, kept.volumes.files.unusable = 1, 2
    shown = samples_of(kept)

    assert shown["mdp_volume_history_sessions", ()] == 2
    assert shown["mdp_volume_history_covered_slots", ()] == 0
    assert shown["mdp_volume_history_errors_total", (("reason", "not_written"),)] == 1
    assert shown["mdp_volume_history_errors_total", (("reason", "unusable"),)] == 2
    assert any(name == "volume_history" for name, _ in kept.ready())
    await without.stop()
    await kept.stop()


async def test_names_keep_to_the_conventions_of_prometheus() -> None:
    """`mdp_` first, counters end in `_total`, times in seconds, every metric explained."""
    app = App(config_for(1), ["all"])
    text = app.metrics.render()
    for family in text_string_to_metric_families(text.decode() if isinstance(text, bytes) else text):
        assert family.name.startswith("mdp_"), family.name
        assert family.documentation, family.name
        assert not family.name.endswith(("_ms", "_ns")), family.name
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total"), sample.name
    await app.stop()
