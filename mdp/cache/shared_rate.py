"""One rate of REST requests for all processes that share a Redis: the provider counts by key, not by process.

Redis keeps when the next request may start, by its own clock. Whoever wants to ask reserves that time with
one command and waits for it, so that no two processes start at the same one, however many wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from mdp.cache.bucket import TokenBucket
from mdp.cache.keys import Keys
from mdp.cache.leases import Client
from mdp.cache.redis_link import REDIS_ERRORS

log = structlog.get_logger(__name__)

#: Times that are reserved ahead at most; more can only be a clock of Redis that went back.
_AHEAD = 1_000

# KEYS: when the next may start (us). ARGV: us between two; us that may be caught up on after a pause; us
# ahead at most. Returns how long to wait, us.
_RESERVE = """
local now = redis.call('TIME')
local us = tonumber(now[1]) * 1000000 + tonumber(now[2])
local at = tonumber(redis.call('GET', KEYS[1]) or '0')
if at > us + tonumber(ARGV[3]) then
  at = us
end
at = math.max(at, us - tonumber(ARGV[2]))
local next = at + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil(math.max(next - us, 0) / 1000) + 1000)
return math.ceil(math.max(at - us, 0))
"""


class SharedRate:
    """See the module; `take` is what a `RestClient` waits for.

    Args:
        client: Redis.
        keys: Names.
        rate: Requests a second, of all processes together.
        burst: That may start at once after a pause; 1 at least.
        clock: Monotonic seconds, for the time without Redis.

    Attributes:
        alone: Requests that were counted here alone, because Redis did not answer.
    """

    def __init__(
        self,
        client: Any,
        keys: Keys,
        rate: float,
        burst: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.alone = 0
        self._client: Client = client
        self._key = keys.rest
        self._clock = clock
        self._bucket = TokenBucket(rate, burst)
        gap = 1e6 / rate
        self._args = [str(round(us)) for us in (gap, gap * (max(burst, 1.0) - 1), gap * _AHEAD)]

    async def take(self) -> float:
        """Reserve the next start; returns how many seconds to wait for it.

        Without Redis each process keeps to the rate by itself: together they may ask more often then.
        """
        try:
            return int(await self._client.eval(_RESERVE, 1, self._key, *self._args)) / 1e6
        except REDIS_ERRORS as error:
            self.alone += 1
            if self.alone.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                log.warning("rest_rate_not_shared", requests=self.alone, error=type(error).__name__)
            return self._bucket.reserve(self._clock())
