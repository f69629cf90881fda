"""One subscription, without a connection: what it asks for, what it knows, what waits to be read."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from mdp.client.errors import TooSlow
from mdp.client.values import Update, apply_delta, is_event

#: Deltas that do not fit should not happen: after so many, whole values are asked for.
MAX_MISFITS = 3


class Subscription:
    """A pattern and how it is wanted. Outlives connections: `ask` again and `take` what comes.

    What waits is bounded: of a state feed the newest value, of events `max_events`.
    """

    def __init__(
        self,
        pattern: str,
        options: dict[str, Any],
        *,
        max_events: int,
        on_state: Callable[[str], None] = lambda state: None,
    ) -> None:
        """
        Args:
            pattern: A feed's name, or a wildcard.
            options: As the protocol has them: `full`, `limit`, `fields`, `where`.
            max_events: That may wait to be read.
            on_state: Told in a few words whenever the connection changes.
        """
        self.pattern = pattern
        self.options = options
        self.on_state = on_state
        self.alone = False  # refused together with others: ask for it by itself
        self.begun = False  # the service has said yes, what comes is ours
        self.failed = False
        self._wild = "*" in pattern
        self._max_events = max_events
        self._lived = False
        self._misfits = 0
        self._known: dict[str, tuple[int, int, Any]] = {}  # state feed -> epoch, seq, value
        self._places: dict[str, tuple[int, int]] = {}  # event feed -> epoch and seq of its last event
        self._unsure: set[str] = set()  # event feeds of which something may be missing
        self._due: OrderedDict[object, Update] = OrderedDict()  # feed (state), or a number (event) -> update
        self._events = 0  # of them
        self._number = 0
        self._error: BaseException | None = None
        self._wake = asyncio.Event()
        self._read = asyncio.Event()  # nothing waits any more

    # Towards the service

    def ask(self) -> dict[str, Any]:
        """Options of the next `subscribe`; what comes before its answer is of an older one."""
        self.begun = False
        self._known.clear()
        options = dict(self.options)
        if self._misfits >= MAX_MISFITS:
            options["full"] = True
        if not self._wild and self.pattern in self._places:
            epoch, seq = self._places[self.pattern]
            return {**options, "resume": {"epoch": epoch, "seq": seq}}
        self._unsure.update(self._places)
        if self._lived and not self._wild:
            self._unsure.add(self.pattern)
        return options

    def begin(self) -> None:
        """The service has said yes."""
        self.begun = self._lived = True
        self.on_state("live")

    def resync(self) -> None:
        """The service cannot tell what was missed."""
        self._unsure.add(self.pattern)

    def take(self, message: dict[str, Any]) -> bool:
        """Take one message of version 2.

        Returns:
            False where it does not fit what is known: `ask` again.

        Raises:
            KeyError: It is no message of version 2.
        """
        feed, epoch, seq, kind = message["feed"], message["epoch"], message["seq"], message["kind"]
        data = message["data"]
        if kind == "event":
            self._take_event(feed, epoch, seq, message["ts"], data)
            return True
        if kind == "snapshot" and (feed in self._places or is_event(feed)):
            gap = feed in self._unsure and self._places.get(feed) != (epoch, seq)
            self._unsure.discard(feed)
            self._places[feed] = epoch, seq
            self._put_event(Update(feed, data, epoch, seq, message["ts"], "list", gap))
            return True
        if kind == "delta":
            known = self._known.get(feed)
            if known is None and not self._wild:
                return True  # of the subscription that this one replaced: the snapshot is still to come
            if known is None or known[:2] != (epoch, message["base"]):
                return self._misfit()
            try:
                data = apply_delta(known[2], data)
            except (KeyError, TypeError, AttributeError):
                return self._misfit()
        self._known[feed] = epoch, seq, data
        self._put(Update(feed, data, epoch, seq, message["ts"]))
        return True

    def _misfit(self) -> bool:
        self._misfits += 1
        return False

    def _take_event(self, feed: str, epoch: int, seq: int, ts: int, data: Any) -> None:
        place = self._places.get(feed)
        gap = feed in self._unsure
        if place is not None:
            if place[0] == epoch and seq <= place[1]:
                return  # had it
            next_one = (place[0], place[1] + 1) == (epoch, seq)
            # With `where`, what is left out is no gap.
            gap = not next_one and (gap or place[0] != epoch or not self.options.get("where"))
        self._unsure.discard(feed)
        self._places[feed] = epoch, seq
        self._put_event(Update(feed, data, epoch, seq, ts, "event", gap))

    # Towards the reader

    def _put(self, update: Update) -> None:
        self._due[update.feed] = update  # in place of an older one of its feed
        self._wake.set()

    async def pass_on(self, value: Any) -> None:
        """Let a payload of version 1 wait to be read, and wait for that.

        Such a service keeps no numbers, and conflates for whoever does not read on.
        """
        self._put_event(Update(self.pattern, value, kind="event" if is_event(self.pattern) else "value"))
        while self._due and not self.failed:
            self._read.clear()
            await self._read.wait()

    def _put_event(self, update: Update) -> None:
        if self.failed:
            return
        if self._events >= self._max_events:
            self.fail(
                TooSlow(
                    f"{self._events:,} updates of {self.pattern} wait to be read, as many as may: "
                    "read faster, or subscribe to less"
                )
            )
            return
        self._number += 1
        self._events += 1
        self._due[self._number] = update
        self._wake.set()

    def fail(self, error: BaseException) -> None:
        """End it: what waits is still read, then the error is raised."""
        if not self.failed:
            self.failed = True
            self._error = error
            self._wake.set()
            self._read.set()

    async def next(self) -> Update:
        """The next update; waits for it.

        Raises:
            ClientError: The service refused, or too much waits to be read.
        """
        while not self._due:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        key, update = self._due.popitem(last=False)
        self._events -= isinstance(key, int)
        if not self._due:
            self._read.set()
        return update
