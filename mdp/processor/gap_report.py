"""The gap ledger of the whole platform: what the listener says, with what became of it in each partition.

Each partition's owner writes its ledger as a part (`mdp:parts:gaps`); listener and processor read all of
them, so that either can say what could not be repaired, whoever tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import structlog

from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.tasks import end
from mdp.listener.announcement import read_announcement
from mdp.listener.gaps import DONE, FAILED, MAX_NAMES, OFF, PARTIAL, RUNNING, WAITING
from mdp.processor.parts import SCHEMA, read
from mdp.stage import Health

log = structlog.get_logger(__name__)

GAPS = "gaps"  # the parts' name; no feed is called so
_LOOK_SECONDS = 2.0
_PARTITION = "partition:"
#: What is said of a repair by several: the first of these that one of them says.
_WORDS = (RUNNING, WAITING, FAILED, PARTIAL, OFF, DONE)
_encode = msgspec.msgpack.Encoder().encode


def pack(epoch: int, number: int, entries: list[dict[str, Any]]) -> bytes:
    """A partition's ledger as a part (`mdp.processor.parts.read`)."""
    return _encode([SCHEMA, epoch, number, entries])


class GapReport:
    """A stage: reads the ledgers of all partitions, and of the listener, every other second.

    Args:
        name: Of the stage.
        client: Redis, where parts are.
        keys: Names.
    """

    def __init__(self, name: str, client: Any, keys: Keys) -> None:
        self.name = name
        self.announced: list[dict[str, Any]] = []
        self.partitions: dict[int, list[dict[str, Any]]] = {}
        self._client, self._keys = client, keys
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to read."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """End. Safe to call twice, or before `start`."""
        task, self._task = self._task, None
        await end(task)

    def health(self) -> Health:
        """Always good: what was read last stays."""
        return Health(True, f"{len(self.announced)} entries of the gap ledger")

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except REDIS_ERRORS:
                pass
            except Exception as exc:  # a defect must not end it for good
                log.error("gap_report_failed", exc_info=exc)
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Read once.

        Raises:
            REDIS_ERRORS: What was read before stays.
        """
        said = read_announcement(await self._client.hgetall(self._keys.listener))
        raw = await self._client.hgetall(self._keys.parts(GAPS))
        self.announced = said.ledger
        self.partitions = {
            number: entries
            for field, data in raw.items()
            if (number := _number(field)) is not None and (entries := _entries(data)) is not None
        }

    def entries(
        self,
        *,
        listener: list[dict[str, Any]] | None = None,
        own: Mapping[int, list[dict[str, Any]]] | None = None,
    ) -> list[dict[str, Any]]:
        """The whole ledger, oldest first.

        Args:
            listener: What we know better than Redis: the listener's own ledger,
            own: or that of our own partitions.
        """
        return merged(self.announced if listener is None else listener, {**self.partitions, **(own or {})})


def merged(
    listener: Iterable[dict[str, Any]], partitions: Mapping[int, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """The listener's entries with what all partitions say of them, and those of partitions alone.

    An entry of a partition alone has its number as `partition`.
    """
    gaps = {(gap.get("number"), gap.get("start_ms"), gap.get("reason")): gap for gap in listener}
    of: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    found: list[dict[str, Any]] = []
    for number, entries in sorted(partitions.items()):
        for entry in entries:
            sources = [key for key in map(tuple, entry.get("of") or []) if key in gaps]
            for key in sources:
                of.setdefault(key, {})[number] = entry
            if not sources:
                alone = {name: value for name, value in entry.items() if name != "of"}
                found.append({**alone, "partition": number})
    for key, gap in gaps.items():
        parts = of.get(key)
        found.append({**gap, **_together(parts)} if parts else dict(gap))
    return sorted(found, key=lambda gap: gap.get("start_ms") or 0)


def _together(parts: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """What partitions say of one gap, as one word."""
    words = {entry["repair"] for entry in parts.values() if entry["repair"]}
    word = next((word for word in _WORDS if word in words), "")
    details = sorted({entry["repair_detail"] for entry in parts.values() if entry["repair"] == word} - {""})
    whose: set[str] = set()
    count: int | None = 0
    for entry in parts.values():
        whose.update(entry["uncertain"] or ())
        known = entry["uncertain_count"]
        count = None if known is None or count is None else count + known
    lost = sorted({feed for entry in parts.values() for feed in entry["not_recoverable"]})
    starts = [entry["market_start_ms"] for entry in parts.values() if entry["market_start_ms"]]
    ends = [entry["market_end_ms"] for entry in parts.values()]
    return {
        "market_start_ms": min(starts, default=None),
        "market_end_ms": None if None in ends else max(ends, default=None),
        "repair": word,
        "repair_detail": "; ".join(details[:3]),
        "repaired": sum(entry["repaired"] for entry in parts.values()),
        "uncertain": None if count is None else sorted(whose)[:MAX_NAMES],
        "uncertain_count": count,
        "not_recoverable": lost,
        "partitions": sorted(parts),
    }


def _number(field: bytes) -> int | None:
    name = field.decode("utf-8", "replace")
    digits = name.removeprefix(_PARTITION)
    return int(digits) if name.startswith(_PARTITION) and digits.isdecimal() else None


def _entries(data: bytes) -> list[dict[str, Any]] | None:
    try:
        content = read(data).content
    except ValueError:  # damaged, or of a newer version
        return None
    return content if isinstance(content, list) else None
