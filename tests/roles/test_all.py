"""All roles in one process, meeting in a real Redis, fed by the real simulator."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from mdp.client import WdsClient
from mdp.feeds import HOD_ALERT
from mdp.roles.assembly import RoleProcess
from tests import app_support
from tests.app_support import request
from tests.cache.relays import eventually
from tests.redis_server import RedisServer
from tests.simulator.support import serve


async def test_what_the_provider_sends_reaches_clients_through_redis(redis_server: RedisServer) -> None:
    """Boards, quotes of symbols, alerts and the market's status; every role says that it works."""
    async with serve(events_per_second=2_000.0, symbols=100) as simulator:
        config = app_support.config_for(simulator.port)
        config.cache = redis_server.config(snapshot_path="", history_path="")
        config.mdq.backend, config.mdq.partitions = "redis", 2
        made = RoleProcess(config, ["all"])
        await made.start()
        try:
            await eventually(lambda: all(health.ok for _, health in made.ready()))
            ports = made.ports()
            async with WdsClient(f"ws://127.0.0.1:{ports['wds']}/ws") as client:
                rows = await first(client, "scanners:top_volume", lambda rows: bool(rows))
                symbol = rows[0]["symbol"]
                quote = await first(client, f"quote:{symbol}", lambda quote: quote is not None)
                assert quote["symbol"] == symbol
                status = await first(client, "market:status", lambda status: bool(status["symbols"]))
                assert (status["feed_state"], status["session"]) == ("live", "regular")
                assert status.keys() >= {"new_highs", "new_lows"}, "what scanners add"
                alert = await first(client, HOD_ALERT.name, lambda _: True)
                assert alert
            answer = (await request("GET", ports["admin"], "/api/v1/status"))[1]
            assert answer["roles"] == ["wds", "scp", "scanner", "processor", "listener"]
            assert answer["scanner"]["active"]
            assert isinstance((await request("GET", ports["admin"], "/api/v1/gaps"))[1]["gaps"], list)
        finally:
            await made.stop()


async def first(client: WdsClient, feed: str, wanted: Any) -> Any:
    """The first value of a feed that is as wanted."""
    async with asyncio.timeout(60), contextlib.aclosing(client.subscribe(feed)) as updates:
        async for update in updates:
            if update.value is not None and wanted(update.value):
                return update.value
    raise AssertionError(feed)
