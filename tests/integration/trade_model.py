"""What the tape's rules make of a day's trades, worked out the plainest way: every print is kept.

None of the pipeline's code or tables is used. Rules: the SIP's sale conditions as the provider numbers
them, duplicates, corrections, windows in order of arrival (`docs/feeds.md`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.integration.hours import FIELD, SESSIONS, session_of

SILENT_MS = 300_000
WINDOW = 1_000
ODD_LOT = 37
EXTENDED_HOURS = {12, 13}
CANCELLED_OR_CORRECTED = {1, 7, 8, 10, 11}
# "Update rules, consolidated" of the provider's list of conditions; what is not named may do everything.
NO_HIGH_LOW = {2, 7, 12, 13, 15, 16, 20, 21, 29, 37, 52, 53}
NO_LAST = NO_HIGH_LOW | {5, 10, 22, 32, 33}
NO_VOLUME = {15, 16, 38}


class Trades:
    """Feed it the trades in order of arrival, then ask."""

    def __init__(self) -> None:
        self.prints: dict[str, list[dict[str, Any]]] = defaultdict(list)  # accepted, in order of arrival
        self.repeats: dict[str, int] = defaultdict(int)
        self.known: set[tuple[Any, ...]] = set()
        self.window_from: dict[str, int] = {}  # symbol -> its first print since the windows were lost

        self.counted: dict[str, int] = defaultdict(int)

    def count(self, name: str) -> int:
        """A symbol's prints whose shares count."""
        return self.counted[name]

    def feed(self, trade: dict[str, Any]) -> None:
        """One print."""
        if trade.get("correction") in CANCELLED_OR_CORRECTED:
            return
        name = trade["sym"]
        if "i" in trade:
            key = (name, trade["x"], trade["i"], trade.get("z"), trade.get("trfi"))
            if key in self.known:
                self.repeats[name] += 1
                return
            self.known.add(key)
        self.prints[name].append(trade)
        self.counted[name] += counts(trade)

    def lose_windows(self) -> None:
        """A restart: windows and what came already are not kept, the day's numbers are."""
        self.window_from = {name: len(prints) for name, prints in self.prints.items()}
        self.known.clear()

    def top(self, clock_ms: float) -> dict[str, dict[str, Any]]:
        """The `symbols` of `tta:all_symbols:widget`."""
        found = {}
        for name, prints in self.prints.items():
            recent = prints[self.window_from.get(name, 0) :]
            window = [trade for trade in recent if counts(trade)][-WINDOW:]
            if not window or max(trade["t"] for trade in window) < clock_ms - SILENT_MS:
                continue
            may_be_last = [trade for trade in prints if sets_last(trade)]  # in order of arrival
            found[name] = {**sums(window), **last(may_be_last[-1] if may_be_last else None)}
        return found

    def day(self, name: str) -> dict[str, Any]:
        """The payload of `trade_stats:{S}`."""
        prints = self.prints[name]
        counted = [trade for trade in prints if counts(trade)]
        odd = [trade for trade in counted if ODD_LOT in listed(trade)]
        dollars = sum(trade["p"] * trade["s"] for trade in counted)
        volume = sum(trade["s"] for trade in counted)
        day_range = [trade["p"] for trade in prints if not listed(trade) & NO_HIGH_LOW]
        newest = None
        for trade in prints:
            if sets_last(trade) and (newest is None or trade["t"] >= newest["t"]):
                newest = trade
        found = {
            "symbol": name,
            **sums(counted),
            **last(newest),
            "first_timestamp": min(trade["t"] for trade in counted),
            "newest_timestamp": max(trade["t"] for trade in counted),
            "vwap": dollars / volume,
            "dollar_volume": dollars,
            "odd_lot_volume": sum(trade["s"] for trade in odd),
            "odd_lot_count": len(odd),
            "duplicates": self.repeats[name],
            "high": max(day_range, default=None),
            "low": min(day_range, default=None),
        }
        for session in SESSIONS:
            prices = [t["p"] for t in prints if session_of(t["t"]) == session and in_session_range(t)]
            found[f"{FIELD[session]}_high"] = max(prices, default=None)
            found[f"{FIELD[session]}_low"] = min(prices, default=None)
        return found


def listed(trade: dict[str, Any]) -> set[int]:
    """A print's conditions."""
    return set(trade.get("c") or ())


def relieved(trade: dict[str, Any]) -> set[int]:
    """Without those that nearly every print of the extended hours carries, for one of these hours."""
    return listed(trade) - (EXTENDED_HOURS if session_of(trade["t"]) != "regular" else set())


def counts(trade: dict[str, Any]) -> bool:
    """Whether a print's shares count."""
    return not listed(trade) & NO_VOLUME


def sets_last(trade: dict[str, Any]) -> bool:
    """Whether a print may be the last price."""
    return not relieved(trade) & NO_LAST


def in_session_range(trade: dict[str, Any]) -> bool:
    """Whether a print may set its session's high and low."""
    return not relieved(trade) & NO_HIGH_LOW


def sums(trades: list[dict[str, Any]]) -> dict[str, Any]:
    """What is summed up of prints that count."""
    sizes = [trade["s"] for trade in trades]
    times = [trade["t"] for trade in trades]
    return {
        "total_volume": sum(sizes),
        "trade_count": len(sizes),
        "avg_size": round(sum(sizes) / len(sizes), 2),
        "max_size": max(sizes),
        "time_span_ms": max(times) - min(times),
    }


def last(trade: dict[str, Any] | None) -> dict[str, Any]:
    """What is shown of the last price."""
    return {
        "latest_price": trade["p"] if trade else 0,
        "latest_timestamp": trade["t"] if trade else 0,
        "latest_exchange": trade["x"] if trade else "",
    }
