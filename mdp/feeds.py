"""Every feed, cache key, kind and time to live, in one place (`docs/feeds.md`).

A channel and its cache key have the same name. A family is a feed with a hole for a symbol
(or a scanner's name); a *pattern* is what a client may subscribe to: a feed, or one with `*` for
whole segments between colons. A symbol may hold colons itself (`X:BTCUSD`): in a family it is
always all of the rest, and `*` stands for all of it.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

STATE: Literal["state"] = "state"
EVENT: Literal["event"] = "event"

_SYMBOL = re.compile(r"[A-Za-z0-9./:\-]{1,32}")
_NAME = re.compile(r"[A-Za-z0-9_\-]{1,64}")


class Family(msgspec.Struct, frozen=True):
    """One row of the contract's table."""

    name: str  # as in the table, e.g. "quote:{S}"
    prefix: str  # before the hole; the whole name where there is none
    suffix: str  # behind the hole
    hole: Literal["", "symbol", "name"]
    kind: Literal["state", "event"]
    ttl_seconds: float
    max_items: int = 0  # 0: the last value; else a list, newest first

    def feed(self, symbol: str = "") -> str:
        """The feed's name for a symbol (or for the scanner of that name)."""
        return f"{self.prefix}{symbol}{self.suffix}"


_MINUTE, _HOUR, _DAY = 60.0, 3_600.0, 86_400.0


def _family(name: str, kind: Literal["state", "event"], ttl_seconds: float, max_items: int = 0) -> Family:
    hole: Literal["", "symbol", "name"] = "symbol" if "{S}" in name else "name" if "{name}" in name else ""
    prefix, _, suffix = name.replace("{name}", "{S}").partition("{S}")
    return Family(name, prefix, suffix, hole, kind, ttl_seconds, max_items)


AGG = _family("stocks:agg:{S}", STATE, 5 * _MINUTE)
TRADES = _family("stocks:trades:{S}", EVENT, 5.0)
QUOTES = _family("stocks:quotes:{S}", STATE, 5.0)
LULD = _family("stocks:luld:{S}", EVENT, _DAY)
UNKNOWN = _family("unknown", EVENT, _DAY, 1_000)
QUOTE = _family("quote:{S}", STATE, 4 * _DAY)
TOP_GAINERS = _family("scanners:top_gainers", STATE, 4 * _DAY)
TOP_GAPPERS = _family("scanners:top_gappers", STATE, 4 * _DAY)
TOP_VOLUME = _family("scanners:top_volume", STATE, 4 * _DAY)
TOP_LOSERS = _family("scanners:top_losers", STATE, 4 * _DAY)
GAP_DOWN = _family("scanners:gap_down", STATE, 4 * _DAY)
TOP_RELATIVE_VOLUME = _family("scanners:top_relative_volume", STATE, 4 * _DAY)
MOST_TRADES = _family("scanners:most_trades", STATE, 4 * _DAY)
SCANNER_EVENTS = _family("scanners:{name}:events", EVENT, 8 * _HOUR, 1_000)
SCANNER = _family("scanners:{name}", STATE, 4 * _DAY)
TTA_ALL = _family("tta:all_symbols:widget", STATE, _MINUTE)
TTA = _family("tta:{S}:widget", STATE, _MINUTE)
TRADE_STATS = _family("trade_stats:{S}", STATE, 4 * _DAY)
DAILY_RANGE = _family("daily_range:{S}", STATE, 4 * _DAY)
HOD_ALERT = _family("daily_range_hod_alert", EVENT, 8 * _HOUR, 1_000)
LOD_ALERT = _family("daily_range_lod_alert", EVENT, 8 * _HOUR, 1_000)
HALTS = _family("halts", EVENT, _DAY, 1_000)
HALT = _family("halt:{S}", STATE, _DAY)
HALTS_ACTIVE = _family("halts:active", STATE, _DAY)
ALERTS = _family("alerts", EVENT, _DAY, 10_000)
NEWS_LATEST = _family("news:feed:latest", EVENT, 2 * _DAY, 10_000)
NEWS_TICKER = _family("news:ticker:{S}", EVENT, 7 * _DAY, 100)
MARKET_STATUS = _family("market:status", STATE, _MINUTE)

#: In the order in which a name is looked up: fixed names before families with a hole.
FAMILIES: tuple[Family, ...] = (
    UNKNOWN, TOP_GAINERS, TOP_GAPPERS, TOP_VOLUME, TOP_LOSERS, GAP_DOWN, TOP_RELATIVE_VOLUME, MOST_TRADES,
    TTA_ALL, HOD_ALERT, LOD_ALERT, HALTS, HALTS_ACTIVE, ALERTS, NEWS_LATEST, MARKET_STATUS,
    AGG, TRADES, QUOTES, LULD, QUOTE, TTA, TRADE_STATS, DAILY_RANGE, HALT, NEWS_TICKER,
    SCANNER_EVENTS, SCANNER,
)  # fmt: skip
_FIXED = {family.name: family for family in FAMILIES if not family.hole}
_HOLED = tuple(family for family in FAMILIES if family.hole)


def is_symbol(text: str) -> bool:
    """Whether a text can be a symbol: letters, digits, `.`, `-`, `/`, `:`; 32 characters at most."""
    return _SYMBOL.fullmatch(text) is not None


def resolve(feed: str) -> tuple[Family, str] | None:
    """The family of a feed's name and what fills its hole; None where the contract has no such feed."""
    fixed = _FIXED.get(feed)
    if fixed is not None:
        return fixed, ""
    for family in _HOLED:
        if feed.startswith(family.prefix) and feed.endswith(family.suffix):
            filling = feed[len(family.prefix) : len(feed) - len(family.suffix)]
            legal = _SYMBOL if family.hole == "symbol" else _NAME
            if legal.fullmatch(filling):
                return family, filling
    return None


class Target(msgspec.Struct, frozen=True):
    """What a pattern means for one family."""

    family: Family
    symbol: str | None  # None: every symbol; "" where the family has no hole


def match(pattern: str) -> tuple[Target, ...]:
    """What a subscription names: one target per family it touches; empty where it names nothing of ours.

    `quote:*` names every symbol's quote, `stocks:*:AAPL` all of AAPL's raw feeds, `scanners:*` all boards.
    A `*` beside other characters of a segment (`quote:AA*`) is not a wildcard and names nothing.
    """
    if "*" not in pattern:
        found = resolve(pattern)
        return (Target(*found),) if found else ()
    segments = pattern.split(":")
    targets = []
    for family in FAMILIES:
        symbol = _match_family(segments, family)
        if symbol is not False:
            targets.append(Target(family, symbol if symbol is None or isinstance(symbol, str) else None))
    return tuple(targets)


def _match_family(segments: list[str], family: Family) -> str | Literal[False] | None:
    """The symbol a pattern names in a family (None: all, "" without hole), or False where it names none."""
    template = family.name.split(":")
    filling: str | None = "" if not family.hole else None
    if family.hole and len(segments) > len(template):
        # A symbol with colons: give the hole the surplus segments.
        at = next(i for i, part in enumerate(template) if part.startswith("{"))
        surplus = len(segments) - len(template)
        segments = [*segments[:at], ":".join(segments[at : at + surplus + 1]), *segments[at + surplus + 1 :]]
    if len(segments) != len(template):
        return False
    for given, part in zip(segments, template, strict=True):
        if part.startswith("{"):
            if given == "*":
                filling = None
                continue
            legal = _SYMBOL if family.hole == "symbol" else _NAME
            if not legal.fullmatch(given):
                return False
            filling = given
        elif given not in ("*", part):
            return False
    return filling
