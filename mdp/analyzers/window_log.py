"""What changed of the windows of trades since somebody wrote them down: for a partition's checkpoints.

A full window takes 32 KB, and thousands of symbols have one: too much to be written each second. But a
window only moves on: what it was and the trades that came since say what it is. So each time the newest
records are taken of those symbols that had any, and now and then whole windows, so that what was written
before them can go (`mdp.processor.windows`). Nothing here costs a trade anything.

The number of the day's trades says where a window's last record stands, so that the same records may be
written twice, and a hole is seen.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable
from typing import Any

import msgspec

from mdp.analyzers.trade_ledger import TradeLedger

_FIELDS = 4  # doubles of a record: size, time, price, code and exchange
_LEVEL = 1  # of zlib
_encode = msgspec.msgpack.Encoder().encode


class WindowPart(msgspec.Struct):
    """The newest records of some symbols' windows; the lists have one item a symbol."""

    symbols: list[str]
    counts: list[int]  # trades of the day, up to and with the last record
    held: list[int]  # trades in the window
    lengths: list[int]  # records here: those that came since the last time, or all that are held
    records: array[float]  # one symbol's after another's, oldest first

    @classmethod
    def empty(cls) -> WindowPart:
        """Of no symbol."""
        return cls([], [], [], [], array("d"))

    def __len__(self) -> int:
        return len(self.records) // _FIELDS


def pack(part: WindowPart) -> bytes:
    """As it is written: column by column and compressed. A megabyte of records takes 10 ms."""
    columns = b"".join([part.records[at::_FIELDS].tobytes() for at in range(_FIELDS)])
    return _encode(
        [
            part.symbols,
            part.counts,
            part.held,
            part.lengths,
            zlib.compress(columns, _LEVEL) if columns else b"",
        ]
    )


def unpack(data: bytes) -> WindowPart:
    """The way back.

    Raises:
        ValueError: It is damaged.
    """
    symbols, counts, held, lengths, packed = msgspec.msgpack.decode(
        data, type=tuple[list[str], list[int], list[int], list[int], bytes]
    )
    try:
        columns = array("d", zlib.decompress(packed) if packed else b"")
    except zlib.error as exc:
        raise ValueError(str(exc)) from None
    count = sum(lengths)
    if len(columns) != count * _FIELDS or not len(symbols) == len(counts) == len(held) == len(lengths):
        raise ValueError("lengths that do not fit")
    records = array("d", bytes(8 * len(columns)))
    for at in range(_FIELDS):
        records[at::_FIELDS] = columns[at * count : (at + 1) * count]
    return WindowPart(symbols, counts, held, lengths, records)


class WindowLog:
    """What was written down of a ledger's windows, and what has changed since.

    Args:
        ledger: Whose.
    """

    def __init__(self, ledger: TradeLedger) -> None:
        self.ledger = ledger
        self._of: dict[str, Any] = ledger.symbols  # of this trading day
        self._noted: dict[str, tuple[int, int]] = {}  # symbol -> (trades of the day, held) when written
        self._from = 0  # the symbol to begin with, where not all fitted the last time

    def begun_anew(self) -> bool:
        """Whether the day began (again) since the last call: nothing that was written holds any more."""
        if self._of is self.ledger.symbols:
            return False
        self.forget()
        return True

    def forget(self) -> None:
        """Nothing is written down."""
        self._of = self.ledger.symbols
        self._noted = {}
        self._from = 0

    def changes(self, most: int) -> WindowPart:
        """What is not written down yet.

        Args:
            most: Records; what is beyond comes the next time. (One symbol's come together.)
        """
        part = WindowPart.empty()
        noted, records = self._noted, part.records
        items = list(self.ledger.symbols.items())
        begin, self._from = self._from, 0
        for at in range(begin, begin + len(items)):
            symbol, known = items[at % len(items)]
            count, held = known.trade_count, known.held
            had = noted.get(symbol, (0, 0))
            if had == (count, held):
                continue
            if len(records) >= most * _FIELDS:
                self._from = at % len(items)
                break
            new = min(count - had[0], held)
            part.symbols.append(symbol)
            part.counts.append(count)
            part.held.append(held)
            part.lengths.append(new)
            if new:
                records.extend(known.newest_records(new))
        return part

    def whole(self, symbols: Iterable[str]) -> WindowPart:
        """The windows of some symbols as they are."""
        part = WindowPart.empty()
        for symbol in symbols:
            known = self.ledger.symbols.get(symbol)
            if known is None or known.empty:
                continue
            part.symbols.append(symbol)
            part.counts.append(known.trade_count)
            part.held.append(known.held)
            part.lengths.append(known.held)
            part.records.extend(known.newest_records(known.held))
        return part

    def written(self, part: WindowPart) -> None:
        """What `changes` gave is written down."""
        noted = self._noted
        for symbol, count, held in zip(part.symbols, part.counts, part.held, strict=True):
            noted[symbol] = (count, held)


class Windows:
    """Windows as they are put together again from what was written, in the order of writing."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[int, array[float]]] = {}  # symbol -> (trades of the day, records)

    def take(self, part: WindowPart) -> None:
        """Add what was written next."""
        at = 0
        for symbol, count, held, length in zip(
            part.symbols, part.counts, part.held, part.lengths, strict=True
        ):
            records = part.records[at : at + length * _FIELDS]
            at += length * _FIELDS
            had, before = self._windows.get(symbol, (0, array("d")))
            new = count - had
            if length >= held or not 0 <= new <= length:  # all there is, or a hole
                found = records
            else:
                found = before + records[len(records) - new * _FIELDS :]
            self._windows[symbol] = (count, found[max(0, len(found) - held * _FIELDS) :])

    def restore(self, log: WindowLog) -> int:
        """Give them to a ledger whose days' numbers are there already; returns how many fit.

        One whose last record is not the symbol's last trade is left out: it begins anew.
        """
        restored = 0
        for symbol, known in log.ledger.symbols.items():
            count, records = self._windows.get(symbol, (0, None))
            if count != known.trade_count:
                log._noted[symbol] = (known.trade_count, 0)
                continue
            if records:
                known.restore_window(records)
                restored += 1
            log._noted[symbol] = (count, known.held)
        return restored
