"""Who may use the control API.

Two dangers: others who can reach the port, kept out by a token; and web pages in the browser of
somebody who works on this machine, which can send requests to loopback addresses too. Against pages:

- a request with an `Origin` that is not the server's own address is refused (a page of another site);
- without a token, `Host` must be a loopback address or the configured one (a name that an attacker
  let point here, "DNS rebinding", makes his page's origin look like ours);
- what changes something must be sent as `application/json`, which a form cannot do, and which a
  script may only after asking with OPTIONS, which is not answered.
"""

from __future__ import annotations

import hmac

from aiohttp import web
from yarl import URL

from mdp.config import AdminConfig
from mdp.config_rules import is_loopback


class Refused(Exception):
    """A request that is not let in: the HTTP status and one line that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Guard:
    """Decides about each request before anything is done for it."""

    def __init__(self, config: AdminConfig) -> None:
        self._token = config.token.encode()
        self._host = config.host.lower()

    def check(self, request: web.Request) -> None:
        """Let a request pass.

        Raises:
            Refused: 401 without the right token, 403 for a page of another site, 415 for a change that
                is not sent as JSON.
        """
        self._check_origin(request)
        if self._token:
            self._check_token(request)
        else:
            self._check_host(request)
        if request.method == "POST" and request.content_type != "application/json":
            raise Refused(415, "send Content-Type: application/json")

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get("Origin")
        if (
            origin is not None
            and origin.partition("://")[2].lower() != request.headers.get("Host", "").lower()
        ):
            raise Refused(403, "requests of other web pages are refused")
        # Browsers name the relation themselves, also where they send no Origin (images, links).
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refused(403, "requests of other web pages are refused")

    def _check_host(self, request: web.Request) -> None:
        try:
            host = URL(f"http://{request.headers.get('Host', '')}").host or ""
        except ValueError:
            host = ""
        if not (is_loopback(host) or host.lower() == self._host):
            raise Refused(403, "the Host header does not name this machine; use its address or a token")

    def _check_token(self, request: web.Request) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # In constant time, and as bytes: str would raise for what is not ASCII.
        right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        if scheme.lower() != "bearer" or not right:
            raise Refused(401, "send Authorization: Bearer with the token of admin.token")
