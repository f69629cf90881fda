"""Ports for servers that have to come back under the same address."""

from __future__ import annotations

import os
import random
import socket

#: Below what Linux (32768 up) and macOS (49152 up) give to whoever asks for any port: no other process's
#: connection can be given one of these while the server that is meant to have it is away.
_FIRST, _LAST = 20_000, 29_999
_WORKERS = 16  # more share ports again; pytest-xdist numbers its processes from 0


def free_port() -> int:
    """A port on loopback that nobody listens on now, and no test of another process of this run takes."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    ports = range(_FIRST + worker, _LAST + 1, _WORKERS)
    for port in random.sample(ports, len(ports)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: not in use suffices
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {_FIRST} to {_LAST} is free")
