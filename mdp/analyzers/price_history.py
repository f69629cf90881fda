"""Where a symbol's price was some minutes ago, in bounded memory and at no cost per bar.

A symbol's last price of each quarter of a minute is written down when a bar of a later quarter comes;
half an hour of them is kept: 960 bytes. So "five minutes ago" is the close of the newest bar that starts
in the quarter five minutes before now's, or earlier: five minutes ago, or up to 15 seconds less.
"""

from __future__ import annotations

from array import array

from mdp.events import Number

SLOT_MS = 15_000
MINUTES = (1, 5, 15, 30)
_SLOTS = 30 * 60_000 // SLOT_MS
_PER_MINUTE = 60_000 // SLOT_MS
_BYTES = 8 * _SLOTS


def slot_end(ms: Number) -> int:
    """When the quarter of a minute that a time belongs to ends."""
    return (int(ms // SLOT_MS) + 1) * SLOT_MS


def write_down(
    closes: array[float] | None, start: Number, close: Number, later: Number
) -> array[float] | None:
    """A bar that starts `later` came after the one of `start` with its `close`: note the latter's.

    Returns:
        The closes to keep from now on: `closes` itself, or new ones at the first call that notes any.
    """
    slot, until = int(start // SLOT_MS), int(later // SLOT_MS)
    if until <= slot:
        return closes
    if closes is None:
        closes = array("d", bytes(_BYTES))  # 0: there was no price yet
    for at in range(max(slot, until - _SLOTS), until):
        closes[at % _SLOTS] = close
    return closes


def ago(closes: array[float] | None, start: Number, close: Number, now_ms: Number) -> tuple[float, ...]:
    """Prices 1, 5, 15 and 30 minutes before a time; 0 where there was none yet.

    Args:
        closes: As `write_down` gave them.
        start, close: Of the newest bar.
        now_ms: Not before `start`.
    """
    newest, now = int(start // SLOT_MS), int(now_ms // SLOT_MS)
    found = []
    for minutes in MINUTES:
        slot = now - minutes * _PER_MINUTE
        if slot >= newest:
            found.append(close)
        else:
            found.append(closes[slot % _SLOTS] if closes is not None and slot >= newest - _SLOTS else 0)
    return tuple(found)


def pack(closes: array[float] | None) -> bytes:
    """For a snapshot."""
    return b"" if closes is None else closes.tobytes()


def unpack(packed: bytes) -> array[float] | None:
    """What `pack` gave; None for anything else."""
    return array("d", packed) if len(packed) == _BYTES else None
