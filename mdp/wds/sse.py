"""Server-Sent Events: the messages of version 2 as an HTTP response that does not end.

A stream is a `Client` of the hub like any other, with another wire: texts of the event stream format
(https://html.spec.whatwg.org/multipage/server-sent-events.html) in HTTP chunks, written past aiohttp.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
from collections.abc import Iterable
from typing import cast

from mdp.cache.base import encode_json
from mdp.feeds import EVENT, resolve
from mdp.wds.client import Limits, Wire

RETRY_MS = 2_000  # how long a browser waits before it reconnects

# The head of what `views.envelope` makes.
_HEAD = re.compile(rb'\{"feed":"([^"]+)","epoch":(\d+),"seq":(\d+),"ts":\d+,"kind":"([a-z]+)"')
PLACE = r"[A-Za-z0-9./:_\-]{1,128}@[0-9]{1,18}-[0-9]{1,18}"  # of a message, as its id says it
_PLACE = re.compile(PLACE)

Place = tuple[int, int]  # (epoch, seq)


def chunk(text: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112, section 7.1); `text` is not empty."""
    return b"%x\r\n%b\r\n" % (len(text), text)


def event(kind: str, data: bytes, place: str = "") -> bytes:
    """One event; `data` is JSON without line ends."""
    head = f"event: {kind}\nid: {place}\n" if place else f"event: {kind}\n"
    return b"%bdata: %b\n\n" % (head.encode(), data)


def notice(kind: str, data: bytes) -> bytes:
    """What is no message of a feed, ready to be written."""
    return chunk(event(kind, data))


def streamed(bodies: list[bytes]) -> bytes:
    """Messages of version 2 in one chunk.

    Only messages of event feeds carry an id: the last one that a client saw is what it resumes from, and
    a state feed that spoke later must not replace it.
    """
    return chunk(b"".join(map(_message, bodies)))


def _message(body: bytes) -> bytes:
    head = _HEAD.match(body)
    assert head is not None, body[:80]
    feed, epoch, seq, kind = head.groups()
    if not _is_event_feed(feed):
        return b"event: %b\ndata: %b\n\n" % (kind, body)
    return b"event: %b\nid: %b@%b-%b\ndata: %b\n\n" % (kind, feed, epoch, seq, body)


@functools.lru_cache(maxsize=4096)
def _is_event_feed(feed: bytes) -> bool:
    found = resolve(feed.decode())
    return found is not None and found[0].kind == EVENT


def places(last_event_id: str, feeds: Iterable[str]) -> dict[str, Place]:
    """Where a stream goes on, by feed.

    Args:
        last_event_id: An id as we made it; a program may send several, with commas between.
        feeds: Of the stream. A place of another feed is passed over.

    Raises:
        ValueError: It is no such id.
    """
    found: dict[str, Place] = {}
    wanted = set(feeds)
    for part in last_event_id.split(",") if last_event_id.strip() else ():
        text = part.strip()
        if _PLACE.fullmatch(text) is None:
            raise ValueError("Last-Event-ID must be an id of this stream, such as alerts@1773153000000-17")
        feed, _, place = text.partition("@")
        epoch, _, seq = place.partition("-")
        family = resolve(feed)
        if feed in wanted and family is not None and family[0].kind == EVENT:
            found[feed] = int(epoch), int(seq)
    return found


def _last_words(code: int, reason: str) -> bytes:
    """The event that says why, and the chunk that ends the body."""
    return notice("close", encode_json({"code": code, "reason": reason})) + b"0\r\n\r\n"


KEEP_ALIVE = chunk(b": still here\n\n")
WIRE = Wire(KEEP_ALIVE, _last_words, notice, answers=False)


class Deaf(asyncio.Protocol):
    """Stands before aiohttp's protocol while a stream is sent: drops what the client sends, notes the end.

    Behind an endless response there is no next request; aiohttp would keep all that is sent for one.
    """

    def __init__(self, inner: asyncio.BaseProtocol, ended: asyncio.Event) -> None:
        self._inner = cast(asyncio.Protocol, inner)
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        """Drop."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Note, then pass on."""
        self._ended.set()
        self._inner.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Pass on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._inner.resume_writing()


def give_up_after(transport: asyncio.BaseTransport, limits: Limits) -> None:
    """Let the kernel end a connection whose other side acknowledges nothing, where it can.

    Nobody answers a keep-alive comment. One into the void would else go unnoticed until the kernel's
    buffer is full, or for the quarter of an hour that TCP repeats it.
    """
    link = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if link is not None and option is not None:
        milliseconds = int((limits.ping_seconds + limits.pong_seconds) * 1_000)
        link.setsockopt(socket.IPPROTO_TCP, option, milliseconds)
