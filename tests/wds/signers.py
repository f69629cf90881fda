"""What signs tokens in tests, and a place that publishes its keys."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

SECRET = "0123456789abcdef0123456789abcdef"  # HS256, of tests only
NOW = 1_800_000_000.0


def ed25519(kid: str = "first") -> OKPKey:
    """A new key pair."""
    return OKPKey.generate_key("Ed25519", {"kid": kid})


def sign(
    key: OKPKey | OctKey, algorithm: str = "Ed25519", header: dict[str, Any] | None = None, **claims: Any
) -> str:
    """A token; `exp` is in ten minutes and all feeds are permitted, if nothing else is said."""
    content = {"exp": NOW + 600, "feeds": ["**"], **claims}
    content = {name: value for name, value in content.items() if value is not None}
    head: dict[str, Any] = {"alg": algorithm, **({"kid": key.kid} if key.kid else {}), **(header or {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that EdDSA is the older name
        return jwt.encode(head, content, key, algorithms=[algorithm])


def hs256(secret: str = SECRET, **claims: Any) -> str:
    """A token signed with a secret."""
    return sign(OctKey.import_key(secret), "HS256", **claims)


class Publisher:
    """Serves a JWK Set.

    Attributes:
        document: What is served: a document, or bytes as they are.
        asked: How often.
    """

    def __init__(self, *keys: OKPKey) -> None:
        self.document: Any = {"keys": [key.as_dict(private=False) for key in keys]}
        self.status = 200
        self.asked = 0
        self.url = ""

    def publish(self, *keys: OKPKey) -> None:
        """Replace what is served."""
        self.document = {"keys": [key.as_dict(private=False) for key in keys]}

    async def answer(self, request: web.Request) -> web.Response:
        """One request."""
        self.asked += 1
        if self.status in (301, 302):
            return web.Response(status=self.status, headers={"Location": self.url})
        if isinstance(self.document, bytes):
            return web.Response(status=self.status, body=self.document)
        return web.json_response(self.document, status=self.status)


@contextlib.asynccontextmanager
async def publishing(*keys: OKPKey) -> AsyncIterator[Publisher]:
    """A publisher on a free port."""
    publisher = Publisher(*keys)
    app = web.Application()
    app.router.add_get("/jwks.json", publisher.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    publisher.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
    try:
        yield publisher
    finally:
        await runner.cleanup()
