"""The pipeline of `rig.py` with the analyzer of halts, its queue of notices, and restarts."""

from __future__ import annotations

from typing import Any

import msgspec

from mdp.analyzers.halts import Halts
from mdp.events import HALT_NOTICES, HaltNotice
from mdp.processor.engine import Engine
from mdp.queues.base import Batch

from .rig import Rig, at, bar

NOON = at(12)
SECOND, MINUTE = 1_000, 60_000


def luld(
    symbol: str, t: float, *codes: float, high: float | None = 11, low: float | None = 9
) -> dict[str, Any]:
    """A limit up / limit down message, its time in ms as behind the decode stage."""
    return {"ev": "LULD", "T": symbol, "h": high, "l": low, "i": list(codes), "t": t}


def quote(symbol: str, t: float, bid: float | None, ask: float | None) -> dict[str, Any]:
    """A quote on the wire; a side may be missing."""
    return {"ev": "Q", "sym": symbol, "bp": bid, "ap": ask, "t": t}


class HaltRig(Rig):
    """Subscribed to `halts` from the beginning; at noon unless told otherwise."""

    def __init__(self, *, max_symbols: int = 100_000, now: int | None = NOON) -> None:
        super().__init__(max_symbols=max_symbols)
        self.halts = Halts(self.market, self.results)
        self.engine = Engine(self.market, self.results, [self.raw, self.halts], max_failures=1)
        self.announcements: list[Any] = []
        self.bus.subscribe("halts", lambda message: self.announcements.append(message.value))
        if now is not None:
            self.tick(now)

    def tell(self, *wire: dict[str, Any]) -> None:
        """Send LULD messages at their time: the market is there first."""
        newest = max(int(message["t"]) for message in wire)
        if newest > self.market.clock.now_ms:
            self.tick(newest)
        self.send(*wire)

    def told(self) -> list[tuple[str, str]]:
        """(event, symbol) of what was announced since the last call."""
        told = [(item.event, item.symbol) for item in self.announcements]
        self.announcements.clear()
        return told

    def row(self, symbol: str = "AAA") -> dict[str, Any]:
        """`halt:{S}`."""
        value = self.get(f"halt:{symbol}")
        assert isinstance(value, dict)
        return value

    def status(self, symbol: str = "AAA") -> str:
        return str(self.row(symbol)["status"])

    def active(self) -> list[str]:
        """Symbols of `halts:active`, in its order."""
        return [row["symbol"] for row in self.get("halts:active")]

    def list(self, *notices: HaltNotice) -> None:
        """What a poll of the exchange's list found, learned at the market time of now."""
        known = sorted(notices, key=lambda notice: notice.halt_timestamp)
        if not known:  # no source hands over nothing
            return
        for notice in known:
            notice.timestamp = self.market.clock.now_ms
        self.engine.process(HALT_NOTICES, Batch(known, self.clock()))
        self.check()

    def second(self) -> None:
        """What happens once a second."""
        self.flush(self.halts)

    def trade(self, symbol: str, t: int, price: float) -> None:
        """A bar of one second, and the look at prices that follows."""
        self.send(bar(symbol, t, price))
        self.second()

    def restarted(self, *, snapshot: bool, journal: bool, now: int) -> HaltRig:
        """Another process that took this one's state over, from what was written."""
        other = HaltRig(now=None)
        other.market.clock.set(now)
        other.market.session = self.market.session
        records = list(self.halts.dump()) if snapshot else []
        other.halts.hydrate(msgspec.msgpack.decode(msgspec.msgpack.encode(records)))
        if journal:
            for kind, *rest in msgspec.msgpack.decode(msgspec.msgpack.encode(self.journal.records)):
                if kind == "s" and rest[0] == "halts":
                    other.halts.replay(rest[1])
        return other


def notice(
    symbol: str,
    halted: int,
    code: str = "LUDP",
    *,
    resume: int = 0,
    quotes: int = 0,
    market: str = "NYSE",
    price: float = 0,
) -> HaltNotice:
    """An item of the exchange's list."""
    return HaltNotice(
        symbol=symbol, timestamp=0, halt_timestamp=halted, source="nasdaq", reason_code=code,
        quote_timestamp=quotes, resume_timestamp=resume, listing_market=market, pause_price=price,
    )  # fmt: skip
