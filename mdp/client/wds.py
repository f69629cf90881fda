"""`WdsClient`: what a program uses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from mdp.client.errors import Disconnected, refusal
from mdp.client.link import Link, raise_refusal
from mdp.client.subscription import Subscription
from mdp.client.values import Update
from mdp.client.wire import Credentials, Token, Wire, dial

MAX_EVENTS = 20_000  # more than a resumed feed can bring at once

_NOT_ENTERED = "use the client as `async with WdsClient(...) as client`"

_log = logging.getLogger(__name__)


class WdsClient:
    """One user of a WDS. Used as an async context manager; subscriptions run side by side.

    All share one connection. Where two name the same feed, the second has a connection of its own, as
    the service sends a feed once per connection; from a service of version 1 each has one.
    """

    def __init__(
        self,
        url: str,
        api_key: str = "",
        *,
        token: Token = "",
        timeout_seconds: float = 10.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_warning: Callable[[str], None] = _log.warning,
    ) -> None:
        """
        Args:
            url: Of the endpoint, `ws://host:port/ws`.
            api_key: Sent first when not empty.
            token: In place of a key: a token, or a function (async or not) that gives a fresh one for each
                login and before the old one ends.
            timeout_seconds: For connecting, and for each answer.
            sleep: Waits between two attempts; replaced in tests.
            on_warning: Told that the key or token is about to end.
        """
        self.url = url
        self._credentials = Credentials(api_key, token)
        self._timeout = timeout_seconds
        self._sleep = sleep
        self._warn = on_warning
        self._session: aiohttp.ClientSession | None = None
        self._links: list[Link] = []
        self._closing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"WdsClient({self.url!r})"  # the key stays out

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        links, self._links = self._links, []
        for link in links:
            await link.close()
        if self._closing:
            await asyncio.wait(self._closing)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, key: str, limit: int | None = None) -> Any:
        """The cached value of `key`: None where there is nothing, a list (newest first) for lists.

        Raises:
            ClientError: The key was refused, or the API key.
            Disconnected: No connection, or no answer in time.
        """
        for link in self._links:
            if link.live:
                return await link.get(key, limit)
        request: dict[str, Any] = {"action": "get", "cache": key}
        if limit is not None:
            request["limit"] = limit
        try:
            wire = await self._dial(second=False)
        except Disconnected as error:
            raise refusal(error, renewable=self._credentials.renewable) or error from None
        try:
            await wire.send(request)
            while True:
                answer = await wire.receive(self._timeout)
                if isinstance(answer, dict) and answer.get("cache") == key:
                    return answer.get("data")
                raise_refusal(answer, key)
        finally:
            await wire.close()

    async def subscribe(
        self,
        feed: str,
        *,
        limit: int | None = None,
        fields: Sequence[str] = (),
        where: Sequence[Sequence[Any]] = (),
        full: bool = False,
        max_events: int = MAX_EVENTS,
        on_state: Callable[[str], None] = lambda state: None,
    ) -> AsyncGenerator[Update, None]:
        """Every update of a feed, what there is now first, over reconnects, until closed or cancelled.

        Whoever reads slowly gets the newest value of a state feed, and an error when more than
        `max_events` events wait. What an event feed publishes while the connection is down follows when
        it is back; where that is not kept any more, an update says `gap`.

        Args:
            feed: As in the protocol, e.g. `scanners:top_gainers` or `quote:*`.
            limit: Of a board the first rows, of an event feed's list the newest items.
            fields: Of rows and values only these.
            where: Comparisons, all of which must hold, e.g. `[("pct_change", ">=", 10)]`.
            full: Have the service send whole values and no deltas.
            max_events: That may wait to be read.
            on_state: Told in a few words whenever the connection changes.

        Raises:
            ClientError: The feed, an option, the key or the token was refused.
            TooSlow: More than `max_events` events waited.
        """
        options = {
            name: value
            for name, value in (
                ("limit", limit),
                ("fields", list(fields)),
                ("where", [list(part) for part in where]),
                ("full", full),
            )
            if value
        }
        subscription = Subscription(feed, options, max_events=max_events, on_state=on_state)
        if self._session is None:
            raise RuntimeError(_NOT_ENTERED)
        self._place(subscription)
        try:
            while True:
                yield await subscription.next()
        finally:
            self._end(subscription)

    async def stream(
        self, feed: str, on_state: Callable[[str], None] = lambda state: None
    ) -> AsyncGenerator[Any, None]:
        """Every payload of `feed` as it is, as `subscribe` without numbers: values that there are, and
        events from now on.

        Args:
            feed: As in the protocol, e.g. `scanners:top_gainers` or `quote:*`.
            on_state: Told in a few words whenever the connection changes.

        Raises:
            ClientError: As `subscribe`.
        """
        updates = self.subscribe(feed, on_state=on_state)
        try:
            async for update in updates:
                if update.kind != "list" and (update.value is not None or not update.epoch):
                    yield update.value
        finally:
            await updates.aclose()

    def _place(self, subscription: Subscription) -> None:
        for link in self._links:
            if link.fits(subscription.pattern):
                break
        else:
            link = Link(
                lambda: self._dial(second=True),
                self._credentials,
                timeout_seconds=self._timeout,
                sleep=self._sleep,
                on_warning=self._warn,
                on_spare=self._spread,
            )
            self._links.append(link)
        link.add(subscription)

    def _end(self, subscription: Subscription) -> None:
        for link in list(self._links):
            link.remove(subscription)
            if link.idle:
                self._links.remove(link)
                task = asyncio.create_task(link.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def _spread(self, subscriptions: list[Subscription]) -> None:
        for subscription in subscriptions:
            self._place(subscription)

    async def _dial(self, *, second: bool) -> Wire:
        if self._session is None:
            raise RuntimeError(_NOT_ENTERED)
        return await dial(self._session, self.url, self._credentials, self._timeout, second=second)
