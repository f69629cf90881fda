"""Whether the bench notices an event that is unaccounted for."""

from __future__ import annotations

from typing import Any

import pytest

from mdp.bench.accounting import Accounting, checks, read
from mdp.bench.control import Sent


def make_raw() -> dict[str, Any]:
    """What an application says that was sent 20 T, 80 Q, 10 A in ten frames and an ack, and lost nothing."""

    def queue(count: int) -> dict[str, int]:
        return {"received": count, "processed": count, "expired": 0, "dropped": 0, "waiting": 0}

    return {
        "ring": {
            "frames": 11,
            "taken_frames": 11,
            "shed_frames": 0,
            "waiting_frames": 0,
            "shed_events": 0,
            "bytes": 99,
        },
        "decoded": {"trades": 20, "quotes": 80, "aggregates": 10, "halts": 0, "unknown": 0},
        "rejected": {},
        "statuses": 5,
        "queues": {
            "trades": queue(20),
            "quotes": queue(80),
            "aggregates": queue(10),
            "halts": queue(0),
            "unknown": queue(0),
        },
    }


SENT = Sent(frames=10, acks=1, bytes=1_000, trades=20, quotes=80, aggregates=10)


def wrong(raw: dict[str, Any], sent: Sent = SENT) -> list[str]:
    return [check.name for check in checks(read(raw), sent) if not check.exact]


def test_an_exact_account_passes_every_check() -> None:
    """All sums hold, between the platform's terms and with the feeder's."""
    assert wrong(make_raw()) == []
    assert len(checks(read(make_raw()), SENT)) >= 12


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        (("ring", "frames"), "frames: sent = received"),
        (("ring", "taken_frames"), "frames: received = decoded + shed + waiting"),
        (("ring", "shed_events"), "events: sent = decoded + rejected + shed"),
        (("ring", "waiting_frames"), "events: nothing waits in the end"),
        (("decoded", "quotes"), "quotes: sent = decoded"),
        (("queues", "trades", "received"), "trades: decoded = received"),
        (("queues", "trades", "processed"), "trades: received = processed + expired + dropped + waiting"),
        (
            ("queues", "aggregates", "expired"),
            "aggregates: received = processed + expired + dropped + waiting",
        ),
        (("queues", "halts", "dropped"), "halts: received = processed + expired + dropped + waiting"),
        (("queues", "unknown", "waiting"), "events: nothing waits in the end"),
    ],
)
def test_any_term_that_is_off_by_one_is_found(path: tuple[str, ...], complaint: str) -> None:
    """No single wrong counter goes unnoticed."""
    raw = make_raw()
    inner = raw
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] += 1

    assert complaint in wrong(raw)


def test_shed_frames_are_accounted_for_by_their_events() -> None:
    """What was shed undecoded has no type, and the sum of all types still has to hold."""
    raw = make_raw()
    raw["ring"].update(taken_frames=10, shed_frames=1, shed_events=11)
    for name, count in (("trades", 2), ("quotes", 8), ("aggregates", 1)):
        raw["decoded"][name] -= count
        raw["queues"][name]["received"] -= count
        raw["queues"][name]["processed"] -= count

    assert wrong(raw) == []
    raw["ring"]["shed_events"] = 10
    assert wrong(raw) == ["events: sent = decoded + rejected + shed"]


def test_lost_and_settled_events() -> None:
    """Lost is what never reached an analyzer; settled is everything the platform is through with."""
    raw = make_raw()
    raw["ring"]["shed_events"] = 3
    raw["queues"]["quotes"].update(processed=70, expired=6, dropped=4)
    accounting = read(raw)

    assert accounting.lost == 13
    assert accounting.settled == 3 + 20 + 70 + 10 + 10


def test_rejected_events_are_counted_by_reason() -> None:
    """They went to the queue of unknown ones, and count as lost."""
    raw = make_raw()
    raw["rejected"] = {"malformed": 2, "unknown type": 1}
    raw["queues"]["unknown"].update(received=3, processed=3)
    raw["decoded"]["trades"] -= 3
    for term in ("received", "processed"):
        raw["queues"]["trades"][term] -= 3
    accounting = read(raw)

    assert (accounting.refused, accounting.lost) == (3, 3)
    assert wrong(raw) == ["trades: sent = decoded"]


def test_an_empty_application_has_an_account() -> None:
    """Nothing sent and nothing counted is exact."""
    assert all(check.exact for check in checks(Accounting(), Sent()))
