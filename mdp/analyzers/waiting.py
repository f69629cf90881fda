"""Events that wait for the market clock, kept over a hand-over with everything else that is known.

A bar or trade of a time that the clock does not believe yet is not counted, and not lost either: it is in
no number that analyzers dump, and whoever goes on behind it in the stream never meets it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from mdp.analyzers.state import Market
from mdp.analyzers.trade_ledger import TradeLedger
from mdp.events import Aggregate, MinuteAggregate, Trade

_KINDS: dict[str, type[Aggregate] | type[Trade]] = {"A": Aggregate, "AM": MinuteAggregate, "T": Trade}
_NAMES: dict[type, str] = {kind: name for name, kind in _KINDS.items()}


def dump(market: Market) -> list[Any]:
    """Those of a market, in order of arrival, as something that MessagePack can write."""
    ledger = market.trades
    trades = ledger.waiting if isinstance(ledger, TradeLedger) else ()
    return [[_NAMES[type(event)], *msgspec.structs.astuple(event)] for event in (*market._ahead, *trades)]


def hydrate(market: Market, records: Iterable[Any]) -> None:
    """Let them wait again."""
    for name, *values in records:
        kind = _KINDS.get(name)
        if kind is None or len(values) != len(kind.__struct_fields__):
            continue  # of another version
        event = kind(*values)
        if isinstance(event, Trade):
            TradeLedger.of(market).wait(event)
        else:
            market._wait(event)
