"""Volume by time of day: what a symbol had usually traded by a clock time, from recorded days.

Definition: relative volume at a time of day = the day's volume so far / mean volume of recorded days by
the same clock time. The grid is 5 minutes, from 04:00 to 20:00 New York time: 192 slots. A day's clock
changes fall on Sundays at 02:00, so that every session's 04:00 to 20:00 is 16 hours.

Which days count, for a symbol and a slot:

- Of the last 30 recorded days before today, those whose record *covers* the slot (`VolumeRecorder` says
  when it does). A day need not be covered whole.
- A half day counts until its early close at 13:00; what follows is no other day's afternoon.
- Where the record begins with the day, a symbol without a bar has traded nothing: 0 shares. Where it
  begins later, nothing is known of a symbol until its first bar, whose `av` holds all of its day's volume.
- Days before the first one in which the symbol was seen do not count: a younger listing. (The same rule
  as that of the average volume, `mdp.cache.averages`.)

Pure: no files (`mdp.processor.volume_files`), no clock.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Generator, Iterable, Sequence
from datetime import date
from operator import add
from typing import Annotated, Any

import msgspec

from mdp.events import Number

SLOT_MS = 300_000
SLOTS = 192  # 04:00 to 20:00
MAX_DAYS = 255  # the counts are bytes
MAX_SYMBOLS = 200_000  # of one day; more are no market

_Slot = Annotated[int, msgspec.Meta(ge=0, lt=SLOTS)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_SYMBOLS)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
_encode = msgspec.msgpack.Encoder().encode
_decode_column = msgspec.msgpack.Decoder(tuple[list[_Count], list[Number]]).decode
_MAX_COLUMN_BYTES = MAX_SYMBOLS * 16

_NOTHING = (0.0, 0)


class BadColumn(ValueError):
    """A column of volumes is damaged."""


def pack_column(indexes: list[int], volumes: list[Number]) -> bytes:
    """Volumes of a slot, in shares, by the number of their symbols; about 20 KB for a busy slot."""
    return zlib.compress(_encode((indexes, volumes)), 1)


def unpack_column(packed: bytes) -> tuple[list[int], list[Number]]:
    """What `pack_column` was given.

    Raises:
        BadColumn: It is no such thing.
    """
    unzip = zlib.decompressobj()
    try:
        content = unzip.decompress(packed, _MAX_COLUMN_BYTES)
        if unzip.unconsumed_tail or not unzip.eof:
            raise BadColumn("a column is cut off or too long")
        indexes, volumes = _decode_column(content)
    except (zlib.error, msgspec.MsgspecError) as exc:
        raise BadColumn(f"a column is damaged: {exc}") from None
    if len(indexes) != len(volumes):
        raise BadColumn("a column's symbols and volumes differ in number")
    return indexes, volumes


class DayVolumes(msgspec.Struct):
    """One recorded day, as it is kept in a file.

    Attributes:
        day: The session's date.
        slots: Of the session: 192, or 156 on a half day (until 17:00).
        counted: Slots that count in a history: 192, or 108 on a half day (until 13:00).
        symbols: In the order in which they were seen.
        known: (slot, how many of `symbols` were known when it ended), in order of slots; those covered.
        columns: slot -> packed volumes traded since the slot covered before, by index into `symbols`.
            Left out are zeros.
    """

    day: date
    slots: Annotated[int, msgspec.Meta(ge=1, le=SLOTS)]
    counted: Annotated[int, msgspec.Meta(ge=1, le=SLOTS)]
    symbols: Annotated[list[_Name], msgspec.Meta(max_length=MAX_SYMBOLS)]
    known: Annotated[list[tuple[_Slot, _Count]], msgspec.Meta(max_length=SLOTS)]
    columns: dict[int, bytes]

    @property
    def covered(self) -> int:
        """How many slots are."""
        return len(self.known)

    @property
    def complete(self) -> bool:
        """Whether all slots of the session are covered."""
        return len(self.known) == self.slots

    @property
    def from_start(self) -> bool:
        """Whether the record begins with the day, so that a symbol without a bar has traded nothing."""
        return bool(self.known) and self.known[0][0] == 0

    def check(self) -> None:
        """See that a record which came from outside makes sense.

        Raises:
            BadColumn: It does not.
        """
        slots = [slot for slot, _ in self.known]
        counts = [count for _, count in self.known]
        if (
            slots != sorted(set(slots))
            or counts != sorted(counts)
            or (slots and slots[-1] >= self.slots)
            or (counts and counts[-1] > len(self.symbols))
            or set(self.columns) != set(slots)
            or len(set(self.symbols)) != len(self.symbols)
        ):
            raise BadColumn("slots and symbols do not fit together")


class VolumeHistory:
    """Mean accumulated volume by symbol and slot. About 10 MB for 11,000 symbols. Never changes.

    Make one with `summarize`; `VolumeHistory()` knows nothing.

    Attributes:
        days: The days it rests on, oldest first.
    """

    __slots__ = ("_columns", "_counts", "_index", "days")

    def __init__(
        self,
        days: Sequence[date] = (),
        index: dict[str, int] | None = None,
        columns: Sequence[array[float]] = (),
        counts: Sequence[bytes] = (),
    ) -> None:
        self.days = tuple(days)
        self._index = index or {}  # symbol -> its number
        self._columns = columns  # slot -> mean volume at its end, by symbol, to 7 digits
        self._counts = counts  # symbol -> slot -> days

    def __len__(self) -> int:
        """How many symbols there are."""
        return len(self._index)

    def expected(self, symbol: str, slot: int) -> tuple[float, int]:
        """Mean volume from 04:00 to the end of a slot.

        Args:
            symbol: Any.
            slot: From 0 (ends at 04:05) to 191 (ends at 20:00); later ones count as the last.

        Returns:
            Shares, and the days that it rests on; `(0.0, 0)` where no day is known.
        """
        at = self._index.get(symbol)
        if at is None or slot < 0:
            return _NOTHING
        if slot >= SLOTS:
            slot = SLOTS - 1
        return self._columns[slot][at], self._counts[at][slot]

    def expected_at(self, symbol: str, ms_since_0400: float) -> tuple[float, int]:
        """Mean volume from 04:00 to a time, between the ends of two slots linearly interpolated.

        Where the two rest on different days (a half day ended, a gap began) a line between them would mean
        nothing: the one that rests on more days is taken as it is.

        Args:
            symbol: Any.
            ms_since_0400: Market time less the trading day's `start_ms`; from 20:00 on the day's mean.

        Returns:
            Shares, and the days that it rests on; `(0.0, 0)` where either end has none.
        """
        at = self._index.get(symbol)
        if at is None or ms_since_0400 < 0:
            return _NOTHING
        slot = int(ms_since_0400 // SLOT_MS)
        if slot >= SLOTS:
            return self._columns[SLOTS - 1][at], self._counts[at][SLOTS - 1]
        counts = self._counts[at]
        days = counts[slot]
        if not days:
            return _NOTHING
        mean = self._columns[slot][at]
        part = ms_since_0400 / SLOT_MS - slot
        if not slot:
            return mean * part, days
        days_before = counts[slot - 1]
        if not days_before:
            return _NOTHING
        before = self._columns[slot - 1][at]
        if days != days_before:
            return (mean, days) if days > days_before else (before, days_before)
        return before + (mean - before) * part, days


def summarize(days: Iterable[DayVolumes]) -> Generator[None, None, VolumeHistory]:
    """Make a history, in steps of at most about a millisecond for 11,000 symbols.

    Args:
        days: Oldest first, each once, at most `MAX_DAYS`; one at a time is in memory.

    Raises:
        BadColumn: A day is damaged.
    """
    index: dict[str, int] = {}
    sums = [array("d") for _ in range(SLOTS)]  # slot -> symbol -> what it adds to the slot before, all days
    counts: list[bytes] = []
    used: list[date] = []
    for day in days:
        used.append(day.day)
        places = [index.setdefault(symbol, len(index)) for symbol in day.symbols]
        counts.extend(bytes(SLOTS) for _ in range(len(index) - len(counts)))
        yield
        for column in sums:
            column.frombytes(bytes(column.itemsize * (len(index) - len(column))))
        yield
        yield from _add_volumes(sums, day, places)
        yield from _add_counts(counts, day, places)
    columns = []
    running = array("d", bytes(8 * len(index)))
    for slot in range(SLOTS):
        running = array("d", map(add, running, sums[slot]))
        sums[slot] = array("d")
        yield
        columns.append(
            array(
                "f", [total / n[slot] if n[slot] else 0.0 for total, n in zip(running, counts, strict=True)]
            )
        )
        yield
    return VolumeHistory(used, index, columns, counts)


def _add_volumes(sums: list[array[float]], day: DayVolumes, places: list[int]) -> Generator[None, None, None]:
    """Add a day so that sums over slots give its accumulated volume where covered, and 0 elsewhere."""
    covered = {slot for slot, _ in day.known if slot < day.counted}
    total: list[Number] | None = None if len(covered) == SLOTS else [0] * len(places)
    inside = True  # the slot before is covered; 04:00 is, with 0 shares
    for slot in range(SLOTS):
        column = sums[slot]
        if slot in covered:
            if total is not None and not inside:
                for at, volume in zip(places, total, strict=True):
                    column[at] += volume
            indexes, volumes = unpack_column(day.columns[slot])
            if indexes and max(indexes) >= len(places):
                raise BadColumn(f"slot {slot} has a volume of no symbol")
            for i, volume in zip(indexes, volumes, strict=True):
                column[places[i]] += volume
            if total is not None:
                for i, volume in zip(indexes, volumes, strict=True):
                    total[i] += volume
        elif inside and total is not None:
            for at, volume in zip(places, total, strict=True):
                column[at] -= volume
        inside = slot in covered
        yield


def _add_counts(counts: list[bytes], day: DayVolumes, places: list[int]) -> Generator[None, None, None]:
    """Count a day where it says something of a symbol."""
    known = [(slot, count) for slot, count in day.known if slot < day.counted]
    masks: list[tuple[int, bytes]] = []  # (symbols from there on, which slots count)
    mask = bytearray(SLOTS)
    for slot, _ in known:
        mask[slot] = 1
    if day.from_start:
        # Also for symbols that are not in this day: they traded nothing.
        masks = [(0, bytes(mask))]
        places = list(range(len(counts)))
    else:
        before = 0
        for slot, count in known:
            if count > before:
                masks.append((before, bytes(slot) + bytes(mask[slot:])))
                before = count
        places = places[:before]
    shared: dict[tuple[bytes, bytes], bytes] = {}  # most symbols have the same counts: keep them once
    for number, (begin, days) in enumerate(masks):
        end = masks[number + 1][0] if number + 1 < len(masks) else len(places)
        for step in range(begin, end, 500):
            for at in places[step : min(step + 500, end)]:
                old = counts[at]
                new = shared.get((old, days))
                if new is None:
                    new = shared[old, days] = bytes(map(add, old, days))
                counts[at] = new
            yield


def run(steps: Generator[Any, None, VolumeHistory]) -> VolumeHistory:
    """All steps at once, for tests and commands."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            history: VolumeHistory = done.value
            return history
