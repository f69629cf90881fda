"""Commands that ask a running service."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner

from mdp.commands.remote import get, watch
from mdp.config import WdsConfig
from tests.wds.doubles import running


@pytest.mark.parametrize("command", [get, watch], ids=["get", "watch"])
async def test_who_needs_a_key_is_told_how_to_give_it(command: object) -> None:
    """Not who gave one that is refused: nothing is missing there."""
    async with running(WdsConfig(auth_enabled=True, api_keys=["right"])) as env:
        url = f"ws://127.0.0.1:{env.service.port}/ws"
        told = []
        for key in ({}, {"MDP_API_KEY": "wrong"}):
            result = await asyncio.to_thread(
                CliRunner(env={"MDP_API_KEY": "", **key}).invoke,
                command,  # type: ignore[arg-type]
                ["quote:AAPL", "--url", url],
            )
            assert result.exit_code == 1
            told.append(result.output)
    hint = "give a key with --api-key or MDP_API_KEY"
    assert hint in told[0]
    assert hint not in told[1]
    assert "the service refused the API key" in told[1]
