"""What the REST endpoints answer from: the simulated market, or the reference file of a recording."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path
from typing import Protocol

import msgspec

from .calendar import is_trading_day, new_york, sessions_before
from .feed import ReplayFeed
from .history import DayBar, History, Split
from .intraday import IntradayBar, RecentBars, RecordedBars
from .market import SyntheticMarket

AVERAGE_SESSIONS = 30
_SPLIT_TICKERS = 50  # a smaller market has no splits


class Float(msgspec.Struct, frozen=True):
    """Shares of one ticker."""

    ticker: str
    free_float: int
    shares: int


class Details(msgspec.Struct, frozen=True):
    """Who is behind a ticker."""

    ticker: str
    name: str
    tape: int
    shares: int
    price: float  # USD, the previous close


class NewsItem(msgspec.Struct, frozen=True):
    """One headline."""

    id: str
    ticker: str
    title: str
    published_ms: int


class RestData(Protocol):
    """What the endpoints need to know."""

    @property
    def now_ms(self) -> int:
        """The provider's time."""

    def tickers(self) -> list[str]:
        """All tickers, in a fixed order."""

    def snapshot(self, ticker: str) -> str | None:
        """One ticker's snapshot as JSON text; None where it is unknown."""

    def session(self, day: date) -> list[DayBar] | None:
        """A bar a ticker, in their order, of a completed session; None where there was none."""

    def intraday(self, ticker: str, length_ms: int, first_ms: int, last_ms: int) -> list[IntradayBar] | None:
        """Today's bars of that length that start from `first_ms` to `last_ms`, oldest first; may block.

        None where those of so long ago are not kept.
        """

    def floats(self) -> list[Float]:
        """Shares of all tickers."""

    def details(self, ticker: str) -> Details | None:
        """Who is behind a ticker; None where it is unknown."""

    def news(self) -> list[NewsItem]:
        """What has been published by now, oldest first."""

    def splits(self) -> list[Split]:
        """All that are known; sessions' bars are adjusted for them."""


class MarketRest:
    """Answers from the simulated market."""

    def __init__(self, market: SyntheticMarket, recent: RecentBars | None = None) -> None:
        self._market = market
        self._recent = recent if recent is not None else RecentBars()
        self._tickers = [listing.symbol for listing in market.universe]
        self._first_day = market.shape.day
        self._history = History(market.seed, market.universe, self._first_day)

    @property
    def now_ms(self) -> int:
        """The simulated time."""
        return self._market.now_ms

    def tickers(self) -> list[str]:
        """All tickers, the most active first."""
        return self._tickers

    def snapshot(self, ticker: str) -> str | None:
        """One ticker's snapshot as JSON text; None where it is unknown."""
        state = self._market.by_symbol.get(ticker)
        return state.snapshot_json() if state else None

    def session(self, day: date) -> list[DayBar] | None:
        """Past sessions by the history; the one simulated last, once another has begun."""
        if not is_trading_day(day):
            return None
        today = self._market.shape.day
        if day < self._first_day:
            return self._history.bars(day)
        if day >= today or sessions_before(today, 1)[0] != day:
            return None
        return [
            DayBar(o, h, low, c, v, vw, max(1, int(v) // 120))
            for o, h, low, c, v, vw in (state.prev for state in self._market.states)
        ]

    def intraday(self, ticker: str, length_ms: int, first_ms: int, last_ms: int) -> list[IntradayBar] | None:
        """Those of the last minutes."""
        return self._recent.bars(ticker, length_ms, first_ms, last_ms)

    def floats(self) -> list[Float]:
        """Shares of all tickers."""
        return [Float(one.symbol, one.free_float, one.shares) for one in self._market.universe]

    def details(self, ticker: str) -> Details | None:
        """Who is behind a ticker; None where it is unknown."""
        state = self._market.by_symbol.get(ticker)
        if state is None:
            return None
        one = state.listing
        return Details(one.symbol, one.name, one.tape, one.shares, state.prev[3])

    def splits(self) -> list[Split]:
        """A few of the least active names: some in the last sessions, one on the first simulated day."""
        places = (0, 3, 9, 21)  # sessions before the first day
        ratios = ((10, 1), (1, 4), (25, 1), (2, 3))
        if len(self._tickers) < _SPLIT_TICKERS:
            return []
        days = [self._first_day, *sessions_before(self._first_day, max(places))]
        return [
            Split(ticker, days[place], *ratio)
            for ticker, place, ratio in zip(self._tickers[:-5:-1], places, ratios, strict=True)
        ]

    def news(self) -> list[NewsItem]:
        """What has been published by now, oldest first."""
        day, now = self._market.shape.day, self._market.now_ms
        return [
            NewsItem(
                f"sim-{day}-{number}", self._market.universe[item.index].symbol, item.title, item.published_ms
            )
            for number, item in enumerate(self._market.story.news)
            if item.published_ms <= now
        ]


class _Reference(msgspec.Struct):
    """One symbol in a `NAME.reference.json.gz`."""

    prev_day_close: float | None = None
    prev_day_volume: float | None = None
    avg_volume: float | None = None
    shares_outstanding: float | None = None
    name: str = ""


def reference_path(recording: Path) -> Path:
    """Where the reference values of a recording are: NAME.frames.gz to NAME.reference.json.gz."""
    return recording.with_name(
        recording.name.removesuffix(".gz").removesuffix(".frames") + ".reference.json.gz"
    )


class ReplayRest:
    """Answers from the reference file beside a recording; without one, all lists are empty."""

    def __init__(self, feed: ReplayFeed, recording: Path) -> None:
        """Reads the file.

        Raises:
            ValueError: The reference file is there and cannot be read.
        """
        self._feed = feed
        self._day = new_york(feed.now_ms).date()
        path = reference_path(recording)
        self._reference: dict[str, _Reference] = {}
        if path.exists():
            try:
                with gzip.open(path, "rb") as file:
                    self._reference = msgspec.json.decode(file.read(), type=dict[str, _Reference])
            except (OSError, EOFError, msgspec.MsgspecError) as error:
                raise ValueError(f"{path}: cannot be read as reference values: {error}") from error
        self._sessions = sessions_before(self._day, AVERAGE_SESSIONS)
        self._recorded = RecordedBars(recording, lambda: feed.now_ns)

    @property
    def now_ms(self) -> int:
        """Arrival of the last frame sent; of the first one before that."""
        return self._feed.now_ms

    def tickers(self) -> list[str]:
        """All tickers with reference values."""
        return list(self._reference)

    def snapshot(self, ticker: str) -> str | None:
        """The previous day only: what the recording will bring is not told in advance."""
        one = self._reference.get(ticker)
        if one is None:
            return None
        close = one.prev_day_close or 0
        zeros = '"c":0,"h":0,"l":0,"o":0,"v":0,"vw":0'
        return (
            f'{{"ticker":"{ticker}","todaysChangePerc":0,"todaysChange":0,"updated":0,"day":{{{zeros}}},'
            f'"min":{{"av":0,"n":0,"t":0,{zeros}}},"prevDay":{{"c":{close},"h":{close},"l":{close},"o":{close},'
            f'"v":{one.prev_day_volume or 0},"vw":{close}}}}}'
        )

    def session(self, day: date) -> list[DayBar] | None:
        """Bars of the 30 sessions before the recording, at the previous close, which is all that is known.

        The last one has the previous day's volume; together they average to the average volume exactly.
        """
        if day not in self._sessions:
            return None
        place = self._sessions.index(day)
        bars = []
        for one in self._reference.values():
            close = one.prev_day_close or 0.0
            volume = _session_volume(one, place)
            bars.append(DayBar(close, close, close, close, volume, close, 1))
        return bars

    def intraday(self, ticker: str, length_ms: int, first_ms: int, last_ms: int) -> list[IntradayBar] | None:
        """Those of the recording, up to the replay's present."""
        return self._recorded.bars(ticker, length_ms, first_ms, last_ms)

    def floats(self) -> list[Float]:
        """Shares outstanding stand for the free float."""
        return [
            Float(ticker, int(one.shares_outstanding), int(one.shares_outstanding))
            for ticker, one in self._reference.items()
            if one.shares_outstanding
        ]

    def details(self, ticker: str) -> Details | None:
        """Who is behind a ticker; None where it is unknown."""
        one = self._reference.get(ticker)
        if one is None:
            return None
        return Details(ticker, one.name, 3, int(one.shares_outstanding or 0), one.prev_day_close or 0.0)

    def news(self) -> list[NewsItem]:
        """A recording has none."""
        return []

    def splits(self) -> list[Split]:
        """None are known of: the file's values are those of its own day."""
        return []


def _session_volume(one: _Reference, place: int) -> float:
    """Volume of the session `place` sessions before the last one (0).

    The other 29 share what the average leaves, in whole shares where the average is whole. Where the
    last day alone exceeds 30 averages, the average wins and the last day is cut.
    """
    average = one.avg_volume or one.prev_day_volume or 0.0
    total = average * AVERAGE_SESSIONS
    last = min(one.prev_day_volume if one.prev_day_volume is not None else average, total)
    if place == 0:
        return last
    rest = total - last
    share = rest // (AVERAGE_SESSIONS - 1)
    # What does not divide evenly goes to the oldest session.
    return share if place < AVERAGE_SESSIONS - 1 else rest - share * (AVERAGE_SESSIONS - 2)
