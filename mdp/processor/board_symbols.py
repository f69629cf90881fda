"""Symbols that somebody may see on a board now, as the publisher wrote them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from mdp.analyzers.leaderboards import BOARDS
from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS

_KEEP_SECONDS = 5.0  # repairs of several partitions begin together


class _Row(msgspec.Struct):
    symbol: str


_decode = msgspec.json.Decoder(list[_Row]).decode


class BoardSymbols:
    """Call it for the symbols of all boards.

    Args:
        client: Redis, where clients' data is.
        keys: Names.
        clock: Monotonic seconds.
    """

    def __init__(self, client: Any, keys: Keys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._keys = client, keys
        self._clock = clock
        self._read_at = -1e9
        self._symbols: list[str] = []

    async def __call__(self) -> list[str]:
        """Those of a few seconds ago at most; none where Redis does not answer."""
        if self._clock() - self._read_at < _KEEP_SECONDS:
            return self._symbols
        found: list[str] = []
        for board in BOARDS:
            try:
                data = await self._client.get(self._keys.value(board.name))
                found += [row.symbol for row in _decode(data or b"[]")]
            except (*REDIS_ERRORS, msgspec.MsgspecError):
                continue
        self._read_at, self._symbols = self._clock(), found
        return found
