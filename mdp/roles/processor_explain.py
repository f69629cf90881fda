"""Explains a symbol in a processor: from its own partition, or by saying whose the partition is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mdp.admin.controls import NotHereError, NotYetError, UnknownSymbolError
from mdp.cache.keys import Keys, partition_name
from mdp.cache.origin import OriginOf
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.queues.entry import partition_of
from mdp.roles.explanation import explained, unknown

if TYPE_CHECKING:
    from mdp.cache.reference import Reference
    from mdp.exchange_calendar import ExchangeCalendar
    from mdp.processor.partition import Partition
    from mdp.processor.partitions import Partitions

_ASK_SECONDS = 2.0  # for Redis to say whose a partition is: an operator waits


class PartitionExplainer:
    """See the module.

    Args:
        client: Redis, where leases are.
        keys: Names.
        me: Our id, as owner of leases.
        count: How many partitions there are.
        partitions: What we work on.
        reference: Reference values of the trading day.
        calendar: Of the market.
        feed_state: Of the provider's connection, as the listener said last.
        gaps: The gap ledger of the platform.
    """

    def __init__(
        self,
        client: Any,
        keys: Keys,
        me: str,
        count: int,
        partitions: Partitions,
        reference: Reference,
        *,
        calendar: ExchangeCalendar,
        feed_state: Callable[[], str],
        gaps: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._client, self._keys, self._me, self._count = client, keys, me, count
        self._partitions, self._reference, self._calendar = partitions, reference, calendar
        self._feed_state, self._gaps = feed_state, gaps

    async def explain(self, symbol: str) -> dict[str, Any]:
        """See `Controls.explain`. With the `partition` and its `owner`."""
        number = partition_of(symbol, self._count)
        one = self._partitions.working.get(number)
        if one is None:
            raise await self._elsewhere(number, symbol)
        if not one.live:
            raise NotYetError(
                f"partition {number} of {symbol!r} was just taken over by this process and is being brought "
                "up to date; ask again in a moment"
            )
        await self._settled(one)
        if self._partitions.working.get(number) is not one:  # handed over meanwhile
            raise await self._elsewhere(number, symbol)
        origin = OriginOf(self._reference, symbol, kept="kept in Redis")
        answer = explained(
            one.engine,
            symbol,
            origin=origin,
            calendar=self._calendar,
            feed_state=self._feed_state(),
            gaps=_gaps_of(self._gaps(), number),
        )
        if answer is None:
            raise UnknownSymbolError(unknown(symbol, one.engine.market.clock.day, self._is_known))
        if origin.book is not None and origin.book.restored:
            answer["reference"]["kept_in"] = "Redis"
        return {**answer, "partition": number, "owner": self._me}

    async def _settled(self, one: Partition) -> None:
        """Until the state may move: to explain folds what the state of trades keeps for later."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await one.room()
        except TimeoutError:
            raise NotYetError(
                f"partition {one.number} is being written down; ask again in a moment"
            ) from None

    def _is_known(self, symbol: str) -> bool:
        markets = (one.engine.market for one in self._partitions.working.values())
        return any(symbol in market.symbols or symbol in market.references for market in markets)

    async def _elsewhere(self, number: int, symbol: str) -> NotHereError | NotYetError:
        """Who is to be asked: read from the lease at this moment, since nobody tells who takes one."""
        whose = f"partition {number} of {symbol!r}"
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                raw = await self._client.get(self._keys.lease(partition_name(number)))
        except REDIS_ERRORS as exc:
            return NotYetError(
                f"{whose} is not of this process, and Redis does not say whose it is ({type(exc).__name__})"
            )
        if raw is None:
            return NotYetError(
                f"{whose} has no owner at this moment; ask again in 3 s, and see that enough processes run "
                "--role processor"
            )
        owner = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
        if owner == self._me:
            return NotYetError(f"{whose} is on its way into or out of this process; ask again in a moment")
        host, process = place_of(owner)
        where = f"process {process} on host {host}" if process else "it"
        return NotHereError(
            f"{symbol!r} is of partition {number}, which the processor {owner} owns, not this one "
            f"({self._me}); ask the admin API of {where}",
            partition=number,
            owner=owner,
            host=host,
            process=process,
        )


def place_of(owner: str) -> tuple[str, int | None]:
    """Host and process of an owner's id (`Shared.id`: host, process, a random word; a host has dashes).

    An id of another form is all host, without a process.
    """
    host, _, rest = owner.rpartition("-")
    host, _, process = host.rpartition("-")
    return (host, int(process)) if host and rest and process.isdecimal() else (owner, None)


def _gaps_of(entries: Iterable[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Without the entries of other partitions alone."""
    return [gap for gap in entries if gap.get("partition", number) == number]
