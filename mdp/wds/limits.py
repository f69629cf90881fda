"""Limits as rules without sockets: rates of actions, failed logins, and what counts as one address."""

from __future__ import annotations

import functools
import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

Verdict = Literal["go", "slow_down", "close"]

_PATIENCE = 100  # actions refused in a row before a client is closed


class ActionMeter:
    """One client's actions: a token bucket that fills at a steady rate.

    With an empty bucket actions are refused. Who goes on all the same, without a pause long enough for a
    tenth of the bucket, is to be closed.
    """

    __slots__ = ("_burst", "_rate", "_refused", "_since", "_tokens")

    def __init__(self, per_second: float, burst: int, now: float) -> None:
        self._rate = per_second
        self._burst = float(burst)
        self._tokens = float(burst)
        self._since = now
        self._refused = 0

    def take(self, now: float) -> Verdict:
        """What to do with an action that comes now (monotonic seconds)."""
        tokens = min(self._burst, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if tokens >= self._burst / 10:
            self._refused = 0
        if tokens >= 1:
            self._tokens = tokens - 1
            return "go"
        self._tokens = tokens
        self._refused += 1
        return "close" if self._refused > _PATIENCE else "slow_down"


class LoginThrottle:
    """Failed logins by address: after some, the address has to wait, twice as long after each further one.

    While it waits, its logins are refused without a look at the key, so that a right guess does not show.
    A right login clears nothing, or who owns one key could guess others between his own logins.
    """

    FREE = 5  # failures without a consequence: people mistype
    MAX_WAIT_SECONDS = 60.0
    FORGET_SECONDS = 600.0  # without a further failure

    def __init__(self, clock: Callable[[], float], max_addresses: int = 4_096) -> None:
        """
        Args:
            clock: Monotonic seconds.
            max_addresses: Remembered; the one that failed longest ago makes room.
        """
        self._clock = clock
        self._max_addresses = max_addresses
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> (failures, last)

    def __len__(self) -> int:
        return len(self._failures)

    def wait_seconds(self, address: str) -> float:
        """How long the address has to wait before its next login is looked at; 0: not at all."""
        found = self._failures.get(address)
        if found is None:
            return 0.0
        failures, last = found
        since = self._clock() - last
        if since >= self.FORGET_SECONDS:
            del self._failures[address]
            return 0.0
        if failures < self.FREE:
            return 0.0
        wait: float = min(2.0 ** min(failures - self.FREE, 10), self.MAX_WAIT_SECONDS)
        return max(0.0, wait - since)

    def failed(self, address: str) -> None:
        """Count a failure."""
        failures, _ = self._failures.pop(address, (0, 0.0))
        self._failures[address] = (failures + 1, self._clock())
        while len(self._failures) > self._max_addresses:
            self._failures.popitem(last=False)


@functools.lru_cache(maxsize=4_096)
def address_of(host: str) -> str:
    """What counts as one address: an IPv4 address, an IPv6 network of 64 bits (one customer's), or the text.

    An IPv4 address mapped into IPv6 counts as itself.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


class Networks:
    """Addresses to which limits per address do not apply: reverse proxies, this machine."""

    def __init__(self, networks: list[str]) -> None:
        """
        Args:
            networks: Like `10.0.0.0/8`, `::1`.

        Raises:
            ValueError: One is no network.
        """
        self._networks = [ipaddress.ip_network(text, strict=False) for text in networks]
        self._known: dict[str, bool] = {}

    def __contains__(self, address: str) -> bool:
        """Whether an address, as `address_of` gives it, lies in one of the networks."""
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= 4_096:
                self._known.clear()
            known = self._known[address] = self._lies_in(address)
        return known

    def _lies_in(self, address: str) -> bool:
        try:
            asked = ipaddress.ip_network(address)
        except ValueError:
            return False
        return any(_overlap(asked, network) for network in self._networks)


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _overlap(asked: _Network, network: _Network) -> bool:
    # ::1/128 means its /64, which is what one IPv6 address counts as.
    if isinstance(asked, ipaddress.IPv4Network):
        return isinstance(network, ipaddress.IPv4Network) and asked.overlaps(network)
    return isinstance(network, ipaddress.IPv6Network) and asked.overlaps(network)
