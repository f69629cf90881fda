"""The way to Redis: a client made from the configuration, a check at the start, and the link's health.

Nothing is retried by the client itself: after a lost connection it is not known whether a command was
done, and only the caller knows whether it may be done twice. `Link` keeps what callers tell it and says
how long to wait before the next attempt.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import structlog
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from mdp.cache.redis_connections import (
    MasterConnection,
    PlainConnection,
    SocketConnection,
    TlsConnection,
    TlsMasterConnection,
)
from mdp.config import CacheConfig
from mdp.redis_url import RedisAddress, parse_redis_url
from mdp.stage import Health

log = structlog.get_logger(__name__)

#: What a command raises where Redis is gone, slow, refuses or answers nonsense.
REDIS_ERRORS = (RedisError, OSError, TimeoutError, RedisClusterException)  # the last is no RedisError
OLDEST_MAJOR = 7
READ_BYTES = 256 * 1024  # of one read from the socket; entries of a stream are large
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 1.0  # s between attempts: boards are to be fresh 3 s after its return


class RedisUnavailable(Exception):
    """Redis cannot be used. The message is one line without a password."""


def connect(config: CacheConfig, *, widget: bool = False) -> Redis:
    """A client that is not connected yet; each command takes a connection from a bounded pool.

    Answers are bytes, in the shapes of protocol 2 on every server. A command that needs a connection while
    all are in use waits for `timeout_seconds`, then fails. `await client.aclose()` ends it.

    Args:
        config: `[cache]`.
        widget: To `widget_url` (or `url` where it is empty) instead of `url`.

    Raises:
        RedisUnavailable: The file of certificates cannot be read.
    """
    address = parse_redis_url((widget and config.widget_url) or config.url)
    options: dict[str, Any] = {
        "username": address.user or None,
        "password": address.password or None,
        "socket_timeout": config.timeout_seconds,
        "socket_connect_timeout": config.timeout_seconds,
        "socket_read_size": READ_BYTES,
        "decode_responses": False,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "driver_info": None,  # saves a round trip, and an ACL user the permission for it
    }
    tls: dict[str, Any] = {}
    if address.tls:
        tls = {"ssl_ca_certs": _readable(config.tls_ca) or None, "ssl_check_hostname": True}
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.nodes]
        cluster = RedisCluster(
            startup_nodes=nodes,
            max_connections=config.max_connections,
            ssl=address.tls,
            **options,
            **tls,
        )
        # It takes no class of connections; each node makes its own.
        manager, kind = cluster.nodes_manager, TlsConnection if address.tls else PlainConnection
        manager.connection_kwargs["connection_class"] = kind
        for known in manager.startup_nodes.values():
            known.connection_class = kind
        # Its commands have the same signatures; what differs is that keys of one command share a slot.
        return cast(Redis, cluster)
    options["db"] = address.database
    if address.kind == "sentinel":
        return _by_sentinel(address, config, options, tls)
    if address.kind == "unix":
        options.pop("socket_connect_timeout")
        pool = BlockingConnectionPool(
            config.max_connections,
            config.timeout_seconds,
            SocketConnection,
            path=address.path,
            **options,
        )
    else:
        host, port = address.nodes[0]
        pool = BlockingConnectionPool(
            config.max_connections,
            config.timeout_seconds,
            TlsConnection if address.tls else PlainConnection,
            host=host,
            port=port,
            **options,
            **tls,
        )
    return Redis.from_pool(pool)


def _by_sentinel(
    address: RedisAddress, config: CacheConfig, options: dict[str, Any], tls: dict[str, Any]
) -> Redis:
    """Each new connection asks the sentinels who the master is."""
    asking: dict[str, Any] = {
        "socket_timeout": config.timeout_seconds,
        "socket_connect_timeout": config.timeout_seconds,
        "password": config.sentinel_password or None,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "driver_info": None,
    }
    if address.tls:
        options, asking = {**options, "ssl": True, **tls}, {**asking, "ssl": True, **tls}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        address.nodes, sentinel_kwargs=asking, **options
    )
    master = sentinel.master_for(
        address.service,
        max_connections=config.max_connections,
        connection_class=TlsMasterConnection if address.tls else MasterConnection,
    )
    return cast(Redis, master)


def _readable(path: str) -> str:
    if path:
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise RedisUnavailable(f"cache.tls_ca: {path}: {error.strerror or 'cannot be read'}") from None
    return path


def reason(error: BaseException, config: CacheConfig) -> str:
    """Why Redis cannot be used, in one line that holds no password."""
    if isinstance(error, AuthenticationError | AuthorizationError):
        text = "it refuses the user or the password"
    elif isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        text = f"no answer within {config.timeout_seconds:g} s"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    for url in (config.url, config.widget_url):
        password = parse_redis_url(url).password if url else ""
        if password:
            text = text.replace(password, "********")
    if config.sentinel_password:
        text = text.replace(config.sentinel_password, "********")
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


class Server(msgspec.Struct, frozen=True):
    """What a check found."""

    name: str  # "redis" or "valkey"
    version: str  # "" where it may not be asked
    warnings: tuple[str, ...]  # one line each, for the log


async def check(client: Redis, config: CacheConfig, *, widget: bool = False) -> Server:
    """Ask whether Redis can be used, and how it is set up. One round trip or two.

    Raises:
        RedisUnavailable: It cannot be reached, refuses us, or is read-only.
    """
    address = parse_redis_url((widget and config.widget_url) or config.url)
    key = "cache.widget_url" if widget and config.widget_url else "cache.url"
    try:
        await client.ping()
        try:
            info = await _info(client)
        except NoPermissionError:
            return Server(
                "redis", "", (f"{key}: the user may not call INFO: memory limit and policy are not checked",)
            )
    except REDIS_ERRORS as error:
        raise RedisUnavailable(f"{key}: Redis at {address}: {reason(error, config)}") from None
    if info.get("role") == "slave":
        raise RedisUnavailable(f"{key}: Redis at {address} is a replica: it cannot be written to")
    mode = info.get("redis_mode") or info.get("server_mode")  # Redis and Valkey call it differently
    if mode == "cluster" and address.kind != "cluster":
        raise RedisUnavailable(f"{key}: Redis at {address} is part of a cluster: use redis+cluster://")
    internal = not (widget and config.widget_url)
    name = "valkey" if "valkey_version" in info or info.get("server_name") == "valkey" else "redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "")
    warnings = _warnings(info, name, version, internal)
    if internal and address.database and not config.key_prefix:
        warnings.append(
            f"database {address.database}: Redis has databases of keys, but not of channels; if another "
            "platform uses this server, give one of them a cache.key_prefix"
        )
    return Server(name, version, tuple(f"{key}: {text}" for text in warnings))


async def _info(client: Redis) -> dict[str, Any]:
    if isinstance(client, RedisCluster):
        node = client.get_random_node()
        return cast(dict[str, Any], await client.info(target_nodes=node))
    return await client.info()


def _warnings(info: dict[str, Any], name: str, version: str, internal: bool) -> list[str]:
    found = []
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST_MAJOR:
        found.append(f"{name} {version} is older than what is tested; use Redis {OLDEST_MAJOR} or Valkey")
    if "maxmemory" in info and not info["maxmemory"]:
        found.append(
            "no memory limit: Redis may take all of the machine's memory; set maxmemory (see docs/redis.md)"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if internal and policy != "noeviction":
        found.append(
            f"maxmemory-policy is {policy}: Redis may throw away leases, checkpoints and streams; "
            "use noeviction"
        )
    return found


class Link:
    """What is known of the way to one Redis. Callers tell it how their commands went.

    Args:
        name: For the log: who uses it for what.
        config: `[cache]`, for words without passwords.
        clock: Monotonic seconds.
        sleep: Waits between attempts.
        rng: Spreads the attempts of processes that lost the same server.
    """

    def __init__(
        self,
        name: str,
        config: CacheConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._name = name
        self._config = config
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._since = clock()
        self._delay = _FIRST_DELAY
        #: Whether the last command that somebody told of went well; true before the first.
        self.ok = True
        self.error = ""  # of the outage that lasts
        self.failures = 0  # commands that failed, ever
        self.outages = 0
        self.last_outage_seconds = 0.0

    def sibling(self, name: str) -> Link:
        """Another one of the same configuration, for what may fail by itself."""
        return Link(f"{self._name}_{name}", self._config, clock=self._clock, sleep=self._sleep, rng=self._rng)

    @property
    def seconds(self) -> float:
        """For how long it has been as it is."""
        return self._clock() - self._since

    def good(self) -> None:
        """A command went well. Cheap: call it after each."""
        self._delay = _FIRST_DELAY
        if self.ok:
            return
        self.last_outage_seconds = self.seconds
        self.ok, self.error, self._since = True, "", self._clock()
        log.warning("redis_back", link=self._name, gone_seconds=round(self.last_outage_seconds, 1))

    def bad(self, error: BaseException) -> None:
        """A command failed. An outage is logged once, and again when its reason changes."""
        self.failures += 1
        text = reason(error, self._config)
        if self.ok:
            self.ok, self._since = False, self._clock()
            self.outages += 1
        if text != self.error:
            log.warning("redis_failed", link=self._name, error=text)
        self.error = text

    async def pause(self) -> None:
        """Wait before the next attempt: 0.05 to 0.1 s at first, then longer, 1 s at most."""
        delay, self._delay = self._delay, min(self._delay * 2, _LONGEST_DELAY)
        await self._sleep(delay * self._rng.uniform(0.5, 1.0))

    def health(self) -> Health:
        """For `/readyz`."""
        if self.ok:
            return Health(True, "Redis answers")
        return Health(False, f"Redis: {self.error}, for {self.seconds:.0f} s")


def is_refusal(error: BaseException) -> bool:
    """Whether Redis answered, and refused: the command was certainly not done.

    Everything else that `REDIS_ERRORS` holds leaves open whether it was.
    """
    return isinstance(error, ResponseError)
