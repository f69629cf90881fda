"""wss://, and a certificate that is renewed under the service's feet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from mdp.config import WdsConfig
from mdp.wds.tls import Tls
from tests.wds.doubles import Running, ask, running, until


class Issuer:
    """An authority whose certificates lie where the service looks for them."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.authority = trustme.CA()
        self.trust = ssl.create_default_context()
        self.authority.configure_trust(self.trust)
        self.renew()

    def renew(self, authority: trustme.CA | None = None) -> None:
        """Write a new certificate and its key, each at once, as certbot and others do."""
        issued = (authority or self.authority).issue_cert("localhost", "127.0.0.1")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for path, content in ((self.key, issued.private_key_pem.bytes()), (self.cert, chain)):
            temporary = path.with_suffix(".new")
            temporary.write_bytes(content)
            os.replace(temporary, path)

    def config(self, **options: Any) -> WdsConfig:
        """Settings that serve it."""
        return WdsConfig(tls_cert=str(self.cert), tls_key=str(self.key), **options)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    """With a first certificate."""
    return Issuer(tmp_path)


async def served_certificate(env: Running, trust: ssl.SSLContext) -> bytes:
    """What a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", env.service.port, ssl=trust)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return bytes(shown)


def wss(env: Running) -> str:
    """The service's address."""
    return env.url.replace("http://", "https://")


async def test_clients_talk_over_tls(issuer: Issuer) -> None:
    """Verified; a page of our own host over https is our own, over http it is not."""
    async with running(issuer.config()) as env:
        origin = f"//127.0.0.1:{env.service.port}"
        client = await env.session.ws_connect(
            wss(env), ssl=issuer.trust, headers={"Origin": f"https:{origin}"}
        )
        assert (await ask(client, action="get", cache="halts"))["data"] == []
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await env.session.ws_connect(wss(env), ssl=issuer.trust, headers={"Origin": f"http:{origin}"})
        assert refused.value.status == 403


async def test_a_renewed_certificate_is_taken_and_no_connection_dropped(issuer: Issuer) -> None:
    """New handshakes see the new one; who was connected stays so."""
    async with running(issuer.config()) as env:
        client = await env.session.ws_connect(wss(env), ssl=issuer.trust)
        before = await served_certificate(env, issuer.trust)
        issuer.renew()
        tls = env.service._tls
        assert tls is not None
        await until(lambda: tls.renewals >= 1)
        assert await served_certificate(env, issuer.trust) != before
        assert (await ask(client, action="get", cache="halts"))["data"] == []


def test_half_a_renewal_leaves_the_old_certificate(issuer: Issuer) -> None:
    """A certificate without its key, a file that is gone or broken: counted once, tried when it changes."""
    tls = Tls(str(issuer.cert), str(issuer.key))
    assert not tls.refresh()
    old_key = issuer.key.read_bytes()
    issuer.renew()
    new_key = issuer.key.read_bytes()
    issuer.key.write_bytes(old_key)
    assert not tls.refresh()
    assert not tls.refresh()
    assert tls.errors == 1
    issuer.key.unlink()
    assert not tls.refresh()
    issuer.key.write_bytes(new_key)
    assert tls.refresh()
    assert (tls.renewals, tls.errors) == (1, 2)


@pytest.mark.parametrize("content", [None, b"", b"hunter2"])
async def test_a_start_without_a_certificate_says_which_files(issuer: Issuer, content: bytes | None) -> None:
    """One line for the command to show, without what the key's file holds."""
    if content is None:
        issuer.key.unlink()
    else:
        issuer.key.write_bytes(content)
    with pytest.raises(OSError, match=r"key\.pem") as refused:
        async with running(issuer.config()):
            pass
    assert "hunter2" not in str(refused.value)


async def test_a_handshake_that_stalls_is_cut(issuer: Issuer) -> None:
    """Half-open TLS holds nothing longer than half a request does."""
    async with running(issuer.config(), header_seconds=0.2) as env:
        reader, writer = await asyncio.open_connection("127.0.0.1", env.service.port)
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                assert await reader.read(10) == b""
        writer.close()


async def test_old_versions_of_tls_are_refused(issuer: Issuer) -> None:
    """1.2 is the least."""
    assert Tls(str(issuer.cert), str(issuer.key)).context.minimum_version == ssl.TLSVersion.TLSv1_2
