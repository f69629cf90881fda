"""Daily bars of past sessions, made up from the seed: the same for each date, whenever asked."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import date, time

import msgspec

from .calendar import epoch_ms, previous_trading_day, regular_close
from .universe import Listing

MAX_SESSIONS = 520  # two years back; earlier dates are empty
_KEPT_SESSIONS = 64


class DayBar(msgspec.Struct, frozen=True):
    """One symbol's session."""

    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float
    trades: int


def bar_json(bar: DayBar, at_ms: int, ticker: str = "") -> str:
    """A bar as the REST endpoints write it; with `T` where a ticker is given."""
    head = f'"T":"{ticker}",' if ticker else ""
    return (
        f'{{{head}"v":{bar.volume},"vw":{bar.vwap},"o":{bar.open},"c":{bar.close},"h":{bar.high},'
        f'"l":{bar.low},"t":{at_ms},"n":{bar.trades}}}'
    )


class Split(msgspec.Struct, frozen=True):
    """On `execution_date` each `split_from` shares have become `split_to`."""

    ticker: str
    execution_date: date
    split_from: int
    split_to: int


def before_split(bar: DayBar, split: Split) -> DayBar:
    """A bar in shares of before a split, from one in those of after it."""
    ratio = split.split_to / split.split_from
    return DayBar(
        open=round(bar.open * ratio, 6),
        high=round(bar.high * ratio, 6),
        low=round(bar.low * ratio, 6),
        close=round(bar.close * ratio, 6),
        volume=round(bar.volume / ratio, 6),
        vwap=round(bar.vwap * ratio, 6),
        trades=bar.trades,
    )


def session_end_ms(day: date) -> int:
    """Close of regular hours, epoch ms: the time of a grouped daily bar."""
    return epoch_ms(day, regular_close(day))


def session_start_ms(day: date) -> int:
    """Midnight New York, epoch ms: the time of a ticker's daily bar."""
    return epoch_ms(day, time(0, 0))


class History:
    """Walks backwards from the previous close of the first simulated day."""

    def __init__(self, seed: int, universe: Sequence[Listing], today: date) -> None:
        self._seed = seed
        self._universe = universe
        self._last = previous_trading_day(today)
        self._oldest = self._last
        self._closes: dict[date, list[float]] = {self._last: [one.prev_close for one in universe]}
        self._bars: dict[date, list[DayBar]] = {}

    def bars(self, day: date) -> list[DayBar] | None:
        """A bar a symbol in the order of the universe; None outside the sessions known."""
        if day > self._last or len(self._closes) > MAX_SESSIONS:
            return None
        while self._oldest >= day:
            self._extend()
            if len(self._closes) > MAX_SESSIONS:
                break
        return self._bars.get(day) or (
            self._make(day) if day in self._closes and day > self._oldest else None
        )

    def _extend(self) -> None:
        """One session further back: closes only."""
        day, closes = self._oldest, self._closes[self._oldest]
        rng = random.Random(f"history/{self._seed}/{day}")
        before = previous_trading_day(day)
        self._closes[before] = [
            _rounded(close / math.exp(_within(rng.gauss(0, 1)) * one.day_volatility))
            for one, close in zip(self._universe, closes, strict=True)
        ]
        self._oldest = before

    def _make(self, day: date) -> list[DayBar]:
        rng = random.Random(f"bars/{self._seed}/{day}")
        before = self._closes[previous_trading_day(day)]
        bars = []
        for one, close, previous in zip(self._universe, self._closes[day], before, strict=True):
            start = _rounded(previous + (close - previous) * rng.random() * 0.6)
            reach = one.day_volatility * 0.6
            high = _rounded(max(start, close) * (1 + rng.random() * reach))
            low = _rounded(min(start, close) * (1 - rng.random() * reach))
            volume = max(1, int(one.avg_volume * (0.6 + 0.8 * rng.random())))
            high, low = max(high, start, close), min(low, start, close)
            vwap = round((high + low + start + close) / 4, 4)
            bars.append(DayBar(start, high, low, close, float(volume), vwap, max(1, volume // 120)))
        if len(self._bars) >= _KEPT_SESSIONS:
            self._bars.pop(next(iter(self._bars)))
        self._bars[day] = bars
        return bars


def _rounded(price: float) -> float:
    return max(0.0001, round(price, 2 if price >= 1 else 4))


def _within(gauss: float) -> float:
    return max(-2.5, min(2.5, gauss))
