"""What each setting may be, beyond its type; and what settings must be to each other.

Every rule carries the words that an error message shows as "allowed".
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mdp.config import Config
from mdp.redis_url import parse_redis_url

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("json", "console")
MARKETS = ("stocks", "options", "forex", "crypto", "indices", "futures")
MAX_SECONDS = 86_400  # a longer wait than a day is a typing error, not a wish

_KEY_PREFIX = re.compile(r"[A-Za-z0-9:.\-_/]{0,64}")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?"
)
_SUBSCRIPTION = re.compile(r"[A-Z]{1,8}\.(\*|[A-Za-z0-9.\-/:]{1,32})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*|[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Rule(NamedTuple):
    """A test of one value, and the words for what passes it."""

    passes: Callable[[Any], bool]
    allowed: str


class Problem(NamedTuple):
    """Settings that are right one by one and wrong together."""

    key: str
    found: str
    allowed: str


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`.

    A name other than localhost counts as reachable: what it resolves to may change.
    """
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_host(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
        return True
    except ValueError:
        # Digits and dots that are no address are a mistyped address, not a name.
        return bool(_HOST_NAME.fullmatch(value)) and not re.fullmatch(r"[\d.]+", value)


def _is_feed(value: str) -> bool:
    if value in ("RealTime", "Delayed"):
        return True
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return False
    return bool(colon) and _is_host(host) and port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535


def _is_web_address(value: str, *, path: bool) -> bool:
    try:
        parts = urlsplit(value)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and port_is_right
        and _is_host(parts.hostname or "")
        and "@" not in parts.netloc
        and not parts.query
        and not parts.fragment
        and (path or not parts.path)
    )


def _is_network(value: str) -> bool:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return False
    return True


def _is_private_way(url: str) -> bool:
    """Whether nobody on the way to a web address can change what it answers."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def _is_redis_url(value: str) -> bool:
    try:
        address = parse_redis_url(value)
    except ValueError:
        return False
    return bool(address.path) or all(_is_host(host) for host, _ in address.nodes)


def _is_secret(value: str) -> bool:
    return all("!" <= character <= "~" for character in value)


def _one_of(*choices: str) -> Rule:
    return Rule(lambda value: value in choices, " or ".join(f'"{choice}"' for choice in choices))


def _whole(least: int, most: int) -> Rule:
    return Rule(lambda value: least <= value <= most, f"a whole number from {least} to {most}")


def _each(test: Callable[[str], bool], allowed: str, *, at_least: int = 0) -> Rule:
    return Rule(
        lambda values: len(values) >= at_least and len(set(values)) == len(values) and all(map(test, values)),
        allowed,
    )


_PORT = Rule(lambda value: 0 <= value <= 65_535, "a port from 0 to 65535 (0 picks a free one)")
_HOST = Rule(_is_host, 'an IP address or a host name such as "127.0.0.1"')
_SECONDS = Rule(
    lambda value: math.isfinite(value) and 0 < value <= MAX_SECONDS,
    f"a number of seconds above 0 and at most {MAX_SECONDS}",
)
_NAMES = _each(
    lambda name: bool(_NAME.fullmatch(name)),
    'a list of different names such as "leaderboards" or "package.module:Class"',
)
_NAME_OR_CLASS = Rule(
    lambda value: bool(_NAME.fullmatch(value)), 'a name such as "nasdaq_rss" or "package.module:Class"'
)
_BACKENDS = _one_of("memory", "redis")
_REDIS_URL = (
    'a URL such as "redis://127.0.0.1:6379/0", rediss://, unix:///path, '
    "redis+sentinel://host:port,host:port/service/db or redis+cluster://host:port,host:port"
)

_PARTITIONS = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")

RULES: dict[str, Rule] = {  # "section.key" -> rule; a key without one may be anything of its type
    "massive.feed": Rule(_is_feed, '"RealTime", "Delayed" or "host:port"'),
    "massive.market": _one_of(*MARKETS),
    "massive.rest_url": Rule(
        lambda value: _is_web_address(value, path=True), 'a URL such as "https://api.massive.com"'
    ),
    "massive.subscriptions": _each(
        lambda value: bool(_SUBSCRIPTION.fullmatch(value)),
        'a list, not empty, of different TOPIC.SYMBOL such as "A.*" or "T.AAPL"',
        at_least=1,
    ),
    "massive.api_key": Rule(_is_secret, "a key without spaces and line breaks"),
    "massive.connect_timeout_seconds": _SECONDS,
    "massive.stall_seconds": _SECONDS,
    "massive.backoff_max_seconds": _SECONDS,
    "massive.cooldown_seconds": _SECONDS,
    "massive.stable_seconds": _SECONDS,
    "massive.max_frame_bytes": _whole(1_024, 1 << 30),
    "massive.ring_bytes": _whole(1_024, 1 << 36),
    "massive.ring_max_age_seconds": _SECONDS,
    "massive.rest_requests_per_minute": Rule(
        lambda value: math.isfinite(value) and 1 <= value <= 60_000,
        "a number of requests a minute from 1 to 60000",
    ),
    "massive.rest_concurrency": _whole(1, 64),
    "mdq.backend": _BACKENDS,
    "mdq.ttl_seconds": _SECONDS,
    "mdq.max_events": _whole(1, 100_000_000),
    "mdq.partitions": _whole(1, 1_024),
    "mdq.keep_seconds": Rule(
        lambda value: math.isfinite(value) and 10 <= value <= 3_600, "a number of seconds from 10 to 3600"
    ),
    "mdq.flush_ms": Rule(
        lambda value: math.isfinite(value) and 1 <= value <= 1_000, "a number of milliseconds from 1 to 1000"
    ),
    "mdq.flush_bytes": _whole(1_024, 1 << 24),
    "processor.analyzers": _NAMES,
    "processor.scanners": _NAMES,
    "processor.max_failures": _whole(1, 1_000_000_000),
    "processor.max_symbols": _whole(1, 10_000_000),
    "processor.backfill_max_symbols": _whole(1, 1_000_000),
    "processor.workers": _whole(1, 256),
    "processor.partitions": Rule(
        lambda value: not value or bool(_PARTITIONS.fullmatch(value)), 'a list of numbers such as "0-7,12"'
    ),
    "halts.source": _NAME_OR_CLASS,
    "halts.rss_url": Rule(
        # Its list is named in the query.
        lambda value: not value or ("#" not in value and _is_web_address(value.partition("?")[0], path=True)),
        'a URL such as "https://www.nasdaqtrader.com/rss.aspx?feed=tradehalts", or "" for none',
    ),
    "halts.poll_seconds": Rule(
        lambda value: math.isfinite(value) and 1 <= value <= MAX_SECONDS,
        f"a number of seconds from 1 to {MAX_SECONDS}",
    ),
    "cache.backend": _BACKENDS,
    "cache.url": Rule(_is_redis_url, _REDIS_URL),
    "cache.widget_url": Rule(
        lambda value: not value or _is_redis_url(value), f'{_REDIS_URL}, or "" for cache.url'
    ),
    "cache.key_prefix": Rule(
        lambda value: bool(_KEY_PREFIX.fullmatch(value)),
        'at most 64 letters, digits and ":.-_/" (no braces: they are hash tags), such as "mdp-test:", or ""',
    ),
    "cache.sentinel_password": Rule(_is_secret, "a password without spaces and line breaks"),
    "cache.timeout_seconds": Rule(
        # Reading blocks for a second; leases of 3 s have to be given up before they run out.
        lambda value: math.isfinite(value) and 1.5 <= value <= 60,
        "a number of seconds from 1.5 to 60",
    ),
    "cache.max_connections": _whole(4, 10_000),
    "cache.snapshot_seconds": _SECONDS,
    "cache.history_days": _whole(1, 255),
    "wds.host": _HOST,
    "wds.port": _PORT,
    "wds.api_keys": _each(
        lambda key: bool(key) and _is_secret(key), "a list of different keys without spaces and line breaks"
    ),
    "wds.allowed_origins": _each(
        lambda origin: _is_web_address(origin, path=False),
        'a list of different origins such as "https://trader.example"',
    ),
    "wds.tick_ms": Rule(
        lambda value: math.isfinite(value) and 0 < value <= 10_000,
        "a number of milliseconds above 0 and at most 10000",
    ),
    "wds.client_buffer_bytes": _whole(1_024, 1 << 30),
    "wds.max_message_bytes": _whole(256, 1 << 24),
    "wds.max_subscriptions": _whole(1, 1_000_000),
    "wds.max_clients": _whole(1, 1_000_000),
    "wds.max_clients_per_address": _whole(0, 1_000_000),
    "wds.max_clients_per_key": _whole(0, 1_000_000),
    "wds.unlimited_addresses": _each(
        _is_network, 'a list of different networks such as "10.0.0.0/8" or "::1/128"'
    ),
    "wds.actions_per_second": Rule(
        lambda value: math.isfinite(value) and 0.1 <= value <= 1_000_000,
        "a number of messages a second from 0.1 to 1000000",
    ),
    "wds.action_burst": _whole(1, 1_000_000),
    "wds.jwks_url": Rule(
        lambda value: not value or (_is_web_address(value, path=True) and _is_private_way(value)),
        'a URL such as "https://login.example/jwks.json" (http on this machine only), or "" for none',
    ),
    "scp.host": _HOST,
    "scp.port": _PORT,
    "metrics.host": _HOST,
    "metrics.port": _PORT,
    "admin.host": _HOST,
    "admin.port": _PORT,
    "admin.token": Rule(_is_secret, "a token without spaces and line breaks"),
    "log.level": _one_of(*LOG_LEVELS),
    "log.format": Rule(
        lambda value: value in ("", *LOG_FORMATS),
        '"json", "console" or "" (console on a terminal, else json)',
    ),
}


def is_clean_text(value: str) -> bool:
    """Whether a value can be shown on one line as it is: no control characters, no lone surrogates."""
    return value.isprintable() or not value


def problems(config: Config) -> Iterator[Problem]:
    """What does not fit together in `config`, most important first."""
    wds, scp, admin = config.wds, config.scp, config.admin
    tokens = [key for key in ("jwt_secret_file", "jwt_public_key_file", "jwks_url") if getattr(wds, key)]
    if len(tokens) > 1:
        yield Problem(
            f"wds.{tokens[1]}",
            f"a value, besides one of wds.{tokens[0]}",
            "one way to check tokens: wds.jwt_secret_file, wds.jwt_public_key_file or wds.jwks_url",
        )
    if bool(wds.tls_cert) != bool(wds.tls_key):
        yield Problem(
            "wds.tls_cert" if wds.tls_cert else "wds.tls_key",
            "one of a certificate and its key",
            "both wds.tls_cert and wds.tls_key, or none",
        )
    if wds.auth_enabled and not (wds.api_keys or wds.keys_path or tokens):
        yield Problem(
            "wds.auth_enabled",
            "true with an empty wds.api_keys and no other keys: nobody could log in",
            "keys in wds.api_keys, or wds.keys_path, or a way to check tokens, or auth_enabled = false",
        )
    if not (is_loopback(wds.host) or wds.auth_enabled or wds.allow_anonymous):
        yield Problem(
            "wds.host",
            f'"{wds.host}", where others can connect, without authentication',
            "a loopback address, or wds.auth_enabled = true with wds.api_keys, "
            "or wds.allow_anonymous = true to let everybody in",
        )
    if not (is_loopback(scp.host) or scp.allow_anonymous):
        yield Problem(
            "scp.host",
            f'"{scp.host}", where others can connect, and the pages have no login yet',
            "a loopback address, or scp.allow_anonymous = true to let everybody see them",
        )
    if not (is_loopback(admin.host) or admin.token):
        yield Problem(
            "admin.host",
            f'"{admin.host}", where others can connect, without admin.token',
            "a loopback address, or a secret in admin.token",
        )
    if config.massive.ring_bytes < config.massive.max_frame_bytes:
        yield Problem(
            "massive.ring_bytes",
            f"{config.massive.ring_bytes}, too small for one frame",
            f"at least massive.max_frame_bytes ({config.massive.max_frame_bytes})",
        )


def port_problems(config: Config) -> Iterator[Problem]:
    """Servers of one process that would fight for a port (0 never does)."""
    seen: dict[int, list[tuple[str, str]]] = {}  # port -> (section, host) that take it
    servers = {
        "wds": (config.wds.host, config.wds.port),
        "scp": (config.scp.host, config.scp.port),
        "metrics": (config.metrics.host, config.metrics.port),
        "admin": (config.admin.host, config.admin.port),
    }
    for section, (host, port) in servers.items():
        for other, other_host in seen.get(port, []) if port else []:
            if host == other_host or {host, other_host} & {"0.0.0.0", "::"}:  # noqa: S104 - compared only
                yield Problem(
                    f"{section}.port", f"{port}, which is also {other}.port", "a port of its own, or 0"
                )
        seen.setdefault(port, []).append((section, host))
