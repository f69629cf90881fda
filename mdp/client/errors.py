"""What can go wrong for a client, and which closes of the service are worth another attempt."""

from __future__ import annotations

#: Close codes after which the same client would be closed again: what to do instead.
HOPELESS: dict[int, str] = {
    1009: "a message was too large; ask for less in one message",
    4001: "the API key or token was refused",
    4004: "the API key was revoked or has expired; use another one",
}
TOKEN_EXPIRED = 4005  # worth it with another token only

#: Seconds to wait at least before the next attempt, by close code; others follow the back-off.
PATIENCE: dict[int, float] = {
    4006: 5.0,  # too many connections of one key or subject
    4008: 1.0,  # too slow for the events subscribed
    4029: 5.0,  # too many messages a second
    4030: 30.0,  # too many failed logins from this address
}


class ClientError(Exception):
    """The service refused, or could not be asked; trying the same again will not help."""


class TooSlow(ClientError):
    """More events of a subscription wait to be read than it may hold: read faster, or subscribe to less."""


class Disconnected(Exception):
    """The connection failed or ended; trying again may help. The message says why.

    Attributes:
        code: The close code; 0 where there is none.
    """

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.code = code


def refusal(error: Disconnected, *, renewable: bool) -> ClientError | None:
    """The error to report if coming back is no use.

    Args:
        error: How the connection ended.
        renewable: Whether the next attempt brings a new token.
    """
    if error.code in HOPELESS:
        return ClientError(HOPELESS[error.code])
    if error.code == TOKEN_EXPIRED and not renewable:
        return ClientError("the token has expired; give a function that makes a new one")
    return None
