"""What the rules of access do to a connection: warn it, narrow what it reads, end it."""

from __future__ import annotations

from mdp.wds import access, protocol, protocol2
from mdp.wds.client import Client
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import text_frame
from mdp.wds.hub import Hub
from mdp.wds.permissions import Identity, Permission


class Member:
    """A connection as `Access` sees it."""

    __slots__ = ("_client", "_counters", "_hub")

    def __init__(self, client: Client, hub: Hub, counters: WdsCounters) -> None:
        self._client = client
        self._hub = hub
        self._counters = counters

    def warn(self, identity: Identity, seconds: float) -> None:
        self._client.answer(text_frame(protocol.expires(word_of(identity), seconds)))

    def expel(self, identity: Identity, why: str) -> None:
        is_token = identity.kind == "token"
        code = protocol.TOKEN_EXPIRED if is_token else protocol.ACCESS_ENDED
        reason = f"the {word_of(identity)} {'was revoked' if why == access.REVOKED else 'has expired'}"
        if not self._client.closing:
            self._counters.close(code)
            self._client.close(code, reason)

    def restrict(self, permission: Permission) -> None:
        for pattern in [pattern for pattern in self._client.patterns if not permission.allows(pattern)]:
            self._hub.unsubscribe(self._client, pattern)
            self._client.answer(text_frame(protocol.unsubscribed(pattern)))
        views = tuple(pattern for pattern in self._client.views if not permission.allows(pattern))
        for pattern in views:
            self._hub.look_away(self._client, pattern)
        if views:
            self._client.answer(text_frame(protocol2.unsubscribed(views)))


def word_of(identity: Identity) -> str:
    return "token" if identity.kind == "token" else "key"
