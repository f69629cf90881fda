"""The Python client of the Widget Data Service (docs/clients.md), for programs and `mdp watch`."""

from mdp.client.errors import ClientError, Disconnected, TooSlow
from mdp.client.link import FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS
from mdp.client.values import Update, apply_delta
from mdp.client.wds import WdsClient

__all__ = [
    "FIRST_DELAY_SECONDS",
    "MAX_DELAY_SECONDS",
    "ClientError",
    "Disconnected",
    "TooSlow",
    "Update",
    "WdsClient",
    "apply_delta",
]
