"""docs/clients.md says what is so."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from mdp import feeds
from mdp.client import errors, wds
from tests.wds.doubles import running

DOCUMENT = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")


async def test_the_python_example_works(capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands, but for the address: it prints the rows that its options ask for."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    async with running() as service:
        rows = [
            {"symbol": symbol, "rank": rank, "close": close, "pct_change": 7}
            for rank, (symbol, close) in enumerate((("DEAR", 30), ("CHEAP", 3)), 1)
        ]
        service.cache.set(feeds.TOP_GAINERS, "", rows)
        service.bus.publish(feeds.TOP_GAINERS, "", rows)
        assert "ws://127.0.0.1:4202/ws" in block
        source = block.replace("ws://127.0.0.1:4202/ws", service.url).replace("asyncio.run(main())", "")
        names: dict[str, Any] = {}
        exec(source, names)
        task = asyncio.create_task(names["main"]())
        printed = ""
        async with asyncio.timeout(60):
            while not printed and not task.done():
                await asyncio.sleep(0.01)
                printed = capsys.readouterr().out
        task.cancel()
        await asyncio.wait({task})
    assert printed == "1 [('CHEAP', 7)]\n"


def test_numbers_and_codes_are_those_of_the_code() -> None:
    """The limit of events, and the closes that are final."""
    assert f"`max_events` ({wds.MAX_EVENTS:,})" in DOCUMENT
    sentence = re.search(r"closed with ([\d, or]+) \(or (\d+)", DOCUMENT)
    assert sentence is not None
    assert {int(code) for code in re.findall(r"\d+", sentence[1])} == set(errors.HOPELESS)
    assert int(sentence[2]) == errors.TOKEN_EXPIRED
