"""A signer's published keys: fetched when needed, seldom, and never trusted too far."""

from __future__ import annotations

import asyncio

import pytest
from joserfc.jwk import OctKey, OKPKey

from mdp.wds import jwks as module
from mdp.wds.jwks import Jwks
from mdp.wds.tokens import TokenRefused, TokenVerifier
from tests.wds.signers import NOW, SECRET, ed25519, publishing, sign


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_token_is_checked_with_the_key_it_names() -> None:
    """Of several; one request serves all."""
    first, second = ed25519("first"), ed25519("second")
    async with publishing(first, second) as publisher:
        jwks = Jwks(publisher.url, clock=Clock())
        verifier = TokenVerifier(jwks, clock=lambda: NOW)
        found = await asyncio.gather(*(verifier.verify(sign(key, sub="a")) for key in (first, second) * 5))
        assert {identity.id for identity in found} == {"a"}
        assert publisher.asked == jwks.fetches == 1


async def test_an_unknown_key_asks_again_once_a_minute_at_most() -> None:
    """So a new key works at once, and a stranger's tokens do not have the signer flooded."""
    first, second = ed25519("first"), ed25519("second")
    clock = Clock()
    async with publishing(first) as publisher:
        jwks = Jwks(publisher.url, clock=clock)
        assert await jwks.find("first")
        publisher.publish(first, second)
        for number in range(100):
            clock.now += 0.5
            assert await jwks.find(f"no such {number}") is None
        assert publisher.asked == 1
        clock.now += 11
        assert await jwks.find("second")
        assert publisher.asked == 2


async def test_keys_are_renewed_while_the_old_ones_serve() -> None:
    """A login does not wait for it; a key that is published no more is gone after it."""
    first, second = ed25519("first"), ed25519("second")
    clock = Clock()
    async with publishing(first) as publisher:
        jwks = Jwks(publisher.url, clock=clock)
        assert await jwks.find("first")
        publisher.publish(second)
        clock.now += module.RENEW_SECONDS
        assert await jwks.find("first")
        async with asyncio.timeout(60):
            while await jwks.find("first"):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.005)
        assert await jwks.find("second")
        assert publisher.asked == 2


async def test_a_signer_that_is_away_costs_nothing_for_a_day() -> None:
    """Known keys serve on, but not for ever."""
    clock = Clock()
    async with publishing(ed25519("first")) as publisher:
        jwks = Jwks(publisher.url, clock=clock)
        assert await jwks.find("first")
        publisher.status = 500
        clock.now += module.KEEP_SECONDS - 1
        assert await jwks.find("first")
        await jwks.find("unknown")
        assert jwks.errors == 1
        clock.now += 100
        assert await jwks.find("first") is None


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"no json",
        b"[]",
        b'{"keys":5}',
        b'{"keys":[]}',
        b'{"keys":[5,null,{"kty":"OKP"},{"kty":"OKP","crv":"Ed25519"},{"kty":"OKP","crv":"Ed25519","x":5}]}',
        b'{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}',
        b"[" * 100_000,
        b" " * (module.MAX_BYTES + 1),
    ],
)
async def test_an_answer_without_keys_is_an_error_and_no_more(document: bytes) -> None:
    """Whatever is served; the next try comes after a pause."""
    clock = Clock()
    async with publishing() as publisher:
        publisher.document = document
        jwks = Jwks(publisher.url, clock=clock)
        assert await jwks.find("first") is None
        assert await jwks.find("first") is None
        assert (jwks.fetches, jwks.errors) == (1, 1)
        key = ed25519("first")
        publisher.publish(key)
        clock.now += module.FIRST_SECONDS
        assert await jwks.find("first")


async def test_redirects_are_not_followed() -> None:
    """Who can place one could else name the keys."""
    async with publishing(ed25519("first")) as publisher:
        publisher.status = 302
        jwks = Jwks(publisher.url, clock=Clock())
        assert await jwks.find("first") is None
        assert publisher.asked == 1


async def test_secrets_and_other_uses_in_a_published_set_are_left_out() -> None:
    """A published secret is none; a key for encryption signs nothing."""
    secret = OctKey.import_key(SECRET, {"kid": "secret"})
    encryption = ed25519("encryption").as_dict(private=False) | {"use": "enc"}
    other = OKPKey.generate_key("X25519", {"kid": "other"}).as_dict(private=False)
    good = ed25519("good")
    async with publishing() as publisher:
        publisher.document = {
            "keys": [secret.as_dict(private=True), encryption, other, good.as_dict(private=True)]
        }
        jwks = Jwks(publisher.url, clock=Clock())
        verifier = TokenVerifier(jwks, clock=lambda: NOW)
        with pytest.raises(TokenRefused):
            await verifier.verify(sign(secret, "HS256"))
        assert [await jwks.find(kid) for kid in ("secret", "encryption", "other")] == [None] * 3
        assert (await verifier.verify(sign(good, sub="a"))).id == "a"


async def test_a_token_without_a_key_id_is_checked_with_the_only_key() -> None:
    """Where there are several, it has to say which."""
    first, second = ed25519("first"), ed25519("second")
    async with publishing(first) as publisher:
        assert await Jwks(publisher.url, clock=Clock()).find(None)
        publisher.publish(first, second)
        assert await Jwks(publisher.url, clock=Clock()).find(None) is None


async def test_a_signer_that_does_not_answer_ends_with_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits longer than the bound, and nothing is left behind."""
    monkeypatch.setattr(module, "FETCH_SECONDS", 0.05)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    jwks = Jwks(f"http://127.0.0.1:{port}/", clock=Clock())
    assert await jwks.find("first") is None
    assert jwks.errors == 1
    await jwks.close()
    server.close()
