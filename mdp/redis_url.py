"""The addresses of Redis that the configuration takes, taken apart.

Knows no Redis client, so that a configuration can be checked without one.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

Kind = Literal["single", "unix", "sentinel", "cluster"]
_KINDS: dict[str, tuple[Kind, bool]] = {  # scheme -> kind, TLS
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: dict[Kind, int] = {"single": 6_379, "unix": 0, "sentinel": 26_379, "cluster": 6_379}
MAX_DATABASE = 1_023


class RedisAddress(msgspec.Struct, frozen=True):
    """Where a Redis is and who asks. Never shows its password."""

    kind: Kind
    tls: bool
    nodes: tuple[tuple[str, int], ...]  # host, port; of the sentinels with "sentinel"; empty with "unix"
    path: str = ""  # of the socket
    service: str = ""  # the master's name that sentinels know
    database: int = 0
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"RedisAddress({self})"

    def __str__(self) -> str:
        """For people: where, without who."""
        if self.kind == "unix":
            return self.path
        where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        return f"{where} ({self.service})" if self.service else where


def parse_redis_url(url: str) -> RedisAddress:
    """Take an address apart.

    Forms: `redis://[user[:password]@]host[:port][/db]`, `rediss://` (TLS), `unix:///path[?db=0]`,
    `redis+sentinel://host[:port],host[:port]/service[/db]`, `redis+cluster://host[:port],host[:port]`, and
    `rediss+sentinel`, `rediss+cluster`.

    Raises:
        ValueError: It is none of these. The message never holds the URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in _KINDS or parts.fragment:
        raise ValueError("not an address of Redis")
    kind, tls = _KINDS[parts.scheme]
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    if options.keys() - ({"db"} if kind == "unix" else set()):
        raise ValueError("options that are not known")
    path, service, database = "", "", options.get("db", "0")
    nodes: tuple[tuple[str, int], ...] = ()
    if kind == "unix":
        path = unquote(parts.path)
        if hosts or not path:
            raise ValueError("a socket is named by its path alone")
    else:
        nodes = tuple(_node(node, _PORTS[kind]) for node in hosts.split(","))
        names = [unquote(name) for name in parts.path.split("/")[1:] if name]
        if kind == "sentinel":
            if not names:
                raise ValueError("the service that sentinels watch is not named")
            service = names.pop(0)
        elif kind == "single" and len(nodes) > 1:
            raise ValueError("several hosts are sentinels or a cluster")
        if len(names) > (0 if kind == "cluster" else 1):
            raise ValueError("more of a path than there is use for")
        database = names[0] if names else database
    if not (database.isascii() and database.isdigit() and int(database) <= MAX_DATABASE):
        raise ValueError("the database is no number")
    return RedisAddress(kind, tls, nodes, path, service, int(database), unquote(user), unquote(password))


def _node(text: str, default_port: int) -> tuple[str, int]:
    """Host and port; an IPv6 address is in brackets."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.query or "@" in text:
        raise ValueError("not a host")
    port = default_port if parts.port is None else parts.port  # raises for one that is out of range
    if not port:
        raise ValueError("a server has no port 0")
    return parts.hostname, port
