"""The accounting over all processes: what the simulator sent, and what became of each event of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from tests.failures.cluster import Cluster

_PATIENCE_SECONDS = 60.0
_OPEN_SECONDS = 8.0  # without any change, before what is not accounted for is taken for lost


class Books:
    """Remembers what each process said last: one that was killed takes its counters along.

    `Books.balance` needs a market that stands still (`quiet`).
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._last: dict[tuple[str, str], dict[str, int]] = {}  # (role, its log) -> terms

    async def look(self) -> None:
        """Ask everybody that answers. Called now and then, so that little of a killed process is unknown."""
        roles = [role for role in self._cluster.roles.values() if role.kind in ("listener", "processor")]
        lives = [(role.name, str(role.log)) for role in roles]
        answers = await asyncio.gather(*(role.ask("/queues") for role in roles))
        for life, role, answer in zip(lives, roles, answers, strict=True):
            if answer:
                self._last[life] = _listener(answer) if role.kind == "listener" else _processor(answer)

    async def quiet(self, last: Counter[str], still_s: float) -> Counter[str]:
        """Wait until nothing has been under way for so long; returns the balance. Nothing may be sent.

        Args:
            last: The balance before: where events are not accounted for since, they may be under way on a
                busy machine, and are waited for longer.
            still_s: In seconds.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        before, since = None, time.monotonic()
        while True:
            await asyncio.sleep(0.25)
            await self.look()
            now = await self.balance()
            if now != before:
                before, since = now, time.monotonic()
            still = time.monotonic() - since
            if still >= still_s and (not in_words(last, now)[1] or still >= _OPEN_SECONDS):
                return now
            assert time.monotonic() < until, f"does not come to rest: {now}"

    async def balance(self) -> Counter[str]:
        """Terms since the start: `sent` by the simulator, and what is known to have become of it."""
        stats = await self._cluster.stats()
        found: Counter[str] = Counter(sent=sum(stats["sent"].values()))
        witness = [one for one in stats["connections"] if one["number"] == 1]
        found["sent"] -= sum(sum(one["sent"].values()) for one in witness)
        now = {(role.name, str(role.log)) for role in self._cluster.roles.values() if role.alive}
        for life, terms in self._last.items():
            for term, count in terms.items():
                # What was processed moves with the partition: only present owners say it.
                if term != "processed" or life in now:
                    found[term] += count
        return found


def _listener(answer: dict[str, Any]) -> dict[str, int]:
    streams = answer["streams"]
    return {
        "decoded": sum(answer["decoded"].values()) + sum(answer["rejected"].values()),
        "shed": answer["ring"]["shed_events"],
        "streamed": streams["sent"],
        "dropped by the listener": streams["dropped"],
        "expired in the listener": streams["expired"],
        "refused to the listener": streams["lost"] + streams["unwritable"],
        _LEFT: streams["waiting"],
    }


def _processor(answer: dict[str, Any]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for terms in answer["queues"].values():
        found.update(terms)
    return {name: int(count) for name, count in found.items()}


_LEFT = "left with a listener"  # that lost its lease: nobody may write it any more
LOSSES = (
    "shed",
    "dropped by the listener",
    "expired in the listener",
    "refused to the listener",
    _LEFT,
    "expired",
    "missed",
    "unreadable",
)


def in_words(before: Counter[str], after: Counter[str]) -> tuple[str, int]:
    """What happened between two balances in words; and events that nobody accounts for (0: exact)."""
    since = {name: after[name] - before[name] for name in after | before}
    lost = {name: since[name] for name in LOSSES if since.get(name)}
    unknown = since["sent"] - since.get("processed", 0) - sum(lost.values())
    if -after[_LEFT] <= unknown < 0:
        # It got no answer to what was under way; a Redis that was frozen writes that when it wakes up. Or it
        # was asked for the last time before it wrote what waited, and ended.
        lost[_LEFT] = lost.get(_LEFT, 0) + unknown
        unknown = 0
    words = f"{since['sent']:,} sent = {since.get('processed', 0):,} processed"
    words += "".join(f" + {count:,} {name}" for name, count in lost.items())
    return words, unknown
