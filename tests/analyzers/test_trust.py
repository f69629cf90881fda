"""What may be missing of today's data."""

from __future__ import annotations

from typing import Any

import msgspec

from mdp.analyzers.state import Market
from mdp.analyzers.trust import Trust

from .rig import Rig, at, bar


def test_a_loss_of_the_market_makes_every_symbol_uncertain_since_its_beginning() -> None:
    """Rows without a newer bar are stale; a newer bar proves nothing about the extremes before it."""
    trust = Trust()
    trust.lose(1_000, since_ms=900)
    assert trust.uncertain_since("AAA") == 900
    assert trust.is_stale("AAA", 1_000)
    assert not trust.is_stale("AAA", 1_001)
    assert trust.uncertain_since("never heard of") == 900


def test_who_is_repaired_is_certain_until_the_next_loss() -> None:
    """And then only since that one."""
    trust = Trust()
    number = trust.lose(1_000)
    trust.repaired("AAA", number)
    assert (trust.uncertain_since("AAA"), trust.is_stale("AAA", 1_000)) == (None, False)
    assert (trust.uncertain_since("BBB"), trust.is_stale("BBB", 1_000)) == (1_000, True)
    trust.lose(5_000)
    assert (trust.uncertain_since("AAA"), trust.uncertain_since("BBB")) == (5_000, 1_000)
    assert trust.is_stale("AAA", 1_000)


def test_an_older_repair_does_not_cover_a_newer_loss() -> None:
    """A symbol's data was lost again while the first loss was repaired."""
    trust = Trust()
    first = trust.lose(1_000, ["AAA"])
    trust.lose(2_000, ["AAA"])
    trust.repaired("AAA", first)
    assert trust.uncertain_since("AAA") == 1_000
    trust.repaired("AAA", first + 1)
    assert trust.uncertain_since("AAA") is None
    assert not trust


def test_losses_of_single_symbols_concern_no_other() -> None:
    """Each with its own beginning."""
    trust = Trust()
    trust.lose(1_000, ["AAA"], since_ms=500)
    trust.lose(2_000, ["BBB"])
    assert [trust.uncertain_since(name) for name in ("AAA", "BBB", "CCC")] == [500, 2_000, None]
    assert trust.is_stale("AAA", 1_000)
    assert not trust.is_stale("AAA", 1_500)
    assert not trust.is_stale("CCC", 100)
    assert not trust.whole_market


def test_when_repairs_are_over_only_those_left_are_uncertain() -> None:
    """A newer loss stays a loss of all."""
    trust = Trust()
    number = trust.lose(1_000)
    trust.repaired("AAA", number)
    trust.settle(number, ["BBB"])
    assert [trust.uncertain_since(name) for name in ("AAA", "BBB", "CCC")] == [None, 1_000, None]
    assert trust.is_stale("BBB", 1_000)
    newer = trust.lose(3_000)
    trust.settle(number, [])
    assert trust.uncertain_since("CCC") == 3_000
    trust.settle(newer, [])
    assert [trust.uncertain_since(name) for name in ("BBB", "CCC")] == [1_000, None]


def test_nothing_is_missing_of_a_new_day() -> None:
    """And numbers go on, lest an old repair counts for a new loss."""
    trust = Trust()
    old = trust.lose(1_000)
    trust.lose(1_000, ["AAA"])
    trust.clear()
    assert not trust
    assert trust.uncertain_since("AAA") is None
    new = trust.lose(2_000)
    assert new > old
    trust.repaired("AAA", old)
    assert trust.uncertain_since("AAA") == 2_000


def test_it_is_bounded() -> None:
    """Very many losses of the market are taken for fewer, never for shorter ones."""
    trust = Trust(max_symbols=10)
    for at_ms in range(1_000):
        trust.lose(at_ms, since_ms=at_ms)
    assert trust.uncertain_since("AAA") == 0
    trust.repaired("AAA", 500)
    since = trust.uncertain_since("AAA")
    assert since is not None
    assert since <= 500
    assert len(list(trust.dump())) < 10
    assert len(next(iter(trust.dump()))[2]) <= 64
    trust.clear()
    for number in range(12):
        trust.lose(1_000, [f"S{number}"])
    assert trust.whole_market


def test_a_restart_keeps_it() -> None:
    """Through msgpack, as a snapshot does; also which of the market's symbols were repaired."""
    trust = Trust()
    number = trust.lose(1_000)
    trust.repaired("AAA", number)
    trust.lose(2_000, ["AAA", "CCC"])
    kept: Any = msgspec.msgpack.decode(msgspec.msgpack.encode(list(trust.dump())))
    other = Trust()
    for record in kept:
        other.load(record)
    for name in ("AAA", "BBB", "CCC"):
        assert other.uncertain_since(name) == trust.uncertain_since(name)
        assert other.is_stale(name, 2_000) == trust.is_stale(name, 2_000)
    assert other.lose(3_000) == number + 2


def test_the_market_marks_at_its_own_time_and_forgets_at_the_reset() -> None:
    """By its clock."""
    market = Market()
    market.clock.set(at(12))
    market.lose()
    assert market.is_stale("AAA", at(11, 59))
    assert not market.is_stale("AAA", at(12, 0, 1))
    market.start_day()
    assert not market.is_stale("AAA", at(11, 59))


def market_at_noon() -> Rig:
    """Two symbols, and data lost just after their bars."""
    rig = Rig()
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 11, av=1_000), bar("BBB", at(12), 5, av=1_000))
    rig.tick(at(12, 0, 2))
    return rig


def test_ranges_and_alerts_tell_since_when_they_may_be_wrong() -> None:
    """null where they are not; quotes tell whether they are stale."""
    rig = market_at_noon()
    assert rig.get("daily_range:AAA")["uncertain_since"] is None
    number = rig.market.lose()
    rig.send(bar("AAA", at(12, 0, 5), 12, av=1_100))
    assert rig.get("daily_range:AAA")["uncertain_since"] == at(12, 0, 2)
    (alert,) = rig.get("daily_range_hod_alert")
    assert (alert["price"], alert["uncertain_since"]) == (12, at(12, 0, 2))
    assert [rig.get(f"quote:{name}")["stale"] for name in ("AAA", "BBB")] == [False, True]
    rig.engine.repaired(["AAA", "BBB"], number)
    assert rig.get("daily_range:AAA")["uncertain_since"] is None
    assert rig.get("quote:BBB")["stale"] is False


def test_subscribers_hear_that_a_symbol_is_repaired() -> None:
    """By name and of all, though no bar of it came; nobody hears of others."""
    for pattern in ("quote:BBB", "quote:*"):
        rig = market_at_noon()
        number = rig.market.lose()
        rig.subscribe(pattern)
        rig.flush(rig.quote)
        rig.taken()
        rig.engine.repaired(["BBB"], number)
        rig.flush(rig.quote)
        assert [(feed, row["stale"]) for feed, row in rig.taken()] == [("quote:BBB", False)]


def test_the_providers_volume_counts_where_data_is_missing_and_never_less() -> None:
    """A symbol with a bar after the loss has its own; volume never goes back."""
    rig = market_at_noon()
    rig.engine.raise_volumes({"AAA": 5_000})
    assert rig.get("quote:AAA")["accumulated_volume"] == 1_000
    rig.market.lose()
    rig.send(bar("AAA", at(12, 0, 5), 11, av=1_100))
    rig.engine.raise_volumes({"AAA": 5_000, "BBB": 1_500, "CCC": 9})
    rig.engine.raise_volumes({"BBB": 200})
    assert rig.get("quote:AAA")["accumulated_volume"] == 1_100
    assert rig.get("quote:BBB")["accumulated_volume"] == 1_500
    assert rig.get("quote:CCC") is None
