"""Short-lived JSON Web Tokens (RFC 7519): who signed them, what they permit, until when.

Which algorithm a key is for is our side's decision, never the token's (RFC 8725 section 3.1): a secret of
ours checks HS256 only, a public key Ed25519 only. So a token cannot have a public key taken for a secret, and
`none` fits nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OctKey, OKPKey

from mdp.wds.permissions import Identity, Permission

MAX_TOKEN = 4_096  # characters
MAX_LIFETIME_SECONDS = 86_400.0  # a token that lives longer cannot be taken back and is no short-lived one
LEAP_SECONDS = 5.0  # a signer's clock may be ahead of ours by so much
MIN_SECRET_BYTES = 32  # RFC 7518 section 3.2: at least as long as the hash
_MAX_KEY_FILE = 65_536
_MAX_SUBJECT = 128

ED25519 = ("Ed25519", "EdDSA")  # RFC 9864 gives what RFC 8037 called EdDSA its exact name; both are in use
HS256 = ("HS256",)


class TokenRefused(Exception):
    """A token is not accepted; the message is one of a few fixed ones and repeats nothing of it."""


class TokenKeyError(OSError):
    """A file of a key for checking tokens cannot be used; the message holds nothing of the key."""


class VerifyKey:
    """A key and the algorithms that it is for."""

    __slots__ = ("_key", "_registry", "algorithms")

    def __init__(self, key: OctKey | OKPKey) -> None:
        self._key = key
        self.algorithms = HS256 if isinstance(key, OctKey) else ED25519
        self._registry = _Registry(algorithms=self.algorithms)

    def payload_of(self, token: bytes) -> bytes:
        """The signed content; JoseError or others where the signature is not by this key."""
        return jws.deserialize_compact(token, self._key, registry=self._registry).payload

    def __repr__(self) -> str:
        return f"VerifyKey({self.algorithms[0]})"


class _Registry(jws.JWSRegistry):
    """The library's, without its warning, for each token, that the older name is the older one."""

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise TokenRefused("the token is signed with an algorithm that is not accepted")
        return self.algorithms[name]


class KeySource(Protocol):
    """Where keys for checking tokens come from."""

    async def find(self, kid: str | None) -> VerifyKey | None:
        """The key that a token names (None: it names none), or None."""


class OneKey:
    """A single key, whatever a token calls it."""

    def __init__(self, key: VerifyKey) -> None:
        self._key = key

    async def find(self, kid: str | None) -> VerifyKey | None:
        """The key."""
        return self._key


def secret_from_file(path: str) -> VerifyKey:
    """The secret of HS256 in a file: its bytes without the white space around them.

    Raises:
        TokenKeyError: It cannot be read, is shorter than 32 bytes, or is a public key.
    """
    secret = _read(path).strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise TokenKeyError(f"{path}: the secret has {len(secret)} bytes; at least {MIN_SECRET_BYTES}")
    try:
        return VerifyKey(OctKey.import_key(secret))
    except Exception:  # of the library, which knows public keys by their form
        raise TokenKeyError(f"{path}: a public key, which everybody knows, is no secret") from None


def public_key_from_file(path: str) -> VerifyKey:
    """An Ed25519 public key in a file, as PEM or JWK.

    Raises:
        TokenKeyError: It cannot be read, or is another kind of key.
    """
    content = _read(path)
    try:
        key = OKPKey.import_key(msgspec.json.decode(content) if content[:1] == b"{" else content)
    except Exception:  # of three libraries, some of whose messages show what they were given
        raise TokenKeyError(f"{path}: no Ed25519 public key in PEM or JWK") from None
    if key.curve_name != "Ed25519":
        raise TokenKeyError(f"{path}: a key of {key.curve_name}; Ed25519 is needed")
    if key.is_private:
        raise TokenKeyError(f"{path}: a private key; the service needs the public one only")
    return VerifyKey(key)


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_KEY_FILE + 1)
    except (OSError, ValueError) as error:
        raise TokenKeyError(f"{path}: {getattr(error, 'strerror', None) or 'cannot be read'}") from None
    if len(content) > _MAX_KEY_FILE:
        raise TokenKeyError(f"{path}: larger than {_MAX_KEY_FILE} bytes")
    return content


class _Claims(msgspec.Struct):
    """What is read of a token. Other claims are ignored, as RFC 7519 section 4 asks for."""

    exp: float
    feeds: list[str]
    nbf: float = 0.0
    iss: str = ""
    aud: str | list[str] = ""
    sub: str = ""


_decode_claims = msgspec.json.Decoder(_Claims).decode


class TokenVerifier:
    """Checks tokens: signature, times, issuer, audience, feeds."""

    def __init__(
        self, keys: KeySource, *, issuer: str = "", audience: str = "", clock: Callable[[], float]
    ) -> None:
        """
        Args:
            keys: What signatures are checked with.
            issuer: What `iss` must be; empty: anything.
            audience: What `aud` must be or hold; empty: anything.
            clock: Unix time in seconds.
        """
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._clock = clock

    async def verify(self, token: str) -> Identity:
        """Who a token stands for.

        Raises:
            TokenRefused: It is not accepted. Nothing else is raised, whatever the text is.
        """
        if len(token) > MAX_TOKEN:
            raise TokenRefused("the token is too long")
        try:
            content = token.encode("ascii")
            header = jws.extract_compact(content).headers()
            algorithm, kid = header.get("alg"), header.get("kid")
            if not isinstance(algorithm, str) or algorithm not in (*HS256, *ED25519):
                raise TokenRefused("the token is signed with an algorithm that is not accepted")
            key = await self._keys.find(kid if isinstance(kid, str) else None)
            if key is None:
                raise TokenRefused("the token is signed with a key that is not known")
            payload = key.payload_of(content)
        except TokenRefused:
            raise
        except JoseError:
            raise TokenRefused("the token is not signed by a key that is accepted") from None
        except Exception:  # whatever the libraries stumble over in a stranger's text
            raise TokenRefused("the token cannot be read") from None
        return self._check(payload)

    def _check(self, payload: bytes) -> Identity:
        try:
            claims = _decode_claims(payload)
        except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
            raise TokenRefused("the token's claims lack exp or feeds, or have another type") from None
        now = self._clock()
        if not (math.isfinite(claims.exp) and math.isfinite(claims.nbf)):
            raise TokenRefused("the token's times are no times")
        if claims.exp <= now:
            raise TokenRefused("the token has expired")
        if claims.nbf > now + LEAP_SECONDS:
            raise TokenRefused("the token is not valid yet")
        if claims.exp > now + MAX_LIFETIME_SECONDS + LEAP_SECONDS:
            raise TokenRefused("the token lives longer than a day")
        if self._issuer and claims.iss != self._issuer:
            raise TokenRefused("the token is from another issuer")
        audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self._audience and self._audience not in audience:
            raise TokenRefused("the token is for another audience")
        if len(claims.sub) > _MAX_SUBJECT:
            raise TokenRefused("the token's subject is too long")
        try:
            permission = Permission(claims.feeds)
        except ValueError:
            raise TokenRefused("the token names a feed that does not exist") from None
        return Identity("token", claims.sub, permission, claims.exp)
