"""The pub/sub connection of a relay: what is wanted is subscribed, on whatever connection there is.

One connection carries all channels and patterns. It is lost sometimes; then it is made anew and everything
wanted is subscribed again, and who waits for an acknowledgement waits for that of the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

import hiredis
import structlog
from redis.asyncio import RedisCluster

from mdp.cache.redis_link import READ_BYTES, REDIS_ERRORS, Link
from mdp.cache.tasks import Part, end

log = structlog.get_logger(__name__)

_NAMES = 500  # of one command
_VERBS = ("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUBSCRIBE", "PSUBSCRIBE")
_PING_SECONDS = 1.0  # of silence, then we ask whether somebody is there
_DEAD_SECONDS = 3.0  # without an answer to that
_GLOB = re.compile(r"([*?\[\]\\])")


def glob(before: str, after: str) -> str:
    """A pattern of Redis for names that begin and end so."""
    return "*".join(_GLOB.sub(r"\\\1", part) for part in (before, after))


class Channels(Part):
    """See the module. For the event loop's thread.

    Args:
        client: Redis, or its cluster.
        link: Told how it went.
        on_message: Called with channel and payload of each message, in their order.
        on_joined: Called with a name that is acknowledged: from here on nothing is missed.
        on_lost: Called when a connection is lost: nothing is acknowledged any more.

    Attributes:
        line: Number of the connection, from 1; 0 before the first.
        up: Whether there is one.
        messages: Taken so far.
    """

    name = "relay-channels"

    def __init__(
        self,
        client: Any,
        link: Link,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_joined: Callable[[str], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._client = client
        self._link = link
        self._on_message = on_message
        self._on_joined = on_joined
        self._on_lost = on_lost
        self.line = 0
        self.up = False
        self.messages = 0
        self._wanted: dict[str, bool] = {}  # name -> whether it is a pattern
        self._sent: dict[str, bool] = {}  # on this connection
        self._changed: dict[str, None] = {}  # names to look at
        self._unanswered: dict[str, int] = {}  # name -> subscriptions whose acknowledgement is on its way
        self._joined: set[str] = set()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}  # name -> who waits for it to be joined
        self._tokens = itertools.count(1)
        self._pongs: dict[bytes, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()

    def want(self, name: str, *, pattern: bool) -> None:
        """Subscribe a channel or pattern from now on."""
        self._wanted[name] = pattern
        self._changed[name] = None
        self._wake.set()

    def drop(self, name: str) -> None:
        """No more of it."""
        self._wanted.pop(name, None)
        self._joined.discard(name)
        self._changed[name] = None
        self._wake.set()
        self._release(name)  # it will not be joined

    def joined(self, name: str) -> bool:
        """Whether a subscription is acknowledged on the present connection."""
        return name in self._joined

    async def join(self, names: Iterable[str]) -> None:
        """Wait until all of these that are still wanted are joined. To be called within a bound of time."""
        for name in names:
            while name in self._wanted and name not in self._joined:
                waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.setdefault(name, []).append(waiting)
                try:
                    await waiting
                finally:
                    left = self._waiting.get(name, [])
                    if waiting in left:
                        left.remove(waiting)
                    if not left:
                        self._waiting.pop(name, None)

    async def barrier(self) -> None:
        """Wait until all is here that was published before the call. Within a bound of time.

        Raises:
            ConnectionError: The connection was lost meanwhile, and messages with it.
        """
        if not self.up:
            raise ConnectionError("Redis is not connected")
        token = b"%d" % next(self._tokens)
        pong = self._pongs[token] = asyncio.get_running_loop().create_future()
        self._wake.set()
        try:
            await pong
        finally:
            self._pongs.pop(token, None)

    # The connection.

    async def _run(self) -> None:
        while True:
            try:
                connection = await self._connect()
            except REDIS_ERRORS as error:
                self._link.bad(error)
                await self._link.pause()
                continue
            # All is well when it answers what we want of it (`_take`): one that refuses that would else be
            # asked again, and told of in the log, a dozen times a second.
            self.line += 1
            self.up = True
            self._changed = dict.fromkeys(self._wanted)
            # Reading and writing end together, whichever sees the end first.
            tasks = [
                asyncio.create_task(self._read(connection), name="relay-read"),
                asyncio.create_task(self._write(connection), name="relay-write"),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._link.bad(task.exception() or ConnectionError("closed"))
            finally:
                await end(*tasks)
                with contextlib.suppress(*REDIS_ERRORS):
                    await connection.disconnect(nowait=True)
                self._lose()
            await self._link.pause()

    async def _connect(self) -> Any:
        """A connection of our own, set up as those of the client (TLS, user, sentinels)."""
        client = self._client
        if isinstance(client, RedisCluster):
            await client.initialize()
            node = client.get_random_node()  # plain pub/sub reaches every node of a cluster
            connection = node.connection_class(**node.connection_kwargs)
        else:
            connection = client.connection_pool.make_connection()
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection

    def _lose(self) -> None:
        self.up = False
        self._sent.clear()
        self._unanswered.clear()
        self._joined.clear()
        pongs, self._pongs = self._pongs, {}
        for pong in pongs.values():
            if not pong.done():
                pong.set_exception(ConnectionError("the connection to Redis was lost"))
        self._on_lost()

    async def _write(self, connection: Any) -> None:
        """Bring subscriptions up to date, and ask for signs of life."""
        loop = asyncio.get_running_loop()
        asked: set[bytes] = set()
        silent_since, heard = loop.time(), -1
        while True:
            self._wake.clear()
            commands = [*self._changes()]
            for token in self._pongs.keys() - asked:
                asked.add(token)
                commands.append(("PING", token))
            asked &= self._pongs.keys()
            if self.messages != heard:
                silent_since, heard = loop.time(), self.messages
            elif loop.time() - silent_since > _DEAD_SECONDS:
                raise TimeoutError("no sign of life")
            if not commands and loop.time() - silent_since >= _PING_SECONDS:
                commands = [("PING", b"0")]
            for command in commands:
                packed = connection.pack_command(*command)
                await connection.send_packed_command(packed, check_health=False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PING_SECONDS):
                    await self._wake.wait()

    def _changes(self) -> Iterable[tuple[Any, ...]]:
        changed, self._changed = self._changed, {}
        names: dict[str, list[str]] = {verb: [] for verb in _VERBS}
        for name in changed:
            had, want = self._sent.get(name), self._wanted.get(name)
            if had is want:
                if want is not None and name not in self._unanswered:
                    self._enter(name)  # dropped and wanted again before Redis was told
                continue
            if had is not None:
                del self._sent[name]
                names["PUNSUBSCRIBE" if had else "UNSUBSCRIBE"].append(name)
            if want is not None:
                self._sent[name] = want
                self._unanswered[name] = self._unanswered.get(name, 0) + 1
                names["PSUBSCRIBE" if want else "SUBSCRIBE"].append(name)
        for verb, found in names.items():
            for at in range(0, len(found), _NAMES):
                yield (verb, *found[at : at + _NAMES])

    async def _read(self, connection: Any) -> None:
        """Take what comes, a socket's buffer at a time.

        The client's own way costs three times as much CPU a message. What it sent to set the connection up is
        answered and read: nothing of its waits in its parser. That somebody is there `_write` sees.
        """
        stream, parser = connection._reader, hiredis.Reader()
        while True:
            data = await stream.read(READ_BYTES)
            if not data:
                raise ConnectionError("closed by the server")
            parser.feed(data)
            while (reply := parser.gets()) is not False:
                self._take(reply)

    def _take(self, reply: Any) -> None:
        self.messages += 1
        kind = reply[0] if isinstance(reply, list) else b"pong"
        if kind == b"pmessage":
            self._on_message(reply[2], reply[3])
        elif kind == b"message":
            self._on_message(reply[1], reply[2])
        elif kind == b"pong":  # or an error: what we want is refused
            if isinstance(reply, Exception):
                raise ConnectionError(str(reply))
            token = reply[1] if isinstance(reply, list) else reply
            pong = self._pongs.get(token)
            if pong is not None and not pong.done():
                pong.set_result(None)
        elif kind in (b"subscribe", b"psubscribe"):
            self._acknowledged(reply[1].decode())
        self._link.good()

    def _acknowledged(self, name: str) -> None:
        left = self._unanswered.get(name, 1) - 1
        if left:
            self._unanswered[name] = left
            return
        self._unanswered.pop(name, None)
        if name in self._sent and name in self._wanted:
            self._enter(name)

    def _enter(self, name: str) -> None:
        self._joined.add(name)
        self._release(name)
        self._on_joined(name)

    def _release(self, name: str) -> None:
        for waiting in self._waiting.pop(name, ()):
            if not waiting.done():
                waiting.set_result(None)
