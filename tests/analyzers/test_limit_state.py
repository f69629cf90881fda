"""Limit states: at a band, by quotes where there are some, in regular hours, and over when they are."""

from __future__ import annotations

import pytest

from .halt_rig import MINUTE, NOON, SECOND, HaltRig, luld, quote
from .rig import at, bar


def near(now: int = NOON, price: float = 10.95) -> HaltRig:
    """AAA with bands from 9 to 11, near the upper one."""
    rig = HaltRig(now=now)
    rig.tell(luld("AAA", now, 21, high=11, low=9))
    rig.trade("AAA", now, price)
    return rig


def limit(rig: HaltRig) -> tuple[str, str | None, str | None]:
    row = rig.row()
    return row["status"], row["limit_side"], row["limit_basis"]


@pytest.mark.parametrize(
    ("bid", "ask", "side"),
    [
        (11, 11.01, "upper"),
        (11, None, "upper"),
        (11, 11, "upper"),
        (8.9, 9, "lower"),
        (None, 9, "lower"),
        (0, 9, "lower"),
        (10.99, 11, None),  # an offer at the upper band stops nobody
        (9, 9.01, None),
        (11, 10.5, None),  # crossed
        (9.5, 9, None),
        (None, None, None),
        (None, 0, None),
    ],
)
def test_a_quote_at_a_band_is_a_limit_state(bid: float | None, ask: float | None, side: str | None) -> None:
    """The best bid at the upper band, or the best offer at the lower one, and not crossed."""
    rig = near()
    rig.send(quote("AAA", NOON + SECOND, bid, ask))
    expected = ("limit_state", side, "quote") if side else ("trading", None, None)
    assert limit(rig) == expected
    assert rig.row()["limit_timestamp"] == (NOON + SECOND if side else None)
    assert rig.told() == [], "it is a state, and no halt"


@pytest.mark.parametrize("others", [0, 199])
def test_a_quote_in_nanoseconds_is_one_like_others(others: int) -> None:
    """Also as one of many in a batch, of which not every time was looked at."""
    rig = near()
    rest = [quote("ZZZ", NOON + SECOND, 5, 6)] * others
    rig.send(quote("AAA", (NOON + SECOND) * 1_000_000, 11, 11.5), *rest)
    assert limit(rig) == ("limit_state", "upper", "quote")
    assert rig.row()["limit_timestamp"] == NOON + SECOND


def test_it_ends_with_the_quote_and_begins_anew() -> None:
    """The time is that of its beginning; a quote that is older than the newest says nothing."""
    rig = near()
    rig.subscribe("halt:AAA")
    rig.send(quote("AAA", NOON + 1_000, 11, 11.5), quote("AAA", NOON + 2_000, 11, 11.2))
    assert rig.row()["limit_timestamp"] == NOON + 1_000
    rig.send(quote("AAA", NOON + 1_500, 10, 11))
    assert limit(rig)[0] == "limit_state"
    rig.send(quote("AAA", NOON + 3_000, 10, 11))
    assert limit(rig) == ("trading", None, None)
    rig.send(quote("AAA", NOON + 4_000, 11, 12))
    assert [value["limit_timestamp"] for _, value in rig.taken()] == [NOON + 1_000, None, NOON + 4_000]


def test_only_symbols_near_a_band_are_looked_at() -> None:
    """Within a hundredth of it; elsewhere a quote costs nothing and says nothing."""
    rig = near(price=10.5)
    rig.send(quote("AAA", NOON + SECOND, 11, 12))
    assert limit(rig)[0] == "trading"
    rig.trade("AAA", NOON + 2 * SECOND, 10.9)
    rig.send(quote("AAA", NOON + 3 * SECOND, 11, 12))
    assert limit(rig)[0] == "limit_state"
    rig.trade("AAA", NOON + 4 * SECOND, 10.5)
    assert limit(rig)[0] == "limit_state", "a quote says more than a price"
    rig.send(quote("AAA", NOON + 5 * SECOND, 10.4, 10.6))
    rig.second()
    rig.send(quote("AAA", NOON + 6 * SECOND, 11, 12))
    assert limit(rig)[0] == "trading", "away from the band again"


def test_a_halt_ends_it() -> None:
    """Then the symbol is halted, and quotes of the pause mean no limit state."""
    rig = near()
    rig.send(quote("AAA", NOON + SECOND, 11, 12))
    rig.tell(luld("AAA", NOON + 16 * SECOND, 17, high=11, low=9))
    rig.send(quote("AAA", NOON + 17 * SECOND, 11, 12))
    assert limit(rig) == ("halted", None, None)
    rig.second()
    assert limit(rig) == ("halted", None, None)
    rig.tell(luld("AAA", NOON + 2 * MINUTE, 18, high=13, low=10))
    assert limit(rig) == ("trading", None, None)


@pytest.mark.parametrize("now", [at(9, 29), at(16, 0, 1)])
def test_outside_of_regular_hours_there_is_none(now: int) -> None:
    """Bands bind from 09:30 to 16:00."""
    rig = near(now, price=11)
    rig.send(quote("AAA", now + SECOND, 11, 12))
    rig.second()
    assert limit(rig)[0] == "trading"


def test_it_ends_with_the_session() -> None:
    """At 16:00, whatever the last quote was."""
    rig = near(at(15, 59, 58))
    rig.send(quote("AAA", at(15, 59, 59), 11, 12))
    assert limit(rig)[0] == "limit_state"
    rig.tick(at(16))
    rig.second()
    assert limit(rig) == ("trading", None, None)


@pytest.mark.parametrize(("price", "side"), [(11, "upper"), (11.2, "upper"), (9, "lower"), (8, "lower")])
def test_without_quotes_a_price_at_a_band_stands_in(price: float, side: str) -> None:
    """And is called what it is. It ends when the price leaves, or is too old to prove anything."""
    rig = near(price=price)
    assert limit(rig) == ("limit_state", side, "trade")
    rig.tick(NOON + 17 * SECOND)
    rig.second()
    assert limit(rig) == ("trading", None, None)
    rig.trade("AAA", NOON + 20 * SECOND, price)
    rig.trade("AAA", NOON + 21 * SECOND, 10)
    assert limit(rig) == ("trading", None, None)


def test_a_quote_outweighs_a_price_for_a_minute() -> None:
    """A print at the band inside a quote that is not there is an execution, and no limit state."""
    rig = near()
    rig.send(quote("AAA", NOON + SECOND, 10.9, 11))
    rig.trade("AAA", NOON + 2 * SECOND, 11)
    assert limit(rig)[0] == "trading"
    rig.tick(NOON + 60 * SECOND)
    rig.trade("AAA", NOON + 63 * SECOND, 11)
    assert limit(rig) == ("limit_state", "upper", "trade")


def test_a_price_of_before_the_open_proves_nothing() -> None:
    """At 09:30 the first bands may lie far from the pre-market's last price."""
    rig = HaltRig(now=at(9, 29, 58))
    rig.send(bar("AAA", at(9, 29, 58), 50))
    rig.tell(luld("AAA", at(9, 30), 21, high=11, low=9))
    rig.second()
    assert limit(rig)[0] == "trading"


def test_a_quote_of_another_time_proves_nothing() -> None:
    """A stray from the future would silence all that follow."""
    rig = near()
    rig.send(quote("AAA", NOON + 60 * MINUTE, 11, 12))
    assert limit(rig)[0] == "trading"
    rig.send(quote("AAA", NOON + SECOND, 11, 12))
    assert limit(rig)[0] == "limit_state"


def test_symbols_without_bands_or_prices_are_passed_over() -> None:
    """Bands without a bar, a bar without bands: nothing to compare."""
    rig = HaltRig()
    rig.tell(luld("AAA", NOON, 21), luld("BBB", NOON, 18, high=None, low=None))
    rig.trade("BBB", NOON, 10)
    rig.send(quote("AAA", NOON, 11, 12), quote("BBB", NOON, 0, 0))
    assert (rig.status("AAA"), rig.status("BBB")) == ("trading", "trading")


def test_a_new_day_forgets_it() -> None:
    """Quotes of the first seconds are compared with no band of yesterday."""
    rig = near()
    rig.send(quote("AAA", NOON + SECOND, 11, 12))
    rig.tell(luld("AAA", NOON + SECOND, 17), luld("AAA", NOON + MINUTE, 18))
    rig.tick(at(9, 31, day=(2024, 3, 6)))
    rig.send(quote("AAA", at(9, 31, 1, day=(2024, 3, 6)), 11, 12))
    assert limit(rig)[0] == "trading"


def test_the_look_at_the_whole_market_gives_the_loop_back() -> None:
    """A step for each thousand symbols; a symbol that halts between two steps stays halted."""
    rig = HaltRig()
    rig.tell(*[luld(f"S{i}", NOON, 21) for i in range(3_500)])
    rig.send(*[bar(f"S{i}", NOON, 10.95) for i in (1, 3_499)])
    steps = rig.halts.flush()
    next(steps)
    rig.tell(luld("S1", NOON + 1, 17))
    assert len(list(steps)) == 2
    rig.send(quote("S1", NOON + SECOND, 11, 12), quote("S3499", NOON + SECOND, 11, 12))
    assert (rig.status("S1"), rig.status("S3499")) == ("halted", "limit_state")


def test_symbols_that_are_looked_at_are_bounded() -> None:
    """On a day when the whole market is near its bands; one in a limit state is never dropped."""
    rig = HaltRig()
    rig.tell(*[luld(f"S{i}", NOON, 21) for i in range(1_100)])
    rig.trade("S1099", NOON, 10.95)
    rig.send(quote("S1099", NOON, 11, 12))
    rig.send(*[bar(f"S{i}", NOON + SECOND, 10.95) for i in range(1_099)])
    rig.second()
    rig.send(*[quote(f"S{i}", NOON + SECOND, 11, 12) for i in range(1_100)])
    limited = [rig.status(f"S{i}") == "limit_state" for i in range(1_100)]
    assert (sum(limited), limited[0], limited[1_050], limited[1_099]) == (1_001, True, False, True)
