"""Who takes part: replicas give a sign of life, and those who gave none for a while count as gone."""

from __future__ import annotations

import contextlib

from mdp.cache.leases import Client
from mdp.cache.redis_link import REDIS_ERRORS

ALIVE_SECONDS = 3.0  # as long as a partition's lease: who is gone loses both at the same time

# By Redis's own clock: those of the members may differ by seconds.
_SIGN = """
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', ms), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', ms - tonumber(ARGV[2])))
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""
_LEAVE = "return redis.call('ZREM', KEYS[1], ARGV[1])"


class Members:
    """The members of one sorted set, of which we are one.

    Args:
        client: Redis.
        key: `Keys.members`.
        member: Our id; unique among all processes.
        alive_seconds: Without a sign of life for so long a member is gone.
    """

    def __init__(
        self, client: Client, key: str, member: str, *, alive_seconds: float = ALIVE_SECONDS
    ) -> None:
        self.member = member
        self._client = client
        self._key = key
        self._alive_ms = int(alive_seconds * 1000)

    async def sign(self) -> list[str]:
        """Give a sign of life; returns all members in order of their ids, us included.

        Raises:
            REDIS_ERRORS: Whether it was heard is not known.
        """
        found = await self._client.eval(_SIGN, 1, self._key, self.member, str(self._alive_ms))
        return sorted(member.decode() if isinstance(member, bytes) else member for member in found)

    async def leave(self) -> None:
        """Be no member any more. Never raises: without a sign of life we are gone soon, anyway."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._client.eval(_LEAVE, 1, self._key, self.member)


def share(partitions: int, members: int) -> int:
    """How many partitions one of so many members holds at most, so that together they hold all."""
    return -(-partitions // max(1, members))
