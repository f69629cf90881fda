"""What the contract says of a recording, worked out again the plainest way.

None of the pipeline's code is used here, nor its data types: events are dictionaries, every rule is
applied one event after the other, and nothing is fast. Rules: the contract's section on feeds and
payloads (late and repeated bars, opens, sessions, alerts, top trades), `docs/feeds.md`.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.hours import FIELD, SESSIONS, Clock, session_of
from tests.integration.trade_model import Trades

SHOWN = {"pre_market": "pre-market", "regular": "regular session"}
SIDES = ("high", "low")
ROWS = 500
SESSIONS_AVERAGED = 30
QUARTER_MS = 15_000


def frames(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The frames of a recording, as sent."""
    with gzip.open(path, "rt") as lines:
        for line in lines:
            yield json.loads(line.split("\t", 1)[1])


class Symbol:
    """One symbol's day."""

    def __init__(self) -> None:
        self.newest: dict[str, Any] = {}
        #: session and side -> extreme of all bars but the newest one.
        self.settled: dict[tuple[str | None, str], float] = {}
        self.closes: list[tuple[int, float]] = []  # start and close of each bar that was the newest once
        self.volume = 0
        self.first_open: tuple[int, float] | None = None  # start and open of a bar
        self.regular_open: tuple[int, float] | None = None
        self.official_open: float = 0

    def settle(self, bar: dict[str, Any]) -> None:
        """Nothing can take this bar's part of its session's range away any more."""
        session = session_of(bar["s"])
        for side in SIDES:
            had = self.settled.get((session, side))
            self.settled[session, side] = _price(bar, side) if had is None else _best(side, had, bar)

    def show(self, bar: dict[str, Any]) -> None:
        """From now on this is the newest bar."""
        if self.newest and self.newest["s"] == bar["s"]:
            self.closes.pop()
        elif self.newest:
            self.settle(self.newest)
        self.newest = bar
        self.closes.append((bar["s"], bar["c"]))

    def close_before(self, minutes: int, now_ms: float) -> float:
        """The close of the newest bar of the quarter of a minute so long before now's, or earlier; or 0."""
        quarter = now_ms // QUARTER_MS - minutes * 60_000 // QUARTER_MS
        for start, close in reversed(self.closes):
            if start // QUARTER_MS <= quarter:
                return close
        return 0

    def extreme(self, session: str, side: str) -> float | None:
        """High or low of a session; None before its first print."""
        settled = self.settled.get((session, side))
        if not self.newest or session_of(self.newest["s"]) != session:
            return settled
        return _price(self.newest, side) if settled is None else _best(side, settled, self.newest)


class Model:
    """Feed it frames in order of arrival, then ask."""

    def __init__(self, reference: dict[str, dict[str, float]] | None = None) -> None:
        self.reference = reference or {}
        self.symbols: dict[str, Symbol] = defaultdict(Symbol)
        self.trades = Trades()
        self.clock = Clock()
        self.alerts: list[dict[str, Any]] = []
        self.counts: dict[str, int] = defaultdict(int)
        self.late = 0  # bars older than the newest of their symbol
        self.lost_ms = 0.0  # time of the market when something may have been lost
        self.again = 0  # newest bars sent again

    def feed(self, events: list[dict[str, Any]]) -> None:
        """One frame."""
        for event in events:
            kind = event["ev"]
            self.counts[kind] += 1
            self.clock.hear(event["sym"], event["s"] if kind in ("A", "AM") else event["t"])
            if kind in ("A", "AM"):
                self._bar(event)
            elif kind == "T":
                self.trades.feed(event)

    def restart(self) -> None:
        """The platform is killed and started again: what no journal and no snapshot holds is gone."""
        self.trades.lose_windows()
        self.lost_ms = self.clock.now_ms

    def _bar(self, bar: dict[str, Any]) -> None:
        symbol = self.symbols[bar["sym"]]
        if symbol.newest and bar["ev"] == "AM" and symbol.newest["ev"] == "A":
            return  # where there are seconds, minutes do not count
        assert not symbol.newest or bar["ev"] == symbol.newest["ev"], "here no minute comes before seconds"
        symbol.volume = max(symbol.volume, bar["av"])
        if symbol.newest and bar["s"] < symbol.newest["s"]:
            self.late += 1
            symbol.settle(bar)  # extends ranges and volume, and says nothing
            return
        session = session_of(bar["s"])
        assert session is not None, "the recordings have no bars of the closed hours"
        before = {side: symbol.extreme(session, side) for side in SIDES}
        if symbol.newest and bar["s"] == symbol.newest["s"]:
            self.again += 1
        symbol.show(bar)
        self._open(symbol, bar, session)
        if (session, "high") not in symbol.settled:
            return  # its first print of the session
        for side in SIDES:
            price, had = symbol.extreme(session, side), before[side]
            assert price is not None
            assert had is not None
            if _beyond(side, price, had):
                self.alerts.append(
                    {
                        **self.quote(bar["sym"], bar["s"]),
                        "session": session,
                        "direction": side,
                        "price": price,
                        "previous": had,
                        "note": self._note(symbol, session, side, price),
                        "timestamp": bar["s"] / 1000,
                        "uncertain_since": self.lost_ms or None,
                        "clock_ms": self.clock.now_ms,
                    }
                )

    def _open(self, symbol: Symbol, bar: dict[str, Any], session: str) -> None:
        """The first bar's open, by arrival; its correction is one of the open, too."""
        if session == "pre_market":
            if symbol.first_open is None or symbol.first_open[0] == bar["s"]:
                symbol.first_open = bar["s"], bar["o"]
            return
        if symbol.regular_open is None or symbol.regular_open[0] == bar["s"]:
            symbol.regular_open = bar["s"], bar["o"]
        symbol.official_open = bar.get("op") or symbol.official_open

    def _note(self, symbol: Symbol, session: str, side: str, price: float) -> str:
        for earlier in reversed(SESSIONS[: SESSIONS.index(session)]):
            extreme = symbol.extreme(earlier, side)
            if extreme is not None and _beyond(side, price, extreme):
                return f"Broke {SHOWN[earlier]} {side} of ${extreme:.2f}"
        return ""

    def quote(self, name: str, now_ms: float = 0) -> dict[str, Any]:
        """The enriched quote, now or as of an alert's bar."""
        symbol = self.symbols[name]
        bar = symbol.newest
        known = self.reference.get(name, {})
        # The replayer knows of the previous day its close and volume; other prices stand at the close.
        previous = known.get("prev_day_close", 0)
        average = known.get("avg_volume", 0)
        close = bar["c"]
        first = symbol.first_open if self.in_pre_market else symbol.regular_open
        opened = first[1] if first else 0
        if not self.in_pre_market:
            opened = symbol.official_open or opened
        now_ms = max(now_ms or self.clock.now_ms, bar["s"])
        ago = {minutes: symbol.close_before(minutes, now_ms) for minutes in (1, 5, 15, 30)}
        highs = [symbol.extreme(session, "high") or 0 for session in SESSIONS]
        return {
            "symbol": name,
            "volume": bar["v"],
            "free_float": known.get("shares_outstanding", 0),
            "accumulated_volume": symbol.volume,
            "relative_volume": symbol.volume / average if average else 0,
            "official_open_price": symbol.official_open,
            "vwap": bar.get("vw", 0),
            "open": opened,
            "close": close,
            "high": bar["h"],
            "low": bar["l"],
            "aggregate_vwap": bar.get("a", 0),
            "average_size": bar.get("z", 0),
            "avg_volume": average,
            "avg_volume_days": SESSIONS_AVERAGED if average else 0,
            "prev_day_close": previous,
            "prev_day_open": previous,
            "prev_day_high": previous,
            "prev_day_low": previous,
            "prev_day_vwap": previous,
            "prev_day_volume": known.get("prev_day_volume", 0),
            "change": close - previous if previous else 0,
            "pct_change": _percent(close, previous),
            "change_since_open": close - opened if opened else 0,
            "pct_change_since_open": _percent(close, opened),
            "start_timestamp": bar["s"],
            "end_timestamp": bar["e"],
            **{f"pct_change_{minutes}m": _percent(close, price) for minutes, price in ago.items()},
            "pct_from_vwap": _percent(close, bar.get("a", 0)),
            "pct_from_day_high": _percent(close, max(highs)),
            "relative_volume_at_time": 0,  # no earlier day was recorded
            "relative_volume_at_time_days": 0,
            "trade_count": self.trades.count(name),
            "updated_ts": bar["e"],
            "stale": bar["s"] <= self.lost_ms,
            "pending": [],
        }

    @property
    def in_pre_market(self) -> bool:
        """By the market clock."""
        return session_of(self.clock.now_ms) == "pre_market"

    def ranges(self, name: str) -> dict[str, Any]:
        """A daily range: the enriched quote, the six extremes, and since when one may have been missed."""
        extremes = {
            f"{FIELD[s]}_{side}": self.symbols[name].extreme(s, side) for s in SESSIONS for side in SIDES
        }
        return {**self.quote(name), **extremes, "uncertain_since": self.lost_ms or None}

    def board(self, feed: str) -> list[dict[str, Any]]:
        """A board's rows, best first, ties by symbol."""
        key, needed, sign = BOARDS[feed]
        rows = [self.quote(name) for name in self.symbols]
        rows = [row for row in rows if row[needed]]
        rows.sort(key=lambda row: (sign * row[key], row["symbol"]))
        return [{**row, "rank": rank} for rank, row in enumerate(rows[:ROWS], 1)]

    def top_trades(self) -> dict[str, dict[str, Any]]:
        """The statistics of `tta:all_symbols:widget`."""
        return self.trades.top(self.clock.now_ms)


#: board -> what ranks it, what a row must have to be ranked, -1 for descending
BOARDS = {
    "scanners:top_volume": ("accumulated_volume", "accumulated_volume", -1),
    "scanners:top_gappers": ("pct_change", "prev_day_close", -1),
    "scanners:top_gainers": ("pct_change_since_open", "open", -1),
    "scanners:top_losers": ("pct_change_since_open", "open", 1),
    "scanners:gap_down": ("pct_change", "prev_day_close", 1),
    "scanners:top_relative_volume": ("relative_volume", "relative_volume", -1),
    "scanners:most_trades": ("trade_count", "trade_count", -1),
}


def _percent(price: float, base: float) -> float:
    return (price - base) / base * 100 if base else 0


def _price(bar: dict[str, Any], side: str) -> float:
    price: float = bar["h" if side == "high" else "l"]
    return price


def _best(side: str, extreme: float, bar: dict[str, Any]) -> float:
    price = _price(bar, side)
    return max(extreme, price) if side == "high" else min(extreme, price)


def _beyond(side: str, price: float, extreme: float) -> bool:
    return price > extreme if side == "high" else price < extreme
