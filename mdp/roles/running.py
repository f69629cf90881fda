"""A process from its start to the signal that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

import structlog
import uvloop

from mdp.collector import spare_the_collector
from mdp.config import Config
from mdp.demo import Demo, DemoError, DemoOptions, configured
from mdp.roles.base import Process, StartError

log = structlog.get_logger(__name__)


def run(build: Callable[[Config], Process], config: Config, demo: DemoOptions | None) -> int:
    """Run until a signal. The second one ends at once.

    Args:
        build: Makes the process; called inside the event loop.
        config: Its settings; those of the provider are changed for a demo.
        demo: A simulated market to start along.

    Returns:
        The exit code: 0 after a signal, 1 or 2 where the start failed.
    """
    spare_the_collector()
    return uvloop.run(_main(build, config, demo))


async def _main(build: Callable[[Config], Process], config: Config, demo: DemoOptions | None) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(130)
        stopping.set()

    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, on_signal)
    simulator = Demo(demo) if demo is not None else None
    process: Process | None = None
    try:
        if simulator is not None:
            port = await simulator.start()
            config = configured(config, port)
        process = build(config)
        await process.start()
        _announce(process, demo is not None)
        await stopping.wait()
        log.info("stopping", hint="Ctrl-C again ends at once")
        return 0
    except (StartError, DemoError) as exc:
        log.error("not_started", reason=str(exc))
        return getattr(exc, "exit_code", 1)
    finally:
        # The client's side goes first: its end is then ours, and no outage.
        if process is not None:
            await process.stop()
        if simulator is not None:
            await simulator.stop()
        with contextlib.suppress(Exception):
            log.info("stopped")


def _announce(process: Process, demo: bool) -> None:
    config, ports = process.config, process.ports()
    for name, port in ports.items():
        host = getattr(config, name).host
        log.info("listening", service=name, address=f"{host}:{port}", port=port)
    more = {}
    if process.roles != ["all"]:
        more["roles"] = ",".join(process.roles)
    if demo or {"all", "listener"} & set(process.roles):
        more["feed"] = "simulated market" if demo else config.massive.feed
    if "scp" in ports:
        more["page"] = f"http://{config.scp.host}:{ports['scp']}/"
    if "wds" in ports:
        more["websocket"] = f"{'wss' if config.wds.tls_cert else 'ws'}://{config.wds.host}:{ports['wds']}/ws"
    log.info("started", **more)
