"""One connection and its subscriptions, kept up over every loss of it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

from mdp.client.errors import PATIENCE, ClientError, Disconnected, refusal
from mdp.client.subscription import Subscription
from mdp.client.values import overlap
from mdp.client.wire import Credentials, Wire

FIRST_DELAY_SECONDS = 0.25
MAX_DELAY_SECONDS = 10.0
STABLE_SECONDS = 5.0  # connected this long, the next outage starts with a short delay again
_MAX_FEEDS = 500  # in one message, within what a message may be long
_LATER_SECONDS = 1.0  # before what was refused for the moment is asked again

Dial = Callable[[], Awaitable[Wire]]
Sleep = Callable[[float], Awaitable[None]]


class Link:
    """Runs while it has subscriptions, no two of which may name the same feed."""

    def __init__(
        self,
        dial: Dial,
        credentials: Credentials,
        *,
        timeout_seconds: float,
        sleep: Sleep,
        on_warning: Callable[[str], None],
        on_spare: Callable[[list[Subscription]], None],
    ) -> None:
        """
        Args:
            dial: Opens a connection that is logged in.
            credentials: For a new login before a token ends.
            timeout_seconds: For each answer.
            sleep: Waits between two attempts.
            on_warning: Told that a key or token is about to end.
            on_spare: Takes subscriptions that need connections of their own: version 1 has no names.
        """
        self._dial = dial
        self._credentials = credentials
        self._timeout = timeout_seconds
        self._sleep = sleep
        self._warn = on_warning
        self._on_spare = on_spare
        self._subscriptions: dict[str, Subscription] = {}
        self._told: dict[str, Subscription] = {}  # what this connection was asked for
        self._asked: dict[int, list[Subscription]] = {}  # number of a recent question -> whom it is for
        self._open: set[int] = set()  # those without an answer
        self._answers: dict[int, asyncio.Future[Any]] = {}  # of `get`
        self._routes: dict[str, Subscription | None] = {}  # feed of a message -> whose it is
        self._ids = itertools.count(1)
        self._changed = asyncio.Event()
        self._wire: Wire | None = None  # while it speaks version 2
        self._overdue = False
        self._task: asyncio.Task[None] | None = None
        self.first_version = False  # its service chose version 1

    def fits(self, pattern: str) -> bool:
        """Whether a subscription to the pattern may share this connection."""
        if self.first_version:
            return not self._subscriptions
        return not any(overlap(pattern, other) for other in self._subscriptions)

    @property
    def idle(self) -> bool:
        """Whether nothing is subscribed any more: it can be closed."""
        return not self._subscriptions

    @property
    def live(self) -> bool:
        """Whether it can be asked now."""
        return self._wire is not None

    def add(self, subscription: Subscription) -> None:
        """Take a subscription that fits; connects if need be."""
        self._subscriptions[subscription.pattern] = subscription
        self._routes.clear()
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="mdp-client")

    def remove(self, subscription: Subscription) -> None:
        """End a subscription, if it is one of these."""
        if self._subscriptions.get(subscription.pattern) is subscription:
            del self._subscriptions[subscription.pattern]
            self._routes.clear()
            self._changed.set()

    async def close(self) -> None:
        """End the connection and all that is subscribed."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self._fail_all(ClientError("the client was closed"))

    async def get(self, feed: str, limit: int | None) -> Any:
        """A feed's value, asked on this connection, which must be `live`."""
        wire = self._wire
        if wire is None:
            raise Disconnected("the connection ended")
        number = next(self._ids)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        request = {"action": "get", "feed": feed, "id": number}
        try:
            await wire.send(request if limit is None else {**request, "limit": limit})
            async with asyncio.timeout(self._timeout):
                return await future
        except TimeoutError:
            raise Disconnected(f"no answer within {self._timeout:g} s") from None
        finally:
            del self._answers[number]

    # The connection

    async def _run(self) -> None:
        delay = FIRST_DELAY_SECONDS
        loop = asyncio.get_running_loop()
        try:
            while self._subscriptions:
                began = loop.time()
                try:
                    await self._connected()
                except Disconnected as error:
                    final = refusal(error, renewable=self._credentials.renewable)
                    if final is not None:
                        raise final from None
                    for subscription in self._subscriptions.values():
                        subscription.on_state(f"{error}; trying again")
                    if loop.time() - began >= STABLE_SECONDS:
                        delay = FIRST_DELAY_SECONDS
                    # Jitter: not all clients of a service that comes back at the same moment.
                    patience = PATIENCE.get(error.code, 0.0)
                    await self._sleep((patience + delay) * random.uniform(0.5, 1.0) + patience / 2)
                    delay = min(delay * 2, MAX_DELAY_SECONDS)
        except asyncio.CancelledError as error:
            if self._task is asyncio.current_task():  # not by us
                self._fail_all(error)
            raise
        except BaseException as error:  # whoever reads must learn of it, whatever it is
            self._fail_all(error)
            if not isinstance(error, Exception):
                raise

    def _fail_all(self, error: BaseException) -> None:
        for subscription in self._subscriptions.values():
            subscription.fail(error)
        self._subscriptions.clear()

    async def _connected(self) -> None:
        wire = await self._dial()
        self.first_version = not wire.second
        try:
            if wire.second:
                await self._speak(wire)
            else:
                await self._speak_first_version(wire)
        finally:
            await wire.close()

    async def _speak(self, wire: Wire) -> None:
        """Version 2, until the connection ends."""
        self._told, self._asked, self._open, self._overdue = {}, {}, set(), False
        self._wire = wire
        self._changed.set()
        writer = asyncio.create_task(self._write(wire))
        try:
            while True:
                await self._take(wire, await wire.receive())
                await asyncio.sleep(0)  # what is buffered comes without waiting: let readers read
        except Disconnected as error:
            if self._overdue:
                raise Disconnected(f"no answer within {self._timeout:g} s") from None
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(Disconnected(str(error), error.code))
            raise
        finally:
            self._wire = None
            for subscription in self._subscriptions.values():
                subscription.begun = False
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(Disconnected("the connection ended"))
            writer.cancel()
            await asyncio.wait({writer})

    async def _write(self, wire: Wire) -> None:
        """Tell the service what changed of what is wanted, whenever it does."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._tell(wire)
            except Disconnected:
                return  # the reader hears of it, too

    async def _tell(self, wire: Wire) -> None:
        wanted = self._subscriptions
        gone = [name for name, held in self._told.items() if name not in wanted or wanted[name] is not held]
        for name in gone:
            del self._told[name]
        for start in range(0, len(gone), _MAX_FEEDS):
            feeds = gone[start : start + _MAX_FEEDS]
            await wire.send({"action": "unsubscribe", "feeds": feeds, "id": next(self._ids)})
        together: dict[str, tuple[dict[str, Any], list[Subscription]]] = {}
        for name, subscription in wanted.items():
            if name not in self._told and not subscription.failed:
                self._told[name] = subscription
                options = subscription.ask()
                own = name if subscription.alone or "resume" in options else ""
                together.setdefault(own + repr(options), (options, []))[1].append(subscription)
        for options, members in together.values():
            for start in range(0, len(members), _MAX_FEEDS):
                await self._subscribe(wire, options, members[start : start + _MAX_FEEDS])

    async def _subscribe(self, wire: Wire, options: dict[str, Any], members: list[Subscription]) -> None:
        number = next(self._ids)
        self._asked[number] = members
        self._open.add(number)
        asyncio.get_running_loop().call_later(self._timeout, self._check_answer, wire, number)
        feeds = [subscription.pattern for subscription in members]
        await wire.send({"action": "subscribe", "feeds": feeds, **options, "id": number})

    def _check_answer(self, wire: Wire, number: int) -> None:
        if self._wire is wire:
            self._asked.pop(number, None)
            if number in self._open:
                self._overdue = True
                self._closing = asyncio.create_task(wire.close())

    # What comes

    async def _take(self, wire: Wire, frame: Any) -> None:
        if isinstance(frame, list):
            for message in frame:
                self._take_message(message)
        elif isinstance(frame, dict) and "status" in frame:
            await self._take_answer(wire, frame)
        elif isinstance(frame, dict):
            self._take_message(frame)
        else:
            raise ClientError("the service does not speak this protocol")

    def _take_message(self, message: Any) -> None:
        try:
            if message["kind"] == "get":
                self._settle(message["id"], message["data"])
                return
            feed = message["feed"]
            subscription = self._routes.get(feed)
            if subscription is None:
                subscription = self._routes[feed] = self._whose(feed)
            if subscription is None or not subscription.begun or subscription.failed:
                return  # of what was unsubscribed or replaced meanwhile
            fits = subscription.take(message)
        except (KeyError, TypeError):
            raise ClientError("the service sent what is no message of version 2") from None
        if not fits:
            subscription.begun = False
            self._again([subscription])

    def _whose(self, feed: str) -> Subscription | None:
        exact = self._subscriptions.get(feed)
        if exact is not None:
            return exact
        wild = (one for name, one in self._subscriptions.items() if "*" in name and overlap(name, feed))
        return next(wild, None)

    def _settle(self, number: Any, outcome: Any) -> bool:
        future = self._answers.get(number)
        if future is None:
            return False
        if not future.done():
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        return True

    def _again(self, members: list[Subscription]) -> None:
        """Subscribe once more; what is still told of the old one is not heard."""
        for subscription in members:
            if self._told.get(subscription.pattern) is subscription:
                del self._told[subscription.pattern]
        self._changed.set()

    async def _take_answer(self, wire: Wire, answer: dict[str, Any]) -> None:
        number = answer.get("id", 0)
        match answer["status"]:
            case "subscribed":
                self._open.discard(number)
                for subscription in self._asked.get(number, ()):
                    if self._told.get(subscription.pattern) is subscription:
                        subscription.begin()
            case "resync":
                subscribed = self._subscriptions.get(answer.get("feed", ""))
                if subscribed is not None:
                    subscribed.resync()
            case "unsubscribed" if not number:  # by the service: a new login permits less
                for name in answer.get("feeds", ()):
                    self._end(name, ClientError(f"{name} is not permitted any more"))
            case "token expires" | "key expires":
                await self._renew(wire, answer)
            case "error":
                self._take_error(number, answer)
            case "invalid token" | "invalid key":
                raise ClientError(f"the service refused the new login: {answer.get('message', '')}")

    async def _renew(self, wire: Wire, answer: dict[str, Any]) -> None:
        if self._credentials.renewable and answer["status"] == "token expires":
            try:
                message = await self._credentials.message()
            except Exception as error:  # the one that there is still lasts a while
                self._warn(f"no new token: {type(error).__name__}; {answer.get('message', 'it ends soon')}")
                return
            if message is not None:
                await wire.send(message)
        else:
            self._warn(f"{answer['status']} in {answer.get('seconds', '?')} s")

    def _take_error(self, number: Any, answer: dict[str, Any]) -> None:
        self._open.discard(number)
        code = answer.get("code")
        reason = answer.get("message") or code
        if self._settle(number, ClientError(f"refused: {reason}")):
            return
        if code == "slow_down" or code == "unavailable":
            members = self._asked.get(number) or [s for s in self._told.values() if not s.begun]
            self._open.clear()  # of `slow_down` it is not said which
            asyncio.get_running_loop().call_later(_LATER_SECONDS, self._again, list(members))
            return
        members = self._asked.pop(number, [])
        if len(members) > 1:  # which of them is meant is found out one by one
            for subscription in members:
                subscription.alone = True
            self._again(members)
            return
        for subscription in members:
            self._end(subscription.pattern, ClientError(f"{subscription.pattern} was refused: {reason}"))

    def _end(self, name: str, error: ClientError) -> None:
        subscription = self._subscriptions.pop(name, None)
        self._told.pop(name, None)
        self._routes.clear()
        if subscription is not None:
            subscription.fail(error)

    # Version 1

    async def _speak_first_version(self, wire: Wire) -> None:
        """One subscription, as payloads do not name their feed; the others go elsewhere."""
        first, *others = self._subscriptions.values()
        if others:
            for subscription in others:
                del self._subscriptions[subscription.pattern]
            self._on_spare(others)
        options = {name for name, value in first.options.items() if value and name != "full"}
        if options:
            raise ClientError(
                f"the service speaks version 1 only, which knows nothing of {', '.join(sorted(options))}"
            )
        await wire.send({"action": "subscribe", "feed": first.pattern})
        answer = await wire.receive(self._timeout)
        if not (isinstance(answer, dict) and answer.get("status") == "subscribed"):
            raise_refusal(answer, first.pattern)
            raise ClientError("the service does not speak this protocol")
        first.begin()
        while not first.failed:
            await first.pass_on(await wire.receive())


_ANSWERS = frozenset({"authorized", "invalid key", "subscribed", "unsubscribed", "invalid action", "error"})


def raise_refusal(answer: Any, what: str) -> None:
    """Raise ClientError if `answer` is version 1's refusal of `what`."""
    if not isinstance(answer, dict) or answer.get("status") not in _ANSWERS:
        return
    if answer["status"] == "error":
        raise ClientError(f"{what} was refused: {answer.get('message') or answer.get('code')}")
    if answer["status"] in ("invalid action", "invalid key"):
        hint = "; the service wants an API key" if answer["status"] == "invalid key" else ""
        raise ClientError(f"{what} was refused: {answer['status']}{hint}")
