"""Attacks on the service, each a process of its own so that they cost the honest clients' process nothing.

`python -m tests.integration.wds_attacks NAME PORT JSON` attacks for `seconds` and prints what it saw as JSON.
Bare blocking sockets: an attacker is as cheap as it can be.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.wds.wire import TEXT, frame, upgrade

_SIGNS = {
    "authorized": b'"status":"authorized"',
    "invalid": b'"status":"invalid key"',
    "throttled": b"too many failed logins",
}

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: leave by a reset, so that ports are free again at once


def _open(port: int, source: str = "127.0.0.1", receive_bytes: int = 0) -> socket.socket | None:
    """A connection under way; None where the other side takes none."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    if receive_bytes:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    link.setblocking(False)
    if source != "127.0.0.1":
        link.bind((source, 0))
    if link.connect_ex(("127.0.0.1", port)) not in (0, errno.EINPROGRESS):
        link.close()
        return None
    return link


def _is_cut(link: socket.socket) -> bool:
    """Whether the other side has ended a connection; what it sent is read and dropped."""
    try:
        return not link.recv(65_536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _push(link: socket.socket, data: bytes) -> bool:
    """Send; False if that cannot be."""
    try:
        link.send(data)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def slowloris(port: int, *, seconds: float, connections: int, source: str) -> dict[str, int]:
    """Requests that never end, a byte now and then; a connection that is cut is opened again."""
    endless = upgrade()[:-2] + b"X-A: " + b"b" * 4_000
    links: dict[socket.socket, int] = {}
    seen = collections.Counter(opened=0, cut=0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        while len(links) < connections and (link := _open(port, source)):
            links[link] = 0
            seen["opened"] += 1
        for link, sent in list(links.items()):
            if _is_cut(link) or not _push(link, endless[sent : sent + 1]):
                link.close()
                del links[link]
                seen["cut"] += 1
            else:
                links[link] = sent + 1
        time.sleep(0.1)
    return dict(seen)


def half_open(
    port: int, *, seconds: float, connections: int, feeds: list[str], source: str
) -> dict[str, int]:
    """Clients that subscribe and are never heard of again: they read nothing and answer no ping."""
    says = b"".join(frame(TEXT, json.dumps({"action": "subscribe", "feed": feed}).encode()) for feed in feeds)
    links = []
    for number in range(connections):
        link = _open(port, source, receive_bytes=4_096)
        if link is not None:
            links.append(link)
            _push(link, upgrade() + says)
        if number % 50 == 0:
            time.sleep(0.02)
    time.sleep(seconds)
    for link in links:
        link.close()
    return {"opened": len(links)}


def flood(
    port: int, *, seconds: float, per_second: int, data: str, keep_seconds: float, source: str
) -> dict[str, int]:
    """Connections at a rate, each with some bytes sent, each left by a reset after some time."""
    payload = {"": b"", "upgrade": upgrade(), "get": b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n"}[data]
    links: collections.deque[tuple[float, socket.socket]] = collections.deque()
    seen = collections.Counter(opened=0, failed=0)
    began = time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        while seen["opened"] + seen["failed"] < (now - began) * per_second:
            link = _open(port, source)
            if link is None:
                seen["failed"] += 1
                continue
            seen["opened"] += 1
            if payload:
                _push(link, payload)
            links.append((now + keep_seconds, link))
        while links and links[0][0] <= now:
            links.popleft()[1].close()
        time.sleep(0.005)
    for _, link in links:
        link.close()
    return dict(seen)


def guess(port: int, *, seconds: float, at_once: int, source: str) -> dict[str, int]:
    """Logins with keys that are wrong, over and over; what they were answered."""
    seen: collections.Counter[str] = collections.Counter(tried=0)
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        links = [link for _ in range(at_once) if (link := _open(port, source))]
        for link in links:
            number += 1
            link.settimeout(5.0)
            login = json.dumps({"action": "auth", "api_key": f"mdp_{number:012x}_guess"}).encode()
            _push(link, upgrade() + frame(TEXT, login))
        for link in links:
            seen["tried"] += 1
            answer = b""
            with contextlib.suppress(OSError):
                while part := link.recv(65_536):
                    answer += part
                    if b"\x88" in part:
                        break
            link.close()
            for outcome, sign in _SIGNS.items():
                if sign in answer:
                    seen[outcome] += 1
    return dict(seen)


ATTACKS: dict[str, Callable[..., dict[str, int]]] = {
    attack.__name__: attack for attack in (slowloris, half_open, flood, guess)
}


def main() -> None:
    """Attack as the arguments say."""
    name, port, options = sys.argv[1:]
    arguments: dict[str, Any] = json.loads(options)
    print(json.dumps(ATTACKS[name](int(port), **arguments)))


if __name__ == "__main__":
    main()
