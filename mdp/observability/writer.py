"""Shows what a writer of results and the publisher count as metrics."""

from __future__ import annotations

from mdp.cache.redis_writer import RedisWriter
from mdp.observability.metrics import Metrics
from mdp.processor.publisher import Publisher


def show_writer(writer: RedisWriter, metrics: Metrics, prefix: str = "mdp_writer") -> None:
    """Register everything of a writer.

    Args:
        writer: What counts.
        metrics: Where to.
        prefix: Of the names; another one for a second writer of the process.
    """

    def fates() -> dict[tuple[str, ...], float]:
        totals = writer.totals()
        return {
            ("message",): float(totals.sent),
            ("value",): float(totals.kept),
            ("event",): float(totals.events),
        }

    def lost() -> dict[tuple[str, ...], float]:
        totals = writer.totals()
        return {
            ("dropped",): float(totals.dropped),
            ("left",): float(totals.left),
            ("unencodable",): float(totals.unencodable),
            ("unmergeable",): float(totals.unmergeable),
        }

    metrics.counters(
        f"{prefix}_written_total", "What was handed to Redis: messages, plain keys, events.", ("kind",), fates
    )
    metrics.counters(
        f"{prefix}_lost_total",
        "Events that Redis could not take in time, or that waited when the lease went to another process, "
        "payloads that are no JSON, and values of the whole market that a partition cannot know.",
        ("reason",),
        lost,
    )
    metrics.counters(
        f"{prefix}_refused_total",
        "Answers of Redis that a newer owner of a lease has written.",
        (),
        lambda: {(): float(writer.totals().refused)},
    )
    metrics.gauges(
        f"{prefix}_waiting_events", "Events that wait for Redis.", (), lambda: {(): float(writer.waiting)}
    )


def show_publisher(publisher: Publisher, metrics: Metrics, prefix: str = "mdp_publisher") -> None:
    """Register everything of a publisher; see `show_writer`."""
    metrics.gauges(
        f"{prefix}_active",
        "1 in the process that publishes feeds of the whole market.",
        (),
        lambda: {(): float(publisher.output is not None)},
    )
    metrics.counters(
        f"{prefix}_refused_parts_total",
        "Contributions of partitions that were not used, by reason.",
        ("reason",),
        lambda: {(reason,): float(count) for reason, count in publisher.refused.items()},
    )
