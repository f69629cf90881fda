"""Tokens: what is accepted, and that nothing else is, whatever it is."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OctKey, OKPKey

from mdp.wds.permissions import Identity
from mdp.wds.tokens import (
    MAX_TOKEN,
    OneKey,
    TokenKeyError,
    TokenRefused,
    TokenVerifier,
    VerifyKey,
    public_key_from_file,
    secret_from_file,
)
from tests.wds.signers import NOW, SECRET, ed25519, hs256, sign

PAIR = ed25519()
PUBLIC = OKPKey.import_key(PAIR.as_dict(private=False))


def verifier(key: OctKey | OKPKey = PUBLIC, **options: Any) -> TokenVerifier:
    """One that accepts what a key signed, at a time of the test's."""
    return TokenVerifier(OneKey(VerifyKey(key)), clock=lambda: NOW, **options)


def shared(**options: Any) -> TokenVerifier:
    """One that accepts HS256."""
    return verifier(OctKey.import_key(SECRET), **options)


def verify(found: TokenVerifier, token: str) -> Identity:
    """The verdict, in a loop of its own."""
    return asyncio.run(found.verify(token))


@pytest.mark.parametrize("algorithm", ["Ed25519", "EdDSA"])
def test_a_signed_token_names_who_and_what(algorithm: str) -> None:
    """Under the exact name and the older one, and without a warning for each."""
    token = sign(PAIR, algorithm, sub="alice", feeds=["quote:*"], exp=NOW + 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        identity = verify(verifier(), token)
    assert (identity.kind, identity.id, identity.expires_at) == ("token", "alice", NOW + 60)
    assert identity.permission.allows("quote:AAPL")
    assert not identity.permission.allows("halts")


def test_a_secret_signs_as_well() -> None:
    """HS256, with the secret of 32 bytes or more."""
    assert verify(shared(), hs256(sub="bob")).id == "bob"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": None}, "lack exp or feeds"),
        ({"exp": "soon"}, "another type"),
        ({"exp": True}, "another type"),
        ({"exp": NOW}, "has expired"),
        ({"exp": NOW - 3_600}, "has expired"),
        ({"exp": 1e308}, "longer than a day"),
        ({"exp": NOW + 90_000}, "longer than a day"),
        ({"nbf": NOW + 60}, "not valid yet"),
        ({"nbf": "x"}, "another type"),
        ({"feeds": None}, "lack exp or feeds"),
        ({"feeds": "**"}, "another type"),
        ({"feeds": [1]}, "another type"),
        ({"feeds": ["no:such:feed"]}, "does not exist"),
        ({"feeds": ["halts"] * 2_000}, "too long"),
        ({"iss": "other"}, "another issuer"),
        ({"iss": ["us"]}, "another type"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ["other"]}, "another audience"),
        ({"sub": "x" * 200}, "subject is too long"),
    ],
)
def test_a_claim_that_does_not_hold_refuses_the_token(claims: dict[str, Any], reason: str) -> None:
    """However well it is signed. The reason is ours and repeats nothing of the token."""
    token = hs256(**{"iss": "us", "aud": "wds", **claims})
    with pytest.raises(TokenRefused, match=reason):
        verify(shared(issuer="us", audience="wds"), token)


def test_times_that_are_no_numbers_are_refused() -> None:
    """Python's JSON writes NaN and Infinity: never expiring must not be spelled that way."""
    for exp in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(TokenRefused):
            verify(shared(), hs256(exp=exp))


def test_issuer_and_audience_are_checked_if_configured() -> None:
    """One of several audiences is enough; without a configuration anything is."""
    assert verify(shared(issuer="us", audience="wds"), hs256(iss="us", aud=["x", "wds"], sub="a")).id == "a"
    assert verify(shared(), hs256(iss="whoever", aud="whatever", sub="a", nbf=NOW + 4)).id == "a"
    for claims in ({}, {"iss": "us"}, {"aud": "wds"}):
        with pytest.raises(TokenRefused):
            verify(shared(issuer="us", audience="wds"), hs256(**claims))


def test_other_keys_sign_for_nobody() -> None:
    """Another pair, another secret, a changed claim, a cut signature."""
    for token in (sign(ed25519()), sign(PAIR)[:-4], sign(PAIR) + "AAAA"):
        with pytest.raises(TokenRefused):
            verify(verifier(), token)
    with pytest.raises(TokenRefused, match="not signed by a key"):
        verify(shared(), hs256("another secret of thirty-two byte"))
    head, body, signature = hs256(sub="bob").split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "eve"}).encode()).rstrip(b"=").decode()
    with pytest.raises(TokenRefused):
        verify(shared(), f"{head}.{changed}.{signature}")


def test_a_public_key_is_never_taken_for_a_secret() -> None:
    """The classic confusion: HS256 made with the text of the public key, in each form it comes in."""
    forms = [PUBLIC.as_pem(private=False), json.dumps(PUBLIC.as_dict(private=False)).encode()]
    forms += [base64.urlsafe_b64decode(str(PUBLIC.as_dict(private=False)["x"]) + "=")]
    head, body, _ = hs256(sub="eve").split(".")
    for secret in forms:  # by hand: the library does not let a public key be one
        mac = hmac.digest(secret, f"{head}.{body}".encode(), "sha256")
        token = f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        with pytest.raises(TokenRefused, match="algorithm that is not accepted"):
            verify(verifier(), token)
    with pytest.raises(TokenRefused, match="algorithm that is not accepted"):
        verify(shared(), sign(PAIR))


@pytest.mark.parametrize("algorithm", ["none", "None", "", "HS512", "RS256", "ES256", 1, None, ["HS256"]])
def test_no_other_algorithm_is_tried(algorithm: Any) -> None:
    """Above all not none, with and without a signature."""
    for signature in ("", "AAAA"):
        head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm}).encode()).rstrip(b"=").decode()
        body = hs256().split(".")[1]
        for found in (verifier(), shared()):
            with pytest.raises(TokenRefused):
                verify(found, f"{head}.{body}.{signature}")


def test_headers_that_bring_a_key_or_extensions_are_not_followed() -> None:
    """A key or URL in a token's own header is its own claim; what is critical and unknown refuses it."""
    other = ed25519()
    embedded = sign(other, header={"jwk": other.as_dict(private=False)})
    for token in (embedded, sign(other, header={"jku": "http://evil.example/jwks"})):
        with pytest.raises(TokenRefused):
            verify(verifier(), token)


@given(
    st.one_of(
        st.text(max_size=300),
        st.builds(".".join, st.lists(st.text("ABCabc019-_=", max_size=40), min_size=1, max_size=5)),
        st.builds(
            lambda head, body: ".".join(
                base64.urlsafe_b64encode(part.encode("utf-8", "surrogatepass")).decode().rstrip("=")
                for part in (head, body, "x")
            ),
            st.sampled_from(
                ['{"alg":"HS256"}', '{"alg":"Ed25519","crit":["b64"],"b64":false}', "[]", "1", "{"]
            )
            | st.text(max_size=30),
            st.text(max_size=30),
        ),
    )
)
def test_garbage_raises_nothing_but_a_refusal(token: str) -> None:
    """Any text; and the words say nothing of it."""
    for found in (verifier(), shared()):
        with pytest.raises(TokenRefused) as refused:
            verify(found, token)
        assert str(refused.value).startswith("the token")
        assert refused.value.__cause__ is None


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=9), st.lists, max_leaves=9))
def test_any_signed_claim_of_any_type_is_accepted_or_refused(value: Any) -> None:
    """Who can sign may still be wrong."""
    for name in ("exp", "nbf", "iss", "aud", "feeds", "sub"):
        try:
            token = hs256(**{name: value})
        except (ValueError, UnicodeError):
            continue
        with contextlib.suppress(TokenRefused):
            verify(shared(), token)


def test_a_long_text_is_not_looked_at() -> None:
    """Its length alone refuses it."""
    with pytest.raises(TokenRefused, match="too long"):
        verify(verifier(), "A" * (MAX_TOKEN + 1))


def test_keys_come_from_files(tmp_path: Path) -> None:
    """A secret as text, a public key as PEM or JWK."""
    secret, pem, jwk = tmp_path / "secret", tmp_path / "key.pem", tmp_path / "key.jwk"
    secret.write_text(SECRET + "\n")
    pem.write_bytes(PUBLIC.as_pem(private=False))
    jwk.write_text(json.dumps(PUBLIC.as_dict(private=False)))
    for key, token in (
        (secret_from_file(str(secret)), hs256(sub="a")),
        (public_key_from_file(str(pem)), sign(PAIR, sub="a")),
        (public_key_from_file(str(jwk)), sign(PAIR, sub="a")),
    ):
        found = TokenVerifier(OneKey(key), clock=lambda: NOW)
        assert verify(found, token).id == "a"
        assert SECRET not in repr(key)


def test_files_that_hold_no_fitting_key_are_refused_without_their_content(tmp_path: Path) -> None:
    """Short secrets, private keys, other curves, other texts, nothing."""
    path = tmp_path / "key"
    with pytest.raises(TokenKeyError, match="No such file"):
        secret_from_file(str(path))
    path.write_text("hunter2")
    with pytest.raises(TokenKeyError, match="has 7 bytes; at least 32") as short:
        secret_from_file(str(path))
    assert "hunter2" not in str(short.value)
    other = OKPKey.generate_key("Ed448")
    for content in (b"hunter2", b"{}", b'{"kty":"oct","k":"aHVudGVyMg"}', b"", PAIR.as_pem(private=True)):
        path.write_bytes(content)
        with pytest.raises(TokenKeyError) as refused:
            public_key_from_file(str(path))
        assert "hunter2" not in str(refused.value)
        assert "aHVudGVyMg" not in str(refused.value)
    path.write_bytes(other.as_pem(private=False))
    with pytest.raises(TokenKeyError, match="Ed25519 is needed"):
        public_key_from_file(str(path))
    path.write_bytes(PUBLIC.as_pem(private=False))
    with pytest.raises(TokenKeyError, match="is no secret"):
        secret_from_file(str(path))
    path.write_bytes(b"x" * 70_000)
    with pytest.raises(TokenKeyError, match="larger than"):
        secret_from_file(str(path))
