"""What one partition contributes to feeds of the whole market, and how the contributions become one value.

A part is MessagePack: `[schema, epoch, number, content]`. The number grows with each part of a partition, so
that a reader sees whether it lives, whatever the clocks say. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from heapq import nsmallest
from operator import itemgetter
from typing import Any

import msgspec

from mdp.analyzers.halt_state import HaltRow
from mdp.analyzers.leaderboards import BOARDS, RANKED_BY, ROWS
from mdp.analyzers.rows import BoardRow, QuoteRow
from mdp.cache import schemas
from mdp.feeds import HALTS_ACTIVE, MARKET_STATUS, TTA_ALL, Family

SCHEMA = schemas.PARTS
MAX_HALTS = 1_000  # rows of `halts:active`
SILENT = timedelta(minutes=5)  # a symbol without a trade for so long is in no top trades
TOP = 100  # symbols with a feed `tta:{S}:widget`

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_json = msgspec.json.Encoder().encode
_FIELDS = QuoteRow.__struct_fields__
_STALE = _FIELDS.index("stale")
_SYMBOL = _FIELDS.index("symbol")
_ROW_VALUES = len(_FIELDS)
_MARGIN = 10  # rows beyond those of the last board that a partition is asked for, and a quarter of them


class SchemaError(ValueError):
    """A part of a newer version than this program can read."""


class Part(msgspec.Struct, frozen=True):
    """One partition's contribution to one feed."""

    epoch: int
    number: int
    content: Any


def read(data: bytes) -> Part:
    """A part as it is in Redis.

    Raises:
        SchemaError: It is of a newer version: this program must be upgraded first.
        ValueError: It is no part at all.
    """
    try:
        schema, epoch, number, content = _decode(data)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise ValueError(f"not a part: {error}") from None
    if schema > SCHEMA:
        raise SchemaError(f"a part of version {schema}; this program reads up to {SCHEMA}: upgrade it first")
    return Part(epoch, number, content)


class Packer:
    """Makes the parts of one partition out of what its analyzers publish.

    Args:
        epoch: Of the partition's lease.

    Attributes:
        packers: By family name, for `RedisWriter.open`.
        limits: How many rows of a board are asked of this partition: by family name.
    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._number = 0
        self.limits: dict[str, int] = {}
        self.packers: dict[str, Callable[[Any], bytes]] = {
            TTA_ALL.name: lambda value: self._part(_pack_trades(value)),
            HALTS_ACTIVE.name: lambda rows: self._part(_pack_halts(rows)),
            MARKET_STATUS.name: self._part,
        }
        for board in BOARDS:
            self.packers[board.name] = self._board_packer(board)

    def _part(self, content: Any) -> bytes:
        self._number += 1
        return _encode([SCHEMA, self._epoch, self._number, content])

    def _board_packer(self, board: Family) -> Callable[[Any], bytes]:
        def pack(rows: list[BoardRow]) -> bytes:
            astuple = msgspec.structs.astuple
            limit = self.limits.get(board.name, ROWS)
            return self._part([limit, [astuple(row)[:_ROW_VALUES] for row in rows]])

        return pack


def _pack_trades(value: dict[str, Any]) -> list[Any]:
    """Of `tta:all_symbols:widget`: JSON that needs only be joined, and who may be among the top."""
    symbols = value["symbols"]
    rows = {symbol: _json(stats) for symbol, stats in symbols.items()}
    best = nsmallest(TOP, symbols.items(), key=lambda item: (-item[1]["total_volume"], item[0]))
    top = [[-stats["total_volume"], symbol, rows[symbol]] for symbol, stats in best]
    joined = b",".join([b'"%b":%b' % (symbol.encode(), row) for symbol, row in rows.items()])
    return [value["timestamp"], len(rows), joined, top]


def _pack_halts(rows: list[HaltRow]) -> list[Any]:
    return [[-(row.halt_timestamp or 0), row.symbol, _json(row)] for row in rows]


# How contributions become one value.


def merge_board(
    family: Family, parts: Mapping[str, Part], stale: Iterable[str] = (), rows: int = ROWS
) -> tuple[list[BoardRow], dict[str, int]]:
    """The board of the whole market: as one process would rank it, ties included.

    Args:
        family: Which board.
        parts: By partition.
        stale: Partitions that say nothing any more: their rows stay, marked `stale`.
        rows: Of the board.

    Returns:
        Its rows; and for each partition how many rows it should contribute from now on.
    """
    name, largest_first = RANKED_BY[family.name]
    at = _FIELDS.index(name)
    sign = -1 if largest_first else 1
    silent = set(stale)
    ranked: list[tuple[Any, str, list[Any], str]] = []
    for partition, part in parts.items():
        ranked += [(sign * row[at], row[_SYMBOL], row, partition) for row in part.content[1]]
    ranked.sort(key=itemgetter(0, 1))
    shown: dict[str, int] = dict.fromkeys(parts, 0)
    board = []
    for rank, (_, _, row, partition) in enumerate(ranked[:rows], 1):
        shown[partition] += 1
        if len(row) != _ROW_VALUES:  # of another version: fields were only ever appended
            row = [*row[:_ROW_VALUES], *[0] * (_ROW_VALUES - len(row))]
        if partition in silent:
            row = [*row[:_STALE], True, *row[_STALE + 1 :]]
        board.append(BoardRow(*row, rank=rank))
    wanted = {}
    for partition, part in parts.items():
        limit, given = part.content[0], len(part.content[1])
        if given >= limit and shown[partition] >= given:  # it may have more that belong here
            wanted[partition] = min(rows, 2 * limit)
        else:
            wanted[partition] = min(rows, shown[partition] + shown[partition] // 4 + _MARGIN)
    return board, wanted


def merge_trades(parts: Iterable[Part]) -> tuple[msgspec.Raw | None, dict[str, msgspec.Raw]]:
    """`tta:all_symbols:widget` and `tta:{S}:widget` by symbol, as JSON; None where no partition has any."""
    contents = [part.content for part in parts]
    if not contents:
        return None, {}
    newest = max(content[0] for content in contents)
    # Where nothing was traded for so long, yesterday's may still stand.
    oldest = (datetime.fromisoformat(newest) - SILENT).isoformat()
    contents = [content for content in contents if content[0] >= oldest]
    timestamp = newest.encode()
    count = sum(content[1] for content in contents)
    joined = b",".join([content[2] for content in contents if content[2]])
    everything = b'{"timestamp":"%b","symbols":{%b},"symbol_count":%d}' % (timestamp, joined, count)
    best = sorted([(key, symbol, row) for content in contents for key, symbol, row in content[3]])[:TOP]
    top = {
        symbol: msgspec.Raw(b'{"timestamp":"%b","symbol":"%b",%b' % (timestamp, symbol.encode(), row[1:]))
        for _, symbol, row in best
    }
    return msgspec.Raw(everything), top


def merge_halts(parts: Iterable[Part]) -> msgspec.Raw:
    """`halts:active` as JSON: the newest first, ties by symbol."""
    rows = sorted([(key, symbol, row) for part in parts for key, symbol, row in part.content])[:MAX_HALTS]
    return msgspec.Raw(b"[" + b",".join([row for _, _, row in rows]) + b"]")
