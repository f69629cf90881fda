"""What an operator can ask a processor: the accounting of its partitions, and how its analyzers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from mdp.queues.stream_reader import ReaderCounters

if TYPE_CHECKING:
    from mdp.cache.redis_writer import RedisWriter
    from mdp.processor.partitions import Partitions
    from mdp.queues.stream_reader import StreamReader
    from mdp.roles.processor_explain import PartitionExplainer

_LOST = ("expired", "missed", "unreadable")  # as `PartitionLosses` names them


class ProcessorControls:
    """Some of `mdp.admin.controls.Controls`.

    Args:
        partitions: What the processor works on.
        reader: Where their events come from.
        writer: Where their results go.
        gaps: The gap ledger of the platform.
        explainer: Explains symbols of the partitions.
    """

    def __init__(
        self,
        partitions: Partitions,
        reader: StreamReader,
        writer: RedisWriter,
        gaps: Callable[[], list[dict[str, Any]]],
        explainer: PartitionExplainer,
    ) -> None:
        self._partitions = partitions
        self._reader = reader
        self._writer = writer
        self._gaps = gaps
        self._explainer = explainer

    def queues(self) -> dict[str, Any]:
        """By queue, in events: what was processed and what was not, and why.

        These counts belong to partitions and move with them to their next owners. What `reader` says is of
        this process since its start, replays included; `fenced` events came of a listener without a lease.
        `writer` is of this process, too: what was handed to Redis, what waits, what was `dropped` because
        Redis could not take it in time, raw events of a failed turn among them, and what was `left` to wait
        where a lease was lost; `events + raw = written + raw_sent + dropped + left + waiting`.
        """
        queues: dict[str, dict[str, int]] = {}

        def terms(queue: str) -> dict[str, int]:
            return queues.setdefault(queue, {"processed": 0, **dict.fromkeys(_LOST, 0)})

        for one in self._partitions.working.values():
            for queue, count in one.processed.items():
                terms(queue)["processed"] += count
            for queue, reasons in one.lost.items():
                for why, count in reasons.items():
                    terms(queue)[why] += count
        written = {**msgspec.structs.asdict(self._writer.totals()), "waiting": self._writer.waiting}
        return {"queues": queues, "reader": self._counted(), "writer": written}

    def gaps(self) -> list[dict[str, Any]]:
        """The listener's gap ledger with what became of it in all partitions, and theirs."""
        return self._gaps()

    async def explain(self, symbol: str) -> dict[str, Any]:
        """As `Controls.explain`, for the symbols of our partitions."""
        return await self._explainer.explain(symbol)

    def analyzers(self) -> list[dict[str, Any]]:
        """By analyzer, summed over the partitions: in how many it runs, its failures, what it ignored.

        `enabled` where it runs in all of them.
        """
        found: dict[str, dict[str, Any]] = {}
        for one in self._partitions.working.values():
            for guard in one.engine.guards:
                row = found.setdefault(
                    guard.name,
                    {
                        "name": guard.name,
                        "queues": list(guard.analyzer.queues),
                        "enabled": True,
                        "partitions": 0,
                        "failures": 0,
                        "lost_events": 0,
                        "ignored": {},
                    },
                )
                row["enabled"] &= not guard.disabled
                row["partitions"] += not guard.disabled
                row["failures"] += guard.failures
                row["lost_events"] += guard.lost_events
                for what, count in getattr(guard.analyzer, "ignored", {}).items():
                    row["ignored"][what] = row["ignored"].get(what, 0) + count
        return list(found.values())

    def _counted(self) -> dict[str, int]:
        every = [self._reader.removed, *self._reader.counters.values()]
        return {
            name: sum(getattr(counters, name) for counters in every)
            for name in ReaderCounters.__struct_fields__
        }
