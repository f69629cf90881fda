"""The accounting over several processes: every number moved by one is found."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mdp.bench import chain_counts
from mdp.bench.accounting import Check
from mdp.bench.control import Sent

SENT = Sent(frames=10, acks=1, bytes=9_000, trades=200, quotes=700, aggregates=100)


def listener() -> dict[str, Any]:
    """30 events were shed undecoded, of the rest 5 rejected, 7 expired, 3 dropped, 4 lost, 1 unwritable."""
    return {
        "ring": {
            "frames": 11,
            "taken_frames": 10,
            "shed_frames": 1,
            "waiting_frames": 0,
            "shed_events": 30,
            "bytes": 0,
        },
        "decoded": {"trades": 195, "quotes": 670, "aggregates": 100},
        "rejected": {"malformed": 5},
        "statuses": 1,
        "queues": {
            "trades": {"received": 195, "taken": 195, "expired": 0, "dropped": 0, "waiting": 0},
            "quotes": {"received": 670, "taken": 660, "expired": 7, "dropped": 3, "waiting": 0},
            "aggregates": {"received": 100, "taken": 100, "expired": 0, "dropped": 0, "waiting": 0},
        },
        "streams": {
            "received": 965,
            "sent": 950,
            "expired": 7,
            "dropped": 3,
            "lost": 4,
            "unwritable": 1,
            "waiting": 0,
        },
    }


def processors() -> list[dict[str, Any]]:
    """Two of them: 920 processed, 12 expired, 8 missed, 6 unreadable, 4 fenced."""
    return [
        {
            "queues": {
                "trades": {"processed": 100, "expired": 2, "missed": 0, "unreadable": 0},
                "quotes": {"processed": 400, "expired": 10, "missed": 8, "unreadable": 6},
            },
            "reader": {
                "delivered": 500,
                "expired": 12,
                "missed": 8,
                "unreadable": 6,
                "fenced": 0,
                "resets": 0,
            },
        },
        {
            "queues": {
                "trades": {"processed": 90, "expired": 0, "missed": 0, "unreadable": 0},
                "quotes": {"processed": 230, "expired": 0, "missed": 0, "unreadable": 0},
                "aggregates": {"processed": 100, "expired": 0, "missed": 0, "unreadable": 0},
            },
            "reader": {
                "delivered": 425,
                "expired": 0,
                "missed": 0,
                "unreadable": 0,
                "fenced": 4,
                "resets": 0,
            },
        },
    ]


def wrong(said: dict[str, Any], ends: list[dict[str, Any]], sent: Sent = SENT) -> list[Check]:
    found = chain_counts.checks(chain_counts.read(said, ends), sent)
    return [check for check in found if not check.exact]


def test_whatever_happens_to_events_adds_up() -> None:
    """Each way to be lost has its term, and all terms together are what was sent."""
    counts = chain_counts.read(listener(), processors())

    assert wrong(listener(), processors()) == []
    assert counts.total.processed == 920
    assert counts.lost == 30 + 5 + 7 + 3 + 4 + 1 + 12 + 8 + 6 + 4
    assert counts.settled == SENT.events
    assert counts.replayed == 5


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("ring", "frames"), "frames"),
        (("ring", "shed_events"), "events: sent = decoded"),
        (("decoded", "quotes"), "quotes: decoded"),
        (("rejected", "malformed"), "events: sent = decoded"),
        (("queues", "quotes", "taken"), "quotes: received"),
        (("queues", "trades", "received"), "trades: decoded"),
        (("streams", "sent"), "streams: sent"),
        (("streams", "received"), "streams: received"),
        (("streams", "waiting"), "events: nothing waits"),
    ],
)
def test_one_event_more_at_the_listener_is_found(path: tuple[str, ...], name: str) -> None:
    """No term can be off by one unnoticed, and the check that says so names it."""
    said = listener()
    found: Any = said
    for part in path[:-1]:
        found = found[part]
    found[path[-1]] += 1

    assert any(check.name.startswith(name) for check in wrong(said, processors()))


@pytest.mark.parametrize("term", ["processed", "expired", "missed", "unreadable"])
def test_one_event_more_at_a_processor_is_found(term: str) -> None:
    """Against what the listener wrote, and against what the feeder sent."""
    ends = copy.deepcopy(processors())
    ends[1]["queues"]["quotes"][term] += 1

    names = [check.name.split(":")[0] for check in wrong(listener(), ends)]
    assert names == ["streams", "events"]


def test_where_nothing_was_lost_on_the_way_types_are_compared() -> None:
    """An event that turns up in another queue is found, though the sums are right."""
    said, ends = listener(), processors()
    said["ring"] |= {"taken_frames": 11, "shed_frames": 0, "shed_events": 0}
    said["rejected"] = {}
    said["decoded"] = {"trades": 200, "quotes": 700, "aggregates": 100}
    for name, count in said["decoded"].items():
        said["queues"][name] = {"received": count, "taken": count, "expired": 0, "dropped": 0, "waiting": 0}
    said["streams"] = dict.fromkeys(said["streams"], 0) | {"received": 1_000, "sent": 1_000}
    ends = [{"queues": {name: {"processed": n} for name, n in said["decoded"].items()}, "reader": {}}]
    assert wrong(said, ends) == []

    ends[0]["queues"]["trades"]["processed"] -= 1
    ends[0]["queues"]["quotes"]["processed"] += 1

    assert {check.name.split(":")[0] for check in wrong(said, ends)} == {"trades", "quotes"}


def test_failures_of_analyzers_are_found() -> None:
    """Summed over the processors, one check for each analyzer."""
    rows = {"analyzers": [{"name": "leaderboards", "failures": 1}, {"name": "halts", "failures": 0}]}
    counts = chain_counts.read(listener(), processors(), [rows, rows])

    failed = [check for check in chain_counts.checks(counts, SENT) if not check.exact]
    assert [(check.name, check.left) for check in failed] == [("failures of the analyzer leaderboards", 2)]
