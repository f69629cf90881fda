"""Symbols on boards, as they are in Redis."""

from __future__ import annotations

from mdp.analyzers.leaderboards import BOARDS
from mdp.cache.keys import Keys
from mdp.cache.redis_link import connect
from mdp.processor.board_symbols import BoardSymbols
from tests.redis_server import RedisServer

KEYS = Keys("t:")


async def test_symbols_of_all_boards_are_read_once_in_a_while(redis_server: RedisServer) -> None:
    """A board that is missing or damaged has none; so has a Redis that does not answer."""
    client, now = connect(redis_server.config()), 100.0
    symbols = BoardSymbols(client, KEYS, clock=lambda: now)
    with redis_server.client() as writing:
        writing.set(KEYS.value(BOARDS[0].name), '[{"symbol":"AAA","rank":1},{"symbol":"BBB"}]')
        writing.set(KEYS.value(BOARDS[1].name), "[{}]")
    try:
        assert await symbols() == ["AAA", "BBB"]
        redis_server.stop()
        assert await symbols() == ["AAA", "BBB"]
        now += 10
        assert await symbols() == []
    finally:
        await client.aclose()
