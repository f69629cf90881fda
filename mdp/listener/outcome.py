"""Why an attempt ended, in words for people and labels for metrics; and what follows from it."""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
from collections.abc import Iterable

import msgspec
from massive.exceptions import AuthError
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

_MAX_TEXT = 200

#: Close codes that get a label of their own; a peer must not be able to invent labels without end.
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1006, 1007, 1008, 1009, 1011, 1012, 1013})


class Next(enum.Enum):
    """What the listener does after an attempt."""

    RETRY = "retry"  # after the back-off
    COOL_DOWN = "cool_down"  # after a fixed, longer wait
    GIVE_UP = "give_up"  # an operator must change something


class Outcome(msgspec.Struct, frozen=True):
    """The end of one attempt."""

    reason: str  # label, out of a bounded set
    detail: str  # one line for a person, without secrets
    then: Next = Next.RETRY


class Status(msgspec.Struct):
    """The part of the provider's status event that matters here."""

    ev: str = ""
    status: str = ""
    message: str = ""


_decode_statuses = msgspec.json.Decoder(list[Status]).decode


def statuses_of(frame: str | bytes) -> list[Status]:
    """The status events of a frame; none where it holds none, or is not to be understood."""
    try:
        return [event for event in _decode_statuses(frame) if event.ev == "status"]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []


def one_line(text: object, secrets: Iterable[str] = ()) -> str:
    """Text of a peer or an exception, made fit for logs: short, printable, on one line, secrets masked."""
    line = str(text)
    for secret in secrets:
        if secret:
            line = line.replace(secret, "********")
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 3] + "..."


def of_status(status: str, message: str) -> Outcome | None:
    """What a status event that ends a connection means; None for one that does not."""
    said = f': the provider said "{message}"' if message else ""
    if status == "max_connections":
        return Outcome("max_connections", f"another connection uses this key{said}", Next.COOL_DOWN)
    if status == "auth_failed":
        return Outcome("auth_failed", f"authentication failed: check massive.api_key{said}", Next.GIVE_UP)
    if status == "auth_timeout":
        return Outcome("auth_timeout", f"the provider did not see the authentication in time{said}")
    if status == "slow_consumer":
        return Outcome("slow_consumer", f"the provider cut us off for reading too slowly{said}")
    if status == "force_disconnect":
        return Outcome("force_disconnect", f"the provider ended the connection{said}")
    return None


def of_error(exc: BaseException, secrets: Iterable[str] = ()) -> Outcome:
    """What an exception of the client, or of dialling, means."""
    text = one_line(exc, secrets) or type(exc).__name__
    if isinstance(exc, AuthError):
        return _of_auth_error(text)
    if isinstance(exc, InvalidStatus):
        code = exc.response.status_code
        reason = f"http_{code}" if code in (401, 403, 404, 429, 500, 502, 503, 504) else "http_status"
        return Outcome(reason, _http_detail(code))
    if isinstance(exc, InvalidHandshake):
        return Outcome("bad_handshake", f"the server does not speak WebSocket as expected: {text}")
    if isinstance(exc, ConnectionClosed):
        return of_close(exc.rcvd.code if exc.rcvd else 1006, exc.rcvd.reason if exc.rcvd else "", secrets)
    if isinstance(exc, TimeoutError):
        return Outcome("timeout", "the server did not answer the connection attempt in time")
    if isinstance(exc, socket.gaierror):
        return Outcome("dns", f"the server's name could not be resolved: {text}")
    if isinstance(exc, ssl.SSLError):
        return Outcome("tls", f"no secure connection to the server: {text}")
    if isinstance(exc, ConnectionRefusedError):
        return Outcome("refused", "the server refused the connection")
    if isinstance(exc, OSError):
        if "refused" in text.lower() or "Errno 111" in text:  # several addresses, all refused
            return Outcome("refused", "the server refused the connection")
        return Outcome("network", f"network error: {text}")
    if isinstance(exc, asyncio.CancelledError):
        return Outcome("cancelled", "the client was cancelled")
    return Outcome("protocol", f"the server's answer was not understood: {type(exc).__name__}: {text}")


def of_answer(exc: BaseException, secrets: Iterable[str] = ()) -> Outcome:
    """What an exception of the client means that has a connection: it may have stumbled over what came."""
    if isinstance(exc, LookupError | TypeError | AttributeError):  # it looked for status events
        return Outcome("protocol", "the server's answer was not understood: no list of status events")
    return of_error(exc, secrets)


def of_close(code: int | None, reason: str | None, secrets: Iterable[str] = ()) -> Outcome:
    """What a closed connection means, by its close code (None or 1006: it broke without one)."""
    if code is None or code == 1006:
        return Outcome("aborted", "the connection broke without a closing handshake")
    label = f"closed_{code}" if code in _CLOSE_CODES else "closed_other"
    said = one_line(reason or "", secrets)
    if code == 1008 and (status := of_status(said, "")) is not None and status.then is not Next.GIVE_UP:
        return status  # the status before it is not read any more where our next request met the close
    if code == 1009:
        said = said or "a message was larger than massive.max_frame_bytes"
    return Outcome(label, f"the connection was closed with code {code}" + (f": {said}" if said else ""))


def _of_auth_error(text: str) -> Outcome:
    advice = (
        "the key's plan has no access to this feed" if "plan" in text.lower() else "check massive.api_key"
    )
    return Outcome(
        "auth_failed", f'authentication failed: {advice}; the provider said "{text}"', Next.GIVE_UP
    )


def _http_detail(code: int) -> str:
    detail = f"the server refused the upgrade to WebSocket with HTTP status {code}"
    if code in (401, 403):
        # The key travels in a message after the upgrade, so this is no judgement of the key.
        detail += "; something in front of the feed refuses this client (address, proxy or rate limit)"
    return detail
