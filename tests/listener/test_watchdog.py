"""When silence is a stall."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.listener.watchdog import (
    DELAYED_SECONDS,
    NARROW_FACTOR,
    NARROW_SYMBOLS,
    QUIET_FACTOR,
    Coverage,
    Market,
    Watchdog,
    coverage,
)

ALL = ["A.*", "AM.*", "T.*", "Q.*", "LULD.*"]
SECOND = 1_000_000_000


def patience_seconds(market: Market, subscriptions: list[str], *, stall: float = 30.0) -> float | None:
    """What the watchdog grants, in seconds."""
    patience = Watchdog(stall_seconds=stall).patience_ns(market, subscriptions)
    return None if patience is None else patience / SECOND


def test_open_market_is_granted_the_configured_silence() -> None:
    """All topics subscribed: the fastest one counts."""
    assert patience_seconds(Market.OPEN, ALL) == 30.0


@pytest.mark.parametrize("market", [Market.EXTENDED, Market.UNKNOWN])
def test_thin_or_unknown_market_is_granted_a_multiple(market: Market) -> None:
    """Before 07:00 little trades; an unknown status may hide a holiday."""
    assert patience_seconds(market, ALL) == 30.0 * QUIET_FACTOR


def test_closed_market_may_be_silent_for_ever() -> None:
    """No restart all night long."""
    assert patience_seconds(Market.CLOSED, ALL) is None


def test_minute_bars_alone_are_granted_their_minute() -> None:
    """A plan with minute bars only is silent for most of each minute, and healthy."""
    assert patience_seconds(Market.OPEN, ["AM.*"]) == 90.0
    assert patience_seconds(Market.OPEN, ["AM.*", "T.*"]) == 30.0


@pytest.mark.parametrize("subscriptions", [["LULD.*"], ["NOI.*"], ["FMV.*"], [], ["LULD.*", "T.AAPL"]])
def test_topics_that_may_be_silent_are_not_judged(subscriptions: list[str]) -> None:
    """No halt for an hour is good news."""
    assert patience_seconds(Market.OPEN, subscriptions) is None


def test_few_symbols_are_not_judged_and_many_with_much_patience() -> None:
    """Never on one quiet symbol."""
    few = [f"T.S{number}" for number in range(NARROW_SYMBOLS - 1)]
    assert patience_seconds(Market.OPEN, few) is None
    assert patience_seconds(Market.OPEN, [*few, "T.MORE"]) == 30.0 * NARROW_FACTOR
    # The same few symbols on two topics are no more symbols.
    assert patience_seconds(Market.OPEN, few + [pair.replace("T.", "Q.") for pair in few]) is None


def test_wildcard_decides_whatever_is_named_beside_it() -> None:
    """`AM.*` with a few trades: only the bars are heard of the whole market."""
    assert coverage(["AM.*", "T.AAPL"]) == Coverage(60.0, 1.0)


def test_delayed_feed_may_be_silent_for_the_first_quarter_of_an_hour() -> None:
    """It begins 15 minutes after the market; later it is judged like any other."""
    watchdog = Watchdog(stall_seconds=30.0, delayed=True)
    just_opened = watchdog.patience_ns(Market.OPEN, ALL, open_for_ns=0)
    assert just_opened == (30.0 + DELAYED_SECONDS) * SECOND
    assert watchdog.patience_ns(Market.OPEN, ALL, open_for_ns=3600 * SECOND) == 30 * SECOND
    assert watchdog.patience_ns(Market.OPEN, ALL, open_for_ns=None) == just_opened


@given(
    subscriptions=st.lists(
        st.tuples(
            st.sampled_from(["T", "Q", "A", "AM", "LULD", "XT", "??"]), st.sampled_from(["*", "A", "B", "C"])
        ).map(".".join)
    ),
    stall=st.floats(0.01, 86_400),
    market=st.sampled_from(list(Market)),
)
def test_patience_is_never_shorter_than_configured(
    subscriptions: list[str], stall: float, market: Market
) -> None:
    """Whatever is subscribed, a restart never comes earlier than `stall_seconds`."""
    patience = Watchdog(stall_seconds=stall).patience_ns(market, subscriptions)
    assert patience is None or patience >= int(stall * SECOND)


class Watch:
    """Looks once a second at a connection whose frames a test decides on."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000 * SECOND
        self.last_ns = self.now_ns
        self._watchdog = Watchdog(stall_seconds=30.0)

    def seconds_until_stall(self, market: Market, most: int) -> int | None:
        """Silence, looked at each second; after how many a stall is seen, None for not within `most`."""
        for second in range(1, most + 1):
            self.now_ns += SECOND
            if self._watchdog.silent_too_long(self.now_ns, self.last_ns, market, ALL):
                return second
        return None

    def frame(self) -> None:
        self.last_ns = self.now_ns


def test_silence_in_an_open_market_is_a_stall() -> None:
    """One look after the configured silence."""
    assert Watch().seconds_until_stall(Market.OPEN, 100) == 32


def test_any_frame_begins_the_silence_anew() -> None:
    """Of whatever symbol."""
    watch = Watch()
    assert watch.seconds_until_stall(Market.OPEN, 29) is None
    watch.frame()
    assert watch.seconds_until_stall(Market.OPEN, 30) is None


def test_silence_of_the_night_does_not_count_when_the_market_opens() -> None:
    """Data comes from that moment on; a restart would lose its first second."""
    watch = Watch()
    assert watch.seconds_until_stall(Market.CLOSED, 8 * 3_600) is None
    assert watch.seconds_until_stall(Market.EXTENDED, 119) is None
    assert watch.seconds_until_stall(Market.OPEN, 29) is None
    assert watch.seconds_until_stall(Market.OPEN, 5) is not None


def test_process_that_stood_still_reads_first_and_judges_then() -> None:
    """The first look after a long pause sees old times; the waiting frames come before the second."""
    watch = Watch()
    watch.seconds_until_stall(Market.OPEN, 1)
    watch.now_ns += 600 * SECOND
    assert watch.seconds_until_stall(Market.OPEN, 1) is None
    watch.frame()
    assert watch.seconds_until_stall(Market.OPEN, 30) is None
