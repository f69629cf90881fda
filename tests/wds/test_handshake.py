"""Which requests become a WebSocket: origins, places, and what others are told."""

from __future__ import annotations

import aiohttp
import pytest

from mdp.config import WdsConfig
from tests.wds.doubles import running, until

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://127.0.0.1:{port}", 101),
        ("http://localhost:{port}", 101),
        ("http://page.example:8000", 101),
        ("https://allowed.example", 101),
        ("http://evil.example", 403),
        ("http://evil.example:{port}", 403),
        ("http://127.0.0.1:1", 403),
        ("null", 403),
    ],
)
async def test_origins(origin: str | None, status: int) -> None:
    """Decided before the upgrade, also on loopback; the page's own origin comes from the control plane."""
    config = WdsConfig(allowed_origins=["https://allowed.example"])
    async with running(config, own_origins=lambda: {"http://page.example:8000"}) as env:
        text = origin.format(port=env.service.port) if origin else None
        headers = {"Origin": text} if text else {}
        if status == 101:
            await env.connect(headers=headers)
            return
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            # A rebound name in Host must not help.
            await env.connect(headers={**headers, "Host": "evil.example"})
        assert refused.value.status == status
        assert env.service.counters.rejected == {"origin": 1}


async def test_listening_everywhere_our_own_address_is_an_own_origin() -> None:
    """A page from the address the connection came in at is ours, another is not."""
    async with running(WdsConfig(host="0.0.0.0", allow_anonymous=True)) as env:
        await env.connect(headers={"Origin": f"http://127.0.0.1:{env.service.port}"})
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await env.connect(headers={"Origin": f"http://10.1.2.3:{env.service.port}"})


async def test_clients_are_limited_before_the_upgrade() -> None:
    """503 with words; a place that is left is free again."""
    async with running(WdsConfig(max_clients=1)) as env:
        first = await env.connect()
        async with env.session.get(env.url, headers=UPGRADE) as response:
            assert response.status == 503
            assert "max_clients" in await response.text()
        await first.close()
        await until(lambda: not env.service.counters.clients)
        await env.subscriber("alerts")
        assert env.service.counters.rejected == {"full": 1}


async def test_plain_http_is_told_what_is_spoken_here() -> None:
    """426 for a request without upgrade, 404 elsewhere."""
    async with running() as env:
        async with env.session.get(env.url) as response:
            assert response.status == 426
            assert "WebSocket" in await response.text()
        async with env.session.get(env.url.replace("/ws", "/")) as response:
            assert response.status == 404
