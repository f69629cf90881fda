"""Who is connected and what they may: logins, permissions, rates, and the end of what has expired.

The service asks here at four moments: a login, an action, a feed that is asked for, and once a second for
those whose time is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from mdp.config import WdsConfig
from mdp.wds.auth import KeyRing
from mdp.wds.counters import WdsCounters
from mdp.wds.jwks import Jwks
from mdp.wds.keys import KeyStore
from mdp.wds.limits import ActionMeter, LoginThrottle, Networks, Verdict
from mdp.wds.permissions import ANONYMOUS, STRANGER, Identity, Permission
from mdp.wds.tokens import (
    KeySource,
    OneKey,
    TokenRefused,
    TokenVerifier,
    public_key_from_file,
    secret_from_file,
)

log = structlog.get_logger(__name__)

WARNING_SECONDS = 30.0  # between the warning and the end of a token or key

REVOKED = "revoked"
EXPIRED = "expired"


class Denied(Exception):
    """A login that failed.

    Attributes:
        reason: `unauthorized`, `throttled` or `too_many`.
        wait_seconds: Before the next try is worth it; 0 where none is known.
    """

    def __init__(self, reason: str, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.wait_seconds = wait_seconds


class Member(Protocol):
    """A connection as this module sees it."""

    def warn(self, identity: Identity, seconds: float) -> None:
        """Tell the client that its token or key ends in so many seconds."""

    def expel(self, identity: Identity, why: str) -> None:
        """Close the connection: REVOKED or EXPIRED."""

    def restrict(self, permission: Permission) -> None:
        """End subscriptions that the permission does not cover."""


class Session:
    """One connection's identity and rate of actions. Made before the login, as a stranger's."""

    __slots__ = ("address", "identity", "member", "meter", "warned")

    def __init__(self, member: Member, identity: Identity, meter: ActionMeter, address: str) -> None:
        self.member = member
        self.address = address
        self.identity = identity
        self.meter = meter
        self.warned = False

    def permits(self, pattern: str) -> bool:
        """Whether the client may read all that a feed's name or wildcard stands for."""
        return self.identity.permission.allows(pattern)


class Access:
    """The rules of one service. All methods are for the event loop's thread."""

    def __init__(
        self,
        config: WdsConfig,
        counters: WdsCounters,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            config: Keys, tokens, limits.
            counters: Told of failures.
            clock: Unix seconds, for what expires.
            monotonic: Seconds, for rates.
        """
        self._config = config
        self._counters = counters
        self._clock = clock
        self._monotonic = monotonic
        self._ring = KeyRing(config.api_keys)
        self._jwks = Jwks(config.jwks_url) if config.jwks_url else None
        self._tokens: TokenVerifier | None = None
        self._unlimited = Networks(config.unlimited_addresses)
        self._sessions: dict[Session, None] = {}
        self._accounts: dict[str, int] = {}  # account -> connections
        self.store = KeyStore(config.keys_path if config.auth_enabled else "", clock)
        self.throttle = LoginThrottle(monotonic)

    async def start(self) -> None:
        """Read the keys.

        Raises:
            OSError: A file of a key for checking tokens cannot be used.
        """
        self._tokens = self._verifier()
        await asyncio.to_thread(self.store.refresh)
        if self._config.auth_enabled and not (self._config.api_keys or self._tokens or len(self.store)):
            log.warning("wds_no_keys", hint="nobody can log in; make a key with `mdp keys add NAME`")

    def _verifier(self) -> TokenVerifier | None:
        config = self._config
        source: KeySource
        if not config.auth_enabled:
            return None
        if self._jwks is not None:
            source = self._jwks
        elif config.jwt_public_key_file:
            source = OneKey(public_key_from_file(config.jwt_public_key_file))
        elif config.jwt_secret_file:
            source = OneKey(secret_from_file(config.jwt_secret_file))
        else:
            return None
        return TokenVerifier(
            source, issuer=config.jwt_issuer, audience=config.jwt_audience, clock=self._clock
        )

    # Sessions

    def open(self, member: Member, address: str) -> Session:
        """Begin with a connection from an address (`address_of`); `close` ends with it."""
        meter = ActionMeter(self._config.actions_per_second, self._config.action_burst, self._monotonic())
        identity = STRANGER if self._config.auth_enabled else ANONYMOUS
        session = Session(member, identity, meter, address)
        self._sessions[session] = None
        return session

    def close(self, session: Session) -> None:
        """Forget a connection."""
        del self._sessions[session]
        self._count(session.identity, -1)

    def _count(self, identity: Identity, by: int) -> None:
        account = identity.account
        if account:
            left = self._accounts.get(account, 0) + by
            if left:
                self._accounts[account] = left
            else:
                del self._accounts[account]

    def act(self, session: Session) -> Verdict:
        """What to do with one more action of a client."""
        return session.meter.take(self._monotonic())

    # Logins

    async def login(self, session: Session, api_key: str, token: str) -> None:
        """Make a session somebody's; also a second time, with a fresh token before the old one ends.

        Args:
            session: Stays as it is where the login fails.
            api_key: As sent; empty where a token was.
            token: As sent; empty where a key was.

        Raises:
            Denied: The login failed. Its message may be shown.
        """
        identity = await self.identify(api_key, token, session.address)
        if session not in self._sessions:
            return  # gone while a signer's keys were fetched
        limit = self._config.max_clients_per_key
        account = identity.account
        joins = account and account != session.identity.account
        if joins and limit and self._accounts.get(account, 0) >= limit:
            self._counters.denied("too_many")
            raise Denied("too_many", f"{limit} connections at most with one key or token's subject")
        self._become(session, identity)

    def _become(self, session: Session, identity: Identity) -> None:
        self._count(identity, 1)
        self._count(session.identity, -1)
        session.identity = identity
        session.warned = False
        session.member.restrict(identity.permission)

    async def identify(self, api_key: str, token: str, address: str) -> Identity:
        """Who a key or token stands for; for requests that are no connection of long life, too.

        Raises:
            Denied: It stands for nobody, or the address has to wait.
        """
        wait = 0.0 if address in self._unlimited else self.throttle.wait_seconds(address)
        if wait:
            self._counters.denied("throttled")
            raise Denied("throttled", f"too many failed logins; try again in {wait:.0f} s", wait)
        message = "invalid key"
        identity: Identity | None
        if token:
            try:
                identity = await self._verify(token)
            except TokenRefused as error:
                identity, message = None, str(error)
        elif api_key and self._ring.accepts(api_key):
            identity = Identity("configured")
        else:
            identity = self.store.identify(api_key)
        if identity is None:
            if address not in self._unlimited:
                self.throttle.failed(address)
            self._counters.auth_failures += 1
            self._counters.denied("token" if token else "key")
            raise Denied("unauthorized", message)
        return identity

    async def _verify(self, token: str) -> Identity:
        if self._tokens is None:
            raise TokenRefused("tokens are not accepted here")
        return await self._tokens.verify(token)

    # What happens by itself

    async def refresh(self) -> None:
        """Read the file of keys if it changed, and expel whom it revoked; at most once a second."""
        if await asyncio.to_thread(self.store.refresh):
            for session in list(self._sessions):
                identity = session.identity
                if identity.kind == "key":
                    current = self.store.current(identity.id)
                    if current is None:
                        session.member.expel(identity, REVOKED)
                    else:
                        self._become(session, current)

    def expire(self) -> None:
        """Warn those whose time ends soon, and expel those whose time is over."""
        now = self._clock()
        for session in list(self._sessions):
            ends = session.identity.expires_at
            if ends is None or now < ends - WARNING_SECONDS:
                continue
            if now >= ends:
                session.member.expel(session.identity, EXPIRED)
            elif not session.warned:
                session.warned = True
                session.member.warn(session.identity, ends - now)

    async def stop(self) -> None:
        """End what is under way."""
        if self._jwks is not None:
            await self._jwks.close()
