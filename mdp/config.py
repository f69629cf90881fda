"""Typed configuration: defaults < config.toml < environment < flags.

The structs below are the whole truth about settings: their defaults are the program's, their
types are what is checked, and `config.toml` documents every key of theirs.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import msgspec

MASK = "********"
SECRET_KEYS = frozenset({"massive.api_key", "wds.api_keys", "admin.token", "cache.sentinel_password"})
URL_KEYS = frozenset({"cache.url", "cache.widget_url"})  # they may hold a password
_URL_FIELDS = frozenset(key.partition(".")[2] for key in URL_KEYS)
_SECRET_FIELDS = frozenset(key.partition(".")[2] for key in SECRET_KEYS)


class ConfigError(Exception):
    """A setting that the program cannot start with.

    The message is one line: where it was found, the key, what was found and what is allowed.
    It never holds a secret.
    """


def masked_url(url: str) -> str:
    """`url` with its password replaced, for people to read."""
    parts, password = _url_password(url)
    if parts is None or not password:
        return url
    user, _, address = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{MASK}@{address}"))


def _url_password(url: str) -> tuple[SplitResult | None, str]:
    try:
        parts = urlsplit(url)
        return parts, parts.password or ""
    except ValueError:  # not a URL; whoever validates it will say so
        return None, ""


def _both_forms(url: str) -> list[str]:
    """The password of a URL, as it is written there and as it is sent."""
    _, password = _url_password(url)
    return list(dict.fromkeys((password, unquote(password))))


def masked_value(field: str, value: Any) -> Any:
    """`value` of a field as it may be shown: secrets are masked, an empty one stays visibly empty."""
    if field in _SECRET_FIELDS and value:
        return [MASK] * len(value) if isinstance(value, list) else MASK
    if field in _URL_FIELDS and isinstance(value, str):
        return masked_url(value)
    return value


class Section(msgspec.Struct):
    """Base of the settings: whoever prints, logs or inspects one never sees a secret."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Names and masked values, for rich and for `repr`."""
        return [(field, masked_value(field, getattr(self, field))) for field in self.__struct_fields__]

    def __repr__(self) -> str:
        inner = ", ".join(f"{field}={value!r}" for field, value in self.__rich_repr__())
        return f"{type(self).__name__}({inner})"


class MassiveConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """The provider's connection. `[massive]`"""

    feed: str = "RealTime"  # "RealTime", "Delayed" or "host:port"
    market: str = "stocks"
    secure: bool = True  # wss:// and TLS; false only for a simulator
    rest_url: str = "https://api.massive.com"
    subscriptions: list[str] = msgspec.field(default_factory=lambda: ["A.*", "AM.*", "T.*", "Q.*", "LULD.*"])
    api_key: str = ""
    api_key_file: str = ""
    compression: bool = False  # permessage-deflate on the feed; costs CPU
    connect_timeout_seconds: float = 10.0  # to the first authenticated data
    stall_seconds: float = 30.0  # silence over all symbols, market open, before a restart
    backoff_max_seconds: float = 60.0
    cooldown_seconds: float = 60.0  # after max_connections
    stable_seconds: float = 10.0  # of data before the back-off is reset
    max_frame_bytes: int = 16 * 1024 * 1024
    ring_bytes: int = 64 * 1024 * 1024  # raw frames waiting to be decoded
    ring_max_age_seconds: float = 1.0  # older undecoded frames are shed
    rest_requests_per_minute: float = 3_000.0  # of the REST client, retries included
    rest_concurrency: int = 4  # REST requests under way at once


class MdqConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """The queues between decoding and analyzers. `[mdq]`"""

    backend: str = "memory"
    ttl_seconds: float = 5.0
    max_events: int = 200_000  # per queue
    partitions: int = 16  # used by the redis backend, as the next ones
    keep_seconds: float = 60.0  # what a stream keeps; a successor that takes longer to begin misses events
    flush_ms: float = 20.0  # events are gathered so long before they are sent
    flush_bytes: int = 64 * 1024  # or until so many of them wait


class ProcessorConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """Which analyzers run. `[processor]`"""

    analyzers: list[str] = msgspec.field(
        default_factory=lambda: [
            "raw_feeds",
            "enriched_quote",
            "leaderboards",
            "top_trades",
            "trade_stats",
            "daily_range",
            "halts",
        ]
    )
    scanners: list[str] = msgspec.field(default_factory=lambda: ["market_breadth"])
    max_failures: int = 100  # of one analyzer before it is disabled
    max_symbols: int = 100_000  # bound on state; events of further symbols are rejected
    include_otc: bool = False
    backfill: bool = True  # ask for bars that were missed, after an outage or a restart
    backfill_max_symbols: int = 12_000  # asked for after one outage
    workers: int = 1  # processes that `--role processor` starts
    partitions: str = ""  # a static assignment such as "0-7,12"; empty: evenly over all processors


class HaltsConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """A second source of trading halts. `[halts]`"""

    source: str = "nasdaq_rss"  # entry point of `mdp.halt_sources` or "package.module:Class"
    rss_url: str = ""  # empty: off
    poll_seconds: float = 60.0


class CacheConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """Last values, snapshot and journal. `[cache]`"""

    backend: str = "memory"
    url: str = "redis://127.0.0.1:6379/0"  # streams, leases, checkpoints: what the roles need
    widget_url: str = ""  # what clients may read; empty: as url
    key_prefix: str = ""  # before every key and channel
    tls_ca: str = ""  # PEM file for rediss://; empty: the system's
    sentinel_password: str = ""  # of the sentinels themselves, where they ask for one
    timeout_seconds: float = 3.0  # for a connection, and for an answer
    max_connections: int = 16  # of one process to one Redis
    plain_keys: bool = (
        True  # values and lists under the names of their feeds, as the predecessor's clients read
    )
    plain_channels: bool = (
        False  # bare payloads on channels named as the feeds, for the predecessor's clients
    )
    snapshot_path: str = "var/mdp.snapshot"  # empty: keep nothing over a restart
    snapshot_seconds: float = 30.0
    history_path: str = "var/history"  # folder of recorded volumes by time of day; empty: off
    history_days: int = 30  # that a usual volume rests on, and that are kept


class WdsConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """The WebSocket service that clients reach. `[wds]`"""

    host: str = "127.0.0.1"
    port: int = 4202
    auth_enabled: bool = False
    api_keys: list[str] = msgspec.field(default_factory=list)
    allow_anonymous: bool = False  # needed to listen elsewhere than on loopback without auth
    allowed_origins: list[str] = msgspec.field(default_factory=list)
    tick_ms: float = 20.0
    compression: bool = True  # permessage-deflate for clients of version 2 that ask for it
    client_buffer_bytes: int = 1024 * 1024
    max_message_bytes: int = 64 * 1024
    max_subscriptions: int = 1_000
    max_clients: int = 10_000
    max_clients_per_address: int = 1_000  # connections; 0: any number
    max_clients_per_key: int = 1_000  # connections of one key or token's subject; 0: any number
    unlimited_addresses: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    actions_per_second: float = 100.0  # of one client, on average
    action_burst: int = 2_000  # of one client, at once
    keys_path: str = "var/keys.json"  # of `mdp keys`; empty: no such keys
    jwt_secret_file: str = ""  # HS256
    jwt_public_key_file: str = ""  # Ed25519
    jwks_url: str = ""  # Ed25519
    jwt_issuer: str = ""  # that tokens must name; empty: any
    jwt_audience: str = ""
    tls_cert: str = ""  # PEM, with tls_key: wss:// instead of ws://
    tls_key: str = ""


class ScpConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """The pages. `[scp]`"""

    host: str = "127.0.0.1"
    port: int = 8000
    allow_anonymous: bool = False


class MetricsConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """GET only: /metrics /healthz /readyz. `[metrics]`"""

    host: str = "127.0.0.1"
    port: int = 4200


class AdminConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """The control API. `[admin]`"""

    host: str = "127.0.0.1"
    port: int = 4201
    token: str = ""  # needed when not on loopback


class LogConfig(Section, kw_only=True, forbid_unknown_fields=True):
    """`[log]`"""

    level: str = "info"
    format: str = ""  # "json" or "console"; empty: console on a terminal, else json


class Config(Section, kw_only=True, forbid_unknown_fields=True):
    """Everything a process can be told."""

    massive: MassiveConfig = msgspec.field(default_factory=MassiveConfig)
    mdq: MdqConfig = msgspec.field(default_factory=MdqConfig)
    processor: ProcessorConfig = msgspec.field(default_factory=ProcessorConfig)
    halts: HaltsConfig = msgspec.field(default_factory=HaltsConfig)
    cache: CacheConfig = msgspec.field(default_factory=CacheConfig)
    wds: WdsConfig = msgspec.field(default_factory=WdsConfig)
    scp: ScpConfig = msgspec.field(default_factory=ScpConfig)
    metrics: MetricsConfig = msgspec.field(default_factory=MetricsConfig)
    admin: AdminConfig = msgspec.field(default_factory=AdminConfig)
    log: LogConfig = msgspec.field(default_factory=LogConfig)


def secrets_of(config: Config) -> list[str]:
    """Every secret the configuration holds, so that logging can mask them."""
    cache = config.cache
    passwords = [password for url in (cache.url, cache.widget_url) for password in _both_forms(url)]
    found = [
        config.massive.api_key,
        config.admin.token,
        cache.sentinel_password,
        *passwords,
        *config.wds.api_keys,
    ]
    return [secret for secret in found if secret]
