"""Shows the counters that stages keep as metrics. Nothing is computed here: each term as it was counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mdp.analyzers.halts import Halts
from mdp.observability.clients import show_clients
from mdp.observability.listener import show_feed
from mdp.observability.metrics import Histogram, Metrics

if TYPE_CHECKING:
    from mdp.app import App

_LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800)

Values = Mapping[tuple[str, ...], float]


def show(app: App, metrics: Metrics) -> Histogram:
    """Register everything; returns the histogram of the feed's lag, in seconds, observed once a batch."""
    show_feed(metrics, listener=app.listener, ring=app.ring, decode=app.decode)
    _accounting(app, metrics)
    _results(app, metrics)
    _halts(app, metrics)
    _trades(app, metrics)
    show_clients(app.wds, metrics)
    _keeping(app, metrics)
    _volumes(app, metrics)
    app.reference.register(metrics)
    app.losses.register(metrics)
    app.backfill.register(metrics)
    return metrics.histogram(
        "mdp_feed_lag_seconds",
        "Provider's server time at hand-over to analyzers less the newest event time, once a batch.",
        _LAG_BUCKETS,
    )


def _accounting(app: App, metrics: Metrics) -> None:
    def queues() -> Values:
        values: dict[tuple[str, ...], float] = {}
        for name, terms in app.accounting()["queues"].items():
            for fate, count in terms.items():
                if fate != "waiting":
                    values[name, fate] = float(count)
        return values

    metrics.counters(
        "mdp_queue_events_total",
        "Events of each queue by fate; received = processed + expired + dropped + waiting.",
        ("queue", "fate"),
        queues,
    )
    metrics.gauges(
        "mdp_queue_waiting_events",
        "Events that wait in each queue.",
        ("queue",),
        lambda: {(name,): float(queue.waiting) for name, queue in app.queues.items()},
    )


def _results(app: App, metrics: Metrics) -> None:
    metrics.gauges(
        "mdp_symbols", "Symbols with a bar today.", (), lambda: {(): float(len(app.market.symbols))}
    )
    metrics.counters(
        "mdp_results_total",
        "Results that left the analyzers: state published, events emitted.",
        ("kind",),
        lambda: {("state",): float(app.results.published), ("event",): float(app.results.emitted)},
    )
    metrics.counters(
        "mdp_analyzer_failures_total",
        "Calls of an analyzer that raised.",
        ("analyzer",),
        lambda: {(guard.name,): float(guard.failures) for guard in app.engine.guards},
    )
    metrics.counters(
        "mdp_analyzer_lost_events_total",
        "Events of batches that an analyzer raised on.",
        ("analyzer",),
        lambda: {(guard.name,): float(guard.lost_events) for guard in app.engine.guards},
    )
    metrics.gauges(
        "mdp_analyzer_enabled",
        "0 for an analyzer that was disabled after failures.",
        ("analyzer",),
        lambda: {(guard.name,): float(not guard.disabled) for guard in app.engine.guards},
    )

    def ignored() -> Values:
        values: dict[tuple[str, ...], float] = {}
        for guard in app.engine.guards:
            for reason, count in getattr(guard.analyzer, "ignored", {}).items():
                values[guard.name, reason] = float(count)
        for reason, count in app.market.refused.items():
            values["market", reason] = float(count)
        return values

    metrics.counters(
        "mdp_analyzer_ignored_events_total",
        "Events that an analyzer took and that changed nothing, by reason.",
        ("analyzer", "reason"),
        ignored,
    )


def _halts(app: App, metrics: Metrics) -> None:
    halts = next((g.analyzer for g in app.engine.guards if isinstance(g.analyzer, Halts)), None)
    if halts is not None:
        metrics.gauges("mdp_halts_active", "Symbols halted now.", (), lambda: {(): float(len(halts.active))})
        metrics.counters(
            "mdp_halts_total",
            "Halts and resumptions announced, by who said so first: tape, exchange's list, trades.",
            ("event", "source"),
            lambda: {key: float(count) for key, count in halts.announced.items()},
        )
    source = app.halt_source
    if source is not None:
        metrics.counters(
            "mdp_halt_source_polls_total",
            "Questions for an exchange's list of halts, by outcome.",
            ("outcome",),
            lambda: {(outcome,): float(count) for outcome, count in source.polls.items()},
        )


def _trades(app: App, metrics: Metrics) -> None:
    trades = app.trades
    metrics.counters(
        "mdp_trades_excluded_total",
        "Trades whose conditions forbade to set high and low or the last price, or to count as volume; and "
        "trades with a condition that no list knows.",
        ("from",),
        lambda: {(what,): float(count) for what, count in trades.excluded().items()},
    )
    metrics.counters(
        "mdp_trades_ignored_total",
        "Trades that counted for nothing, by reason: repeats, corrections, implausible values, other days.",
        ("reason",),
        lambda: {(reason,): float(count) for reason, count in trades.ignored.items()},
    )
    metrics.gauges(
        "mdp_trades_remembered",
        "Trades that a repeat would be recognized of.",
        (),
        lambda: {(): float(len(trades.seen))},
    )
    app.conditions.register(metrics)


def _keeping(app: App, metrics: Metrics) -> None:
    keeper = app.keeper
    if keeper is None:
        return
    metrics.counters(
        "mdp_snapshots_total", "Snapshots written.", (), lambda: {(): float(keeper.store.snapshots)}
    )
    metrics.counters(
        "mdp_journal_records_total",
        "Records written to the journal.",
        (),
        lambda: {(): float(keeper.store.journal_records)},
    )
    metrics.counters(
        "mdp_snapshot_errors_total",
        "Failures to write the snapshot or the journal.",
        (),
        lambda: {(): float(keeper.store.errors)},
    )


def _volumes(app: App, metrics: Metrics) -> None:
    volumes = app.volumes
    if volumes is None:
        return
    metrics.gauges(
        "mdp_volume_history_sessions",
        "Recorded days that usual volumes by time of day rest on.",
        (),
        lambda: {(): float(len(volumes.recorder.history.days))},
    )
    metrics.gauges(
        "mdp_volume_history_covered_slots",
        "Five-minute slots of the present day that are recorded.",
        (),
        lambda: {(): float(volumes.recorder.covered)},
    )
    metrics.counters(
        "mdp_volume_history_errors_total",
        "Files of recorded volumes that could not be written, and that were found and could not be used.",
        ("reason",),
        lambda: {
            ("not_written",): float(volumes.files.errors),
            ("unusable",): float(volumes.files.unusable),
        },
    )
