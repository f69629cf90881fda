"""What the contract says of a recording, worked out again the plainest way.

None of the pipeline's code is used here, nor its data types: events are dictionaries, every rule is
applied one event after the other, and nothing is fast. Rules: the contract's section on feeds and
payloads (late and repeated bars, opens, seconds before minutes, sessions, alerts, top trades).
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
SESSIONS = ("pre_market", "regular", "after_hours")
SHOWN = {"pre_market": "pre-market", "regular": "regular session"}


def frames(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The frames of a recording, as sent."""
    with gzip.open(path, "rt") as lines:
        for line in lines:
            yield json.loads(line.split("\t", 1)[1])


def session_of(ms: int) -> str | None:
    """The session of a time on a normal day, None where there is none."""
    local = datetime.fromtimestamp(ms / 1000, UTC).astimezone(NEW_YORK)
    minutes = local.hour * 60 + local.minute
    if 240 <= minutes < 570:
        return "pre_market"
    if 570 <= minutes < 960:
        return "regular"
    if 960 <= minutes < 1200:
        return "after_hours"
    return None


class Symbol:
    """One symbol's day."""

    def __init__(self) -> None:
        self.bars: dict[int, dict[str, Any]] = {}  # start -> the bar as last sent
        self.newest = 0
        self.volume = 0
        self.first_open: float = 0
        self.regular_open: float = 0
        self.official_open: float = 0


class Model:
    """Feed it frames in order of arrival, then ask."""

    def __init__(self, reference: dict[str, dict[str, float]] | None = None) -> None:
        self.reference = reference or {}
        self.symbols: dict[str, Symbol] = defaultdict(Symbol)
        self.trades: dict[str, deque[dict[str, Any]]] = defaultdict(lambda: deque(maxlen=1000))
        self.quotes: dict[str, dict[str, Any]] = {}
        self.clock = 0
        self.alerts: list[dict[str, Any]] = []
        self.counts: dict[str, int] = defaultdict(int)

    def feed(self, events: list[dict[str, Any]]) -> None:
        """One frame. The recordings hold no bars out of order, so none of those rules is needed here."""
        for event in events:
            kind = event["ev"]
            self.counts[kind] += 1
            if kind in ("A", "AM"):
                self._bar(event)
                self.clock = max(self.clock, event["s"])
            elif kind == "T":
                self.trades[event["sym"]].append(event)
                self.clock = max(self.clock, event["t"])
            elif kind == "Q":
                self.quotes[event["sym"]] = event
                self.clock = max(self.clock, event["t"])

    def _bar(self, bar: dict[str, Any]) -> None:
        symbol = self.symbols[bar["sym"]]
        start = bar["s"]
        assert start > symbol.newest, "this model knows no late bars"
        session = session_of(start)
        if session == "pre_market":
            if not symbol.bars:
                symbol.first_open = bar["o"]
        else:
            symbol.regular_open = symbol.regular_open or bar["o"]
            symbol.official_open = bar.get("op") or symbol.official_open
        if session is not None:
            self._alert(bar, session, symbol)
        symbol.bars[start] = bar
        symbol.newest = start
        symbol.volume = max(symbol.volume, bar["av"])

    def _extreme(self, symbol: Symbol, session: str, side: str) -> float | None:
        key, best = ("h", max) if side == "high" else ("l", min)
        values = [bar[key] for start, bar in symbol.bars.items() if session_of(start) == session]
        return best(values) if values else None

    def _alert(self, bar: dict[str, Any], session: str, symbol: Symbol) -> None:
        """Extremes are kept per session and side, so that a whole day stays affordable."""
        book: dict[tuple[str, str], float] = symbol.__dict__.setdefault("extremes", {})
        for side in ("high", "low"):
            price = bar["h"] if side == "high" else bar["l"]
            had = book.get((session, side))
            better = had is None or (price > had if side == "high" else price < had)
            if not better:
                continue
            book[session, side] = price
            if had is None:
                continue
            note = ""
            for earlier in reversed(SESSIONS[: SESSIONS.index(session)]):
                extreme = book.get((earlier, side))
                if extreme is not None and (price > extreme if side == "high" else price < extreme):
                    note = f"Broke {SHOWN[earlier]} {side} of ${extreme:.2f}"
                    break
            self.alerts.append(
                {
                    "symbol": bar["sym"],
                    "session": session,
                    "direction": side,
                    "price": price,
                    "previous": had,
                    "note": note,
                    "start": bar["s"],
                }
            )

    def quote(self, name: str) -> dict[str, Any]:
        """The enriched quote."""
        symbol = self.symbols[name]
        bar = symbol.bars[symbol.newest]
        known = self.reference.get(name, {})
        previous = known.get("prev_day_close", 0)
        average = known.get("avg_volume", 0)
        close = bar["c"]
        # The recordings end after the open, so the pre-market's first print is no open any more.
        opened = symbol.official_open or symbol.regular_open
        if session_of(self.clock) == "pre_market":
            opened = symbol.first_open
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
            "prev_day_close": previous,
            "prev_day_volume": known.get("prev_day_volume", 0),
            "change": close - previous if previous else 0,
            "pct_change": (close - previous) / previous * 100 if previous else 0,
            "change_since_open": close - opened if opened else 0,
            "pct_change_since_open": (close - opened) / opened * 100 if opened else 0,
            "start_timestamp": bar["s"],
            "end_timestamp": bar["e"],
        }

    def ranges(self, name: str) -> dict[str, float | None]:
        """The six extremes of a daily range."""
        symbol = self.symbols[name]
        return {
            f"{shown}_{side}": self._extreme(symbol, session, side)
            for session, shown in zip(SESSIONS, ("pre_market", "regular_session", "after_hours"), strict=True)
            for side in ("high", "low")
        }

    def board(self, key: str) -> list[dict[str, Any]]:
        """A board's rows, best first, ties by symbol."""
        rows = [self.quote(name) for name in self.symbols]
        if key == "pct_change":
            rows = [row for row in rows if row["prev_day_close"]]
        elif key == "pct_change_since_open":
            rows = [row for row in rows if row["open"]]
        rows.sort(key=lambda row: (-row[key], row["symbol"]))
        return rows[:500]

    def top_trades(self) -> dict[str, dict[str, Any]]:
        """The statistics of `tta:all_symbols:widget`."""
        found = {}
        for name, trades in self.trades.items():
            last = trades[-1]
            if last["t"] < self.clock - 300_000:
                continue
            sizes = [trade["s"] for trade in trades]
            times = [trade["t"] for trade in trades]
            found[name] = {
                "total_volume": sum(sizes),
                "trade_count": len(sizes),
                "avg_size": round(sum(sizes) / len(sizes), 2),
                "max_size": max(sizes),
                "time_span_ms": max(times) - min(times),
                "latest_price": last["p"],
                "latest_timestamp": last["t"],
                "latest_exchange": last["x"],
            }
        return found
