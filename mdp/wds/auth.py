"""Who may connect: API keys and browsers' origins."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

ANY_HOST = "*"  # in an own origin: whatever address of this machine the connection came in at
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


class KeyRing:
    """The API keys that are accepted, kept as digests so that no repr or dump shows one."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys if key]

    def accepts(self, key: str) -> bool:
        """Whether a key is one of ours.

        Takes the same time for any key of a length: digests hide where two keys differ, and all
        of them are compared whichever one fits.
        """
        given = _digest(key)
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def origin_allowed(origin: str | None, own: Iterable[str], allowed: Iterable[str], local_ip: str) -> bool:
    """Whether a connection with this `Origin` header may be upgraded.

    Absent (a program, not a browser) is allowed. The `Host` header plays no part: in a DNS rebinding
    attack both name the attacker's host, which resolves to us.

    Args:
        origin: The header as sent.
        own: Our own pages' origins, `http://host:port`; a host of `*` is the address `local_ip`.
        allowed: Origins named in the configuration, compared as they are (but for case and a `/` at the end).
        local_ip: Address of ours at which this connection came in.
    """
    if origin is None:
        return True
    given = _split(origin)
    if given is None:
        return False
    text = origin.lower()
    if any(text == entry.lower().rstrip("/") for entry in allowed):
        return True
    return any(_same(given, entry, local_ip) for entry in own)


def _same(given: tuple[str, str, int], entry: str, local_ip: str) -> bool:
    ours = _split(entry)
    if ours is None or (given[0], given[2]) != (ours[0], ours[2]):
        return False
    return given[1] in hosts_of(ours[1], local_ip)


def hosts_of(host: str, local_ip: str = "") -> frozenset[str]:
    """The names a browser on the same machine or net may call a listening address by.

    Never a name that DNS decides about, except one that the configuration gives.
    """
    if host in ("", ANY_HOST) or _is_unspecified(host):
        return _LOOPBACK_NAMES if _is_loopback(local_ip) else frozenset({local_ip} - {""})
    return _LOOPBACK_NAMES if host in _LOOPBACK_NAMES else frozenset({host})


def _split(origin: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin; None where it is none (`null`, a path, a user, not http)."""
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not host or parts.path not in ("", "/") or "@" in parts.netloc:
        return None
    return parts.scheme, host, _DEFAULT_PORTS[parts.scheme] if port is None else port


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1 on a socket for both families
    return (mapped or address).is_loopback
