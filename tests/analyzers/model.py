"""The rules of quotes, boards, ranges and alerts, told again naively: the contract in plain dictionaries.

Nothing here is taken from the pipeline; every bar is kept, and every answer is worked out from all of them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

NY = ZoneInfo("America/New_York")
SESSIONS = ("pre_market", "regular", "after_hours")
SHOWN = {"pre_market": "pre-market", "regular": "regular session"}
FIELD = {"pre_market": "pre_market", "regular": "regular_session", "after_hours": "after_hours"}


def day_start(ms: float) -> datetime:
    """04:00 New York time of the trading day of a time."""
    return (datetime.fromtimestamp(ms / 1000, NY) - timedelta(hours=4)).replace(
        hour=4, minute=0, second=0, microsecond=0
    )


def session_of(ms: float) -> str | None:
    """By the clock on the wall in New York."""
    local = datetime.fromtimestamp(ms / 1000, NY)
    minutes = local.hour * 60 + local.minute
    if 240 <= minutes < 570:
        return "pre_market"
    if 570 <= minutes < 960:
        return "regular"
    return "after_hours" if 960 <= minutes < 1200 else None


class Symbol:
    """What a trading day brought for one symbol."""

    def __init__(self) -> None:
        self.kind = ""
        self.newest: dict[str, Any] = {}
        self.settled: list[dict[str, Any]] = []  # every other bar that counts: older or late
        self.opens: dict[str, tuple[int, Any]] = {}  # "pre_market" or "regular" -> (start, open)
        self.op: Any = 0
        self.volume: Any = 0
        self.before: Any = 0  # without the newest bar, where the feed does not sum up

    def extreme(self, session: str, side: str) -> Any:
        bars = [b for b in (*self.settled, self.newest) if b and session_of(b["s"]) == session]
        if not bars:
            return None
        return max(b["h"] for b in bars) if side == "high" else min(b["l"] for b in bars)


class Model:
    """The contract's answers for a stream of bars."""

    def __init__(self, reference: dict[str, dict[str, Any]]) -> None:
        self.reference = reference
        self.now = 0.0
        self.symbols: dict[str, Symbol] = {}
        self.alerts: list[dict[str, Any]] = []

    def tick(self, ms: float) -> None:
        """The market clock moves; 04:00 between there and here clears the day."""
        if ms <= self.now:
            return
        if not self.now or day_start(self.now) != day_start(ms):
            self.symbols.clear()
        self.now = ms

    def send(self, bars: list[dict[str, Any]]) -> None:
        self.tick(max(b["s"] for b in bars))
        for b in bars:
            self._take(b)

    def _take(self, b: dict[str, Any]) -> None:
        if day_start(b["s"]) != day_start(self.now):
            return
        known = self.symbols.get(b["sym"])
        if known is None:
            if b.get("otc"):
                return
            known = self.symbols[b["sym"]] = Symbol()
        first_second = known.kind == "AM" and b["ev"] == "A"
        if known.kind == "A" and b["ev"] == "AM":
            return  # seconds win
        session = session_of(b["s"])
        before = {side: known.extreme(session, side) for side in ("high", "low")} if session else {}
        if known.newest and b["s"] < known.newest["s"] and not first_second:
            known.settled.append(b)  # late: range and volume, in silence
            if "av" in b:
                known.volume = max(known.volume, b["av"])
            else:
                known.volume += b.get("v", 0)
                known.before += b.get("v", 0)
            return
        replaces = bool(known.newest) and b["s"] == known.newest["s"] and not first_second
        if not replaces:
            known.before = known.volume
            if known.newest:
                known.settled.append(known.newest)
        # The day's volume never goes back, not even by a correction.
        known.volume = max(known.volume, b["av"] if "av" in b else known.before + b.get("v", 0))
        known.kind = b["ev"]
        known.newest = b
        part = "pre_market" if session == "pre_market" else "regular"
        if part not in known.opens or ((replaces or first_second) and known.opens[part][0] == b["s"]):
            known.opens[part] = (b["s"], b["o"])
        if part == "regular":
            known.op = b.get("op") or known.op
        if session is None or not any(session_of(x["s"]) == session for x in known.settled):
            return  # the first print of the session
        for side in ("high", "low"):
            price = known.extreme(session, side)
            if price > before[side] if side == "high" else price < before[side]:
                self.alerts.append(
                    {
                        **self.row(b["sym"]),
                        "session": session,
                        "direction": side,
                        "price": price,
                        "previous": before[side],
                        "timestamp": b["s"] / 1000,
                        "note": self._note(known, session, side, price),
                    }
                )

    def _note(self, known: Symbol, session: str, side: str, price: Any) -> str:
        for earlier in reversed(SESSIONS[: SESSIONS.index(session)]):
            extreme = known.extreme(earlier, side)
            if extreme is not None and (price > extreme if side == "high" else price < extreme):
                return f"Broke {SHOWN[earlier]} {side} of ${extreme:.2f}"
        return ""

    def row(self, symbol: str) -> dict[str, Any]:
        """The enriched quote."""
        known, ref = self.symbols[symbol], self.reference.get(symbol, {})
        b, close, previous = known.newest, known.newest["c"], ref.get("prev_day_close", 0)
        if session_of(self.now) == "pre_market":
            opened = known.opens.get("pre_market", (0, 0))[1]
        else:
            opened = known.op or known.opens.get("regular", (0, 0))[1]
        average = ref.get("avg_volume", 0)
        row = {
            "symbol": symbol,
            "volume": b.get("v", 0),
            "free_float": ref.get("free_float", 0),
            "accumulated_volume": known.volume,
            "relative_volume": known.volume / average if average else 0,
            "official_open_price": known.op,
            "vwap": b.get("vw", 0),
            "open": opened,
            "close": close,
            "high": b["h"],
            "low": b["l"],
            "aggregate_vwap": b.get("a", 0),
            "average_size": b.get("z", 0),
            "avg_volume": average,
            "change": close - previous if previous else 0,
            "pct_change": (close - previous) / previous * 100 if previous else 0,
            "change_since_open": close - opened if opened else 0,
            "pct_change_since_open": (close - opened) / opened * 100 if opened else 0,
            "start_timestamp": b["s"],
            "end_timestamp": b.get("e", 0),
        }
        for name in ("close", "open", "high", "low", "volume", "vwap"):
            row[f"prev_day_{name}"] = ref.get(f"prev_day_{name}", 0)
        return row

    def board(self, name: str) -> list[dict[str, Any]]:
        """A board's rows, ranked."""
        rows = [self.row(symbol) for symbol in self.symbols]
        if name == "top_volume":
            rows = [row for row in rows if row["accumulated_volume"]]
            rows.sort(key=lambda row: (-row["accumulated_volume"], row["symbol"]))
        elif name == "top_gappers":
            rows = [row for row in rows if row["prev_day_close"]]
            rows.sort(key=lambda row: (-row["pct_change"], row["symbol"]))
        else:
            rows = [row for row in rows if row["open"]]
            rows.sort(key=lambda row: (-row["pct_change_since_open"], row["symbol"]))
        return [{**row, "rank": rank} for rank, row in enumerate(rows[:500], 1)]

    def range(self, symbol: str) -> dict[str, Any]:
        """The daily range."""
        known = self.symbols[symbol]
        extremes = {
            f"{FIELD[s]}_{side}": known.extreme(s, side) for s in SESSIONS for side in ("high", "low")
        }
        return {**self.row(symbol), **extremes}
