"""A symbol's numbers as an operator gets them explained: with where they came from, and what was lost.

For the one process with all roles and for a processor alike, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mdp.analyzers.explain import Origin, explain, lost_at
from mdp.analyzers.halt_state import HaltState
from mdp.analyzers.halts import Halts
from mdp.cache.origin import OriginOf
from mdp.exchange_calendar import ExchangeCalendar
from mdp.processor.engine import Engine
from mdp.sessions import TradingDay

_MAX_GAPS = 50  # in one answer


def explained(
    engine: Engine,
    symbol: str,
    *,
    origin: OriginOf,
    calendar: ExchangeCalendar,
    feed_state: str,
    gaps: Iterable[dict[str, Any]],
) -> dict[str, Any] | None:
    """Each number of a symbol, with `reference` (where its values came from) and `trust` (what was lost).

    Args:
        engine: Whose market has the symbol.
        symbol: As the feed names it.
        origin: Of its reference values.
        calendar: Says when the previous session ended.
        feed_state: Of the provider's connection.
        gaps: The gap ledger, oldest first.

    Returns:
        What `mdp.analyzers.explain.explain` says, and the above; None where nothing is known of it today.
    """
    market = engine.market
    answer = explain(
        market,
        symbol,
        halt=_halt(engine, symbol),
        origins=_origins(origin, calendar),
        split_ratio=origin.split_ratio,
    )
    if answer is None:
        return None
    fields = answer["fields"]
    answer["reference"] = origin.describe()
    answer["trust"] = {
        "stale": fields["stale"]["value"] if fields else None,
        "lost_at": lost_at(market, symbol) or None,
        "uncertain_since": market.trust.uncertain_since(symbol),
        "pending": list(getattr(market.references.get(symbol, market.unreferenced), "pending", ())),
        "feed_state": feed_state,
        "gaps": gaps_of(gaps, symbol, market.clock.day),
    }
    return answer


def unknown(symbol: str, day: TradingDay | None, is_known: Callable[[str], bool]) -> str:
    """What to check where nothing is known of a symbol: one line.

    Args:
        symbol: As it was asked for.
        day: Of the market clock; None before the first event.
        is_known: Whether there is something of another symbol.
    """
    upper = symbol.upper()
    if upper != symbol and is_known(upper):
        return f"nothing is known of {symbol!r}: symbols are case-sensitive, {upper!r} is known"
    if day is None:
        return f"nothing is known of {symbol!r}: no event has come yet; GET /api/v1/status has the feed"
    return (
        f"nothing is known of {symbol!r} on trading day {day.day}: check its spelling, whether it traded "
        "since 04:00 New York time, and the subscriptions of the feed (GET /api/v1/status)"
    )


def gaps_of(entries: Iterable[dict[str, Any]], symbol: str, day: TradingDay | None) -> list[dict[str, Any]]:
    """Entries of the gap ledger that may be of a symbol's trading day, the last ones.

    One whose market time is unknown may be of any day, one that names only some of its symbols of any symbol.
    """
    touching = []
    for gap in entries:
        named = gap.get("symbols")
        if named is not None and symbol not in named and gap.get("symbols_count") == len(named):
            continue
        begin, end = gap.get("market_start_ms"), gap.get("market_end_ms")
        if day is None or ((begin or 0) < day.end_ms and (end or day.start_ms) >= day.start_ms):
            touching.append(gap)
    return touching[-_MAX_GAPS:]


def _halt(engine: Engine, symbol: str) -> HaltState | None:
    for guard in engine.guards:
        if isinstance(guard.analyzer, Halts):
            return guard.analyzer.known(symbol)
    return None


def _origins(origin: OriginOf, calendar: ExchangeCalendar) -> dict[str, Origin]:
    """With the time that the values are of: the end of the previous session."""
    book = origin.book
    if book is None:
        return {}
    ended = TradingDay.of(book.previous, calendar).close_ms
    return {
        field: Origin(source, fetched_ms, None if field in ("free_float", "pending") else ended)
        for field, (source, fetched_ms) in origin.fields.items()
    }
