"""A message that came over Redis: its publisher's place, a payload that stays JSON until it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mdp.cache.base import Message
from mdp.feeds import Family

#: Family name -> type of its payload, for subscribers that want the structs publishers published.
Types = Mapping[str, Any]


class RelayedMessage(Message):
    """See `mdp.cache.base.Message`. `value` is decoded when first asked for; `json` hands on what came.

    Attributes:
        line: Number of the connection it came on; what came on an earlier one may have been followed by
            messages that nobody here heard.
    """

    __slots__ = ("_type", "_value", "line")

    def __init__(
        self,
        feed: str,
        family: Family,
        epoch: int,
        seq: int,
        ts: int,
        body: bytes,
        *,
        line: int = 0,
        payload: Any = None,
    ) -> None:
        """Take a message apart from its payload.

        Args:
            feed, family, epoch, seq, ts: See `Message`.
            body: The payload as JSON.
            line: See the class.
            payload: Type of the payload; None: dicts and lists.
        """
        # Without the base's own __init__, which would set a value.
        self.feed = feed
        self.family = family
        self.epoch = epoch
        self.seq = seq
        self.ts = ts
        self.line = line
        self._json = body
        self._type = payload
        self._value: Any = _UNREAD

    @property
    def value(self) -> Any:
        """The payload.

        Raises:
            msgspec.DecodeError: What came is no JSON, or not of the type.
        """
        if self._value is _UNREAD:
            self._value = decode(self.json(), self._type)
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        raise AttributeError("a message is what its publisher made it")


_UNREAD = object()
_decode = msgspec.json.Decoder().decode


def decode(body: bytes, payload: Any = None) -> Any:
    """A payload from JSON.

    Raises:
        msgspec.DecodeError: It is none, or not of the type.
    """
    return _decode(body) if payload is None else msgspec.json.decode(body, type=payload)


def parse(data: bytes) -> tuple[int, int, int, bytes, int]:
    """Epoch, seq, ts (ms), JSON and version of what a channel of the bus carries (`docs/redis.md`).

    Raises:
        ValueError: It is something else.
    """
    head, newline, body = data.partition(b"\n")
    try:
        epoch, seq, ts, *more = head.split(b" ")
        place = int(epoch), int(seq), int(ts)
        version = int(more[0]) if more else 1  # what follows is for those who read such versions
    except ValueError:
        newline = b""
    if not newline:
        raise ValueError("not a message of the bus")
    return (*place, body, version)
