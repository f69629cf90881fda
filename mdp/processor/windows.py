"""The windows of trades of a partition, beside its checkpoint: written bit by bit, read as a whole.

One hash per partition. With each checkpoint, in the same script, it gets a *segment*: the records that came
since the last one. Once segments hold more than half as much as the windows themselves, the windows of a few
symbols (a *group*, by hash) are written as they are, so that segments that no group needs any more can go.
Hence it never lags behind the checkpoint, a successor need not replay anything for it, and what is written
follows the trades that come, not the windows that there are.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Mapping

import msgspec

from mdp.analyzers.trade_ledger import TradeLedger
from mdp.analyzers.window_log import WindowLog, WindowPart, Windows, pack, unpack
from mdp.processor.engine import Engine

GROUPS = 64
_MOST_RECORDS = 131_072  # 4 MB, of one segment: where checkpoints are rare, or Redis was emptied
_WHOLE_RECORDS = 16_384  # 0.5 MB, of windows written as they are, with one checkpoint
_LEAST_RECORDS = 16_384  # fewer are no reason to write windows as they are
_MOST_SEGMENTS = 128

_encode = msgspec.msgpack.Encoder().encode


def group_of(symbol: str) -> int:
    """Which symbols are written together; not the hash that makes partitions."""
    return (crc32(symbol.encode("utf-8", "surrogatepass"), 0x57) >> 16) % GROUPS


class Write(msgspec.Struct):
    """What goes into the hash with one checkpoint."""

    number: int  # of the segment
    day: str
    anew: bool  # nothing that is there holds any more
    segment: WindowPart
    groups: dict[int, WindowPart]
    gone: list[str]  # fields that nobody needs any more

    def pack(self) -> list[bytes | str]:
        """Field, value, field, value ... Some ms per megabyte: call it in a thread."""
        fields: list[bytes | str] = []
        if self.segment.symbols:
            fields += [f"s{self.number}", _encode([self.day, self.number, pack(self.segment)])]
        for group, part in self.groups.items():
            fields += [f"g{group}", _encode([self.day, self.number, pack(part)])]
        return fields


class WindowKeeper:
    """What a partition has in its hash.

    Args:
        engine: The partition's.

    Attributes:
        restored: Windows that were taken back.
    """

    def __init__(self, engine: Engine) -> None:
        self.restored = 0
        self._market = engine.market
        self._log = WindowLog(TradeLedger.of(engine.market))
        self._number = 0  # of the last segment
        self._segments: dict[int, int] = {}  # number -> records
        self._since: dict[int, int] = {}  # group -> first segment with something that it does not contain
        self._groups: dict[str, int] = {}  # symbol -> group
        self._anew = True

    def restore(self, fields: Mapping[bytes, bytes]) -> int:
        """Take windows back into an engine whose checkpoint was; returns how many fit.

        What is damaged, or of another day, is left out. 0.1 s for 20 MB of windows: call it in a thread,
        while nobody else uses the engine.
        """
        day, stale = self._day(), False
        segments: dict[int, WindowPart] = {}
        groups: dict[int, tuple[int, WindowPart]] = {}
        for name, value in fields.items():
            try:
                of, number, packed = msgspec.msgpack.decode(value, type=tuple[str, int, bytes])
                self._number = max(self._number, number)
                if of != day:
                    stale = True
                    continue
                part = unpack(packed)
                if name[:1] == b"g":
                    groups[int(name[1:])] = (number, part)
                else:
                    segments[number] = part
            except ValueError:
                stale = True
        windows = Windows()
        for _, part in groups.values():
            windows.take(part)
        for number, part in sorted(segments.items()):
            self._segments[number] = len(part)
            later = [groups.get(self._group(symbol), (0, part))[0] < number for symbol in part.symbols]
            if not all(later):
                part = _chosen(part, later)
            for symbol in part.symbols:
                self._since.setdefault(self._group(symbol), number)
            windows.take(part)
        self._log.forget()
        self._anew = stale or not fields
        self.restored = windows.restore(self._log)
        return self.restored

    def adopt(self, before: Engine) -> None:
        """Take windows, and what is known of repeats, from an engine of this process with the same state."""
        ledger, old = self._log.ledger, TradeLedger.of(before.market)
        for symbol, known in old.symbols.items():
            mine = ledger.symbols.get(symbol)
            if mine is not None and mine.trade_count == known.trade_count and not known.empty:
                mine.restore_window(known.newest_records(known.held))
                self.restored += 1
        ledger.seen = old.seen

    def plan(self) -> Write:
        """What is to be written now. The state must not move; takes a few milliseconds at most."""
        if self._log.begun_anew():
            self._anew = True
        if self._anew:
            self._log.forget()
            self._segments, self._since = {}, {}
        self._number += 1
        number, segment = self._number, self._log.changes(_MOST_RECORDS)
        for symbol in segment.symbols:
            self._since.setdefault(self._group(symbol), number)
        # Counts as there even if nobody ever knows: its field goes with the others.
        self._segments[number] = len(segment)
        groups = {} if self._anew else self._whole()
        oldest = min((since for group, since in self._since.items() if group not in groups), default=number)
        gone = [f"s{known}" for known in self._segments if known < oldest]
        return Write(number, self._day(), self._anew, segment, groups, gone)

    def written(self, write: Write) -> None:
        """It is in Redis."""
        self._anew = False
        self._log.written(write.segment)
        for group in write.groups:
            self._since.pop(group, None)
        for field in write.gone:
            self._segments.pop(int(field[1:]), None)

    def _whole(self) -> dict[int, WindowPart]:
        """The groups whose windows are to be written as they are: those that hold up the oldest segments."""
        symbols = self._log.ledger.symbols
        held = sum([known.held for known in symbols.values()])
        waiting = sum(self._segments.values())
        if waiting <= max(_LEAST_RECORDS, held // 2) and len(self._segments) <= _MOST_SEGMENTS:
            return {}
        members: dict[int, list[str]] = {}
        for symbol in symbols:
            members.setdefault(self._group(symbol), []).append(symbol)
        found: dict[int, WindowPart] = {}
        records = 0
        for group in sorted(self._since, key=self._since.__getitem__):
            found[group] = self._log.whole(members.get(group, ()))
            records += len(found[group])
            if records >= _WHOLE_RECORDS:
                break
        return found

    def _group(self, symbol: str) -> int:
        group = self._groups.get(symbol)
        if group is None:
            group = self._groups[symbol] = group_of(symbol)
        return group

    def _day(self) -> str:
        day = self._market.clock.day
        return "" if day is None else day.day.isoformat()


def _chosen(part: WindowPart, chosen: list[bool]) -> WindowPart:
    """The symbols that are chosen."""
    found, at = WindowPart.empty(), 0
    for number, length in enumerate(part.lengths):
        if chosen[number]:
            found.symbols.append(part.symbols[number])
            found.counts.append(part.counts[number])
            found.held.append(part.held[number])
            found.lengths.append(length)
            found.records.extend(part.records[4 * at : 4 * (at + length)])
        at += length
    return found
