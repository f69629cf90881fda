"""The signer's public keys from a URL (JWK Set, RFC 7517): cached, renewed, bounded in size and time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import structlog
from joserfc.jwk import OKPKey

from mdp.wds.tokens import ED25519, VerifyKey

log = structlog.get_logger(__name__)

MAX_BYTES = 256 * 1024
MAX_KEYS = 64
FETCH_SECONDS = 5.0
RENEW_SECONDS = 600.0  # age at which keys are fetched again, while the old ones still serve
KEEP_SECONDS = 86_400.0  # age at which keys that could not be renewed are trusted no longer
UNKNOWN_SECONDS = 60.0  # between two fetches for keys that are not known
FIRST_SECONDS = 5.0  # the same, while there is no key at all


class Jwks:
    """Ed25519 keys of a JWK Set. Other kinds in it are left out, secrets (`oct`) above all.

    Attributes:
        fetches: Attempts so far.
        errors: Those that brought no keys.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            url: Of the set; redirects are not followed.
            clock: Monotonic seconds.
        """
        self._url = url
        self._clock = clock
        self._keys: dict[str, VerifyKey] = {}
        self._only: VerifyKey | None = None  # for tokens that name none
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetch: asyncio.Task[None] | None = None  # under way: everybody waits for the same one
        self.fetches = 0
        self.errors = 0

    async def find(self, kid: str | None) -> VerifyKey | None:
        """The key a token names, or None. Fetches the set when it has to; 5 s at most."""
        now = self._clock()
        if now - self._fetched_at >= KEEP_SECONDS:
            self._keys, self._only = {}, None
        key = self._known(kid)
        pause = UNKNOWN_SECONDS if self._keys else FIRST_SECONDS
        due = now - self._fetched_at >= RENEW_SECONDS or key is None
        if self._fetch is None and due and now - self._tried_at >= pause:
            self._tried_at = now
            self._fetch = asyncio.get_running_loop().create_task(self._renew(), name="wds-jwks")
        if key is None and self._fetch is not None:
            # Shielded: who waits may give up (the time to log in is over), others wait on.
            await asyncio.shield(self._fetch)
            key = self._known(kid)
        return key

    async def close(self) -> None:
        """Give up a fetch that is under way."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait({self._fetch})

    def _known(self, kid: str | None) -> VerifyKey | None:
        return self._only if kid is None else self._keys.get(kid)

    async def _renew(self) -> None:
        self.fetches += 1
        try:
            keys = _usable(await self._download())
            if not keys:
                raise ValueError("no Ed25519 key in it")
        except (aiohttp.ClientError, OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            self.errors += 1
            log.warning("wds_jwks_failed", error=type(error).__name__, kept=len(self._keys))
        else:
            self._keys = {kid: key for kid, key in keys if kid}
            self._only = keys[0][1] if len(keys) == 1 else None
            self._fetched_at = self._clock()
        finally:
            self._fetch = None

    async def _download(self) -> Any:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            content = bytearray()
            async for chunk in answer.content.iter_chunked(16_384):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise ValueError("too large")
        return msgspec.json.decode(bytes(content))


def _usable(document: Any) -> list[tuple[str, VerifyKey]]:
    """(kid, key) of what can check our tokens; kid is empty where there is none."""
    found = document.get("keys") if isinstance(document, dict) else None
    keys = []
    for item in found[:MAX_KEYS] if isinstance(found, list) else ():
        if not isinstance(item, dict) or item.get("kty") != "OKP" or item.get("crv") != "Ed25519":
            continue
        x = item.get("x")
        if (
            not isinstance(x, str)
            or item.get("use", "sig") != "sig"
            or item.get("alg", ED25519[0]) not in ED25519
        ):
            continue
        try:
            # The public half by name: a private key that somebody published stays out of memory.
            key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x})
        except Exception as error:
            log.warning("wds_jwks_key_unusable", error=type(error).__name__)
            continue
        kid = item.get("kid")
        keys.append((kid if isinstance(kid, str) else "", VerifyKey(key)))
    return keys
