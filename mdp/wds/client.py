"""One connection as the hub sees it: what it subscribed, how much waits for it, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mdp.feeds import Family
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import close_frame, deflated_text_frame, ping_frame, text_frame
from mdp.wds.protocol import NO_PONG, TOO_SLOW, TOO_SLOW_REASON
from mdp.wds.turns import CUT, Turns

if TYPE_CHECKING:
    from mdp.wds.groups import Group
    from mdp.wds.views import View


class Due:
    """One message ready to be written: encoded once, shared by all clients.

    Attributes:
        frame: As clients join it: whole frames (`frames_joined`) or bodies (`framed_together`).
        state: Whether a newer value makes it needless.
        seq: Its place.
        full: What to write instead where messages before it were skipped; None: itself.
    """

    __slots__ = ("family", "feed", "frame", "full", "seq", "state")

    def __init__(
        self,
        feed: str,
        family: Family,
        frame: bytes,
        *,
        seq: int = 0,
        full: Callable[[], bytes] | None = None,
    ) -> None:
        self.feed = feed
        self.family = family
        self.frame = frame
        self.state = family.kind == "state"
        self.seq = seq
        self.full = full

    def in_full(self) -> Due:
        """What to write instead of it where messages before it were skipped."""
        frame = self.frame if self.full is None else self.full()
        return Due(self.feed, self.family, frame, seq=self.seq, full=self.full)


_WORTH_BYTES = 200  # below, compression saves less than it costs
LARGE_BYTES = 64 * 1024  # above, compression takes milliseconds: not in the loop

Join = Callable[[list[bytes]], bytes]  # makes one write of what is due


def frames_joined(frames: list[bytes]) -> bytes:
    """Version 1: a frame for each message."""
    return b"".join(frames)


def framed_together(bodies: list[bytes]) -> bytes:
    """Version 2: one frame, a JSON array of messages."""
    return text_frame(b"[" + b",".join(bodies) + b"]")


def deflated_together(bodies: list[bytes]) -> bytes:
    """The same for clients who negotiated compression; what is small stays as it is."""
    payload = b"[" + b",".join(bodies) + b"]"
    return deflated_text_frame(payload) if len(payload) >= _WORTH_BYTES else text_frame(payload)


class Wire(NamedTuple):
    """What a kind of connection writes beside messages, and what its other side can do.

    Attributes:
        ping: Written into a silence.
        close: Makes the last bytes from a code and a reason.
        notice: Makes of a kind and JSON what is written where it is no message of a feed.
        answers: The other side answers a ping and a close. Where it cannot, taking the bytes has to do.
    """

    ping: bytes
    close: Callable[[int, str], bytes]
    notice: Callable[[str, bytes], bytes]
    answers: bool = True


WEBSOCKET = Wire(ping_frame(), close_frame, lambda _kind, body: text_frame(body))


class Limits:
    """What a client may cost, and how long its silences may be.

    Attributes:
        buffer_bytes: Waiting for one client at most; past it, a client of event feeds is closed.
        state_bytes: Values of state feeds are written while less than this waits. The other half is for
            events, so that boards alone never close a client.
        ping_seconds: Silence after which it is pinged.
        pong_seconds: From there until it is given up.
        close_seconds: For taking the close, before the connection is cut.
    """

    def __init__(
        self,
        buffer_bytes: int,
        *,
        ping_seconds: float = 25.0,
        pong_seconds: float = 8.0,
        close_seconds: float = 1.0,
    ) -> None:
        self.buffer_bytes = buffer_bytes
        self.state_bytes = buffer_bytes // 2
        self.ping_seconds = ping_seconds
        self.pong_seconds = pong_seconds
        self.close_seconds = close_seconds


class Client:
    """A connection's outgoing side. Nothing here waits: what a client does not take now is skipped
    (state), waits within the limit (events, answers) or ends the connection.

    Every byte goes through `transport.write` in whole frames, so frames never interleave.
    """

    __slots__ = (
        "_allowance",
        "_counters",
        "_cut",
        "_cutter",
        "_last_heard",
        "_last_waiting",
        "_limits",
        "_loop",
        "_ping_at",
        "_transport",
        "_turns",
        "_written",
        "closing",
        "dirty",
        "group",
        "id",
        "join",
        "joined",
        "patterns",
        "views",
        "waiting",
        "wire",
    )

    def __init__(
        self,
        client_id: int,
        transport: asyncio.WriteTransport,
        limits: Limits,
        counters: WdsCounters,
        loop: asyncio.AbstractEventLoop,
        join: Join = frames_joined,
        wire: Wire = WEBSOCKET,
        turns: Turns | None = None,
    ) -> None:
        self.id = client_id
        self.wire = wire
        self.join = join
        self.views: dict[str, View] = {}  # of version 2: pattern -> how it is seen
        self.waiting: dict[str, object] = {}  # of them, those that have not begun yet; who will begin them
        self.joined: dict[str, int] = {}  # event feed -> place up to which it has all, in the tick of joining
        self.patterns: set[str] = set()  # subscribed now
        self.group: Group | None = None  # of the hub; follows `patterns` at the next tick
        self.dirty: dict[str, Due] = {}  # feed -> newest value not yet written, longest waiting first
        self.closing = False  # a close frame is written: no further frame may follow
        self._transport = transport
        self._limits = limits
        self._counters = counters
        self._loop = loop
        self._turns = turns  # of the service, for cutting many at once
        self._allowance = 0  # bytes above the limit, for an answer as large as the client asked for
        self._cut = False  # aborted: uvloop still tells of waiting bytes then
        self._cutter: asyncio.TimerHandle | None = None  # aborts what does not end by itself
        self._last_heard = loop.time()
        self._ping_at: float | None = None  # when the outstanding ping was sent
        self._written = 0  # bytes handed to the transport
        self._last_waiting = (0, 0)  # (bytes waiting, bytes taken) at the last heartbeat check

    @property
    def waiting_bytes(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    @property
    def gone(self) -> bool:
        """Whether the transport is closed or closing: nothing can be written any more."""
        return self._transport.is_closing()

    @property
    def busy(self) -> bool:
        """Whether so much waits that no further message of the client's should be answered yet."""
        return self._transport.get_write_buffer_size() > self._limits.state_bytes

    def _write(self, data: bytes) -> None:
        self._written += len(data)
        self._counters.bytes_sent += len(data)
        self._transport.write(data)

    def answer(self, frame: bytes) -> None:
        """Write the answer to a message of the client's own, of whatever size it asked for."""
        if self.closing or self._transport.is_closing():
            return
        self._counters.answers += 1
        self._write(frame)
        if self.waiting_bytes > self._limits.buffer_bytes:
            self._allowance = len(frame)

    def control(self, frame: bytes) -> None:
        """Write a ping or pong."""
        if not self.closing and not self._transport.is_closing():
            self._write(frame)

    def deliver(self, payload: bytes, due: Sequence[Due]) -> bool:
        """Hand over what is due in this tick, in one write.

        Args:
            payload: All frames of `due`, joined.
            due: The same, one by one, for a client that cannot take all.

        Returns:
            False if state values are left over: call `drain` at the next tick.
        """
        if self.closing or self._transport.is_closing():
            return True
        size = self._transport.get_write_buffer_size()
        if not self.dirty and (not size or size + len(payload) <= self._limits.state_bytes):
            self._counters.deliveries += len(due)
            self._write(payload)
            return True
        return self._deliver_slowly(size, due)

    def _deliver_slowly(self, size: int, due: Sequence[Due]) -> bool:
        events = [item.frame for item in due if not item.state]
        size_after = size + sum(map(len, events))
        if size <= self._limits.buffer_bytes:
            self._allowance = 0
        if events and size and size_after > self._limits.buffer_bytes + self._allowance:
            self._counters.slow_closes += 1
            self.close(TOO_SLOW, TOO_SLOW_REASON)
            return True
        dirty = self.dirty
        for item in due:
            if item.state:
                if item.feed in dirty:
                    self._counters.skipped += 1
                dirty[item.feed] = item
        if self.join is not deflated_together:
            self._write_together(events + [item.frame for item in self.take(size_after)])
        elif events:  # what has been skipped is compressed by whoever drains
            self._write_together(events, framed_together if size_after - size > LARGE_BYTES else self.join)
        return not dirty

    def owe(self, due: Iterable[Due]) -> None:
        """Note state values to be written by `drain`, as there is room."""
        for item in due:
            self.dirty[item.feed] = item

    def take(self, size: int | None = None) -> list[Due]:
        """The skipped state values for which there is room, longest waiting first, as they are now; they are
        no longer owed.

        Args:
            size: Bytes that wait already; None: as the transport says.
        """
        if self.closing or self._transport.is_closing():
            self.dirty.clear()
            return []
        if size is None:
            size = self._transport.get_write_buffer_size()
        dirty, limit = self.dirty, self._limits.state_bytes
        taken: list[Due] = []
        for feed in list(dirty) if not size or size < limit else ():
            skipped = dirty[feed]
            now = skipped if skipped.full is None else skipped.in_full()
            if size and size + len(now.frame) > limit:
                break
            size += len(now.frame)
            taken.append(now)
            del dirty[feed]
        return taken

    def hand_over(self, payload: bytes, messages: int) -> None:
        """Write what was taken, put together."""
        if not self.closing and not self._transport.is_closing():
            self._counters.deliveries += messages
            self._write(payload)

    def drain(self) -> bool:
        """Write the newest values of skipped state feeds as far as there is room.

        Returns:
            True when nothing is left over.
        """
        self._write_together([item.frame for item in self.take()])
        return not self.dirty

    def _write_together(self, frames: list[bytes], join: Join | None = None) -> None:
        if frames:
            self.hand_over((join or self.join)(frames), len(frames))

    def close(self, code: int, reason: str = "") -> None:
        """Say goodbye and cut the connection if that is not taken in time. Only the first call counts."""
        if self.closing:
            return
        self.closing = True
        self.dirty.clear()
        if self._transport.is_closing():
            return
        self._transport.write(self.wire.close(code, reason))
        if self.wire.answers:
            self._cut_later()
        else:
            self.end()

    def end(self) -> None:
        """Close the transport; what it still holds may leave for `close_seconds`."""
        self.closing = True
        self.dirty.clear()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._cut_later()
        elif self._cutter is not None:
            # It would keep all that is left of the client for a second: much, where many come and go.
            self._cutter.cancel()
            self._cutter = None

    def _cut_later(self) -> None:
        if self._cutter is None:
            self._cutter = self._loop.call_later(self._limits.close_seconds, self._cut_in_turn)

    def _cut_in_turn(self) -> None:
        if self._turns is None:
            self.abort()
        else:
            self._turns.do(CUT, self.abort)

    def abort(self) -> None:
        """Cut the connection, dropping what waits. Does nothing to one that ended in time."""
        if self._cut:
            return
        if not self._transport.is_closing() or self._transport.get_write_buffer_size():
            self._cut = True
            self._counters.aborted += 1
            self._transport.abort()

    def heard(self) -> None:
        """Note a sign of life."""
        self._last_heard = self._loop.time()
        self._ping_at = None

    def check(self, now: float) -> None:
        """Ping a silent client; give up one that does not answer (`now` by the loop's clock)."""
        waiting = self.waiting_bytes
        taken = self._written - waiting
        waited, took = self._last_waiting
        self._last_waiting = (waiting, taken)
        if waited and taken > took:
            # With bytes waiting here the kernel's buffer is full, so it takes more only as the peer
            # acknowledges: a slow line whose ping is still on its way is alive.
            self.heard()
        elif self._ping_at is not None and not waiting and not self.wire.answers:
            self.heard()
        elif self._ping_at is not None:
            if now - self._ping_at >= self._limits.pong_seconds and not self.closing:
                self._counters.pong_timeouts += 1
                self.close(NO_PONG, "no answer to a ping")
        elif now - self._last_heard >= self._limits.ping_seconds and not self.closing:
            self._ping_at = now
            self.control(self.wire.ping)
